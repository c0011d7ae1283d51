package coordinator

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// warden gives alice every right about incidents, and bob none.
func warden(m object) {
	m["roles"].(object)["warden"] = object{"actions": []string{"updateManifest", "revoke:*", "breakGlass", "rotateSecret:*"}}
	m["roles"].(object)["clerk"] = object{"actions": []string{"revoke:marbles/job"}}
	m["users"].(object)["alice"].(object)["roles"] = []string{"operator", "warden"}
	m["users"].(object)["bob"] = object{"certificate": pemOf(bobCert()), "roles": []string{"clerk"}}
}

var bobCert = sync.OnceValue(func() *x509.Certificate { return selfSigned("bob") })

func newWatch(t testing.TB, changes ...func(object)) *deployment {
	t.Helper()
	d := newDeployment(t)
	d.mustSet(shop(t, append([]func(object){warden}, changes...)...))
	return d
}

var aliceUser, bobUser = &Principal{Name: "alice"}, &Principal{Name: "bob"}

func (d *deployment) revoke(kind string, s apiv1.Subject) apiv1.RevokeResult {
	d.Helper()
	r, err := d.Revoke(d.Context(), aliceUser, kind, apiv1.RevokeRequest{Subject: s, Reason: "a test"})
	if err != nil || r.Incident == nil {
		d.Fatalf("%s of %v: got %+v, %v", kind, s, r, err)
	}
	return r
}

func (d *deployment) claims(marble, id string) attest.Claims {
	d.Helper()
	a := d.attempt(marble, id)
	a.quote(d)
	en, err := d.platform.Endorse(d.Context(), a.evidence)
	if err != nil {
		d.Fatal(err)
	}
	claims, _ := d.config.Verifiers[a.evidence.TEE].Verify(a.evidence, en, d.clock.Now())
	return claims
}

// TestRevoked revokes by each kind of subject: whom it means gets nothing, with a
// code that says so, after a restart and another manifest too, and everybody
// else goes on.
func TestRevoked(t *testing.T) {
	probe := newWatch(t)
	web := probe.claims("web", "x")
	machine := provenanceOf(web, time.Time{}).Machines
	if len(machine) == 0 {
		t.Fatal("simulated evidence names no machine")
	}
	for _, c := range []struct {
		name    string
		subject apiv1.Subject
		code    problem.Code
		all     bool // instance two and another marble are meant as well
		sibling bool // instance two is meant as well
	}{
		{"marble", apiv1.Subject{Kind: "marble", Name: "web"}, "INC-001", false, true},
		{"instance", apiv1.Subject{Kind: "marble", Name: "web", Instance: "one"}, "INC-002", false, false},
		{"package", apiv1.Subject{Kind: "package", Name: "web"}, "INC-003", false, true},
		{"measurement", apiv1.Subject{Kind: "package", Name: "web", Measurement: web.SGX.UniqueID}, "INC-004", false, true},
		{"platform", apiv1.Subject{Kind: "platform", Name: "default"}, "INC-005", true, true},
		{"machine", apiv1.Subject{Kind: "platform", Name: machine[0].String()}, "INC-006", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newWatch(t)
			if c.name == "machine" { // of this deployment's own platform
				c.subject.Name = provenanceOf(d.claims("web", "x"), time.Time{}).Machines[0].String()
			}
			one, two, db := d.mustActivate("web", "one"), d.mustActivate("web", "two"), d.mustActivate("db", "main")
			p := d.peer(one.Lease)
			result := d.revoke(apiv1.Revocation, c.subject)
			if !slices.Contains(result.Instances, "web/one") || slices.Contains(result.Instances, "web/two") != c.sibling {
				t.Errorf("it is about %q", result.Instances)
			}
			meant := func(what string, err error, yes bool) {
				t.Helper()
				if yes && problem.CodeOf(err) != c.code || !yes && err != nil {
					t.Errorf("%s: got %v, want %v by %s", what, err, yes, c.code)
				}
				if yes && !strings.Contains(fmt.Sprint(err), "a test") {
					t.Errorf("%s: %v does not say why", what, err)
				}
			}
			judge := func() {
				t.Helper()
				_, err := d.Identify(leafOfLease(t, one.Lease))
				meant("identify one", err, true)
				_, err = d.Identify(leafOfLease(t, two.Lease))
				meant("identify two", err, c.sibling)
				_, err = d.Identify(leafOfLease(t, db.Lease))
				meant("identify db", err, c.all)
				_, err = d.attempt("web", "one").activate(d)
				meant("activate one", err, true)
				_, err = d.attempt("web", "three").activate(d)
				meant("activate three", err, c.sibling)
				_, err = d.FetchSecret(t.Context(), p, "sessionKey")
				meant("fetch", err, true)
				_, err = d.renewal(p).renew(d, p)
				meant("renew", err, true)
				view, err := d.View(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if slices.ContainsFunc(view.Instances, func(in ViewInstance) bool { return in.Marble == "web" && in.ID == "one" }) || len(view.Barred) == 0 {
					t.Errorf("the view has %+v, barred %+v", view.Instances, view.Barred)
				}
				if _, gone := d.Standing(p); problem.CodeOf(gone) != c.code {
					t.Errorf("its session is told %v", gone)
				}
				st, err := d.Status(t.Context())
				if err != nil || !slices.ContainsFunc(st.Attention, func(a apiv1.Attention) bool { return a.Code == string(c.code) }) {
					t.Errorf("the status has no %s: %+v, %v", c.code, st.Attention, err)
				}
			}
			judge()
			d.restart()
			judge()
			d.mustSet(shop(t, warden, func(m object) { m["tests"] = []object{{"from": "web", "to": "db", "allow": true}} }))
			judge()
			if _, err := d.Lift(t.Context(), aliceUser, apiv1.Revocation, result.Incident.ID, "over"); err != nil {
				t.Fatal(err)
			}
			d.mustActivate("web", "one")
			if got := d.Incidents(apiv1.Revocation).Incidents; len(got) != 0 {
				t.Errorf("after lifting it %v stands", got)
			}
			if n := len(d.entries(audit.Revoked)) + len(d.entries(audit.IncidentLifted)); n != 2 {
				t.Errorf("the log has %d records of it, want 2", n)
			}
			d.check()
		})
	}
}

