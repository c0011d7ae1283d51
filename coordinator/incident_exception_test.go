package coordinator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestBreakGlassIsEndedByOne lifts a rule with two users' consent: one of them is
// enough to put it in force again, and somebody without the right is not.
func TestBreakGlassIsEndedByOne(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, governed(map[string][]string{"ann": {"breakGlass"}, "ben": {"breakGlass"}, "cat": {"updateManifest"}}, object{"breakGlass": 2})))
	req := apiv1.BreakGlassRequest{Lifts: apiv1.Exception{Hop: &apiv1.ExtraHop{From: "job", To: "db", Port: "sql"}}, Reason: "restore", For: attest.Duration(time.Hour)}
	r, err := d.BreakGlass(t.Context(), &Principal{Name: "ann"}, req)
	if err != nil || r.Proposal == nil {
		t.Fatalf("got %+v, %v, want a proposal", r, err)
	}
	for _, user := range []string{"ann", "ben"} {
		if _, err := d.approve(user, *r.Proposal); err != nil {
			t.Fatal(err)
		}
	}
	stand := d.Incidents(apiv1.BreakGlass).Incidents
	if len(stand) != 1 {
		t.Fatalf("%d rules are lifted, want 1", len(stand))
	}
	if _, err := d.Lift(t.Context(), &Principal{Name: "cat"}, apiv1.BreakGlass, stand[0].ID, "over"); problem.CodeOf(err) != "GOV-001" {
		t.Errorf("somebody without the right: got %v, want GOV-001", err)
	}
	ended, err := d.Lift(t.Context(), &Principal{Name: "ben"}, apiv1.BreakGlass, stand[0].ID, "over")
	if err != nil || ended.Proposal != nil || len(d.Incidents(apiv1.BreakGlass).Incidents) != 0 {
		t.Errorf("one of them: got %+v, %v, want it ended", ended, err)
	}
}

func TestBreakGlassHop(t *testing.T) {
	d := newWatch(t)
	req := apiv1.BreakGlassRequest{Lifts: apiv1.Exception{Hop: &apiv1.ExtraHop{From: "job", To: "db", Port: "sql"}}, Reason: "restore", For: attest.Duration(time.Hour)}
	mayCall := func() bool {
		v, err := d.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range v.Manifest.Marbles["job"].Calls {
			if call.Marble == "db" && call.Port == "sql" && call.Listen == 5432 {
				return true
			}
		}
		return false
	}
	if mayCall() {
		t.Fatal("job may call db at first")
	}
	r, err := d.BreakGlass(t.Context(), aliceUser, req)
	if err != nil {
		t.Fatal(err)
	}
	if !mayCall() || len(d.entries(audit.BreakGlass)) != 1 {
		t.Error("the hop is closed, or the log has nothing")
	}
	first, _ := d.View(t.Context())
	if second, _ := d.View(t.Context()); first.Manifest != second.Manifest {
		t.Error("each view has another manifest: proxies would be compiled anew each time")
	}
	d.restart()
	if !mayCall() {
		t.Error("the hop is closed after a restart")
	}
	d.clock.advance(time.Hour)
	if mayCall() {
		t.Error("the hop is open after its time")
	}
	if err := d.Tick(t.Context()); err != nil || len(d.entries(audit.BreakGlassEnded)) != 1 {
		t.Errorf("its end is not in the log: %v", err)
	}
	if _, err := d.Lift(t.Context(), aliceUser, apiv1.BreakGlass, r.Incident.ID, "x"); problem.CodeOf(err) != "INC-011" {
		t.Errorf("ending it twice: %v", err)
	}
	for _, c := range []struct {
		name string
		edit func(*apiv1.BreakGlassRequest)
		user *Principal
		code problem.Code
	}{
		{"no right", func(*apiv1.BreakGlassRequest) {}, bobUser, "GOV-001"},
		{"too long", func(r *apiv1.BreakGlassRequest) { r.For = attest.Duration(25 * time.Hour) }, aliceUser, "INC-021"},
		{"no time", func(r *apiv1.BreakGlassRequest) { r.For = 0 }, aliceUser, "INC-021"},
		{"no reason", func(r *apiv1.BreakGlassRequest) { r.Reason = "" }, aliceUser, "INC-012"},
		{"nothing", func(r *apiv1.BreakGlassRequest) { r.Lifts = apiv1.Exception{} }, aliceUser, "INC-020"},
		{"granted already", func(r *apiv1.BreakGlassRequest) { r.Lifts.Hop = &apiv1.ExtraHop{From: "web", To: "db", Port: "sql"} }, aliceUser, "INC-020"},
		{"no port", func(r *apiv1.BreakGlassRequest) { r.Lifts.Hop = &apiv1.ExtraHop{From: "job", To: "db", Port: "sqll"} }, aliceUser, "INC-020"},
		{"no marble", func(r *apiv1.BreakGlassRequest) { r.Lifts.Hop = &apiv1.ExtraHop{From: "jab", To: "db", Port: "sql"} }, aliceUser, "CRD-030"},
		{"revoked status", func(r *apiv1.BreakGlassRequest) {
			r.Lifts = apiv1.Exception{Status: &apiv1.AcceptedStatus{Platform: "default", Status: attest.Revoked}}
		}, aliceUser, "INC-020"},
		{"no platform", func(r *apiv1.BreakGlassRequest) {
			r.Lifts = apiv1.Exception{Status: &apiv1.AcceptedStatus{Platform: "p", Status: attest.OutOfDate}}
		}, aliceUser, "CRD-067"},
	} {
		bad := req
		c.edit(&bad)
		if _, err := d.BreakGlass(t.Context(), c.user, bad); problem.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
	d.check()
}

// TestRotateTouched rotates what a random subject touched in a random history:
// exactly that, by brute force over the history.
func TestRotateTouched(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 11))
	names := []string{"s0", "s1", "s2", "s3", "s4", "s5"}
	for round := range 12 {
		readers := map[string][]string{}
		d := newWatch(t, func(m object) {
			for _, marble := range []string{"web", "db", "job"} {
				env := object{}
				for _, s := range names {
					if rng.IntN(2) == 0 {
						env[strings.ToUpper(s)] = "{{ hex .Secrets." + s + " }}"
						readers[s] = append(readers[s], marble)
					}
				}
				m["marbles"].(object)[marble].(object)["parameters"] = object{"env": env}
			}
			all := object{}
			for _, s := range names {
				may := readers[s]
				if may == nil {
					may = []string{"web"} // who may have it, and never asks
				}
				all[s] = object{"type": "symmetric", "readers": may}
			}
			m["secrets"] = all
		})
		ran := map[string]bool{}
		for _, marble := range []string{"web", "db", "job"} {
			if rng.IntN(3) > 0 {
				d.mustActivate(marble, "one")
				ran[marble] = true
			}
		}
		who := []string{"web", "db", "job"}[rng.IntN(3)]
		kind := []string{"marble", "package"}[rng.IntN(2)] // packages have the names of their marbles
		var want []string
		for _, s := range names {
			if ran[who] && slices.Contains(readers[s], who) {
				want = append(want, s)
			}
		}
		before := d.versions(names)
		subject := apiv1.Subject{Kind: kind, Name: who}
		dry, err := d.RotateTouched(t.Context(), aliceUser, apiv1.RotateTouchedRequest{Subject: subject, DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if after := d.versions(names); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Fatalf("round %d: a dry run rotated: %v, before %v", round, after, before)
		}
		if _, err := d.RotateTouched(t.Context(), aliceUser, apiv1.RotateTouchedRequest{Subject: subject}); err != nil {
			t.Fatal(err)
		}
		var listed []string
		for _, r := range dry.Rotated {
			listed = append(listed, r.Name)
		}
		after := d.versions(names)
		for _, s := range names {
			moved := after[s] > before[s]
			if moved != slices.Contains(want, s) || moved != slices.Contains(listed, s) {
				t.Errorf("round %d: %s of %s %s: rotated %v, listed %q, want %q", round, s, kind, who, moved, listed, want)
			}
		}
		l, err := d.Lineage(t.Context(), aliceUser, subject)
		if err != nil || len(l.Secrets) != 0 {
			t.Errorf("round %d: after it %v still counts, %v", round, l.Secrets, err)
		}
		if _, err := d.RotateTouched(t.Context(), bobUser, apiv1.RotateTouchedRequest{Subject: apiv1.Subject{Kind: "marble", Name: "nobody"}}); problem.CodeOf(err) != "INC-010" {
			t.Errorf("an unknown marble: %v", err)
		}
	}
}

