package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// TestExplainStatement judges a coordinator's statement again: from the folder
// that verify has written, and from a bundle.
func TestExplainStatement(t *testing.T) {
	const from = "../coordinator/client/testdata/bundle/"
	read := func(name string) []byte {
		b, err := os.ReadFile(from + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	policy, ds := manifest.ParsePolicyFile(read("policy.json"))
	if err := ds.Err(); err != nil {
		t.Fatal(err)
	}
	root, err := evidence.ParseRoot([]byte(policy.SimulationRoot))
	if err != nil {
		t.Fatal(err)
	}
	verifiers, err := sim.NewVerifiers(root)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := client.ParseBundle(read("bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := client.VerifyBundle(bundle, client.BundleInput{Policy: policy.Policy(), Verifiers: attest.NewVerifiers(verifiers...), Now: bundle.Time})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := client.WriteTrust(dir, v); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(policyName, read("policy.json"))
	rootFile := write("simulation.pem", []byte(policy.SimulationRoot))
	for _, c := range []struct {
		name string
		args []string
		exit int
		want string // in the output
	}{
		{"trust folder", []string{dir}, 0, "✓ accepted"},
		{"its statement", []string{filepath.Join(dir, client.EvidenceFile)}, 0, "✓ accepted"},
		{"long after", []string{dir, "--at", "2030-01-01"}, 3, "ATT-024"},
		{"bundle", []string{from + "bundle.json", "--root", rootFile}, 0, "✓ accepted"},
		{"bundle without a root", []string{from + "bundle.json"}, 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := Main(append([]string{"explain"}, c.args...), strings.NewReader(""), &out, &errs)
			if code != c.exit || !strings.Contains(out.String(), c.want) {
				t.Errorf("got exit %d, want %d with %q:\n%s%s", code, c.exit, c.want, &out, &errs)
			}
		})
	}
	var out, errs bytes.Buffer
	Main([]string{"explain", dir, "-o", "json"}, strings.NewReader(""), &out, &errs)
	var verdict attest.Verdict
	if err := json.Unmarshal(out.Bytes(), &verdict); err != nil {
		t.Fatalf("%v: %s%s", err, &out, &errs)
	}
	bound := attest.Bind(v.Statement.ClaimsBuffer)
	for _, s := range verdict.Steps {
		if s.Field == "reportData" && s.Want != attest.Hex(bound[:]).String() {
			t.Errorf("report data: wanted %s, the statement's claims buffer gives %x", s.Want, bound)
		}
	}
}
