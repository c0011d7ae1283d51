package coordinator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestRevokedWhileTheBodyComes revokes a user after his request was
// authenticated: what he asks for is not done.
func TestRevokedWhileTheBodyComes(t *testing.T) {
	clerks := func(m object) {
		role := m["roles"].(object)["clerk"].(object)
		role["actions"] = []string{"updateManifest", "writeSecret:*", "readSecret:*", "rotateSecret:*", "rotateCA", "backup", "manageEndorsements", "raiseFloor:*", "breakGlass", "revoke:*"}
		m["approvals"] = object{"updateManifest": 2}
	}
	d := newVault(t, warden, clerks)
	d.keeping()
	if _, err := d.supply("token", "first", 0); err != nil {
		t.Fatal(err)
	}
	next := shop(t, vault, warden, clerks, func(m object) { m["proposalLifetime"] = "2h" })
	set, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: next, IfMatch: d.current.Load().digest(), Principal: aliceUser})
	if err != nil || set.Proposal == nil {
		t.Fatalf("got %+v, %v, want a proposal", set, err)
	}
	proposal := ProposalRequest{Digest: set.Proposal.Digest.String(), IfMatch: set.Proposal.ID.String(), Principal: bobUser}
	if _, err := d.Revoke(t.Context(), aliceUser, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: apiv1.UserSubject, Name: "bob"}, Reason: "x", Accepts: []string{riskLockOut}}); err != nil {
		t.Fatal(err)
	}
	hop := apiv1.Exception{Hop: &apiv1.ExtraHop{From: "job", To: "db", Port: "sql"}}
	for name, ask := range map[string]func(ctx context.Context) error{
		"supply": func(ctx context.Context) error { return d.MaySetSecret(ctx, bobUser, "token") },
		"reveal": func(ctx context.Context) error {
			_, err := d.RevealSecret(ctx, RevealSecretRequest{Name: "token", Key: d.secret.upload.PublicKey().Bytes(), User: bobUser})
			return err
		},
		"rotate":       func(ctx context.Context) error { _, err := d.RotateSecret(ctx, bobUser, "token", ""); return err },
		"rotate CA":    func(ctx context.Context) error { _, err := d.RotateCA(ctx, bobUser, MeshCA); return err },
		"backup":       func(ctx context.Context) error { return d.MayBackup(ctx, bobUser) },
		"endorsements": func(context.Context) error { return d.MayManageEndorsements(bobUser) },
		"floor": func(ctx context.Context) error {
			_, err := d.RaiseFloor(ctx, RaiseRequest{Platform: "default", Floor: attest.Floor{}, Principal: bobUser})
			return err
		},
		"reject":   func(ctx context.Context) error { _, err := d.EndProposal(ctx, proposal); return err },
		"withdraw": func(ctx context.Context) error { _, err := d.Withdraw(ctx, proposal); return err },
		"approve":  func(ctx context.Context) error { _, err := d.Approve(ctx, proposal, []byte("x")); return err },
		"break-glass": func(ctx context.Context) error {
			_, err := d.BreakGlass(ctx, bobUser, apiv1.BreakGlassRequest{Lifts: hop, Reason: "x", For: attest.Duration(time.Hour)})
			return err
		},
		"revoke": func(ctx context.Context) error {
			_, err := d.Revoke(ctx, bobUser, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: apiv1.MarbleSubject, Name: "web"}, Reason: "x"})
			return err
		},
	} {
		if err := ask(t.Context()); problem.CodeOf(err) != "INC-007" {
			t.Errorf("%s: got %v, want INC-007", name, err)
		}
	}
	d.check()
}

// TestUseIsRefusedAfterItsTurn revokes an instance whose signature waits for its
// turn: it gets none.
func TestUseIsRefusedAfterItsTurn(t *testing.T) {
	d := newVault(t, warden)
	p := d.live1("web", "one")
	d.mustUse(p, "signer", "sign", []byte("x"))
	var a access
	if err := d.store.View(t.Context(), func(tx *store.Tx) (err error) { a, err = d.access(tx, p); return err }); err != nil {
		t.Fatal(err)
	}
	d.revoke(apiv1.Revocation, apiv1.Subject{Kind: apiv1.MarbleSubject, Name: "web", Instance: "one"})
	if err := d.noteUse(t.Context(), a, use{"web", "one", "signer", 1, "sign"}); problem.CodeOf(err) != "INC-002" {
		t.Errorf("got %v, want INC-002", err)
	}
}

