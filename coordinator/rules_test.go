package coordinator

import (
	"testing"
	"time"
)

// A new manifest's parameters reach who runs, without a renewal; who would be
// judged by other rules gets neither those nor secrets before fresh evidence.
func TestParametersFollowTheManifest(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	lease := d.mustActivate("web", "one").Lease
	p := d.peer(lease)
	sent := Sent{Versions: versions(lease.Secrets), Revision: lease.Revision}
	if _, changed, err := d.Refresh(t.Context(), p, sent); changed || err != nil {
		t.Fatalf("nothing changed: got %v, %v", changed, err)
	}
	parameters := func(m object) {
		m["marbles"].(object)["web"].(object)["parameters"].(object)["argv"] = []string{"web", "--fast"}
	}
	d.mustSet(shop(t, parameters))
	next, changed, err := d.Refresh(t.Context(), p, sent)
	if err != nil || !changed || next.Parameters == nil || len(next.Parameters.Argv) != 2 || next.Revision == lease.Revision || len(next.Certificates) != 0 {
		t.Fatalf("got %+v, %v, %v, want the new parameters", next.Parameters, changed, err)
	}
	if string(next.Secrets["own"].Bytes) != string(lease.Secrets["own"].Bytes) || next.NotAfter != lease.NotAfter {
		t.Error("secrets or the end of the lease changed")
	}
	if _, changed, err := d.Refresh(t.Context(), p, Sent{versions(next.Secrets), next.Revision}); changed || err != nil {
		t.Errorf("what was pushed is pushed again: %v", err)
	}
	if _, changed, _ := d.Refresh(t.Context(), p, Sent{versions(next.Secrets), ""}); changed {
		t.Error("pushed to one that does not say what it has")
	}
	d.mustSet(shop(t, parameters, func(m object) { m["packages"].(object)["web"] = m["packages"].(object)["job"] }))
	if _, changed, err := d.Refresh(t.Context(), p, sent); changed || err == nil {
		t.Error("something was pushed to one that was judged by other rules")
	} else {
		wantCode(t, err, "CRD-093")
	}
	_, err = d.FetchSecret(t.Context(), p, "own")
	wantCode(t, err, "CRD-093")
	d.mustSet(shop(t, parameters))
	d.clock.advance(time.Minute)
	if _, _, err := d.Refresh(t.Context(), p, sent); err != nil {
		t.Errorf("the rules are those that it met, and it is refused: %v", err)
	}
	renewed, err := d.renewal(p).renew(d, p)
	if err != nil || renewed.Parameters == nil || len(renewed.Parameters.Argv) != 2 {
		t.Errorf("a renewal without parameters: %+v, %v", renewed.Parameters, err)
	}
	d.restart()
	if _, changed, err := d.Refresh(t.Context(), d.peer(renewed), Sent{versions(renewed.Secrets), lease.Revision}); !changed || err != nil {
		t.Errorf("after a restart: %v, %v", changed, err)
	}
}

// A secret that references alone may name is sent with the rest, at the start and
// to one that runs when the manifest begins to list it.
func TestReferencesReleaseTheirSecrets(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	running := d.mustActivate("web", "one").Lease
	listed := func(m object) {
		m["secrets"].(object)["apiToken"] = object{"type": "symmetric", "readers": []string{"web"}}
		m["marbles"].(object)["web"].(object)["parameters"].(object)["references"] = object{"env": object{"API_TOKEN": []string{"apiToken"}}}
	}
	if _, there := running.Secrets["apiToken"]; there {
		t.Fatal("it was sent before anything named it")
	}
	d.mustSet(shop(t, listed))
	next, changed, err := d.Refresh(t.Context(), d.peer(running), Sent{versions(running.Secrets), running.Revision})
	if err != nil || !changed || len(next.Secrets["apiToken"].Bytes) != 32 || len(next.Parameters.References.Env["API_TOKEN"]) != 1 {
		t.Errorf("one that runs: got %d secrets, %v, %v", len(next.Secrets), changed, err)
	}
	act := d.mustActivate("web", "two")
	if len(act.Lease.Secrets["apiToken"].Bytes) != 32 || len(act.Parameters.References.Env["API_TOKEN"]) != 1 {
		t.Errorf("one that starts: got %d secrets and %v", len(act.Lease.Secrets), act.Parameters.References)
	}
	if db := d.mustActivate("db", "three"); db.Lease.Secrets["apiToken"].Bytes != nil {
		t.Error("another marble got it")
	}
	d.check()
}
