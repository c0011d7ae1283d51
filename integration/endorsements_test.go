package integration

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Endorsements come from the platform's PCCS; they are shown, carried out and
// in, go on being used while the service is down, and never go back.
func TestEndorsements(t *testing.T) {
	d := bare(t, func(doc map[string]any) {
		doc["roles"].(map[string]any)["operator"] = map[string]any{"actions": []string{"updateManifest", "manageEndorsements"}}
	})
	if _, err := d.SetManifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := newOperator(t)
	o.Must(0, "verify", d.Client, "--policy", d.PolicyFile())
	drive.Wants(t, o.Must(problem.NotPermitted.ExitCode(), "endorsements", "status").Stderr, "CRD-040")
	o.Env = append(o.Env, "ASHLAR_CERT="+d.CertFile(), "ASHLAR_KEY="+d.KeyFile())
	if got := joins(d); got != "" {
		t.Fatalf("joining: %s", got)
	}
	t.Run("shown", func(t *testing.T) { o.seesEndorsements(t) })
	t.Run("carried", func(t *testing.T) { o.carriesEndorsements(t, d) })
	t.Run("service down", func(t *testing.T) { o.serviceDown(t, d) })
	t.Run("never back", func(t *testing.T) { neverBack(t, d) })
}

// joins tries to join, and returns the code of the refusal.
func joins(d *deployment) problem.Code {
	_, err := d.dial(nil).Activate(d.t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Instance: probeInstance()})
	return codeOf(err)
}

func (o *operator) seesEndorsements(t *testing.T) {
	o.T = t
	e := drive.Document[apiv1.Endorsements](o.Shell, "endorsements", "status")
	if len(e.Sets) != 1 || e.Sets[0].Need.TEE != attest.SimSGX || len(e.Sets[0].Documents) != 4 || len(e.Ending) != 0 {
		t.Fatalf("got %+v, want the simulated set, and nothing that ends", e)
	}
	for _, d := range e.Sets[0].Documents {
		if m, ok := e.Marks[d.Identity]; !ok || m.Number != d.Number || !m.Issued.Equal(d.Issued) {
			t.Errorf("mark of %s: got %+v, want the document that was relied on", d.Identity, m)
		}
	}
	got := o.Must(0, "endorsements", "status")
	drive.Wants(t, got.Stdout, "sim/tcbInfo/sgx/", "✓")
	everyLineIsSimulation(t, got.Stdout)
	r, err := http.Get("http://127.0.0.1:9944/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Contains(body, []byte(`ashlar_endorsements_expire_seconds{kind="tcbInfo"}`)) || !bytes.Contains(body, []byte(`ashlar_endorsements_fetches_total{outcome="renewed"} 1`)) {
		t.Errorf("metrics: %v, or no line about endorsements", err)
	}
}

func (o *operator) carriesEndorsements(t *testing.T, d *deployment) {
	o.T = t
	drive.Wants(t, o.Must(0, "endorsements", "export", "all.json").Stderr, "all.json: 1 sets")
	drive.Wants(t, o.Must(0, "endorsements", "import", "all.json").Stdout, "nothing newer")
	url, err := os.ReadFile(filepath.Join(d.Dir, "pccs.url"))
	if err != nil {
		t.Fatal(err)
	}
	o.Must(0, "endorsements", "fetch", d.Client, "--pccs", strings.TrimSpace(string(url)), "--root", filepath.Join(d.Dir, "sim_root.pem"), "--out", "fetched.json")
	drive.Wants(t, o.Must(0, "endorsements", "import", "fetched.json").Stdout, "✓ sim:sgx/")

	raw, err := os.ReadFile(filepath.Join(o.Dir, "all.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := endorse.Import(raw)
	if err != nil {
		t.Fatal(err)
	}
	set := b.Sets()[0]
	items := append([]attest.Endorsement{}, set.Endorsements.Items()...)
	for i := range items {
		if items[i].Kind == attest.KindTCBInfo {
			items[i].Body = bytes.Replace(items[i].Body, []byte(`"nextUpdate":"20`), []byte(`"nextUpdate":"21`), 1)
		}
	}
	set.Endorsements = attest.NewEndorsements(items...)
	if err := b.Put(set); err != nil {
		t.Fatal(err)
	}
	if raw, err = b.Export(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "forged.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	got := o.Must(problem.Refused.ExitCode(), "endorsements", "import", "forged.json")
	drive.Wants(t, got.Stdout+got.Stderr, "tcb_info.json: the signature does not hold", "CLI-031")
}

// serviceDown: what is at hand goes on being used, and the status says why it
// was not renewed.
func (o *operator) serviceDown(t *testing.T, d *deployment) {
	o.T = t
	d.misbehave(platform.Misbehaviour{Services: []services.Fault{{Status: http.StatusInternalServerError}}})
	defer d.misbehave(platform.Misbehaviour{})
	drive.Eventually(t, patience, func() string {
		if got := joins(d); got != "" {
			t.Fatalf("while the service is down: %s", got)
		}
		for _, s := range drive.Document[apiv1.Endorsements](o.Shell, "endorsements", "status").Sets {
			if strings.Contains(s.Error, "ATT-064") {
				return ""
			}
		}
		return "no set says that the service does not answer"
	})
}

// neverBack: after a TCB recovery was relied on, a coordinator that knows nothing
// but its state judges by it, although the vendor's service has what was valid
// before.
func neverBack(t *testing.T, d *deployment) {
	d.misbehave(platform.Misbehaviour{EvaluationNumber: 25})
	defer d.misbehave(platform.Misbehaviour{})
	drive.Eventually(t, patience, func() string {
		if got := joins(d); got != "" {
			return string(got)
		}
		alice, err := d.Dial(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		defer alice.Close()
		if m, err := alice.Endorsements(t.Context()); err != nil || !recovered(m.Marks) {
			return "no mark has the evaluation number 25"
		}
		return ""
	})
	d.misbehave(platform.Misbehaviour{})
	d.Coordinator().Stop()
	if err := d.StartCoordinator(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := joins(d); got != "" {
		t.Errorf("with a service that went back: %s", got)
	}
	alice, err := d.Dial(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	e, err := alice.Endorsements(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(e.Sets[0].Documents, func(d endorse.Document) bool { return d.Kind == attest.KindTCBInfo && d.Number == 25 }) {
		t.Errorf("got %+v, want the documents of the recovery", e.Sets[0].Documents)
	}
}

func recovered(marks map[string]endorse.Mark) bool {
	for _, m := range marks {
		if m.Number == 25 {
			return true
		}
	}
	return false
}