// TestReasonsAreSeen refuses what terminals obey or hide.
func TestReasonsAreSeen(t *testing.T) {
	for reason, ok := range map[string]bool{"leaked, see #12": true, "schlüssel verloren": true, "鍵": true,
		"a\u009b31mb": false, "a\u202eb": false, "a\u200bb": false, "a\u2028b": false, "a\x00b": false, "a\nb": false, "\ufeffa": false} {
		if err := checkReason(reason); (err == nil) != ok || err != nil && problem.CodeOf(err) != "INC-012" {
			t.Errorf("%q: got %v, want ok %t", reason, err, ok)
		}
	}
}

// TestPlatformNamedLikeAMachine revokes a platform whose name could be that of a
// machine, too.
func TestPlatformNamedLikeAMachine(t *testing.T) {
	i := newIncidents(incidentHead{}, []apiv1.Incident{{ID: 1, Kind: apiv1.Revocation, Subject: apiv1.Subject{Kind: apiv1.PlatformSubject, Name: "deadbeefcafe"}}})
	for name, s := range map[string]suspect{"platform": {marble: "web", platform: "deadbeefcafe"}, "machine": {marble: "web", platform: "default", machines: []string{"deadbeefcafe"}}} {
		if i.barred(s) == nil {
			t.Errorf("%s: not barred", name)
		}
	}
	if i.barred(suspect{marble: "web", platform: "default"}) != nil {
		t.Error("another platform is barred")
	}
}

// TestExceptionEndsAtItsTime has break-glass end by Watch, at the very moment.
func TestExceptionEndsAtItsTime(t *testing.T) {
	d := newWatch(t)
	hop := apiv1.Exception{Hop: &apiv1.ExtraHop{From: "job", To: "db", Port: "sql"}}
	if _, err := d.BreakGlass(t.Context(), aliceUser, apiv1.BreakGlassRequest{Lifts: hop, Reason: "x", For: attest.Duration(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	end, any := d.incidents.Load().upcoming()
	if !any || !end.Equal(d.clock.Now().Add(time.Minute)) {
		t.Fatalf("got %s, %t, want a minute from now", end, any)
	}
	d.clock.advance(time.Minute)
	before := d.changes.Load()
	if err := d.watchOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, any := d.incidents.Load().upcoming(); any || d.changes.Load() == before {
		t.Error("it stands, or proxies were not told")
	}
	d.check()
}

// TestWatchOfAStateThatIsBehind has Watch wait where nothing may be changed.
func TestWatchOfAStateThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		start := time.Now()
		d.Coordinator.config.Now = time.Now
		d.behind.Store(&behindRecord{Text: "older"})
		d.live.mu.Lock()
		d.live.put("db/one", instanceRecord{Serial: "01", RenewAfter: start, DegradeAt: start.Add(time.Second), DrainAt: start.Add(2 * time.Second), NotAfter: start.Add(3 * time.Second)})
		d.live.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		failures := 0
		d.Watch(ctx, func(err error) {
			if failures++; failures > 100 || !strings.Contains(err.Error(), "REC-030") {
				cancel()
			}
		})
		if failures == 0 || failures > 100 {
			t.Errorf("it tried %d times in a minute", failures)
		}
	})
}

