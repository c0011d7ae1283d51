package manifest

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// looser is one field by which a package or platform may accept more than
// before.
type looser struct {
	at   place
	text string
}

// rule judges whether a field may accept more when it goes from old to now.
// Either may be nil: it is not given.
type rule func(old, now *jsonpos.Node) bool

// looseRules are the fields of which it is known what makes them looser. Of any
// other field every change counts as looser, so that one that is added to the
// format is never passed over.
var looseRules = rules(map[string]rule{
	// Lists of accepted values; without the list any value is accepted.
	`uniqueID configID familyID extendedProductID mrtd rtmr0 rtmr1 rtmr2 rtmr3 mrConfigID mrOwner mrOwnerConfig mrSEAM mrSignerSEAM
	measurement hostData idKeyDigest authorKeyDigest imageID reportID reportIDMA program agent attestationKeys
	architectures drivers vbios acceptedAdvisories fmspcs ppids platformInstanceIDs signers providers chipIDs vouchedBy`: opened,
	// Such lists by register.
	"pcrs registers measurements": openedEntries,
	// Lists that add to what is accepted, and that take from it.
	"acceptedTCBStatuses": listed,
	"refusedAdvisories":   func(old, now *jsonpos.Node) bool { return listed(now, old) },
	// Floors; without one any value is accepted.
	"minSecurityVersion minConfigSVN minGuestSVN minTCBEvaluation minTCBDate minTEETCBSVN": lowered,
	"minTCB":       loweredEntries,
	"minModuleSVN": func(old, now *jsonpos.Node) bool { return old != nil && (now == nil || loweredEntries(old, now)) },
	// Values that must be equal; without one any is accepted.
	"signerID productID pks keyLocker perfmon minABI minFirmware": func(old, now *jsonpos.Node) bool { return old != nil && differ(old, now) },
	// Times.
	"maxAge": prolonged, "graceUntil": func(old, now *jsonpos.Node) bool { return now != nil && (old == nil || lowered(now, old)) },
	"grace": func(old, now *jsonpos.Node) bool { return now != nil && differ(old, now) },
	// Switches that accept more, and less.
	`allowAnyMeasurement allowDebug allowKeyAttributes allowSEPTVE allowMigration allowCXL allowSMT allowProvisionalFirmware
	allowUncheckedMeasurements allowUncheckedRevocation`: func(old, now *jsonpos.Node) bool { return isTrue(now) && !isTrue(old) },
	`requireKSS requireECC requireTSME requireRAPLDisabled requireCiphertextHiding requireAliasCheck refuseTIO requireSafeClock eventsOnly
	requireIDBlock requireAuthorKey requireSingleSocket requireAES256XTS requirePageSwapDisabled`: func(old, now *jsonpos.Node) bool { return isTrue(old) && !isTrue(now) },
})

func rules(byNames map[string]rule) map[string]rule {
	all := make(map[string]rule)
	for names, r := range byNames {
		for _, name := range strings.Fields(names) {
			all[name] = r
		}
	}
	return all
}

// alternatives are objects of which one alone has to be met: one more accepts
// more, one less does not.
var alternatives = []string{"sgx", "tdx", "snp", "sim", "azure", "tpm", "plugins"}

// loosened compares two packages, or two platforms, field by field.
func loosened(old, now *jsonpos.Node) []looser {
	var all []looser
	compareRules(old, now, nil, func(l looser) { all = append(all, l) })
	return all
}

func compareRules(old, now *jsonpos.Node, at place, report func(looser)) {
	if now == nil {
		now = &jsonpos.Node{Kind: jsonpos.Object}
	}
	for _, key := range unionKeys(old, now) {
		was, is := old.Get(key), now.Get(key)
		here := append(slices.Clone(at), key)
		parent := ""
		if len(at) > 0 {
			parent = at[len(at)-1].(string)
		}
		switch {
		case slices.Contains(alternatives, key) || parent == "plugins":
			if is != nil && was != nil {
				compareRules(was, is, here, report)
			} else if is != nil {
				report(looser{here, join(dotted(at), key) + " is accepted: " + inWords(is)})
			}
		case key == "endorsements" && was != nil, (key == "devices" || key == "nvidia" || parent == "devices") && was != nil && is != nil:
			compareRules(was, is, here, report)
		case key == "endorsements":
			compareRules(&jsonpos.Node{Kind: jsonpos.Object}, is, here, report)
		default:
			r := looseRules[key]
			if r == nil {
				r = differ
			}
			if r(was, is) {
				report(looser{here, dotted(here) + " " + change(was, is)})
			}
		}
	}
}

