package coordinator

import (
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// TestStrangersDriveOutNoRefusals: what anybody can make up takes half of the
// places at most, and genuine evidence no more either.
func TestStrangersDriveOutNoRefusals(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	genuine := func(n int) (last string) {
		for range n {
			last = d.refuse("web").Instance
			d.clock.advance(time.Second)
		}
		return last
	}
	forged := func(n int) {
		for range n {
			a := d.attempt("web", "evil")
			a.evidence = attest.Evidence{TEE: attest.SimSGX, Raw: []byte("made up")}
			if _, err := a.activate(d); err == nil {
				t.Fatal("made-up evidence was accepted")
			}
			d.clock.advance(time.Second)
		}
	}
	want := func(when string, last string, genuine, forged int) {
		t.Helper()
		n := map[bool]int{}
		err := d.store.View(t.Context(), func(tx *store.Tx) error {
			if _, ok := refusals.Get(tx, last); !ok {
				t.Errorf("%s: %s is gone", when, last)
			}
			for _, r := range refusals.All(tx) {
				n[r.Genuine]++
			}
			return nil
		})
		if err != nil || n[true] != genuine || n[false] != forged {
			t.Errorf("%s: %d genuine and %d made up are kept, %v; want %d and %d", when, n[true], n[false], err, genuine, forged)
		}
		d.check()
	}
	last := genuine(maxKeptPerMarble + 1)
	want("genuine only", last, 4, 0)
	forged(2 * maxKeptPerMarble)
	want("many made up", last, 2, 2)
	last = genuine(maxKeptPerMarble)
	want("genuine again", last, 2, 2)
}

// endless verifies as the verifier does, but nothing ever ends.
type endless struct{ attest.Verifier }

func (e endless) Verify(ev attest.Evidence, en attest.Endorsements, at time.Time) (attest.Claims, []attest.Step) {
	claims, steps := e.Verifier.Verify(ev, en, at)
	claims.TCB.NextUpdate, claims.TCB.NotAfter, claims.TCB.GraceUntil, claims.TCB.EndedUntil = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return claims, steps
}

// TestWildClock: a clock that was ahead for a moment raises the mark only as far
// as documents count; where nothing ends, it raises none.
func TestWildClock(t *testing.T) {
	for _, ends := range []bool{true, false} {
		d := newDeployment(t)
		if !ends {
			d.config.Verifiers = attest.Verifiers{attest.SimSGX: endless{d.config.Verifiers[attest.SimSGX]}}
			d.restart()
		}
		d.mustSet(shop(t))
		d.mustActivate("web", "one")
		d.clock.advance(time.Hour)
		d.mustActivate("web", "two")
		d.restart()
		d.clock.advance(-4 * time.Minute) // as NTP does
		d.mustActivate("web", "three")
		d.clock.advance(-40 * time.Minute)
		_, err := d.attempt("web", "four").activate(d)
		if ends {
			wantCode(t, err, "ATT-061")
		} else {
			wantCode(t, err, "")
		}
		d.clock.advance(44 * time.Minute)
		d.mustActivate("web", "five")
		d.check()
	}
}