// versions are the newest versions of secrets.
func (d *deployment) versions(names []string) map[string]uint64 {
	d.Helper()
	all := map[string]uint64{}
	for _, name := range names {
		s, err := d.Secret(d.Context(), aliceUser, name)
		if err != nil {
			d.Fatal(err)
		}
		all[name] = s.Version
	}
	return all
}

// TestBreakGlassStatus has a platform accept what it does not, until the time is
// over; leases that rest on it end with it, and a floor is not lifted.
func TestBreakGlassStatus(t *testing.T) {
	d := newWatch(t, func(m object) {
		m["roles"].(object)["warden"].(object)["actions"] = []string{"updateManifest", "breakGlass", "raiseFloor:*"}
	})
	d.platform.Misbehave(platform.Misbehaviour{TCBStatus: attest.OutOfDate})
	if _, err := d.attempt("web", "one").activate(d); err == nil {
		t.Fatal("a platform that is out of date is accepted at first")
	}
	req := apiv1.BreakGlassRequest{Lifts: apiv1.Exception{Status: &apiv1.AcceptedStatus{Platform: "default", Status: attest.OutOfDate}}, Reason: "patch tonight", For: attest.Duration(20 * time.Minute)}
	if _, err := d.BreakGlass(t.Context(), aliceUser, req); err != nil {
		t.Fatal(err)
	}
	end := d.clock.Now().Add(20 * time.Minute)
	act := d.mustActivate("web", "one")
	if act.Lease.NotAfter.After(end) {
		t.Errorf("its lease ends at %s, after the break-glass at %s", act.Lease.NotAfter, end)
	}
	if v, err := d.Rejudge(t.Context(), act.Decision); err != nil || !v.OK() {
		t.Errorf("judged again it is %v, %v", v.Verdict, err)
	}
	s, err := d.Attest(t.Context(), make([]byte, apiv1.NonceSize), []byte("key"))
	if err != nil || !strings.Contains(string(s.BreakGlass), "patch tonight") {
		t.Errorf("the statement has %s, %v", s.BreakGlass, err)
	}
	d.clock.advance(20 * time.Minute)
	if _, err := d.attempt("web", "one").activate(d); err == nil {
		t.Error("it is accepted after its time")
	}
	if v, err := d.Rejudge(t.Context(), act.Decision); err != nil || !v.OK() {
		t.Errorf("judged again after its time it is %v, %v", v.Verdict, err)
	}
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Attest(t.Context(), make([]byte, apiv1.NonceSize), []byte("key")); err != nil || s.BreakGlass != nil {
		t.Errorf("the statement still has %s, %v", s.BreakGlass, err)
	}
}
