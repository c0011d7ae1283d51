package secrets

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// Bounds of lineage.
const (
	// Touches are exact to this: a renewal that gets what it had writes nothing.
	touchPause = time.Hour
	// What instances that are gone have touched is folded, after this time, into
	// one touch for each marble, package and machine.
	foldAfter = 30 * 24 * time.Hour
	// Touches of versions that are destroyed are removed after this time: nothing
	// of theirs is left to rotate, and the log has all of them.
	forgetAfter = 24 * time.Hour
	maxFolded   = 1000 // touches that one Update folds or removes
	// Beyond this many touches further instances are folded at once, so that
	// lineage never takes the room of what it is about.
	maxTouches = 300_000
)

// Leaf stands, as the name of a touch, for the leaf certificates of an instance;
// version and serial are those of the newest.
const Leaf = "*leaf"

// Ways in which a secret is touched: a touch has one or more.
const (
	ByLease   = "lease"   // sent with a lease
	ByFetch   = "fetch"   // fetched
	ByUse     = "use"     // something was done with it
	ByDeposit = "deposit" // supplied by it
	ByRead    = "read"    // shown to a user
	ByWrite   = "write"   // supplied by a user
)

// Origin says who has touched a secret: a marble instance and what it runs on,
// or a user.
type Origin struct {
	Marble   string     `json:"marble,omitempty"`
	Instance string     `json:"instance,omitempty"` // "*" for all of a fold
	Package  string     `json:"package,omitempty"`
	Platform string     `json:"platform,omitempty"` // of the manifest
	TEE      attest.TEE `json:"tee,omitempty"`
	// Machines are what the evidence says of the chip, hex: PPID, FMSPC, chip id.
	Machines []string `json:"machines,omitempty"`
	User     string   `json:"user,omitempty"`
}

// Touch says that an origin got or used one version of a secret, or was issued
// leaves. There is one for each origin and version, not for each event.
type Touch struct {
	Secret  string   `json:"secret"`       // name, or Leaf
	Version uint64   `json:"version"`      // 0 of leaves
	Of      string   `json:"of,omitempty"` // marble/instance whose value it is, of instance secrets
	Origin  Origin   `json:"origin"`
	Ways    []string `json:"ways"` // sorted
	// Serial and NotAfter are of the newest leaf, or of the secret's certificate.
	Serial   string     `json:"serial,omitempty"`
	NotAfter time.Time  `json:"notAfter,omitzero"`
	Evidence attest.Hex `json:"evidence,omitempty"` // digest of that which was newest when this was written
	First    time.Time  `json:"first"`
	Last     time.Time  `json:"last"` // exact to an hour
}

// lineage holds touches by secret/version/origin, hashed where that would be
// long.
var lineage = store.NewTable[Touch]("secrets-lineage")

func (t Touch) key() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{t.Of, t.Origin.Marble, t.Origin.Instance, t.Origin.Package, t.Origin.Platform,
		string(t.Origin.TEE), strings.Join(t.Origin.Machines, ","), t.Origin.User}))
	return fmt.Sprintf("%s/%020d/%s", t.Secret, t.Version, hex.EncodeToString(sum[:16]))
}

// Note writes that a version was touched, in one way, at t.Last, and reports
// whether it is the first time that this origin touched it in that way. What is
// known already is written again at most once an hour.
func Note(tx *store.Tx, t Touch, way string) (first bool, err error) {
	return note(tx, t, way, maxTouches)
}

// note is Note with a limit of its own.
func note(tx *store.Tx, t Touch, way string, limit int) (first bool, err error) {
	t.Last = t.Last.UTC()
	t.First, t.Ways = t.Last, []string{way}
	key := t.key()
	old, known := lineage.Get(tx, key)
	if !known && lineage.Len(tx) >= limit && t.Origin.Instance != "" {
		t.Origin.Instance, t.Of = folded, ""
		key = t.key()
		old, known = lineage.Get(tx, key)
	}
	if known {
		first = !slices.Contains(old.Ways, way)
		if !first && t.Last.Sub(old.Last) < touchPause && old.Serial == t.Serial {
			return false, nil
		}
		t.First = old.First
		if first {
			t.Ways = append(t.Ways, old.Ways...)
			slices.Sort(t.Ways)
		} else {
			t.Ways = old.Ways
		}
	}
	return first || !known, lineage.Put(tx, key, t)
}

// Noted reports whether an origin has touched a version in one way before.
func Noted(tx *store.Tx, t Touch, way string) bool {
	old, known := lineage.Get(tx, t.key())
	if !known && lineage.Len(tx) >= maxTouches {
		t.Origin.Instance, t.Of = folded, ""
		old, known = lineage.Get(tx, t.key())
	}
	return known && slices.Contains(old.Ways, way)
}

// Filter selects touches. Empty fields allow everything; all others must fit.
type Filter struct {
	Secret, Marble, Instance, Package, Platform, Machine, User string
	// At, if not zero, leaves out what counts no more then: versions that are
	// destroyed, and certificates that have ended.
	At time.Time
}

