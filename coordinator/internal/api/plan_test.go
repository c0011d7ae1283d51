package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// setRaising sets a manifest in which alice may raise floors.
func (s *stack) setRaising(t testing.TB) {
	t.Helper()
	m := bytes.Replace(s.manifest("1h"), []byte(`"updateManifest"`), []byte(`"updateManifest", "raiseFloor:default"`), 1)
	if _, err := s.dial(t, nil).SetManifest(context.Background(), m, nil); err != nil {
		t.Fatal(err)
	}
}

func unmet(n uint32) attest.Floor {
	return attest.Floor{Sim: &attest.DCAPFloor{MinTCBEvaluation: n}}
}

func TestPlanAndFloors(t *testing.T) {
	s, ctx := newStack(t, stackConfig{}), context.Background()
	s.setRaising(t)
	m := s.newMarble(t, "7f2c19ab-0000-4000-8000-000000000001")
	resp, err := m.activate(t)
	if err != nil {
		t.Fatal(err)
	}
	c := s.dial(t, s.alice)
	p, err := c.Plan(ctx, apiv1.PlanRequest{Floors: map[string]attest.Floor{"default": unmet(1 << 20)}})
	if err != nil || p.Loses != 1 || p.Effects[0].Marble != "web" || p.Effects[0].Code != "ATT-016" {
		t.Fatalf("got %+v and %v, want web to lose its identity", p, err)
	}
	b, err := c.Basis(ctx, resp.GetDecision())
	if err != nil || !b.Verdict.OK() || len(b.Evidence.Raw) == 0 || len(b.Endorsements.Items()) == 0 {
		t.Fatalf("got a basis of %d bytes and %v, want evidence that is accepted", len(b.Evidence.Raw), err)
	}
	again := attest.Judge(s.verifiers, b.Evidence, attest.Bind(b.ClaimsBuffer), b.Endorsements, b.Policy, b.At)
	if !again.OK() {
		t.Errorf("judged again here: %v", again.Failed())
	}
	old, err := c.Floor(ctx, "default")
	if err != nil || old.Digest != nil {
		t.Fatalf("got floor %+v and %v, want none", old, err)
	}
	raised, err := c.RaiseFloor(ctx, "default", unmet(1<<20), nil)
	if err != nil || raised.Floor.RaisedBy != "alice" {
		t.Fatalf("got %+v and %v", raised, err)
	}
	if _, err := c.RaiseFloor(ctx, "default", unmet(1), raised.Floor.Digest); problem.CodeOf(err) != "CRD-066" {
		t.Errorf("a lower floor: got %v, want CRD-066", err)
	}
	if _, err := s.newMarble(t, "7f2c19ab-0000-4000-8000-000000000002").activate(t); codeOf(err) != "ATT-016" {
		t.Errorf("an activation below the floor: got %v, want ATT-016", err)
	}
	if f := s.dial(t, nil).Verified().Floors; f.Version != 1 || len(f.Floors) != 1 || f.Floors[0].Floor.Sim.MinTCBEvaluation != 1<<20 {
		t.Errorf("a client verified the floors %+v, want the raised one", f)
	}
	if f, err := c.Floors(ctx); err != nil || f.Version != 1 {
		t.Errorf("got floors %+v and %v", f, err)
	}
	if st, err := c.Status(ctx); err != nil || len(st.Floors) != 1 {
		t.Errorf("the status has floors %+v, %v", st.Floors, err)
	}
}

