package coordinator

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// admits names a package for the program of coordinators, and a platform.
func admits(program, platform string) func(object) {
	return func(m object) {
		m["packages"].(object)["pair"] = object{"sim": object{"program": []string{digestOf(program).String()}, "agent": []string{digestOf("agent").String()}}}
		m["platforms"] = object{"strict": object{"sim": object{"minTCBEvaluation": 9999}}, "default": object{}}
		m["coordinators"] = object{"package": "pair", "platform": platform}
	}
}

// TestPlanNamesTheGiver checks that a plan says where the coordinator that runs
// would not be admitted itself, and says nothing where it would.
func TestPlanNamesTheGiver(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, admits("coordinator", "default"), func(m object) {
		m["roles"].(object)["operator"].(object)["actions"] = []string{"revoke:*", "updateManifest"}
	}))
	outOfDate := d.documents(platform.Misbehaviour{TCBStatus: attest.OutOfDate}, attest.KindTCBInfo)
	high := map[string]attest.Floor{"*": {Sim: &attest.DCAPFloor{MinTCBEvaluation: 9999}}}
	for _, c := range []struct {
		name string
		req  apiv1.PlanRequest
		code string // of the refusal
	}{
		{"nothing assumed", apiv1.PlanRequest{}, ""},
		{"its own program", apiv1.PlanRequest{Manifest: shop(t, admits("coordinator", "default"))}, ""},
		{"another program", apiv1.PlanRequest{Manifest: shop(t, admits("other", "default"))}, "ATT-012"},
		{"a platform that it does not meet", apiv1.PlanRequest{Manifest: shop(t, admits("coordinator", "strict"))}, "ATT-016"},
		{"nobody", apiv1.PlanRequest{Manifest: shop(t)}, ""},
		{"a floor", apiv1.PlanRequest{Floors: high}, "ATT-016"},
		{"a floor of another platform", apiv1.PlanRequest{Floors: map[string]attest.Floor{"strict": high["*"]}}, ""},
		{"TCB recovery", apiv1.PlanRequest{Endorsements: outOfDate}, "ATT-014"},
		{"later", apiv1.PlanRequest{At: d.clock.Now().Add(time.Hour)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) { d.givesAway(t, c.req, c.code) })
	}
	d.revoke(apiv1.Revocation, apiv1.Subject{Kind: apiv1.PackageSubject, Name: "pair"})
	d.givesAway(t, apiv1.PlanRequest{At: d.clock.Now().Add(time.Hour)}, "INC-003")
	d.config.Issuer = silent{d.config.Issuer}
	d.restart()
	d.givesAway(t, apiv1.PlanRequest{At: d.clock.Now().Add(time.Hour)}, "not known")
}

// silent is hardware that gives no evidence any more.
type silent struct{ attest.Issuer }

func (silent) Issue(context.Context, attest.Binding) (attest.Evidence, error) {
	return attest.Evidence{}, errors.New("no answer")
}

// givesAway plans, and looks for what is said of the coordinator that runs.
func (d *deployment) givesAway(t *testing.T, req apiv1.PlanRequest, want string) {
	t.Helper()
	p, err := d.Plan(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, change := range p.Changes {
		if strings.Contains(change, "the coordinator that runs") {
			got = append(got, change)
		}
	}
	if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestPlanOfRefusedCoordinators checks that a plan says which of those that were
// refused would get the key.
func TestPlanOfRefusedCoordinators(t *testing.T) {
	d := newGiver(t, func(m object) {
		m["roles"].(object)["operator"].(object)["actions"] = []string{"updateManifest", "revoke:*"}
	})
	j := d.joining("ashlar-1")
	j.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("next"))
	_, err := j.ask(d)
	wantCode(t, err, "REP-021")
	next := apiv1.PlanRequest{Manifest: shop(t, admits("next", "default"))}
	for _, c := range []struct {
		name string
		req  apiv1.PlanRequest
		want string
	}{
		{"nothing assumed", apiv1.PlanRequest{}, ""},
		{"its program is admitted", next, "gains coordinators/ashlar-1"},
		{"on a platform that it does not meet", apiv1.PlanRequest{Manifest: shop(t, admits("next", "strict"))}, ""},
		{"with a floor that it does not meet", apiv1.PlanRequest{Manifest: next.Manifest, Floors: map[string]attest.Floor{"*": evaluation(9999)}}, ""},
		{"nobody is admitted", apiv1.PlanRequest{Manifest: shop(t)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) { d.plans(t, c.req, c.want) })
	}
	same := apiv1.PlanRequest{Manifest: shop(t, admitting, program("coordinator", "next"))}
	d.plans(t, same, "gains coordinators/ashlar-1")
	d.revoke(apiv1.Revocation, apiv1.Subject{Kind: apiv1.PackageSubject, Name: "coordinator"})
	d.plans(t, same, "")
}

// plans makes a plan, and compares who loses and who gains.
func (d *deployment) plans(t *testing.T, req apiv1.PlanRequest, want string) {
	t.Helper()
	p, err := d.Plan(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range p.Effects {
		got = append(got, e.Outcome+" "+e.Marble+"/"+e.Instance)
	}
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got %q, want %q", text, want)
	}
}
