package coordinator

import (
	"bytes"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
	"fmt"
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

// admitting has a manifest admit further coordinators.
func admitting(m object) {
	m["packages"].(object)["coordinator"] = object{"sim": object{
		"program": []string{digestOf("coordinator").String()}, "agent": []string{digestOf("agent").String()}}}
	m["coordinators"] = object{"package": "coordinator"}
}

// newGiver is a deployment that can hand over its key, and admits who asks.
func newGiver(t testing.TB, changes ...func(object)) *deployment {
	t.Helper()
	d := newDeployment(t)
	d.keeping()
	d.mustSet(shop(t, append([]func(object){admitting}, changes...)...))
	return d
}

// joining is everything that the joining of a coordinator is made of, so that a
// test can change one thing of it.
type joining struct {
	session Session
	issuer  attest.Issuer
	private hpke.PrivateKey
	giver   Giver
	claims  binding.Claims
	req     apiv1.ReplicaRequest
}

// joining prepares the joining of a replica of this very software.
func (d *deployment) joining(name string) *joining {
	d.Helper()
	j := &joining{session: newSession(), issuer: d.platform.NewInsecureIssuer(attest.SimSGX, measured("coordinator")),
		giver: Giver{Nonce: make([]byte, 32), TLSKey: newKeyDER()}}
	if _, err := rand.Read(j.giver.Nonce); err != nil {
		d.Fatal(err)
	}
	var err error
	if j.private, err = apiv1.NewUploadKey(); err != nil {
		d.Fatal(err)
	}
	c, err := d.ChallengeReplica(d.Context(), j.session, apiv1.ReplicaQuestion{Nonce: j.giver.Nonce}, j.giver.TLSKey)
	if err != nil {
		d.Fatal(err)
	}
	j.giver.Statement = c.Statement
	j.req = apiv1.ReplicaRequest{Name: name, PublicKey: j.private.PublicKey().Bytes(), Nonce: c.Nonce}
	j.claims = binding.Claims{Purpose: binding.Replica, PublicKey: binding.KeyHashX25519(j.req.PublicKey), Nonce: c.Nonce, Exporter: j.session.Exporter}
	return j
}

// quote makes the evidence, unless the test has put some there.
func (j *joining) quote(d *deployment) {
	d.Helper()
	if j.req.Evidence.Raw != nil {
		return
	}
	var err error
	if j.req.Evidence, err = j.issuer.Issue(d.Context(), j.claims.Binding()); err != nil {
		d.Fatal(err)
	}
}

func (j *joining) ask(d *deployment) (apiv1.ReplicaKey, error) {
	d.Helper()
	j.quote(d)
	if j.req.ClaimsBuffer == nil {
		j.req.ClaimsBuffer = j.claims.Encode()
	}
	return d.AdmitReplica(d.Context(), j.session, j.req)
}

// TestJoining hands the key over, and looks at what is left of it everywhere.
func TestJoining(t *testing.T) {
	d := newGiver(t)
	before := d.mustStand()
	j := d.joining("ashlar-1")
	given, err := j.ask(d)
	if err != nil {
		t.Fatal(err)
	}
	bound := apiv1.ReplicaBinding{Root: j.giver.Statement.Root, Nonce: j.req.Nonce}
	key, err := apiv1.OpenReplicaKey(j.private, bound, given.Sealed)
	if err != nil || !bytes.Equal(key, d.config.Keeper.Key.Reveal()) {
		t.Fatalf("the key that came is not that of the state: %v", err)
	}
	if n := len(given.Sealed); n != apiv1.SealedReplicaSize {
		t.Errorf("sealed are %d bytes, want %d", n, apiv1.SealedReplicaSize)
	}
	for range 2 { // also after a restart
		d.mustDecide(given.Decision, "ashlar-1", "")
		if v, err := d.Rejudge(t.Context(), given.Decision); err != nil || !v.OK() {
			t.Errorf("judged again: %v, %v", v.Failed(), err)
		}
		d.check()
		d.restart()
	}
	b, err := d.Basis(t.Context(), given.Decision)
	if err != nil || b.Policy.PackageName != "coordinator" || b.Policy.PlatformName != "default" {
		t.Errorf("the decision rests on %q and %q, %v", b.Policy.PackageName, b.Policy.PlatformName, err)
	}
	now := d.mustStand()
	if now.Log.Size <= before.Log.Size {
		t.Error("the decision is not in the log")
	}
	d.findsNoKey(key)
}

// mustStand inspects the state.
func (d *deployment) mustStand() *Standing {
	d.Helper()
	st, err := Inspect(d.Context(), d.store)
	if err != nil {
		d.Fatal(err)
	}
	return st
}

// mustDecide looks a decision about a replica up, in each way.
func (d *deployment) mustDecide(id, name, code string) apiv1.Decision {
	d.Helper()
	one, err := d.Decision(d.Context(), id)
	if err != nil {
		d.Fatal(err)
	}
	if one.Marble != "coordinators" || one.Instance != name || one.Purpose != "replica" || one.Accepted != (code == "") || one.Code != code || len(one.Record) != 32 {
		d.Errorf("decision %s: got %s/%s %s accepted %t, code %q, record %s", id, one.Marble, one.Instance, one.Purpose, one.Accepted, one.Code, one.Record)
	}
	list, err := d.Decisions(d.Context(), "coordinators", 0)
	if err != nil || len(list) == 0 || list[0].ID != id {
		d.Errorf("decisions of coordinators: got %d, %v; want %s first", len(list), err, id)
	}
	return one
}

// findsNoKey looks for the key in what the log, the status and the store show.
func (d *deployment) findsNoKey(key []byte) {
	d.Helper()
	page, err := d.Audit(d.Context(), 0, 1000, false)
	if err != nil {
		d.Fatal(err)
	}
	status, err := d.Status(d.Context())
	if err != nil {
		d.Fatal(err)
	}
	shown, err := json.Marshal([]any{page, status, d.mustStand()})
	if err != nil {
		d.Fatal(err)
	}
	text := string(shown) + fmt.Sprintf("%v %+v %#v", d.config.Keeper.Key, d.mustStand(), d.config.Keeper.Key)
	for _, form := range []string{attest.Hex(key).String(), string(key), string(must64(key))} {
		if strings.Contains(text, form) {
			d.Error("the key of the state is shown")
		}
	}
}

func must64(b []byte) []byte {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err)
	}
	return bytes.Trim(text, `"`)
}

