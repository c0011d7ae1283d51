package coordinator

import (
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// TestOutdated marks exactly those who attested under other rules, and wakes who
// waits.
func TestOutdated(t *testing.T) {
	d := newDeployment(t)
	rules := governed(map[string][]string{"ann": {"updateManifest", "raiseFloor:*"}}, nil)
	d.mustSet(shop(t, rules))
	web, db := d.peer(d.mustActivate("web", "one").Lease), d.peer(d.mustActivate("db", "one").Lease)
	want := func(name string, p Peer, want bool) {
		t.Helper()
		if got, _ := d.Outdated(t.Context(), p); got != want {
			t.Errorf("%s: %s/%s is outdated: got %t, want %t", name, p.Marble, p.Instance, got, want)
		}
	}
	want("nothing changed", web, false)
	_, changed := d.Outdated(t.Context(), db)
	d.clock.advance(time.Second)
	measures := func(m object) {
		m["packages"].(object)["web"] = object{"sim": object{"program": []string{digestOf("web").String()}}}
	}
	next := shop(t, rules, measures)
	plan, err := d.Plan(t.Context(), apiv1.PlanRequest{Manifest: shop(t, rules, func(m object) {
		m["packages"].(object)["web"] = object{"sim": object{"program": []string{digestOf("web 2").String()}}}
	})})
	if err != nil || plan.Loses != 1 || !plan.Effects[0].Renewal.Equal(d.clock.Now()) || !plan.Effects[0].NotAfter.Equal(web.NotAfter) {
		t.Errorf("plan: got %+v, %v, want a refusal now", plan, err)
	}
	if _, err := d.ask("ann", next); err != nil {
		t.Fatal(err)
	}
	want("other reference values", web, true)
	want("other reference values", db, false)
	select {
	case <-changed:
	default:
		t.Error("nobody was woken")
	}
	lease, err := d.renewal(web).renew(d, web)
	if err != nil {
		t.Fatal(err)
	}
	web = d.peer(lease)
	want("attested again", web, false)
	d.clock.advance(time.Second)
	floor := attest.Floor{Sim: &attest.DCAPFloor{MinTCBEvaluation: 1}}
	if _, err := d.RaiseFloor(t.Context(), RaiseRequest{Platform: "default", Floor: floor, Principal: &Principal{Name: "ann"}}); err != nil {
		t.Fatal(err)
	}
	want("a floor", web, true)
	want("a floor", db, true)
}
