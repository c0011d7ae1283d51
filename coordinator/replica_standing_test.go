package coordinator

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestInspect(t *testing.T) {
	_, err := Inspect(t.Context(), storetest.Create(t, storetest.NewDisk().Engine()))
	wantCode(t, err, "STO-012")

	d := newDeployment(t)
	st := d.mustStand()
	if st.Manifest != nil || st.Digest != nil || st.Epoch != 1 {
		t.Errorf("before the first manifest: got %+v, %s, epoch %d", st.Manifest, st.Digest, st.Epoch)
	}
	d.mustSet(shop(t, func(m object) { m["seal"] = "unique" }))
	commits := d.disk.Commits()
	st = d.mustStand()
	if d.disk.Commits() != commits {
		t.Error("inspecting wrote something")
	}
	m, err := d.Manifest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at, err := d.log.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := sha256.Sum256(d.authority.Load().Root())
	if st.Digest.String() != m.Digest.String() || st.Manifest.Seal != "unique" || st.Log != at || st.Root.String() != attest.Hex(root[:]).String() || st.LogKey != d.LogKey() {
		t.Errorf("got %s, digest %s", st.Position(), st.Digest)
	}
}

// branch goes on with a copy of a state as it was then.
func (d *deployment) branch(then *storetest.Disk) {
	d.Helper()
	d.disk = then.Clone()
	d.restart()
}

// silently changes the state without a record in the log.
func (d *deployment) silently(times int) {
	d.Helper()
	for n := range times {
		err := d.store.Update(d.Context(), func(tx *store.Tx) error { return counts.Put(tx, "none", n) })
		if err != nil {
			d.Fatal(err)
		}
	}
}

// TestFollows remembers a state, lets something become of it, and asks whether
// that follows. Each starts from the state "then" with two instances since.
func TestFollows(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   problem.Code
		become func(d *deployment, then *storetest.Disk)
	}{
		{"nothing", "", func(*deployment, *storetest.Disk) {}},
		{"a restart", "", func(d *deployment, _ *storetest.Disk) { d.restart() }},
		{"it went on", "", func(d *deployment, _ *storetest.Disk) { d.mustActivate("web", "three") }},
		{"it went on without the log", "", func(d *deployment, _ *storetest.Disk) { d.silently(3) }},
		{"it went on far, with tiles of the log", "", func(d *deployment, _ *storetest.Disk) {
			for range 300 {
				d.mustActivate("web", "one")
			}
			if err := d.Tick(d.Context()); err != nil {
				d.Fatal(err)
			}
		}},
		{"it was recovered", "", func(d *deployment, _ *storetest.Disk) {
			d.config.Opening.Recovered = &recovery.Outcome{Document: &apiv1.RecoveryDocument{}}
			d.restart()
		}},
		{"it went back", "REP-031", func(d *deployment, then *storetest.Disk) { d.branch(then) }},
		{"it went back and was restored", "REP-031", func(d *deployment, then *storetest.Disk) {
			d.config.Opening.Restored = "a restore"
			d.branch(then)
		}},
		{"it went back and was recovered", "REP-031", func(d *deployment, then *storetest.Disk) {
			d.config.Opening.Recovered = &recovery.Outcome{Document: &apiv1.RecoveryDocument{}}
			d.branch(then)
		}},
		{"it went back and on, past what was seen", "REP-032", func(d *deployment, then *storetest.Disk) {
			d.branch(then)
			for range 9 {
				d.mustActivate("web", "one")
			}
		}},
		{"the same head number, another state", "REP-032", func(d *deployment, then *storetest.Disk) {
			seen := d.mustStand().Head.Sequence
			d.branch(then)
			d.silently(int(seen - d.mustStand().Head.Sequence))
		}},
		{"a higher head, and a shorter log", "REP-031", func(d *deployment, then *storetest.Disk) {
			d.branch(then)
			d.silently(20)
		}},
		{"a higher head, a log as long, another one", "REP-032", func(d *deployment, then *storetest.Disk) {
			seen := d.mustStand()
			d.branch(then)
			for d.mustStand().Log.Size < seen.Log.Size {
				d.mustActivate("db", "else")
			}
			d.silently(20)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeployment(t)
			d.mustSet(shop(t))
			then := d.disk.Clone()
			d.mustActivate("web", "one")
			for range 6 {
				d.mustActivate("web", "two")
			}
			seen := d.mustStand()
			c.become(d, then)
			now := d.mustStand()
			err := now.Follows(t.Context(), d.store, seen)
			wantCode(t, err, c.code)
			if c.code != "" && (!strings.Contains(err.Error(), seen.Position()) || !strings.Contains(err.Error(), now.Position())) {
				t.Errorf("%v does not say both positions", err)
			}
		})
	}
}

