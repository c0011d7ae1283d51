package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// TestBundle makes bundles of a running deployment, over an auditor's nonce and
// over another revision of the manifest, and judges them when it has ended.
func TestBundle(t *testing.T) {
	d := up(t, nil)
	o := newOperator(t)
	policy := d.PolicyFile()
	nonce := strings.Repeat("a7", apiv1.NonceSize)
	o.Must(0, "verify", d.Client, "--policy", policy, "--bundle", "first.json", "--nonce", nonce)
	c := d.client()
	drive.Amend(d.t, c, func(doc map[string]any) {
		doc["marbles"].(map[string]any)["cart"].(map[string]any)["maxInstances"] = 7
	})
	d.awaitSettled(c)
	o.Must(0, "verify", d.Client, "--policy", policy, "--out", "second")
	remembered := filepath.Join(o.Dir, ".ashlar")
	d.Close()

	first := o.Must(0, "verify", "first.json", "--policy", policy, "--nonce", nonce).Stdout
	for _, want := range []string{"held to your nonce", "revision 1", "ANYBODY could", "Verified, as of"} {
		if !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(first, "SIMULATION", "")), " "), want) {
			t.Errorf("the first bundle does not say %q:\n%s", want, first)
		}
	}
	o.Must(3, "verify", "first.json", "--policy", policy, "--nonce", strings.Repeat("00", apiv1.NonceSize))
	second := o.Must(0, "verify", filepath.Join("second", "bundle.json"), "--trust", remembered).Stdout
	if !regexp.MustCompile(`revision 2`).MatchString(second) || !strings.Contains(second, "set by alice") {
		t.Errorf("the second bundle does not say who set revision 2:\n%s", second)
	}
	// Of two bundles' parts no third is made.
	a, err := os.ReadFile(filepath.Join(o.Dir, "first.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(o.Dir, "second", "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	manifestOf := regexp.MustCompile(`(?s)\n "manifest": "[^"]*"`)
	mixed := manifestOf.ReplaceAllLiteral(a, manifestOf.Find(b))
	if err := os.WriteFile(filepath.Join(o.Dir, "mixed.json"), mixed, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := o.Must(3, "verify", "mixed.json", "--policy", policy).Stderr; !strings.Contains(got, "CRD-123") {
		t.Errorf("got %s, want CRD-123", got)
	}
}
