package coordinator

import (
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
)

// FuzzOverlay puts hostile documents in the place of kept ones: each either is
// refused or replaces documents of its kind alone.
func FuzzOverlay(f *testing.F) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	p, err := platform.New(platform.Config{Now: func() time.Time { return now }})
	if err != nil {
		f.Fatal(err)
	}
	set, err := p.Endorsements(attest.SimSGX)
	if err != nil {
		f.Fatal(err)
	}
	for _, it := range set.Items() {
		f.Add(it.Kind, it.Body, it.Chain)
		f.Add(it.Kind, it.Body, []byte(nil))
	}
	f.Add("x", []byte("x"), []byte("x"))
	f.Fuzz(func(t *testing.T, kind string, body, chain []byte) {
		o, err := newOverlay([]attest.Endorsement{{Kind: kind, Body: body, Chain: chain}})
		if err != nil {
			wantCode(t, err, "CRD-068")
			return
		}
		next, used := o.apply(set)
		if len(next.Items()) != len(set.Items()) || len(used) > 1 {
			t.Errorf("got %d documents in place of %d, used %v", len(next.Items()), len(set.Items()), used)
		}
		for _, it := range set.Items() {
			got, _ := next.Get(it.Kind)
			if it.Kind != kind && string(got.Body) != string(it.Body) {
				t.Errorf("%s replaced %s", kind, it.Kind)
			}
		}
	})
}
