package coordinator

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestFullDiskNeedsAttention until a change is stored again.
func TestFullDiskNeedsAttention(t *testing.T) {
	d := newDeployment(t)
	subjects := func() []string {
		s, err := d.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, a := range s.Attention {
			all = append(all, a.Subject+" "+a.Code)
		}
		return all
	}
	d.disk.SetFaults(func(int, []store.Entry, []string) storetest.Fault { return storetest.Lost }, nil)
	if _, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: shop(t)}); problem.CodeOf(err) != "STO-007" {
		t.Fatalf("got %v, want STO-007", err)
	}
	if got := subjects(); len(got) != 1 || got[0] != "store STO-007" {
		t.Errorf("needs attention: %q, want the store", got)
	}
	d.disk.SetFaults(nil, nil)
	if _, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: shop(t)}); err != nil {
		t.Fatal(err)
	}
	if got := subjects(); len(got) != 1 || got[0] != "manifest CRD-061" {
		t.Errorf("needs attention: %q, want only the open first set", got)
	}
}