// TestPlanRequestsThatAreRefused asks for what only users may ask for, and badly.
func TestPlanRequestsThatAreRefused(t *testing.T) {
	s := newStack(t, stackConfig{})
	type request struct {
		name, method, path, body string
		user                     *tls.Certificate
		kind, ifMatch            string
		status                   int
		code                     problem.Code
	}
	check := func(r request) {
		t.Helper()
		req, err := http.NewRequest(r.method, "https://"+s.client+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		if r.kind == "" {
			r.kind = "application/json"
		}
		if r.method != http.MethodGet {
			req.Header.Set("Content-Type", r.kind)
		}
		if r.ifMatch != "" {
			req.Header.Set("If-Match", r.ifMatch)
		}
		resp, err := browse(t, true, r.user).Do(req)
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		defer resp.Body.Close()
		var d document
		if err := json.NewDecoder(resp.Body).Decode(&d); err != nil || resp.StatusCode != r.status || d.Code != r.code {
			t.Errorf("%s: got %d %s %q, %v; want %d %s", r.name, resp.StatusCode, d.Code, d.Detail, err, r.status, r.code)
		}
	}
	check(request{name: "before the first manifest", method: "POST", path: "/v1/plan", body: "{}", user: s.alice, status: 401, code: "CRD-041"})
	s.setRaising(t)
	for _, r := range []request{
		{name: "nobody", method: "POST", path: "/v1/plan", body: "{}", status: 401, code: "CRD-040"},
		{name: "a stranger", method: "POST", path: "/v1/plan", body: "{}", user: userCertificate(t), status: 401, code: "CRD-041"},
		{name: "nobody, floor", method: "PUT", path: "/v1/floors/default", body: "{}", status: 401, code: "CRD-040"},
		{name: "nobody, basis", method: "GET", path: "/v1/decisions/web/00000000/basis", status: 401, code: "CRD-040"},
		{name: "no body", method: "POST", path: "/v1/plan", user: s.alice, status: 415, code: "CRD-114"},
		{name: "content type", method: "POST", path: "/v1/plan", body: "{}", kind: "text/plain", user: s.alice, status: 415, code: "CRD-114"},
		{name: "unknown field", method: "POST", path: "/v1/plan", body: `{"manifets":""}`, user: s.alice, status: 400, code: "CRD-110"},
		{name: "two documents", method: "POST", path: "/v1/plan", body: "{}{}", user: s.alice, status: 400, code: "CRD-110"},
		{name: "parameter", method: "POST", path: "/v1/plan?x=1", body: "{}", user: s.alice, status: 400, code: "CRD-110"},
		{name: "too large", method: "POST", path: "/v1/plan", body: strings.Repeat(" ", maxPlan+1), user: s.alice, status: 413, code: "CRD-113"},
		{name: "no platform", method: "GET", path: "/v1/floors/none", status: 404, code: "CRD-067"},
		{name: "no such basis", method: "GET", path: "/v1/decisions/web/00000000/basis", user: s.alice, status: 404, code: "CRD-062"},
		{name: "If-Match unquoted", method: "PUT", path: "/v1/floors/default", body: "{}", ifMatch: "x", user: s.alice, status: 400, code: "CRD-110"},
		{name: "If-Match of another", method: "PUT", path: "/v1/floors/default", body: "{}", ifMatch: `"` + strings.Repeat("0", 64) + `"`, user: s.alice, status: 409, code: "CRD-065"},
		{name: "floor too large", method: "PUT", path: "/v1/floors/default", body: strings.Repeat(" ", maxFloor+1), user: s.alice, status: 413, code: "CRD-113"},
		{name: "unknown field of a floor", method: "PUT", path: "/v1/floors/default", body: `{"sgx":{"minTcb":1}}`, user: s.alice, status: 400, code: "CRD-110"},
	} {
		check(r)
	}
}

// TestRefusalsAreRedacted refuses a program and looks at it with different eyes:
// the marble and strangers learn what it is, not what would be accepted.
func TestRefusalsAreRedacted(t *testing.T) {
	s, ctx := newStack(t, stackConfig{}), context.Background()
	s.set(t, "1h")
	m := s.newMarble(t, "7f2c19ab-0000-4000-8000-000000000001")
	other := bytes.Repeat([]byte{9}, 32)
	m.measured = platform.Measurement{Program: other, Agent: agent}
	_, err := m.activate(t)
	if codeOf(err) != "ATT-012" {
		t.Fatalf("got %v, want ATT-012", err)
	}
	wanted, came := attest.Hex(program).String(), attest.Hex(other).String()
	stranger, user := s.dial(t, nil), s.dial(t, s.alice)
	look := func(v any, err error) string {
		t.Helper()
		b, jerr := json.Marshal(v)
		if err != nil || jerr != nil {
			t.Fatal(err, jerr)
		}
		return string(b)
	}
	all := func(c interface {
		Decisions(context.Context, string, int) ([]apiv1.Decision, error)
		Marble(context.Context, string) (apiv1.Marble, error)
		Marbles(context.Context, string, int) (apiv1.Marbles, error)
		Audit(context.Context, uint64, int) (apiv1.Audit, error)
	}) map[string]string {
		decisions, err := c.Decisions(ctx, "web", 1)
		seen := map[string]string{"decisions": look(decisions, err)}
		marble, err := c.Marble(ctx, "web")
		seen["marble"] = look(marble, err)
		marbles, err := c.Marbles(ctx, "", 10)
		seen["marbles"] = look(marbles, err)
		audit, err := c.Audit(ctx, 0, 100)
		seen["audit"] = look(audit, err)
		return seen
	}
	for what, text := range all(stranger) {
		if strings.Contains(text, wanted) {
			t.Errorf("%s shows a stranger what is wanted: %s", what, text)
		}
		if !strings.Contains(text, "ATT-012") && what != "audit" {
			t.Errorf("%s does not say what is wrong: %s", what, text)
		}
	}
	for what, text := range all(user) {
		if !strings.Contains(text, wanted) || !strings.Contains(text, came) {
			t.Errorf("%s hides from a user what is wanted or what came: %s", what, text)
		}
	}
	if text := err.Error(); strings.Contains(text, wanted) {
		t.Errorf("the marble is told what is wanted: %s", text)
	}
	if text := look(stranger.Status(ctx)); strings.Contains(text, wanted) {
		t.Errorf("the status shows what is wanted: %s", text)
	}
}
