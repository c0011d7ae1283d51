package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// plans asks what a change would do to the shop that runs: each assumption hits
// exactly those that it should, in words and in JSON.
func (o *operator) plans(t *testing.T, d *deployment) {
	o.T = t
	user := []string{"--cert", d.CertFile(), "--key", d.KeyFile()}
	with := func(args ...string) []string { return append(args, user...) }
	drive.Wants(t, o.Must(5, "plan").Stderr, "CRD-040")
	drive.Wants(t, o.Must(0, with("plan")...).Stdout, "0 lose it")

	other := o.edit("other.json", func(doc map[string]any) {
		doc["packages"].(map[string]any)["web"].(map[string]any)["sim"].(map[string]any)["program"] = []string{strings.Repeat("ab", 32)}
	})
	got := o.Must(20, with("plan", "--manifest", other)...)
	drive.Wants(t, got.Stdout, "1 lose it", "web/", "ATT-012", "must meet other reference values", "next:")
	drive.Wants(t, o.Must(0, with("manifest", "set", other, "--dry-run")...).Stderr, "web/", "its identity ends", "ATT-012")
	o.fits80(with("plan")...)
	var p apiv1.Plan
	if err := json.Unmarshal([]byte(o.Must(20, with("plan", "--manifest", other, "-o", "json")...).Stdout), &p); err != nil {
		t.Fatal(err)
	}
	if p.Loses != 1 || p.Effects[0].Marble != "web" || p.Effects[0].NotAfter.Before(p.Effects[0].Renewal) || p.Keeps != p.Instances-1 {
		t.Errorf("got %+v, want web alone to lose its identity", p)
	}
	drive.Wants(t, o.Must(20, with("plan", "--at", "2036-01-01")...).Stdout, "as of 2036-01-01")
	drive.Wants(t, o.Must(20, with("plan", "--floor", "default.sim.minTCBEvaluation=4000000")...).Stdout, "ATT-016", "default", "4000000")
	drive.Wants(t, o.Must(20, with("plan", "--floor", "platform.sim.minTCBEvaluation=4000000")...).Stdout, "ATT-016")
	o.Must(0, with("plan", "--floor", "sgx.minTCBEvaluation=4000000")...)
	drive.Wants(t, o.Must(2, with("plan", "--floor", "default.sgx.minTcb=1")...).Stderr, "CLI-035")
	drive.Wants(t, o.Must(2, with("plan", "--at", "soon")...).Stderr, "CLI-002")
	drive.Wants(t, o.Must(1, with("plan", "--floor", "defualt.sim.minTCBEvaluation=1")...).Stderr, "CRD-067", `did you mean "default"?`)
	o.forecasts(t, d, with)
}

// forecasts judges the shop by a TCB recovery that is to come in an hour.
func (o *operator) forecasts(t *testing.T, d *deployment, with func(...string) []string) {
	d.tee.Misbehave(platform.Misbehaviour{FutureEndorsements: true, TCBStatus: attest.OutOfDate})
	coming, err := d.tee.Endorsements(attest.SimSGX)
	d.tee.Misbehave(platform.Misbehaviour{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(o.Dir, "coming")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	info, _ := coming.Get(attest.KindTCBInfo)
	for name, b := range map[string][]byte{attest.KindTCBInfo: info.Body, "tcb_info_issuer_chain.pem": info.Chain} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"--endorsements", dir}, {"--tcb-info", filepath.Join(dir, attest.KindTCBInfo)}} {
		got := o.Must(20, with(append([]string{"forecast"}, args...)...)...)
		drive.Wants(t, got.Stdout+got.Stderr, "not yet valid", "ATT-014", "OutOfDate")
		if strings.Contains(got.Stdout, " sim:tdx ") {
			t.Errorf("TCB info of SGX is shown to hit TDX:\n%s", got.Stdout)
		}
	}
	o.Must(2, with("forecast")...)
	drive.Wants(t, o.Must(4, with("forecast", "--endorsements", o.Dir+"/none")...).Stderr, "ATT-065")
}

// floors raises a floor, and sees it where it must be seen.
func (o *operator) floors(t *testing.T, d *deployment) {
	o.T = t
	user := []string{"--cert", d.CertFile(), "--key", d.KeyFile()}
	with := func(args ...string) []string { return append(args, user...) }
	drive.Wants(t, o.Must(0, "floor", "show").Stdout, "no floor was raised")
	drive.Wants(t, o.Must(20, with("floor", "raise", "default", "sim.minTCBEvaluation=4000000", "--dry-run")...).Stdout, "lose it", "ATT-016")
	drive.Wants(t, o.Must(2, with("floor", "raise", "default", "sim.minTCBEvaluation=1")...).Stderr, "CLI-006", "--yes")
	drive.Wants(t, o.Must(0, with("floor", "raise", "default", "sim.minTCBEvaluation=1", "--yes")...).Stdout, "sim.minTCBEvaluation=1")
	drive.Wants(t, o.Must(0, with("floor", "raise", "default", "sim.refusedAdvisories=INTEL-SA-00000", "--yes")...).Stdout, "sim.minTCBEvaluation=1", "INTEL-SA-00000")
	drive.Wants(t, o.Must(7, with("floor", "raise", "default", "sim.minTCBEvaluation=0", "--yes")...).Stderr, "CRD-066")
	if f := drive.Document[apiv1.Floors](o.Shell, "floor", "show"); f.Version != 2 || len(f.Floors) != 1 || f.Floors[0].RaisedBy != "alice" {
		t.Errorf("got floors %+v, want version 2 by alice", f)
	}
	for _, args := range [][]string{{"floor", "show"}, {"status"}, {"verify", d.Client, "--policy", d.PolicyFile()}} {
		drive.Wants(t, o.Must(0, args...).Stdout, "floor of platform default", "sim.minTCBEvaluation=1")
	}
}
