package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func mayRaiseFloor(m object) {
	m["roles"].(object)["operator"].(object)["actions"] = []string{"updateManifest", "raiseFloor:default"}
}

func evaluation(n uint32) attest.Floor {
	return attest.Floor{Sim: &attest.DCAPFloor{MinTCBEvaluation: n}}
}

// raise raises the floor of a platform as alice, over the one in force.
func (d *deployment) raise(name string, f attest.Floor) (apiv1.RaiseResult, error) {
	req := RaiseRequest{Platform: name, Floor: f, Principal: &Principal{Name: "alice"}}
	if old, err := d.Floor(name); err == nil {
		req.IfMatch = old.Digest.String()
	}
	return d.RaiseFloor(d.Context(), req)
}

func TestFloorIsRaisedAndStays(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, mayRaiseFloor, func(m object) { m["coordinators"] = object{"package": "db"} }))
	act := d.mustActivate("web", "one")
	if _, err := d.raise("default", evaluation(1)); err != nil {
		t.Fatal(err)
	}
	d.mustActivate("web", "two")
	got, err := d.raise("default", evaluation(9999))
	if err != nil || len(got.Effects) != 1 || !strings.Contains(got.Effects[0], "9999") || got.Floor.RaisedBy != "alice" {
		t.Fatalf("got %+v and %v", got, err)
	}
	refused := func() {
		t.Helper()
		_, err := d.attempt("web", "three").activate(d)
		wantCode(t, err, "ATT-016")
		d.clock.advance(time.Minute)
		p := d.peer(act.Lease)
		_, err = d.renewal(p).renew(d, p)
		wantCode(t, err, "ATT-016")
	}
	refused()
	d.restart()
	refused()
	m, _ := d.Manifest(t.Context())
	result, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: shop(t, mayRaiseFloor, func(m object) {
		m["platforms"] = object{"default": object{"sim": object{"minTCBEvaluation": 5}}, "lax": object{}}
		m["marbles"].(object)["job"].(object)["platform"] = "lax"
		m["coordinators"] = object{"package": "db", "platform": "lax"}
	}), IfMatch: m.Digest.String(), Principal: &Principal{Name: "alice"}})
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.Join(result.Effects, "\n")
	for _, want := range []string{"platform default: the floor in force demands more: sim.minTCBEvaluation: 5 → 9999", "job: leaves platform default", "coordinators: leaves platform default"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the effects do not say %q:\n%s", want, shown)
		}
	}
	refused()
	d.mustActivate("job", "one")
	if f := d.Floors(); f.Version != 2 || len(f.Floors) != 1 || f.Floors[0].Platform != "default" {
		t.Errorf("got floors %+v, want version 2", f)
	}
	page, err := d.Audit(t.Context(), got.Floor.Record, 1, false)
	if err != nil || page.Records[0].Kind != "floorRaised" || page.Records[0].Actor != "alice" {
		t.Errorf("got audit %+v and %v", page.Records, err)
	}
	d.check()
}

// TestDecisionsUnderOldFloors judges a decision again that was made before the
// floor was raised.
func TestDecisionsUnderOldFloors(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, mayRaiseFloor))
	act := d.mustActivate("web", "one")
	if _, err := d.raise("default", evaluation(9999)); err != nil {
		t.Fatal(err)
	}
	v, err := d.Rejudge(t.Context(), act.Decision)
	if err != nil || !v.OK() {
		t.Errorf("got %v and %v, want accepted as at the time", v.Failed(), err)
	}
	_, err = d.attempt("web", "two").activate(d)
	v, err = d.Rejudge(t.Context(), problem.From(err).Instance)
	if err != nil || v.OK() {
		t.Errorf("got %v and %v, want refused", v.Verdict, err)
	}
}