// TestSignaturesUnderAnotherManifest lets none that was given under one manifest
// lift a rule of the next; what revokes somebody goes on.
func TestSignaturesUnderAnotherManifest(t *testing.T) {
	d := newDeployment(t)
	rules := governed(map[string][]string{"ann": {"updateManifest", "revoke:*", "breakGlass"}, "ben": {"revoke:*", "breakGlass"}}, object{"revoke:marbles/*": 2, "breakGlass": 2})
	d.mustSet(shop(t, rules))
	ann := &Principal{Name: "ann"}
	glass, err := d.BreakGlass(t.Context(), ann, apiv1.BreakGlassRequest{Lifts: apiv1.Exception{Hop: &apiv1.ExtraHop{From: "job", To: "db", Port: "sql"}}, Reason: "x", For: attest.Duration(time.Hour)})
	if err != nil || glass.Proposal == nil {
		t.Fatalf("got %+v, %v, want a proposal", glass, err)
	}
	revoked, err := d.Revoke(t.Context(), ann, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: apiv1.MarbleSubject, Name: "job"}, Reason: "x"})
	if err != nil || revoked.Proposal == nil {
		t.Fatalf("got %+v, %v, want a proposal", revoked, err)
	}
	for _, p := range []*apiv1.Proposal{glass.Proposal, revoked.Proposal} {
		if _, err := d.approve("ann", *p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.ask("ann", shop(t, rules, lease("web", "2h"))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.approve("ben", *glass.Proposal); problem.CodeOf(err) != "GOV-004" || len(d.Incidents(apiv1.BreakGlass).Incidents) != 0 {
		t.Errorf("break-glass: got %v, want GOV-004", err)
	}
	if got, err := d.approve("ben", *revoked.Proposal); err != nil || !got.Settled {
		t.Errorf("a revocation: got %+v, %v, want it settled", got, err)
	}
	d.check()
}

// TestNobodyRejectsHisRevocation has the one whom several are to revoke try to
// end that.
func TestNobodyRejectsHisRevocation(t *testing.T) {
	d := newDeployment(t)
	all := []string{"updateManifest", "revoke:*"}
	d.mustSet(shop(t, governed(map[string][]string{"ann": all, "ben": all, "cat": all}, object{"revoke:users/*": 2})))
	ask := func(name string) *apiv1.Proposal {
		t.Helper()
		r, err := d.Revoke(t.Context(), &Principal{Name: "ann"}, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: apiv1.UserSubject, Name: name}, Reason: "x"})
		if err != nil || r.Proposal == nil {
			t.Fatalf("got %+v, %v, want a proposal", r, err)
		}
		return r.Proposal
	}
	end := func(p *apiv1.Proposal, by string) error {
		_, err := d.EndProposal(t.Context(), ProposalRequest{Digest: p.Digest.String(), IfMatch: p.ID.String(), Principal: &Principal{Name: by}})
		return err
	}
	ben, cat := ask("ben"), ask("cat")
	wantCode(t, end(ben, "ben"), "GOV-008")
	if err := end(cat, "ben"); err != nil {
		t.Errorf("that of another: %v", err)
	}
	for _, user := range []string{"ann", "cat"} {
		if _, err := d.approve(user, *ben); err != nil {
			t.Fatal(err)
		}
	}
	if in := d.Incidents(apiv1.Revocation).Incidents; len(in) != 1 || in[0].Subject.Name != "ben" {
		t.Errorf("got %+v, want ben revoked", in)
	}
	d.check()
}