// TestJoiningRefusals changes one thing of a good request. Within is the code of
// the first check that fails, where the evidence is refused.
func TestJoiningRefusals(t *testing.T) {
	d := newGiver(t)
	other, err := platform.New(platform.Config{Now: d.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	victim := d.joining("victim")
	victim.quote(d)
	marble := d.attempt("web", "one")
	stranger, err := apiv1.NewUploadKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		code, within problem.Code
		change       func(j *joining)
	}{
		{"nothing changed", "", "", func(*joining) {}},
		{"unattested", "REP-021", "ATT-001", func(j *joining) { j.req.Evidence = attest.Evidence{TEE: attest.SimSGX, Raw: []byte{}} }},
		{"other platform", "REP-021", "ATT-006", func(j *joining) { j.issuer = other.NewInsecureIssuer(attest.SimSGX, measured("coordinator")) }},
		{"wrong measurement", "REP-021", "ATT-012", func(j *joining) { j.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("evil")) }},
		{"a marble's program", "REP-021", "ATT-012", func(j *joining) { j.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("web")) }},
		{"evidence of an activation", "REP-021", "ATT-071", func(j *joining) { j.claims.Purpose = binding.Activate }},
		{"evidence of a renewal", "REP-021", "ATT-071", func(j *joining) { j.claims.Purpose = binding.Renew }},
		{"the coordinator's own statement", "REP-021", "ATT-071", func(j *joining) {
			j.req.Evidence, j.req.ClaimsBuffer = j.giver.Statement.Evidence, j.giver.Statement.ClaimsBuffer
		}},
		{"another key in the evidence", "REP-021", "ATT-074", func(j *joining) { j.claims.PublicKey = binding.KeyHashX25519(stranger.PublicKey().Bytes()) }},
		{"another key in the request", "REP-021", "ATT-074", func(j *joining) { j.req.PublicKey = stranger.PublicKey().Bytes() }},
		{"replayed evidence", "REP-021", "ATT-072", func(j *joining) {
			j.claims, j.req.Evidence, j.req.PublicKey = victim.claims, victim.req.Evidence, victim.req.PublicKey
		}},
		{"another nonce", "REP-021", "ATT-072", func(j *joining) { j.claims.Nonce = bytes.Repeat([]byte{5}, 32) }},
		{"relayed evidence", "REP-021", "ATT-073", func(j *joining) { j.claims.Exporter = victim.session.Exporter }},
		{"another buffer than the evidence has", "REP-021", "ATT-011", func(j *joining) { j.quote(d); j.claims.Nonce = bytes.Repeat([]byte{5}, 32) }},
		{"a device that nobody vouches for", "REP-021", "ATT-050", func(j *joining) {
			j.quote(d)
			j.req.Evidence.Devices = []attest.Device{{Name: "gpu", TEE: attest.NVIDIA, Raw: []byte("x")}}
		}},
		{"nonce of another session", "CRD-020", "", func(j *joining) { j.req.Nonce = victim.req.Nonce }},
		{"nonce of an activation", "CRD-020", "", func(j *joining) { j.session, j.req.Nonce = marble.session, marble.nonce }},
		{"made-up nonce", "CRD-020", "", func(j *joining) { j.req.Nonce = make([]byte, 32) }},
		{"short nonce", "CRD-002", "", func(j *joining) { j.req.Nonce = j.req.Nonce[:31] }},
		{"late", "CRD-021", "", func(j *joining) { j.quote(d); d.clock.advance(61 * time.Second) }},
		{"damaged buffer", "ATT-070", "", func(j *joining) { j.req.ClaimsBuffer = []byte("x") }},
		{"no name", "REP-024", "", func(j *joining) { j.req.Name = "" }},
		{"path as name", "REP-024", "", func(j *joining) { j.req.Name = "../x" }},
		{"no key", "REP-024", "", func(j *joining) { j.req.PublicKey = nil }},
		{"long key", "REP-024", "", func(j *joining) { j.req.PublicKey = append(j.req.PublicKey, 0) }},
		{"a key that everybody can open", "REP-024", "", func(j *joining) {
			j.req.PublicKey = make([]byte, 32)
			j.claims.PublicKey = binding.KeyHashX25519(j.req.PublicKey)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := d.joining("joiner")
			c.change(j)
			key, err := j.ask(d)
			wantCode(t, err, c.code)
			if c.code != "" && (key.Sealed != nil || key.Decision != "") {
				t.Error("a refusal came with a key")
			}
			if c.within != "" {
				d.refusedFor(err, "joiner", c.within)
			}
			d.check()
		})
	}
}

