package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// opened returns the endorsements that a configuration gives, at the time of a set.
func opened(t *testing.T, c Config, at time.Time) (*endorsements, error) {
	t.Helper()
	s := settings{Config: c}
	s.Now = func() time.Time { return at }
	s.defaults()
	return s.openEndorsements(hardware.Verifiers())
}

// TestSourcesOfEndorsements finds the documents of real machines in a folder and
// at services, and keeps what it fetched.
func TestSourcesOfEndorsements(t *testing.T) {
	for name, folder := range map[string]string{
		"tdx/phala-v4-b0c0":        "tdx/b0c06f000000",
		"snp/virtee-milan-v2-vcek": "snp/d49554ec717f4e5b0fe6b143bcf0405bd7ae304727edf46603f2a76aef6a3abc15d7af38db757039029f0efacfd08e244324884738c72b082e2f87a44d541eb6",
		"snp/msft-turin-v5-vcek":   "snp/59790fb1c39f35c1" + strings.Repeat("0", 112),
		"snp/trustee-vlek":         "snp/vlek",
	} {
		s := attesttest.Load(t, name)
		root := t.TempDir()
		put(t, filepath.Join(root, filepath.FromSlash(folder)), s.Endorsements)
		e, err := opened(t, Config{Endorsements: root}, s.At())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.endorse(t.Context(), s.Evidence); err != nil || got.Digest() != s.Endorsements.Digest() {
			t.Errorf("%s: got %d documents, %v, want those of the folder", name, len(got.Items()), err)
		}
		if name == "snp/trustee-vlek" {
			continue // AMD serves no providers' certificates
		}
		server := attesttest.NewVendors(t, s.Endorsements)
		kept := t.TempDir()
		e, err = opened(t, Config{Endorsements: kept, PCCS: []string{server.URL}, KDS: []string{server.URL}}, s.At())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.endorse(t.Context(), s.Evidence); err != nil || got.Digest() != s.Endorsements.Digest() {
			t.Errorf("%s: got %d documents, %v, want those of the service", name, len(got.Items()), err)
		}
		if files, err := filepath.Glob(filepath.Join(kept, fetchedDir, "*.endorsements.json")); err != nil || len(files) != 1 {
			t.Errorf("%s: kept %v, %v, want one file", name, files, err)
		}
	}
}

// put writes the documents of a set as an operator would.
func put(t *testing.T, dir string, en attest.Endorsements) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	chains := map[string]string{attest.KindTCBInfo: "tcb_info_issuer_chain.pem", attest.KindQEIdentity: "qe_identity_issuer_chain.pem",
		attest.KindPCKCRL: "pck_crl_issuer_chain.pem"}
	for _, it := range en.Items() {
		files := map[string][]byte{it.Kind: it.Body}
		if name := chains[it.Kind]; name != "" {
			files[name] = it.Chain
		}
		for name, b := range files {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNoEndorsements(t *testing.T) {
	s := attesttest.Load(t, "tdx/phala-v4-b0c0")
	for name, c := range map[string]Config{"no source": {}, "empty folder": {Endorsements: t.TempDir()}} {
		e, err := opened(t, c, s.At())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.endorse(t.Context(), s.Evidence); problem.CodeOf(err) != "CRD-133" || !strings.Contains(err.Error(), "tdx/b0c06f000000") {
			t.Errorf("%s: got %v, want CRD-133 naming the platform", name, err)
		} else if c.Endorsements != "" && strings.Contains(err.Error(), c.Endorsements) {
			t.Errorf("%s: got %v, which tells a stranger where the coordinator looks", name, err)
		}
		// Evidence that names no platform, or of a TEE that nobody verifies, is for
		// the verdict to refuse.
		for _, odd := range []attest.Evidence{{TEE: attest.SGX}, {TEE: attest.SimSGX, Raw: s.Evidence.Raw}, {TEE: "../..", Raw: s.Evidence.Raw}} {
			if set, err := e.endorse(t.Context(), odd); err != nil || len(set.Items()) != 0 {
				t.Errorf("%s: %v: got %d documents, %v, want none", name, odd.TEE, len(set.Items()), err)
			}
		}
	}
	for flag, c := range map[string]Config{"--pccs": {PCCS: []string{"pccs:8081"}}, "--kds": {KDS: []string{"https://x?y=z"}}} {
		if _, err := opened(t, c, s.At()); problem.CodeOf(err) != "CRD-130" || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: got %v, want CRD-130 naming it", flag, err)
		}
	}
}

// TestWarnings says in the status what ends and what could not be renewed.
func TestWarnings(t *testing.T) {
	s := attesttest.Load(t, "tdx/phala-v4-b0c0")
	server := attesttest.NewVendors(t, s.Endorsements)
	server.Script(services.Fault{Document: "pckCRL", Status: 404})
	e, err := opened(t, Config{PCCS: []string{server.URL}}, time.Date(2025, 7, 18, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if got := e.warnings(); len(got) != 0 {
		t.Errorf("nothing is there: got %+v", got)
	}
	if _, err := e.endorse(t.Context(), s.Evidence); err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, a := range e.warnings() {
		codes = append(codes, a.Code+" "+a.Subject)
		if strings.Contains(a.Text, server.URL) {
			t.Errorf("got %q, which tells strangers of the source", a.Text)
		}
	}
	want := []string{"CRD-136 endorsements tdx/b0c06f000000/platform", "CRD-136 endorsements tdx/b0c06f000000/platform", "CRD-137 endorsements tdx/b0c06f000000/platform"}
	if !slices.Equal(codes, want) {
		t.Errorf("got %v, want %v", codes, want)
	}
	e.hardware, e.simulated = e.simulated, e.hardware
	if got := e.warnings(); len(got) != len(want) {
		t.Errorf("got %+v, want the same of the simulation", got)
	}
	e.hardware, e.simulated = e.simulated, e.hardware
	if got := e.Outcomes()[fetch.Incomplete]; got != 1 {
		t.Errorf("got %d incomplete fetches, want 1", got)
	}
}