// TestExceptionAndTheClock puts the clock forward, which hides no exception from
// who verifies, and back, which begins none again.
func TestExceptionAndTheClock(t *testing.T) {
	d := newWatch(t)
	hop := apiv1.ExtraHop{From: "job", To: "db", Port: "sql"}
	if _, err := d.BreakGlass(t.Context(), aliceUser, apiv1.BreakGlassRequest{Lifts: apiv1.Exception{Hop: &hop}, Reason: "x", For: attest.Duration(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	open := func() bool {
		return len(d.hops(d.current.Load()).Marbles["job"].Calls) > len(d.current.Load().m.Marbles["job"].Calls)
	}
	d.clock.advance(2 * time.Hour)
	s, err := d.Attest(t.Context(), make([]byte, apiv1.NonceSize), []byte("key"))
	if err != nil || len(s.BreakGlass) == 0 {
		t.Errorf("got %q, %v: nobody has written down that it ended", s.BreakGlass, err)
	}
	d.mustActivate("web", "one") // a decision rests on this time
	d.clock.advance(-2 * time.Hour)
	if open() {
		t.Error("the hop is open again")
	}
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err = d.Attest(t.Context(), make([]byte, apiv1.NonceSize), []byte("key")); err != nil || len(s.BreakGlass) != 0 {
		t.Errorf("got %q, %v, once it has ended", s.BreakGlass, err)
	}
	d.check()
}

// TestRefusedUserFillsNoLog has a user ask for what he may not, again and again.
func TestRefusedUserFillsNoLog(t *testing.T) {
	d := newWatch(t)
	before, err := d.log.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if _, err := d.RotateCA(t.Context(), bobUser, MeshCA); problem.CodeOf(err) != "CRD-081" {
			t.Fatalf("got %v, want CRD-081", err)
		}
	}
	if _, err := d.RotateCA(t.Context(), &Principal{Name: "carol"}, MeshCA); problem.CodeOf(err) != "CRD-081" {
		t.Fatalf("got %v, want CRD-081", err)
	}
	d.clock.advance(time.Minute)
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := d.log.Current(t.Context())
	if n := after.Size - before.Size; err != nil || n != 100+1+1 { // and one that counts the rest
		t.Errorf("got %d entries, %v, want 102", n, err)
	}
	counted := d.entries(audit.Suppressed)
	if len(counted) != 1 || counted[0].Details[string(audit.UserRefused)] != "400" {
		t.Errorf("got %+v, want 400 counted", counted)
	}
	d.check()
}

// TestBarredWhileItsLeafMayCount keeps a revoked instance barred when the
// coordinator's clock is ahead of its peers', and has dropped it already.
func TestBarredWhileItsLeafMayCount(t *testing.T) {
	d := newWatch(t)
	d.mustActivate("web", "one")
	d.revoke(apiv1.Revocation, apiv1.Subject{Kind: apiv1.MarbleSubject, Name: "web", Instance: "one"})
	for _, c := range []struct {
		after time.Duration
		want  []BarredPeer
	}{{0, []BarredPeer{{"web", "one"}}}, {2 * time.Hour, []BarredPeer{{"web", "one"}}}, {revokedFor, nil}} {
		d.clock.advance(c.after)
		if err := d.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		v, err := d.View(t.Context())
		if err != nil || !slices.Equal(v.Barred, c.want) || len(v.Instances) != 0 {
			t.Errorf("%s later: got %+v, %v, want %+v", c.after, v.Barred, err, c.want)
		}
	}
	d.check()
}

// TestRotationThatSomebodyForestalled has somebody else make the next version while
// one is made because the last was touched: that one must not live on beside it.
func TestRotationThatSomebodyForestalled(t *testing.T) {
	d := newVault(t, warden)
	d.mustUse(d.live1("web", "one"), "box", "encrypt", []byte("x"))
	rev := d.current.Load()
	var due []secrets.Missing
	err := d.store.View(t.Context(), func(tx *store.Tx) (err error) {
		due, err = secrets.Select(tx, rev.m, secrets.Target{Name: "box"}, maxRotated, "")
		return err
	})
	if err != nil || len(due) != 1 {
		t.Fatalf("got %d, %v", len(due), err)
	}
	if _, err := d.rotateTarget(t.Context(), secrets.Target{Name: "box"}, rotation{reason: "due"}); err != nil {
		t.Fatal(err)
	}
	if done, err := d.rotateValues(t.Context(), rev, due, rotation{reason: "touched", destroy: true}); !errors.Is(err, errAgain) {
		t.Errorf("got %+v, %v, want it made again", done, err)
	}
	d.check()
}

// TestRefusalsDoNotDisturbHolders has users ask for what a state that is behind
// refuses, while its holders accept it: the session stays the same.
func TestRefusalsDoNotDisturbHolders(t *testing.T) {
	d := newDeployment(t)
	d.keeping()
	_, add := holding(t, "carol")
	d.mustSet(shop(t, warden, add))
	d.mustActivate("web", "one")
	old := d.disk.Clone()
	newer := d.mustActivate("web", "two")
	d.disk = old
	d.restart()
	if _, err := d.Identify(leafOfLease(d, newer.Lease)); problem.CodeOf(err) != "REC-030" {
		t.Fatalf("got %v, want REC-030", err)
	}
	session := func() string {
		t.Helper()
		s, err := d.RecoveryStatement(t.Context(), apiv1.PurposeRollback, make([]byte, apiv1.NonceSize), []byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		return string(s.Session)
	}
	before := session()
	if _, err := d.Revoke(t.Context(), aliceUser, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: apiv1.MarbleSubject, Name: "web"}, Reason: "x"}); problem.CodeOf(err) != "REC-030" {
		t.Errorf("a revocation: got %v, want REC-030", err)
	}
	if err := d.MayBackup(t.Context(), bobUser); problem.CodeOf(err) != "CRD-016" {
		t.Errorf("a backup: got %v, want CRD-016", err)
	}
	if after := session(); after != before {
		t.Errorf("the session was %s, and is %s: the shares that were in are lost", before, after)
	}
}

// TestExceptionsBesideEachOther lifts rules that a caller's proxy could not have at
// once: it must go on taking what it is sent.
func TestExceptionsBesideEachOther(t *testing.T) {
	d := newWatch(t, func(m object) {
		m["marbles"].(object)["db"].(object)["serves"].(object)["admin"] = object{"port": 5433}
	})
	lift := func(port string, listen uint16) error {
		_, err := d.BreakGlass(t.Context(), aliceUser, apiv1.BreakGlassRequest{Reason: "x", For: attest.Duration(time.Hour),
			Lifts: apiv1.Exception{Hop: &apiv1.ExtraHop{From: "job", To: "db", Port: port, Listen: listen}}})
		return err
	}
	if err := lift("sql", 0); err != nil {
		t.Fatal(err)
	}
	wantCode(t, lift("sql", 6000), "INC-020")
	wantCode(t, lift("admin", 5432), "INC-020")
	if err := lift("admin", 0); err != nil {
		t.Errorf("on a port of its own: %v", err)
	}
	if calls := d.hops(d.current.Load()).Marbles["job"].Calls; len(calls) != len(d.current.Load().m.Marbles["job"].Calls)+2 {
		t.Errorf("got %+v, want two more", calls)
	}
	d.check()
}