func (f Filter) fits(t Touch) bool {
	for _, c := range [][2]string{{f.Secret, t.Secret}, {f.Marble, t.Origin.Marble}, {f.Package, t.Origin.Package},
		{f.Platform, t.Origin.Platform}, {f.User, t.Origin.User}} {
		if c[0] != "" && c[0] != c[1] {
			return false
		}
	}
	if f.Machine != "" && !slices.Contains(t.Origin.Machines, f.Machine) {
		return false
	}
	return f.Instance == "" || f.Instance == t.Origin.Instance || t.Origin.Instance == folded
}

// Touched returns what fits the filter, ordered by secret, version and when it
// was first touched. Leaves are among it, under the name Leaf. It reads the
// whole of lineage, or what it has of one secret if the filter names one.
func Touched(tx *store.Tx, f Filter) []Touch {
	prefix := ""
	if f.Secret != "" {
		prefix = f.Secret + "/"
	}
	var found []Touch
	for _, t := range lineage.Prefix(tx, prefix) {
		if f.fits(t) && (f.At.IsZero() || counts(tx, t, f.At)) {
			found = append(found, t)
		}
	}
	slices.SortStableFunc(found, func(a, b Touch) int {
		return cmp.Or(strings.Compare(a.Secret, b.Secret), cmp.Compare(a.Version, b.Version), a.First.Compare(b.First),
			strings.Compare(a.Origin.Marble, b.Origin.Marble), strings.Compare(a.Origin.Instance, b.Origin.Instance))
	})
	return found
}

// counts reports whether what was touched still counts.
func counts(tx *store.Tx, t Touch, at time.Time) bool {
	if t.Secret == Leaf {
		return at.Before(t.NotAfter)
	}
	r, _ := t.record(tx)
	return r.numbered(t.Version, at) != nil && t.Version != 0
}

func (t Touch) record(tx *store.Tx) (record, bool) {
	if t.Of != "" {
		return instances.Get(tx, t.Of+"/"+t.Secret)
	}
	return shared.Get(tx, t.Secret)
}

// Targets returns the values that have to be rotated so that nothing of what was
// touched counts any more: each once, leaves left out, by name.
func Targets(touches []Touch) []Target {
	var targets []Target
	known := map[Target]bool{}
	for _, t := range touches {
		if t.Secret == Leaf {
			continue
		}
		target := Target{Name: t.Secret}
		target.Asker.Marble, target.Asker.Instance, _ = strings.Cut(t.Of, "/")
		if !known[target] {
			known[target], targets = true, append(targets, target)
		}
	}
	return targets
}

// folded is the instance of a touch that stands for several.
const folded = "*"

// Fold makes lineage small again: touches of instances that are gone (alive says
// which are not), older than 30 days, become one for each marble, package and
// machine. Those of versions that were destroyed, older than a day, and of leaves
// that ended are removed. It takes some at a time, and returns how many touches
// are less.
func Fold(tx *store.Tx, at time.Time, alive func(marble, instance string) bool) (int, error) {
	before, seen := lineage.Len(tx), 0
	for key, t := range lineage.All(tx) {
		if seen == maxFolded {
			break
		}
		if !t.foldable(tx, at, alive) {
			continue
		}
		seen++
		lineage.Delete(tx, key)
		if t.ended(tx, at) || t.Of != "" {
			continue
		}
		t.Origin.Instance = folded
		if err := merge(tx, t); err != nil {
			return 0, err
		}
	}
	return before - lineage.Len(tx), nil
}

// Foldable reports whether Fold has something to do.
func Foldable(tx *store.Tx, at time.Time, alive func(marble, instance string) bool) bool {
	for _, t := range lineage.All(tx) {
		if t.foldable(tx, at, alive) {
			return true
		}
	}
	return false
}

// foldable reports whether a touch is old enough to be folded or removed.
func (t Touch) foldable(tx *store.Tx, at time.Time, alive func(marble, instance string) bool) bool {
	age, o := at.Sub(t.Last), t.Origin
	if t.ended(tx, at) {
		return age >= forgetAfter
	}
	return age >= foldAfter && o.Marble != "" && o.Instance != folded && !alive(o.Marble, o.Instance)
}

// ended reports whether nothing counts any more of what was touched. What was
// done with a counter has no end.
func (t Touch) ended(tx *store.Tx, at time.Time) bool {
	return (t.Version != 0 || t.Secret == Leaf) && !counts(tx, t, at)
}

// merge adds a touch to the one of its fold.
func merge(tx *store.Tx, t Touch) error {
	key := t.key()
	if old, known := lineage.Get(tx, key); known {
		for _, way := range old.Ways {
			if !slices.Contains(t.Ways, way) {
				t.Ways = append(slices.Clip(t.Ways), way)
			}
		}
		slices.Sort(t.Ways)
		if old.First.Before(t.First) {
			t.First = old.First
		}
		if old.Last.After(t.Last) {
			t.Last, t.Evidence = old.Last, old.Evidence
		}
	}
	return lineage.Put(tx, key, t)
}