// refusedFor looks at a refusal: the verdict comes with it, the log has it, and
// it needs attention.
func (d *deployment) refusedFor(err error, name string, code problem.Code) {
	d.Helper()
	p := problem.From(err)
	var v attest.Verdict
	if json.Unmarshal(p.Verdict, &v) != nil || v.OK() || len(v.Failed()) == 0 || v.Failed()[0].Code != string(code) {
		d.Errorf("the verdict %s does not fail first with %s", p.Verdict, code)
	}
	if !strings.Contains(p.Detail, string(code)) || p.Next == "" {
		d.Errorf("detail %q and next step %q do not tell of %s", p.Detail, p.Next, code)
	}
	one := d.mustDecide(p.Instance, name, string(code))
	if again, err := d.Rejudge(d.Context(), p.Instance); err != nil || again.OK() != one.Verdict.OK() {
		d.Errorf("judged again: %v, %v", again.Failed(), err)
	}
	status, err := d.Status(d.Context())
	if err != nil {
		d.Fatal(err)
	}
	for _, a := range status.Attention {
		if a.Subject == "coordinators" && a.Code == string(code) && strings.Contains(a.Next, p.Instance) {
			return
		}
	}
	d.Errorf("attention %+v does not show the refusal", status.Attention)
}

// TestJoiningOncePerNonce answers one challenge twice.
func TestJoiningOncePerNonce(t *testing.T) {
	d := newGiver(t)
	j := d.joining("joiner")
	if _, err := j.ask(d); err != nil {
		t.Fatal(err)
	}
	_, err := j.ask(d)
	wantCode(t, err, "CRD-022")
	refused := d.joining("joiner")
	refused.claims.Exporter = j.session.Exporter
	_, err = refused.ask(d)
	wantCode(t, err, "REP-021")
	refused.req.Evidence, refused.req.ClaimsBuffer = attest.Evidence{}, nil
	refused.claims.Exporter = refused.session.Exporter
	_, err = refused.ask(d)
	wantCode(t, err, "CRD-022") // a refusal spends it too
	d.check()
}