// TestAcceptedRollbackIsFollowed: what holders of shares accept in a later epoch
// is followed, and none that was accepted before.
func TestAcceptedRollbackIsFollowed(t *testing.T) {
	d := newDeployment(t)
	d.keeping()
	bob, add := holding(t, "bob")
	d.mustSet(shop(t, add))
	then := d.disk.Clone()
	newer := d.mustActivate("web", "one")
	for range 3 {
		d.mustActivate("web", "two")
	}
	seen := d.mustStand()

	d.branch(then)
	_, err := d.Identify(leafOfLease(d, newer.Lease))
	wantCode(t, err, "REC-030")
	wantCode(t, d.mustStand().Follows(t.Context(), d.store, seen), "REP-031")
	d.acceptAs(bob)
	accepted, disk := d.mustStand(), d.disk.Clone()
	wantCode(t, accepted.Follows(t.Context(), d.store, seen), "")

	for range 5 {
		d.mustActivate("web", "one")
	}
	d.config.Opening.Recovered = &recovery.Outcome{Document: &apiv1.RecoveryDocument{}}
	d.restart()
	d.config.Opening.Recovered = nil
	newest := d.mustStand() // of epoch 3, with the acceptance of epoch 2
	wantCode(t, newest.Follows(t.Context(), d.store, accepted), "")
	d.branch(disk)
	wantCode(t, d.mustStand().Follows(t.Context(), d.store, newest), "REP-031")
	d.config.Opening.Recovered = &recovery.Outcome{Document: &apiv1.RecoveryDocument{}}
	d.restart()
	d.restart() // the fourth, and the older acceptance
	if st := d.mustStand(); st.Epoch <= newest.Epoch {
		t.Fatalf("epoch %d, want one after %d", st.Epoch, newest.Epoch)
	}
	if code := problem.CodeOf(d.mustStand().Follows(t.Context(), d.store, newest)); code != "REP-031" && code != "REP-032" {
		t.Errorf("an acceptance that was known before: got %q, want a refusal", code)
	}
}

