package coordinator

import (
	"slices"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxOverlay bounds the documents of a plan.
const maxOverlay = 4096

// overlay replaces documents of endorsement sets by others about the same thing.
type overlay struct {
	byIdentity map[string]attest.Endorsement
	bare       []attest.Endorsement // without a chain: of the signer of what they replace
}

// newOverlay reads what a plan puts in the place of kept endorsements. Documents
// that nothing can be said of are CRD-068.
func newOverlay(items []attest.Endorsement) (*overlay, error) {
	if len(items) > maxOverlay {
		return nil, problem.New("CRD-068", "%d endorsements, at most %d", len(items), maxOverlay)
	}
	o := &overlay{byIdentity: map[string]attest.Endorsement{}}
	for _, it := range items {
		d, known := describe(it)
		switch {
		case !known:
			return nil, problem.New("CRD-068", "endorsement of kind %.80q: no such kind", it.Kind)
		case len(it.Chain) == 0 && chained(it.Kind):
			o.bare = append(o.bare, it)
		case d.Error != "":
			return nil, problem.New("CRD-068", "%s cannot be read: %.200s", it.Kind, d.Error)
		default:
			o.byIdentity[d.Identity] = it
		}
	}
	return o, nil
}

// chained reports whether documents of a kind come with their signer's chain.
func chained(kind string) bool {
	return kind == attest.KindTCBInfo || kind == attest.KindQEIdentity || kind == attest.KindPCKCRL
}

func describe(it attest.Endorsement) (endorse.Document, bool) {
	all := endorse.Describe(attest.NewEndorsements(it))
	if len(all) != 1 {
		return endorse.Document{}, false
	}
	return all[0], true
}

// apply returns the set with what replaces its documents, and what was used of
// the overlay: identities, or kinds of bare documents.
func (o *overlay) apply(en attest.Endorsements) (attest.Endorsements, []string) {
	var used []string
	items := slices.Clone(en.Items())
	for i, it := range items {
		d, _ := describe(it)
		if d.Identity == "" {
			continue
		}
		if by, ok := o.byIdentity[d.Identity]; ok {
			items[i] = by
			used = append(used, d.Identity)
			continue
		}
		for _, by := range o.bare {
			by.Chain = it.Chain
			if c, _ := describe(by); by.Kind == it.Kind && c.Identity == d.Identity {
				items[i] = by
				used = append(used, by.Kind)
			}
		}
	}
	if len(used) == 0 {
		return en, nil
	}
	return attest.NewEndorsements(items...), used
}

// names are what the overlay can be used of.
func (o *overlay) names() []string {
	var all []string
	for identity := range o.byIdentity {
		all = append(all, identity)
	}
	for _, it := range o.bare {
		if !slices.Contains(all, it.Kind) {
			all = append(all, it.Kind)
		}
	}
	slices.Sort(all)
	return all
}