func TestRevokedUser(t *testing.T) {
	d := newWatch(t)
	d.revoke(apiv1.Revocation, apiv1.Subject{Kind: "user", Name: "bob"})
	for range 2 {
		if _, err := d.Authenticate([]*x509.Certificate{bobCert()}); problem.CodeOf(err) != "INC-007" {
			t.Errorf("bob gets %v, want INC-007", err)
		}
		if p, err := d.Authenticate([]*x509.Certificate{alice()}); err != nil || p.Name != "alice" {
			t.Errorf("alice gets %v, %v", p, err)
		}
		d.restart()
		d.mustSet(shop(t, warden, func(m object) { m["marbles"].(object)["job"].(object)["maxInstances"] = 3 }))
	}
	// Whoever was let in before it may do nothing after it.
	if _, err := d.Revoke(t.Context(), bobUser, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: "marble", Name: "job"}, Reason: "x"}); problem.CodeOf(err) != "INC-007" {
		t.Errorf("a request of bob's that was under way gets %v, want INC-007", err)
	}
}

func TestRevokeRefuses(t *testing.T) {
	d := newWatch(t)
	d.mustActivate("web", "one-1")
	d.mustActivate("web", "one-2")
	marble := func(name, id string) apiv1.Subject { return apiv1.Subject{Kind: "marble", Name: name, Instance: id} }
	for _, c := range []struct {
		name   string
		user   *Principal
		kind   string
		s      apiv1.Subject
		reason string
		code   problem.Code
		text   string
	}{
		{"nobody", nil, apiv1.Revocation, marble("job", ""), "x", "CRD-015", "certificate"},
		{"no right", bobUser, apiv1.Revocation, marble("web", ""), "x", "GOV-001", "bob"},
		{"typo", aliceUser, apiv1.Revocation, marble("webb", ""), "x", "INC-010", `did you mean "web"`},
		{"no instance", aliceUser, apiv1.Revocation, marble("web", "zzz"), "x", "INC-010", "zzz"},
		{"several instances", aliceUser, apiv1.Revocation, marble("web", "one"), "x", "INC-010", "perhaps more"},
		{"no platform", aliceUser, apiv1.Revocation, apiv1.Subject{Kind: "platform", Name: "defualt"}, "x", "INC-010", "default"},
		{"no machine", aliceUser, apiv1.Revocation, apiv1.Subject{Kind: "platform", Name: "00906ed5"}, "x", "INC-010", "no platform"},
		{"kind", aliceUser, apiv1.Revocation, apiv1.Subject{Kind: "secret", Name: "own"}, "x", "INC-012", "secret"},
		{"quarantine of a user", aliceUser, apiv1.Quarantine, apiv1.Subject{Kind: "user", Name: "bob"}, "x", "INC-012", "user"},
		{"instance of a package", aliceUser, apiv1.Revocation, apiv1.Subject{Kind: "package", Name: "web", Instance: "one"}, "x", "INC-012", "part"},
		{"no reason", aliceUser, apiv1.Revocation, marble("web", ""), " ", "INC-012", "reason"},
		{"long reason", aliceUser, apiv1.Revocation, marble("web", ""), strings.Repeat("x", 513), "INC-012", "513"},
		{"reason of two lines", aliceUser, apiv1.Revocation, marble("web", ""), "x\ny", "INC-012", "line"},
		{"last governor", aliceUser, apiv1.Revocation, apiv1.Subject{Kind: "user", Name: "alice"}, "x", "INC-013", "0 users"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := d.Revoke(t.Context(), c.user, c.kind, apiv1.RevokeRequest{Subject: c.s, Reason: c.reason})
			if problem.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.text)
			}
		})
	}
	if got := d.Incidents(apiv1.Revocation).Incidents; len(got) != 0 {
		t.Errorf("after refusals %v stands", got)
	}
	_, err := d.Revoke(t.Context(), aliceUser, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: "user", Name: "alice"}, Reason: "x", Accepts: []string{"lock-out"}})
	if err != nil {
		t.Errorf("a lock-out that is accepted: %v", err)
	}
	// The same again is no other.
	d = newWatch(t)
	first, second := d.revoke(apiv1.Revocation, marble("web", "")), d.revoke(apiv1.Revocation, marble("web", ""))
	if first.Incident.ID != second.Incident.ID || len(d.entries(audit.Revoked)) != 1 {
		t.Errorf("the same revocation twice gives %d and %d", first.Incident.ID, second.Incident.ID)
	}
	for _, kind := range []string{apiv1.Quarantine, apiv1.BreakGlass} {
		if _, err := d.Lift(t.Context(), aliceUser, kind, first.Incident.ID, "x"); problem.CodeOf(err) != "INC-011" {
			t.Errorf("lifting a revocation as %s: got %v", kind, err)
		}
	}
	if _, err := d.Lift(t.Context(), bobUser, apiv1.Revocation, first.Incident.ID, "x"); problem.CodeOf(err) != "GOV-001" {
		t.Errorf("bob lifts alice's: got %v", err)
	}
}

