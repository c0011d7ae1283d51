package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// fleet has two instances of web, one of db, one of job, and a refused attempt
// of each of web and db by another program.
func fleet(t *testing.T) *deployment {
	t.Helper()
	d := newDeployment(t)
	d.mustSet(shop(t))
	for _, who := range [][2]string{{"web", "one"}, {"web", "two"}, {"db", "one"}, {"job", "one"}} {
		d.mustActivate(who[0], who[1])
	}
	d.refuse("web")
	d.refuse("db")
	return d
}

// program changes what a package accepts.
func program(pkg, program string) func(object) {
	return func(m object) {
		m["packages"].(object)[pkg].(object)["sim"].(object)["program"] = []string{digestOf(program).String()}
	}
}

// documents are the endorsements that the platform gives while it misbehaves.
func (d *deployment) documents(m platform.Misbehaviour, kinds ...string) []attest.Endorsement {
	d.Helper()
	d.platform.Misbehave(m)
	defer d.platform.Misbehave(platform.Misbehaviour{})
	en, err := d.platform.Endorsements(attest.SimSGX)
	if err != nil {
		d.Fatal(err)
	}
	var items []attest.Endorsement
	for _, it := range en.Items() {
		if len(kinds) == 0 || slices.Contains(kinds, it.Kind) {
			items = append(items, it)
		}
	}
	return items
}

