package coordinator

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestNonceCountsOnceAmongMany answers one challenge from many sides at once.
func TestNonceCountsOnceAmongMany(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	a := d.attempt("web", "one")
	a.quote(d)
	var accepted atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			_, err := d.Activate(t.Context(), ActivateRequest{Session: a.session, Instance: a.info, Evidence: a.evidence,
				ClaimsBuffer: a.claims.Encode(), PublicKey: a.key, Nonce: a.nonce})
			switch {
			case err == nil:
				accepted.Add(1)
			case problem.CodeOf(err) != "CRD-022":
				t.Errorf("got %v, want CRD-022", err)
			}
		})
	}
	wg.Wait()
	if n := accepted.Load(); n != 1 {
		t.Errorf("%d activations for one challenge, want 1", n)
	}
	d.check()
}

// TestTakeover checks what one instance can do to another: an instance of the
// same marble takes its id over and finds its secrets, one of another marble
// gets neither, whatever id it gives.
func TestTakeover(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	victim := d.mustActivate("web", "one")
	before := d.peer(victim.Lease)

	if _, err := d.attempt("db", "one").activate(d); err != nil {
		t.Fatal(err)
	}
	_, err := d.attempt("db", "web/one").activate(d)
	wantCode(t, err, "CRD-002")
	if got, err := d.Identify(leafOfLease(t, victim.Lease)); err != nil || got != before {
		t.Errorf("after an instance of another marble: got %+v, %v, want %+v", got, err, before)
	}

	again := d.mustActivate("web", "one")
	if string(again.Lease.Secrets["own"].Bytes) != string(victim.Lease.Secrets["own"].Bytes) {
		t.Error("an instance that starts again finds another secret of its own")
	}
	_, err = d.Identify(leafOfLease(t, victim.Lease))
	wantCode(t, err, "CRD-034")
	other := d.mustActivate("web", "two")
	if string(other.Lease.Secrets["own"].Bytes) == string(victim.Lease.Secrets["own"].Bytes) {
		t.Error("two instances have the same secret of their own")
	}
	d.check()
}