// TestQuarantine keeps an instance: it renews, without secrets, and has no hops.
func TestQuarantine(t *testing.T) {
	d := newWatch(t)
	one := d.mustActivate("web", "one")
	p := d.peer(one.Lease)
	in := d.revoke(apiv1.Quarantine, apiv1.Subject{Kind: "marble", Name: "web", Instance: "o"}).Incident
	if in.Subject.Instance != "one" {
		t.Fatalf("it is about instance %q", in.Subject.Instance)
	}
	if _, err := d.Identify(leafOfLease(t, one.Lease)); err != nil {
		t.Errorf("its session and proxy are refused: %v", err)
	}
	lease, err := d.renewal(p).renew(d, p)
	if err != nil || len(lease.Secrets) != 0 {
		t.Errorf("its renewal gets %d secrets, %v; want a lease without any", len(lease.Secrets), err)
	}
	if _, err := d.FetchSecret(t.Context(), d.peer(lease), "sessionKey"); problem.CodeOf(err) != "INC-008" {
		t.Errorf("fetching a secret: got %v, want INC-008", err)
	}
	if _, err := d.attempt("web", "one").activate(d); problem.CodeOf(err) != "INC-008" {
		t.Errorf("activating again: got %v, want INC-008", err)
	}
	view, err := d.View(t.Context())
	if err != nil || !slices.Equal(view.Barred, []BarredPeer{{"web", "one"}}) || len(view.Instances) != 1 {
		t.Errorf("the view has %+v, barred %+v, %v", view.Instances, view.Barred, err)
	}
	m, err := d.Marble(t.Context(), "web")
	if err != nil || m.Instances[0].Stage != "quarantined" {
		t.Errorf("it is shown as %+v, %v", m.Instances, err)
	}
	d.revoke(apiv1.Revocation, apiv1.Subject{Kind: "marble", Name: "web", Instance: "one"})
	if _, err := d.Identify(leafOfLease(t, lease)); problem.CodeOf(err) != "INC-002" {
		t.Errorf("revoked in quarantine: got %v, want INC-002", err)
	}
	d.check()
}