func TestRaiseRefusals(t *testing.T) {
	d := newDeployment(t)
	alice := &Principal{Name: "alice"}
	_, err := d.RaiseFloor(t.Context(), RaiseRequest{Platform: "default", Floor: evaluation(1), Principal: alice})
	wantCode(t, err, "CRD-010")
	d.mustSet(shop(t))
	_, err = d.raise("default", evaluation(1))
	wantCode(t, err, "CRD-064")
	d.mustSet(shop(t, mayRaiseFloor, func(m object) { m["platforms"] = object{"strict": object{}} }))
	first, err := d.raise("default", evaluation(7))
	if err != nil {
		t.Fatal(err)
	}
	digest := first.Floor.Digest.String()
	for _, c := range []struct {
		name string
		code problem.Code
		req  RaiseRequest
	}{
		{"nobody", "CRD-015", RaiseRequest{Platform: "default", Floor: evaluation(8), IfMatch: digest}},
		{"a right to another platform", "CRD-064", RaiseRequest{Platform: "strict", Floor: evaluation(8), Principal: alice}},
		{"lower", "CRD-066", RaiseRequest{Platform: "default", Floor: evaluation(6), IfMatch: digest, Principal: alice}},
		{"lower elsewhere", "CRD-066", RaiseRequest{Platform: "default", Floor: attest.Floor{SGX: &attest.DCAPFloor{MinTCBEvaluation: 8}}, IfMatch: digest, Principal: alice}},
		{"without If-Match", "CRD-069", RaiseRequest{Platform: "default", Floor: evaluation(8), Principal: alice}},
		{"over another", "CRD-065", RaiseRequest{Platform: "default", Floor: evaluation(8), IfMatch: strings.Repeat("0", 64), Principal: alice}},
		{"malformed", "CRD-070", RaiseRequest{Platform: "default", Floor: attest.Floor{SNP: &attest.SNPFloor{MinTCB: map[string]attest.SNPTCB{"milan": {}}}}, IfMatch: digest, Principal: alice}},
	} {
		_, err := d.RaiseFloor(t.Context(), c.req)
		if got := problem.CodeOf(err); got != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
	again, err := d.raise("default", evaluation(7))
	if err != nil || again.Floor.Record != first.Floor.Record || d.Floors().Version != 1 {
		t.Errorf("the same floor again: got %+v and %v, want nothing new", again, err)
	}
	d.mustSet(shop(t, func(m object) {
		m["roles"].(object)["operator"].(object)["actions"] = []string{"updateManifest", "raiseFloor:*"}
	}))
	if _, err := d.raise("default", evaluation(8)); err != nil {
		t.Errorf("with the right to every platform: %v", err)
	}
	_, err = d.raise("defualt", evaluation(8))
	wantCode(t, err, "CRD-067")
	d.check()
}

// TestRaisingFails lets the commit of a floor fail, in both ways.
func TestRaisingFails(t *testing.T) {
	for fault, version := range map[storetest.Fault]int{storetest.Lost: 0, storetest.Unknown: 1} {
		d := newDeployment(t)
		d.mustSet(shop(t, mayRaiseFloor))
		d.disk.SetFaults(func(int, []store.Entry, []string) storetest.Fault { return fault }, nil)
		_, err := d.raise("default", evaluation(9999))
		wantCode(t, err, "STO-007")
		d.disk.SetFaults(nil, nil)
		if _, err := d.attempt("web", "one").activate(d); (problem.CodeOf(err) == "ATT-016") != (version == 1) {
			t.Errorf("fault %d: an activation after it: got %v, want what the medium holds to count", fault, err)
		}
		_ = d.store.Close()
		d.reopen()
		if got := d.Floors().Version; got != version {
			t.Errorf("fault %d: got version %d, want %d", fault, got, version)
		}
		d.check()
	}
}

// TestStatementBindsFloors changes the floors of a statement: its evidence does
// not bind others.
func TestStatementBindsFloors(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, mayRaiseFloor))
	nonce, key := bytes.Repeat([]byte{7}, 32), newKeyDER()
	s, err := d.Attest(t.Context(), nonce, key)
	if err != nil || s.Floors != nil {
		t.Fatalf("got floors %s and %v, want none", s.Floors, err)
	}
	if _, err := d.raise("default", evaluation(3)); err != nil {
		t.Fatal(err)
	}
	if s, err = d.Attest(t.Context(), nonce, key); err != nil {
		t.Fatal(err)
	}
	claims, err := binding.Parse(s.ClaimsBuffer)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(s.Floors)
	if !bytes.Equal(claims.Floors, sum[:]) || !bytes.Contains(s.Floors, []byte(`"minTCBEvaluation":3`)) {
		t.Errorf("the evidence binds floors %x, the statement says %s", claims.Floors, s.Floors)
	}
}

// TestOldEndorsementsAndASetBackClock plays what a host could: endorsements that
// are older than what was relied on, and a clock that goes back with them.
func TestOldEndorsementsAndASetBackClock(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	old, err := d.platform.Endorse(t.Context(), attest.Evidence{TEE: attest.SimSGX})
	if err != nil {
		t.Fatal(err)
	}
	d.clock.advance(13 * time.Hour)
	d.mustActivate("web", "one")
	served := d.config.Endorse
	d.restart()

	d.config.Endorse = func(_ context.Context, _ attest.Evidence) (attest.Endorsements, error) { return old, nil }
	d.restart()
	_, err = d.attempt("web", "two").activate(d)
	wantCode(t, err, "ATT-060")
	v, err := d.Rejudge(t.Context(), problem.From(err).Instance)
	if err != nil || v.OK() || v.Failed()[0].Code != "ATT-060" {
		t.Errorf("judged again: %v and %v, want ATT-060", v.Failed(), err)
	}

	d.clock.advance(-12*time.Hour - 30*time.Minute)
	_, err = d.attempt("web", "two").activate(d)
	wantCode(t, err, "ATT-060")
	failed := map[string]bool{}
	for _, s := range verdictOf(t, err).Failed() {
		failed[s.Code] = true
	}
	if !failed["ATT-061"] {
		t.Errorf("the failed checks %v do not name the clock", failed)
	}
	d.clock.advance(12*time.Hour + 30*time.Minute)
	d.config.Endorse = served
	d.restart()
	d.mustActivate("web", "two")
	d.check()
}

// TestMarksAreNotRaisedByRefusals refuses evidence with newer endorsements: what
// nobody relied on shuts nothing out.
func TestMarksAreNotRaisedByRefusals(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	old, err := d.platform.Endorse(t.Context(), attest.Evidence{TEE: attest.SimSGX})
	if err != nil {
		t.Fatal(err)
	}
	d.platform.Misbehave(platform.Misbehaviour{FutureEndorsements: true})
	_, err = d.attempt("web", "one").activate(d)
	if err == nil {
		t.Fatal("endorsements that are not yet valid were accepted")
	}
	d.platform.Misbehave(platform.Misbehaviour{})
	d.config.Endorse = func(_ context.Context, _ attest.Evidence) (attest.Endorsements, error) { return old, nil }
	d.restart()
	d.mustActivate("web", "one")
}

func verdictOf(t *testing.T, err error) attest.Verdict {
	t.Helper()
	var v attest.Verdict
	if err := json.Unmarshal(problem.From(err).Verdict, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