func dotted(at place) string {
	text := ""
	for _, key := range at {
		text = join(text, key.(string))
	}
	return text
}

// change says in words what a field becomes.
func change(old, now *jsonpos.Node) string {
	switch {
	case now == nil:
		return "is not demanded any more; was " + brief("", old)
	case old == nil:
		return "is " + brief("", now) + "; was not given"
	case old.Kind == jsonpos.Array && now.Kind == jsonpos.Array:
		fresh := &jsonpos.Node{Kind: jsonpos.Array}
		for _, item := range now.Items {
			if !slices.ContainsFunc(old.Items, func(o *jsonpos.Node) bool { return !differ(o, item) }) {
				fresh.Items = append(fresh.Items, item)
			}
		}
		if len(fresh.Items) > 0 {
			return "has " + brief("", fresh) + " as well"
		}
	}
	return "is " + brief("", now) + "; was " + brief("", old)
}

func isTrue(n *jsonpos.Node) bool { return n != nil && n.Text == "true" }

// listed reports whether now has an item that old has not.
func listed(old, now *jsonpos.Node) bool {
	if now == nil {
		return false
	}
	var before []*jsonpos.Node
	if old != nil {
		before = old.Items
	}
	return slices.ContainsFunc(now.Items, func(item *jsonpos.Node) bool {
		return !slices.ContainsFunc(before, func(o *jsonpos.Node) bool { return !differ(o, item) })
	})
}

// opened is listed where no list accepts everything.
func opened(old, now *jsonpos.Node) bool { return old != nil && (now == nil || listed(old, now)) }

// openedEntries is opened for each key.
func openedEntries(old, now *jsonpos.Node) bool {
	return old != nil && (now == nil || slices.ContainsFunc(old.Members, func(m jsonpos.Member) bool { return opened(m.Value, now.Get(m.Key)) }))
}

// lowered reports whether a floor, which is a number, a time or one byte for
// each component in hexadecimal, is lower in any part.
func lowered(old, now *jsonpos.Node) bool {
	if old == nil || now == nil {
		return old != nil
	}
	if a, err := strconv.ParseUint(old.Text, 10, 64); err == nil && old.Kind == jsonpos.Number {
		b, err := strconv.ParseUint(now.Text, 10, 64)
		return err != nil || b < a
	}
	if a, err := time.Parse(time.RFC3339, old.Text); err == nil {
		b, err := time.Parse(time.RFC3339, now.Text)
		return err != nil || b.Before(a)
	}
	a, errA := hex.DecodeString(old.Text)
	b, errB := hex.DecodeString(now.Text)
	if errA != nil || errB != nil || len(a) != len(b) {
		return differ(old, now)
	}
	for i := range a {
		if b[i] < a[i] {
			return true
		}
	}
	return false
}

// loweredEntries reports whether now names what old does not, or has a lower
// floor for it: what is not named is refused.
func loweredEntries(old, now *jsonpos.Node) bool {
	if now == nil {
		return false
	}
	return slices.ContainsFunc(now.Members, func(m jsonpos.Member) bool {
		var was *jsonpos.Node
		if old != nil {
			was = old.Get(m.Key)
		}
		if was == nil || m.Value.Kind != jsonpos.Object {
			return was == nil || lowered(was, m.Value)
		}
		return slices.ContainsFunc(was.Members, func(part jsonpos.Member) bool { return lowered(part.Value, m.Value.Get(part.Key)) })
	})
}

// prolonged reports whether a longer duration is allowed; without one any is.
func prolonged(old, now *jsonpos.Node) bool {
	if old == nil || now == nil {
		return old != nil
	}
	a, errA := time.ParseDuration(old.Text)
	b, errB := time.ParseDuration(now.Text)
	return errA != nil || errB != nil || b > a
}