// TestPlan assumes one thing at a time: each changes exactly who it should.
func TestPlan(t *testing.T) {
	d := fleet(t)
	at := func(after time.Duration) time.Time { return d.clock.Now().Add(after) }
	everybody := "loses db/one, loses job/one, loses web/one, loses web/two"
	outOfDate := d.documents(platform.Misbehaviour{TCBStatus: attest.OutOfDate}, attest.KindTCBInfo)
	bare := []attest.Endorsement{{Kind: outOfDate[0].Kind, Body: outOfDate[0].Body}}
	other, err := platform.New(platform.Config{Now: d.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Endorsements(attest.SimSGX)
	if err != nil {
		t.Fatal(err)
	}
	floor := func(n uint32) map[string]attest.Floor {
		return map[string]attest.Floor{"default": {Sim: &attest.DCAPFloor{MinTCBEvaluation: n}}}
	}
	for _, c := range []struct {
		name string
		req  apiv1.PlanRequest
		want string
		code string // of those who lose, or of what held back who gains
	}{
		{"nothing", apiv1.PlanRequest{}, "", ""},
		{"the same manifest", apiv1.PlanRequest{Manifest: shop(t)}, "", ""},
		{"another lease", apiv1.PlanRequest{Manifest: shop(t, lease("web", "2h"))}, "", ""},
		{"another program of db", apiv1.PlanRequest{Manifest: shop(t, program("db", "db2"))}, "loses db/one", "ATT-012"},
		{"the refused program of db", apiv1.PlanRequest{Manifest: shop(t, program("db", "evil"))}, "loses db/one, gains db/evil", "ATT-012"},
		{"without job", apiv1.PlanRequest{Manifest: shop(t, func(m object) { delete(m["marbles"].(object), "job"); delete(m["packages"].(object), "job") })}, "loses job/one", "CRD-030"},
		{"job on a strict platform", apiv1.PlanRequest{Manifest: shop(t, func(m object) {
			m["platforms"] = object{"strict": object{"sim": object{"minTCBEvaluation": 9999}}}
			m["marbles"].(object)["job"].(object)["platform"] = "strict"
		})}, "loses job/one", "ATT-016"},
		{"TCB recovery", apiv1.PlanRequest{Endorsements: outOfDate}, everybody, "ATT-014"},
		{"TCB info without its chain", apiv1.PlanRequest{Endorsements: bare}, everybody, "ATT-014"},
		{"TCB recovery that the manifest accepts", apiv1.PlanRequest{Endorsements: outOfDate, Manifest: shop(t, func(m object) {
			m["platforms"] = object{"default": object{"sim": object{"acceptedTCBStatuses": []string{"OutOfDate"}}}}
		})}, "", ""},
		{"revoked", apiv1.PlanRequest{Endorsements: d.documents(platform.Misbehaviour{RevokedPCK: true})}, everybody, "ATT-019"},
		{"of another PKI", apiv1.PlanRequest{Endorsements: foreign.Items()}, everybody, "ATT-023"},
		{"later, still valid", apiv1.PlanRequest{At: at(time.Hour)}, "", ""},
		{"after the endorsements have ended", apiv1.PlanRequest{At: at(365 * 24 * time.Hour)}, everybody, ""},
		{"before anything was issued", apiv1.PlanRequest{At: at(-365 * 24 * time.Hour)}, everybody, ""},
		{"floor that all meet", apiv1.PlanRequest{Floors: floor(1)}, "", ""},
		{"floor that none meets", apiv1.PlanRequest{Floors: floor(9999)}, everybody, "ATT-016"},
		{"floor of every platform", apiv1.PlanRequest{Floors: map[string]attest.Floor{"*": floor(9999)["default"]}}, everybody, "ATT-016"},
		{"floor of hardware", apiv1.PlanRequest{Floors: map[string]attest.Floor{"default": {SGX: &attest.DCAPFloor{MinTCBEvaluation: 9999}}}}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := d.Plan(t.Context(), c.req)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range p.Effects {
				got = append(got, fmt.Sprintf("%s %s/%s", e.Outcome, e.Marble, e.Instance))
				if e.Code == "" || c.code != "" && e.Code != c.code || e.Already {
					t.Errorf("%s/%s: got code %q, already %v, want %q", e.Marble, e.Instance, e.Code, e.Already, c.code)
				}
				checkWhen(t, d, e)
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("got %q, want %q", text, c.want)
			}
			if p.Instances != 4 || p.Refusals != 2 || p.Keeps+p.Loses != 4 || p.More != 0 || p.Unjudged != nil {
				t.Errorf("got %d instances, %d refusals, %d keep, %d lose, %d gain, unjudged %v", p.Instances, p.Refusals, p.Keeps, p.Loses, p.Gains, p.Unjudged)
			}
		})
	}
	d.check()
}

// checkWhen holds when somebody loses against the instance's leaf.
func checkWhen(t *testing.T, d *deployment, e apiv1.PlanEffect) {
	t.Helper()
	if e.Outcome == apiv1.Gains {
		return
	}
	m, err := d.Marble(t.Context(), e.Marble)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(m.Instances, func(i apiv1.Instance) bool { return i.ID == e.Instance })
	if e.Renewal.Before(d.clock.Now()) || e.NotAfter.Before(e.Renewal) || e.NotAfter.Before(m.Instances[i].NotAfter) {
		t.Errorf("%s/%s: refused at %s, identity ends at %s; the leaf ends at %s", e.Marble, e.Instance, e.Renewal, e.NotAfter, m.Instances[i].NotAfter)
	}
	if e.Code != "CRD-030" && (len(e.Failed) == 0 || e.Failed[0].Code != e.Code || e.Failed[0].Fix.How == "") {
		t.Errorf("%s/%s: failed checks %+v, want %s with what mends it first", e.Marble, e.Instance, e.Failed, e.Code)
	}
}

// TestPlanOfWhatIsWrongAlready tells what changes with what is assumed from what
// is lost without it.
func TestPlanOfWhatIsWrongAlready(t *testing.T) {
	d := fleet(t)
	d.mustSet(shop(t, program("db", "db2")))
	p, err := d.Plan(t.Context(), apiv1.PlanRequest{})
	if err != nil || len(p.Effects) != 1 || !p.Effects[0].Already || p.Effects[0].Marble != "db" {
		t.Fatalf("got %+v and %v, want db/one lost already", p.Effects, err)
	}
	p, err = d.Plan(t.Context(), apiv1.PlanRequest{Manifest: shop(t)})
	if err != nil || len(p.Effects) != 1 || p.Effects[0].Outcome != apiv1.Gains || p.Effects[0].Instance != "one" || p.Keeps != 4 {
		t.Errorf("got %+v and %v, want db/one to gain what it was to lose", p.Effects, err)
	}
}

func TestPlanRefusals(t *testing.T) {
	d := newDeployment(t)
	_, err := d.Plan(t.Context(), apiv1.PlanRequest{})
	wantCode(t, err, "CRD-010")
	d.mustSet(shop(t))
	for _, c := range []struct {
		name, code string
		req        apiv1.PlanRequest
	}{
		{"no manifest", "MAN-001", apiv1.PlanRequest{Manifest: []byte("x")}},
		{"trust domain", "CRD-014", apiv1.PlanRequest{Manifest: shop(t, func(m object) { m["trustDomain"] = "other.example" })}},
		{"no platform", "CRD-067", apiv1.PlanRequest{Floors: map[string]attest.Floor{"defualt": {}}}},
		{"malformed floor", "CRD-070", apiv1.PlanRequest{Floors: map[string]attest.Floor{"default": {Sim: &attest.DCAPFloor{RefusedTCBStatuses: []attest.TCBStatus{"UpToDate"}}}}}},
		{"no kind", "CRD-068", apiv1.PlanRequest{Endorsements: []attest.Endorsement{{Kind: "x", Body: []byte("x")}}}},
		{"no CRL", "CRD-068", apiv1.PlanRequest{Endorsements: []attest.Endorsement{{Kind: attest.KindRootCRL, Body: []byte("x")}}}},
		{"too late", "CRD-068", apiv1.PlanRequest{At: d.clock.Now().Add(20 * 365 * 24 * time.Hour)}},
	} {
		_, err := d.Plan(t.Context(), c.req)
		if got := codeOf(err); got != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
	d.planning <- struct{}{}
	_, err = d.Plan(t.Context(), apiv1.PlanRequest{})
	wantCode(t, err, "CRD-063")
}

func TestPlanNamesEndorsementsThatNobodyUses(t *testing.T) {
	d := fleet(t)
	other, err := platform.New(platform.Config{Now: d.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	en, err := other.Endorsements(attest.SimTDX)
	if err != nil {
		t.Fatal(err)
	}
	it, _ := en.Get(attest.KindTCBInfo)
	p, err := d.Plan(t.Context(), apiv1.PlanRequest{Endorsements: []attest.Endorsement{it}})
	if err != nil || len(p.Effects) != 0 || len(p.Unused) != 1 || !strings.Contains(p.Unused[0], "tcbInfo/tdx") {
		t.Errorf("got effects %v, unused %v and %v; want the TCB info of TDX unused", p.Effects, p.Unused, err)
	}
}

// TestPlanWithoutEvidence plans with an instance of an older version, and with
// evidence that the medium lost.
func TestPlanWithoutEvidence(t *testing.T) {
	d := fleet(t)
	err := d.store.Update(t.Context(), func(tx *store.Tx) error {
		r, _ := instances.Get(tx, "web/one")
		r.Basis = basis{}
		evidences.Delete(tx, instanceEvidence("db/one"))
		return instances.Put(tx, "web/one", r)
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Plan(t.Context(), apiv1.PlanRequest{Floors: map[string]attest.Floor{"*": {Sim: &attest.DCAPFloor{MinTCBEvaluation: 9999}}}})
	if err != nil || !slices.Equal(p.Unjudged, []string{"db/one", "web/one"}) || p.Loses != 2 {
		t.Errorf("got unjudged %v, %d lose, %v; want db/one and web/one unjudged, 2 lose", p.Unjudged, p.Loses, err)
	}
}

func codeOf(err error) string { return string(problem.CodeOf(err)) }
