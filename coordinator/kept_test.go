package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// keptCounts returns how many sets and refusals are kept.
func (d *deployment) keptCounts() (setCount, refusalCount int) {
	d.Helper()
	err := d.store.View(d.Context(), func(tx *store.Tx) error {
		setCount, refusalCount = sets.Len(tx), refusals.Len(tx)
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
	return setCount, refusalCount
}

func (d *deployment) refuse(marble string) *problem.Error {
	d.Helper()
	a := d.attempt(marble, "evil")
	a.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("evil"))
	_, err := a.activate(d)
	wantCode(d, err, "ATT-012")
	return problem.From(err)
}

func TestEvidenceIsKeptAndReplaced(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	act := d.mustActivate("web", "one")
	d.mustActivate("web", "two")
	d.check()
	if n, _ := d.keptCounts(); n != 1 {
		t.Errorf("%d endorsement sets after two activations on one platform, want 1", n)
	}
	before := d.instanceBasis("web/one")
	d.clock.advance(20 * time.Minute)
	p := d.peer(act.Lease)
	if _, err := d.renewal(p).renew(d, p); err != nil {
		t.Fatal(err)
	}
	d.check()
	if now := d.instanceBasis("web/one"); bytes.Equal(now.Evidence, before.Evidence) {
		t.Error("a renewal did not replace the evidence")
	}
	d.restart()
	d.check()
	d.clock.advance(2 * time.Hour)
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.check()
	if n, _ := d.keptCounts(); n != 0 {
		t.Errorf("%d endorsement sets that nothing rests on, want 0", n)
	}
}

// judged returns how many pieces of evidence have each of the sets, by digest, that
// the coordinator says live instances rest on.
func (d *deployment) judged() map[[32]byte]int {
	d.Helper()
	got := map[[32]byte]int{}
	err := d.Judged(d.Context(), func(e attest.Evidence, en attest.Endorsements) {
		if e.TEE != attest.SimSGX || len(e.Raw) == 0 {
			d.Errorf("got evidence %s of %d bytes, want that of an instance", e.TEE, len(e.Raw))
		}
		got[en.Digest()]++
	})
	if err != nil {
		d.Fatal(err)
	}
	return got
}

// TestJudged names each set that live instances rest on once, and no other.
func TestJudged(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	d.refuse("web")
	if got := d.judged(); len(got) != 0 {
		t.Errorf("got %d sets without an instance, want none", len(got))
	}
	d.mustActivate("web", "one")
	d.mustActivate("web", "two")
	var set [32]byte
	copy(set[:], d.instanceBasis("web/one").Set)
	if got := d.judged(); len(got) != 1 || got[set] != 1 {
		t.Errorf("got %v, want %x once", got, set)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Judged(ctx, func(attest.Evidence, attest.Endorsements) {}); err == nil {
		t.Error("it went on after its context had ended")
	}
}

func (d *deployment) instanceBasis(key string) basis {
	d.Helper()
	var b basis
	err := d.store.View(d.Context(), func(tx *store.Tx) error {
		r, _ := instances.Get(tx, key)
		b = r.Basis
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
	return b
}

func TestNewestRefusalsAreKept(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	var last string
	for range maxKeptPerMarble + 3 {
		last = d.refuse("web").Instance
		d.clock.advance(time.Second)
	}
	d.refuse("db")
	d.check()
	if _, n := d.keptCounts(); n != maxKeptPerMarble+1 {
		t.Errorf("%d refusals kept, want %d of web and one of db", n, maxKeptPerMarble)
	}
	err := d.store.View(t.Context(), func(tx *store.Tx) error {
		if _, ok := refusals.Get(tx, last); !ok {
			return fmt.Errorf("the newest refusal %s is not kept", last)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	d.mustSet(shop(t, func(m object) {
		delete(m["marbles"].(object), "job")
		delete(m["packages"].(object), "job")
	}))
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, n := d.keptCounts(); n != maxKeptPerMarble+1 {
		t.Errorf("%d refusals kept after an unrelated change", n)
	}
	d.mustSet(shop(t, func(m object) {
		web := m["marbles"].(object)["web"].(object)
		delete(web, "calls")
		delete(m["marbles"].(object), "db")
		delete(m["packages"].(object), "db")
		delete(m["secrets"].(object), "dbCert")
	}))
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.check()
	if _, n := d.keptCounts(); n != maxKeptPerMarble {
		t.Errorf("%d refusals kept, want those of db gone", n)
	}
}

// TestDecisionsCanBeMadeAgain judges what is kept once more, under the manifest
// and at the time of the decision: the verdict is the same, byte for byte.
func TestDecisionsCanBeMadeAgain(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	accepted := d.mustActivate("web", "one").Decision
	refused := d.refuse("web").Instance
	d.mustSet(shop(t, lease("web", "2h")))
	d.platform.Misbehave(platform.Misbehaviour{TCBStatus: attest.OutOfDate})
	d.clock.advance(time.Minute)
	for _, id := range []string{accepted, refused} {
		want, err := d.Decision(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Rejudge(t.Context(), id)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		a, _ := json.Marshal(want.Verdict)
		b, _ := json.Marshal(got)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: judged again it is\n%s\nwant\n%s", id, b, a)
		}
		if len(want.Endorsements) != 32 {
			t.Errorf("%s names the endorsement set %s", id, want.Endorsements)
		}
	}
	_, err := d.Rejudge(t.Context(), "web/00000000")
	wantCode(t, err, "CRD-062")
}

// TestEvidenceWithoutEndorsements refuses evidence that nothing is known about,
// and makes that decision again.
func TestEvidenceWithoutEndorsements(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	d.config.Endorse = func(context.Context, attest.Evidence) (attest.Endorsements, error) { return attest.Endorsements{}, nil }
	d.restart()
	_, err := d.attempt("web", "one").activate(d)
	wantCode(t, err, "ATT-022")
	v, err := d.Rejudge(t.Context(), problem.From(err).Instance)
	if err != nil || v.OK() || v.Failed()[0].Code != "ATT-022" {
		t.Errorf("judged again: %v and %v, want ATT-022", v.Failed(), err)
	}
	d.check()
}

// TestKeepingFails lets every commit of a renewal and of a refusal fail, in
// both ways: what is kept and what refers to it stay together.
func TestKeepingFails(t *testing.T) {
	for _, fault := range []storetest.Fault{storetest.Lost, storetest.Unknown} {
		d := newDeployment(t)
		d.mustSet(shop(t))
		act := d.mustActivate("web", "one")
		d.clock.advance(20 * time.Minute)
		p := d.peer(act.Lease)
		r, a := d.renewal(p), d.attempt("db", "evil")
		a.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("evil"))
		d.disk.SetFaults(func(int, []store.Entry, []string) storetest.Fault { return fault }, nil)
		if _, err := r.renew(d, p); problem.CodeOf(err) != "STO-007" {
			t.Errorf("got %v, want STO-007", err)
		}
		if _, err := a.activate(d); problem.CodeOf(err) != "STO-007" {
			t.Errorf("got %v, want STO-007", err)
		}
		d.disk.SetFaults(nil, nil)
		if err := d.store.Close(); err != nil { // as if killed: the coordinator closes nothing
			t.Fatal(err)
		}
		d.reopen()
		d.check()
	}
}