// TestJoiningUnderOtherRules changes the platform or the rules: floors, incidents
// and endorsements count as for a marble.
func TestJoiningUnderOtherRules(t *testing.T) {
	powers := func(m object) {
		warden(m)
		m["roles"].(object)["warden"].(object)["actions"] = []string{"updateManifest", "revoke:*", "breakGlass", "raiseFloor:*"}
	}
	measurement := func(d *deployment) attest.Hex {
		j := d.joining("probe")
		j.quote(d)
		en, err := d.platform.Endorse(d.Context(), j.req.Evidence)
		if err != nil {
			d.Fatal(err)
		}
		claims, _ := d.config.Verifiers[attest.SimSGX].Verify(j.req.Evidence, en, d.clock.Now())
		return claims.SGX.UniqueID
	}
	for _, c := range []struct {
		name   string
		within problem.Code
		change func(d *deployment)
	}{
		{"nothing", "", func(*deployment) {}},
		{"debug", "ATT-013", func(d *deployment) { d.platform.Misbehave(platform.Misbehaviour{Debug: true}) }},
		{"signature", "ATT-010", func(d *deployment) { d.platform.Misbehave(platform.Misbehaviour{BadSignature: true}) }},
		{"revoked by the vendor", "ATT-019", func(d *deployment) { d.platform.Misbehave(platform.Misbehaviour{RevokedPCK: true}) }},
		{"stale endorsements", "ATT-024", func(d *deployment) { d.platform.Misbehave(platform.Misbehaviour{StaleEndorsements: true}) }},
		{"TCB out of date", "ATT-014", func(d *deployment) { d.platform.Misbehave(platform.Misbehaviour{TCBStatus: attest.OutOfDate}) }},
		{"floor", "ATT-016", func(d *deployment) {
			if _, err := d.raise("default", evaluation(9999)); err != nil {
				d.Fatal(err)
			}
		}},
		{"package revoked", "INC-003", func(d *deployment) {
			d.revoke(apiv1.Revocation, apiv1.Subject{Kind: "package", Name: "coordinator"})
		}},
		{"measurement revoked", "INC-004", func(d *deployment) {
			d.revoke(apiv1.Revocation, apiv1.Subject{Kind: "package", Name: "coordinator", Measurement: measurement(d)})
		}},
		{"platform revoked", "INC-005", func(d *deployment) {
			d.revoke(apiv1.Revocation, apiv1.Subject{Kind: "platform", Name: "default"})
		}},
		{"another package revoked", "", func(d *deployment) {
			d.revoke(apiv1.Revocation, apiv1.Subject{Kind: "package", Name: "web"})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newGiver(t, powers)
			c.change(d)
			_, err := d.joining("joiner").ask(d)
			if c.within == "" {
				wantCode(t, err, "")
				return
			}
			wantCode(t, err, "REP-021")
			if p := problem.From(err); !strings.Contains(p.Detail, string(c.within)) {
				t.Errorf("got %v, want %s within", err, c.within)
			} else {
				d.mustDecide(p.Instance, "joiner", string(c.within))
			}
			d.platform.Misbehave(platform.Misbehaviour{})
			d.check()
		})
	}
}

// TestNobodyMayJoin asks where nobody may: that is told before any evidence is made.
func TestNobodyMayJoin(t *testing.T) {
	for _, c := range []struct {
		name string
		code problem.Code
		make func(d *deployment)
	}{
		{"no manifest", "REP-020", func(d *deployment) { d.keeping() }},
		{"no section", "REP-020", func(d *deployment) { d.keeping(); d.mustSet(shop(t)) }},
		{"no key", "REP-022", func(d *deployment) { d.mustSet(shop(t, admitting)) }},
		{"behind", "REC-030", func(d *deployment) {
			d.keeping()
			d.mustSet(shop(t, admitting))
			if err := d.fallBehind(t.Context(), behindRecord{Since: d.clock.Now(), Text: "made up"}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeployment(t)
			c.make(d)
			_, err := d.ChallengeReplica(t.Context(), newSession(), apiv1.ReplicaQuestion{Nonce: make([]byte, 32)}, newKeyDER())
			wantCode(t, err, c.code)
			_, err = d.AdmitReplica(t.Context(), newSession(), apiv1.ReplicaRequest{Name: "x", PublicKey: make([]byte, 32)})
			wantCode(t, err, c.code)
		})
	}
}

// TestSectionGoesAway sets a manifest without the section between challenge and
// answer, and one that admits other software.
func TestSectionGoesAway(t *testing.T) {
	d := newGiver(t)
	j := d.joining("joiner")
	d.mustSet(shop(t))
	_, err := j.ask(d)
	wantCode(t, err, "REP-020")

	d.mustSet(shop(t, admitting, func(m object) {
		m["packages"].(object)["coordinator"].(object)["sim"].(object)["program"] = []string{digestOf("coordinator 2").String()}
	}))
	_, err = d.joining("joiner").ask(d)
	wantCode(t, err, "REP-021")
	d.check()
}

// TestNoKeyWithoutItsRecord lets the commit of the decision fail: no key comes.
func TestNoKeyWithoutItsRecord(t *testing.T) {
	d := newGiver(t)
	j := d.joining("joiner")
	j.quote(d)
	d.disk.SetFaults(func(int, []store.Entry, []string) storetest.Fault { return storetest.Lost }, nil)
	key, err := j.ask(d)
	d.disk.SetFaults(nil, nil)
	wantCode(t, err, "STO-007")
	if key.Sealed != nil {
		t.Error("a key came without its record")
	}
	d.check()
}