// TestRevocationRaces revokes while an instance renews without end: no lease is
// given after Revoke has returned.
func TestRevocationRaces(t *testing.T) {
	d := newWatch(t)
	var peers []Peer
	for i := range 8 {
		peers = append(peers, d.peer(d.mustActivate("web", fmt.Sprintf("i%d", i)).Lease))
	}
	var mu sync.RWMutex // held for writing while it is noted that the revocation is durable
	revoked := false
	var work sync.WaitGroup
	for _, p := range peers {
		work.Go(func() {
			for range 12 {
				mu.RLock()
				before := revoked
				mu.RUnlock()
				lease, err := d.renewal(p).renew(d, p)
				if err != nil {
					return
				}
				if before {
					t.Errorf("%s renewed after the revocation", p.Instance)
				}
				if p, err = d.Identify(leafOfLease(t, lease)); err != nil {
					return // revoked since
				}
			}
		})
	}
	d.revoke(apiv1.Revocation, apiv1.Subject{Kind: "marble", Name: "web"})
	mu.Lock()
	revoked = true
	mu.Unlock()
	work.Wait()
	for _, p := range peers {
		if _, err := d.renewal(p).renew(d, p); problem.CodeOf(err) == "" {
			t.Errorf("%s renews", p.Instance)
		}
	}
	d.check()
}

// TestManyIncidents holds ten thousand: one more is refused, judging stays fast.
func TestManyIncidents(t *testing.T) {
	all := make([]apiv1.Incident, maxIncidents)
	for i := range all {
		all[i] = apiv1.Incident{ID: i + 1, Kind: apiv1.Revocation, Subject: apiv1.Subject{Kind: "marble", Name: "web", Instance: fmt.Sprintf("i%d", i)}}
	}
	i := newIncidents(incidentHead{}, all)
	if got := i.barred(suspect{marble: "web", instance: "i9999"}); got == nil || got.ID != 10_000 {
		t.Errorf("the last is found as %v", got)
	}
	if got := i.barred(suspect{marble: "web", instance: "other"}); got != nil {
		t.Errorf("another is barred by %v", got)
	}
}

// TestRevocationNeedsTwo wants two users for a revocation: the first gets a
// proposal, the second one's signature makes it stand, and a user who is revoked
// meanwhile signs for nothing.
func TestRevocationNeedsTwo(t *testing.T) {
	rules := governed(map[string][]string{"ann": {"updateManifest", "revoke:*"}, "ben": {"updateManifest", "revoke:*"}, "cat": {"updateManifest", "revoke:*"}},
		object{"revoke:marbles/*": 2})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	ann := &Principal{Name: "ann"}
	ask := func(name string) apiv1.Proposal {
		t.Helper()
		r, err := d.Revoke(t.Context(), ann, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: "marble", Name: name}, Reason: "a test"})
		if err != nil || r.Proposal == nil || r.Incident != nil {
			t.Fatalf("got %+v, %v, want a proposal", r, err)
		}
		return *r.Proposal
	}
	p := ask("web")
	d.mustActivate("web", "one")
	if _, err := d.approve("ann", p); err != nil {
		t.Fatal(err)
	}
	d.mustActivate("web", "two")
	if r, err := d.approve("ben", p); err != nil || !r.Settled {
		t.Fatalf("the second signature: %+v, %v", r, err)
	}
	if _, err := d.attempt("web", "one").activate(d); problem.CodeOf(err) != "INC-001" {
		t.Errorf("after two signatures: %v", err)
	}
	if in := d.Incidents(apiv1.Revocation).Incidents; len(in) != 1 || !slices.Equal(in[0].ApprovedBy, []string{"ann", "ben"}) {
		t.Errorf("it stands as %+v", in)
	}
	// ann signs, and is revoked: her signature counts no more.
	p = ask("db")
	if _, err := d.approve("ann", p); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Revoke(t.Context(), &Principal{Name: "cat"}, apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: "user", Name: "ann"}, Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	if r, err := d.approve("ben", p); err != nil || r.Settled {
		t.Errorf("with the signature of a revoked user and one other: %+v, %v", r, err)
	}
	if _, err := d.approve("ann", p); err == nil {
		t.Error("a revoked user signs")
	}
	d.mustActivate("db", "main")
	if r, err := d.approve("cat", p); err != nil || !r.Settled {
		t.Errorf("with two users who stand: %+v, %v", r, err)
	}
	if _, err := d.attempt("db", "main").activate(d); problem.CodeOf(err) != "INC-001" {
		t.Errorf("after it: %v", err)
	}
	d.check()
}