// TestClaim: whoever had the state open before can write no more, and nothing else
// changes.
func TestClaim(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	other := storetest.Open(t, d.disk.Engine())
	before := d.mustStand()
	if err := Claim(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	after, err := Inspect(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	if after.Head.Sequence != before.Head.Sequence+1 || after.Log != before.Log || after.Mark.Generation != before.Mark.Generation {
		t.Errorf("got %s, before it was %s", after.Position(), before.Position())
	}
	wantCode(t, after.Follows(t.Context(), other, before), "")
	_, err = d.attempt("web", "one").activate(d)
	wantCode(t, err, "STO-018")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	_ = d.store.Close()
	d.reopen()
	d.mustActivate("web", "one")
	d.check()
}

// TestJudgeGiver changes one thing of the giver, or of the state that its key opens.
func TestJudgeGiver(t *testing.T) {
	d := newGiver(t, warden)
	other, err := platform.New(platform.Config{Now: d.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	remake := func(g *Giver, issuer attest.Issuer, change func(*binding.Claims)) {
		claims := bound(g.Statement, g.Nonce)
		change(&claims)
		g.Statement.ClaimsBuffer = claims.Encode()
		var err error
		if g.Statement.Evidence, err = issuer.Issue(t.Context(), claims.Binding()); err != nil {
			t.Fatal(err)
		}
	}
	genuine := d.platform.NewInsecureIssuer(attest.SimSGX, measured("coordinator"))
	nothing := func(*binding.Claims) {}
	for _, c := range []struct {
		name         string
		code, within problem.Code
		change       func(g *Giver, st *Standing)
	}{
		{"nothing", "", "", func(*Giver, *Standing) {}},
		{"made again", "", "", func(g *Giver, _ *Standing) { remake(g, genuine, nothing) }},
		{"another nonce", "REP-030", "ATT-072", func(g *Giver, _ *Standing) { g.Nonce = bytes.Repeat([]byte{9}, 32) }},
		{"another connection", "REP-030", "ATT-074", func(g *Giver, _ *Standing) { g.TLSKey = newKeyDER() }},
		{"another software", "REP-030", "ATT-012", func(g *Giver, _ *Standing) {
			remake(g, d.platform.NewInsecureIssuer(attest.SimSGX, measured("web")), nothing)
		}},
		{"another vendor", "REP-030", "ATT-006", func(g *Giver, _ *Standing) {
			remake(g, other.NewInsecureIssuer(attest.SimSGX, measured("coordinator")), nothing)
		}},
		{"evidence of a joiner", "REP-030", "ATT-071", func(g *Giver, _ *Standing) {
			remake(g, genuine, func(c *binding.Claims) {
				*c = binding.Claims{Purpose: binding.Replica, PublicKey: c.PublicKey, Nonce: c.Nonce, Exporter: bytes.Repeat([]byte{1}, 32)}
			})
		}},
		{"evidence of something else", "REP-030", "ATT-011", func(g *Giver, _ *Standing) {
			buffer := g.Statement.ClaimsBuffer
			remake(g, genuine, func(c *binding.Claims) { c.Nonce = bytes.Repeat([]byte{9}, 32) })
			g.Statement.ClaimsBuffer = buffer
		}},
		{"no evidence", "REP-030", "ATT-002", func(g *Giver, _ *Standing) { g.Statement.Evidence = attest.Evidence{} }},
		{"no claims", "REP-030", "", func(g *Giver, _ *Standing) { g.Statement.ClaimsBuffer = nil }},
		{"no endorsements", "REP-030", "ATT-0", func(g *Giver, _ *Standing) { g.Statement.Endorsements = attest.Endorsements{} }},
		{"nothing at all", "REP-030", "", func(g *Giver, _ *Standing) { *g = Giver{} }},
		{"another root in the statement", "REP-030", "ATT-075", func(g *Giver, _ *Standing) { g.Statement.Root = []byte("root") }},
		{"another manifest in the statement", "REP-030", "ATT-076", func(g *Giver, _ *Standing) { g.Statement.Manifest = digestOf("m") }},
		{"another checkpoint in the statement", "REP-030", "ATT-077", func(g *Giver, _ *Standing) { g.Statement.Checkpoint += "x" }},
		{"another log in the statement", "REP-030", "LOG-013", func(g *Giver, _ *Standing) { g.Statement.LogKey += "x" }},
		{"another root, attested", "REP-033", "", func(g *Giver, _ *Standing) {
			g.Statement.Root = []byte("root")
			remake(g, genuine, nothing)
		}},
		{"another manifest, attested", "REP-033", "", func(g *Giver, _ *Standing) {
			g.Statement.Manifest = digestOf("m")
			remake(g, genuine, nothing)
		}},
		{"no manifest, attested", "REP-033", "", func(g *Giver, _ *Standing) {
			g.Statement.Manifest = nil
			remake(g, genuine, nothing)
		}},
		{"another log, attested", "REP-033", "", func(g *Giver, _ *Standing) {
			g.Statement.LogKey = "x+1+" + g.Statement.LogKey
			remake(g, genuine, nothing)
		}},
		{"a checkpoint that nobody signed, attested", "REP-033", "", func(g *Giver, _ *Standing) {
			g.Statement.Checkpoint = strings.Replace(g.Statement.Checkpoint, "\n", "\n1", 1)
			remake(g, genuine, nothing)
		}},
		{"a state without the section", "REP-030", "", func(_ *Giver, st *Standing) {
			rev, m := *st.rev, *st.rev.m
			m.Coordinators = nil
			rev.m, st.rev = &m, &rev
		}},
		{"a state without a manifest", "REP-030", "", func(_ *Giver, st *Standing) { st.rev = &revision{} }},
		{"a floor", "REP-030", "ATT-016", func(_ *Giver, st *Standing) {
			st.floors = floorsRecord{Version: 1, Platforms: map[string]floorRecord{"default": {Floor: evaluation(9999)}}}
		}},
		{"a revoked package", "REP-030", "INC-003", func(_ *Giver, st *Standing) {
			st.incidents = newIncidents(incidentHead{}, []apiv1.Incident{{ID: 1, Kind: apiv1.Revocation, Subject: apiv1.Subject{Kind: "package", Name: "coordinator"}}})
		}},
		{"a clock far ahead of it", "REP-030", "ATT-061", func(_ *Giver, st *Standing) { st.marks.Clock = d.clock.Now().Add(240 * time.Hour) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, st := d.joining("joiner").giver, d.mustStand()
			c.change(&g, st)
			err := st.JudgeGiver(t.Context(), d.store, d.config.Verifiers, g, d.clock.Now())
			wantCode(t, err, c.code)
			if err == nil || c.within == "" {
				return
			}
			if !strings.Contains(err.Error(), string(c.within)) {
				t.Errorf("got %v, want %s within", err, c.within)
			}
			var v attest.Verdict
			if strings.HasPrefix(string(c.within), "ATT") && (json.Unmarshal(problem.From(err).Verdict, &v) != nil || v.OK()) {
				t.Errorf("the refusal has the verdict %s", problem.From(err).Verdict)
			}
		})
	}
}

// TestGiverOfAnotherState hands over at one state, and has the key open another:
// one that went on holds, an older or forked one does not.
func TestGiverOfAnotherState(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   problem.Code
		become func(d *deployment, then *storetest.Disk)
	}{
		{"it went on", "", func(d *deployment, _ *storetest.Disk) { d.mustActivate("web", "three") }},
		{"an older one", "REP-033", func(d *deployment, then *storetest.Disk) { d.branch(then) }},
		{"a forked one", "REP-033", func(d *deployment, then *storetest.Disk) {
			d.branch(then)
			for n := range 9 {
				d.mustActivate("web", fmt.Sprint(n))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newGiver(t)
			then := d.disk.Clone()
			for range 4 {
				d.mustActivate("web", "one")
			}
			g := d.joining("joiner").giver
			c.become(d, then)
			wantCode(t, d.mustStand().JudgeGiver(t.Context(), d.store, d.config.Verifiers, g, d.clock.Now()), c.code)
		})
	}
}
