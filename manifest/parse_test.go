package manifest

import (
	"os"
	"testing"
)

func sample(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/shop.json")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseSample(t *testing.T) {
	m, ds := Parse(sample(t))
	if m == nil || len(ds) > 0 {
		t.Fatalf("got diagnostics %v, want none", ds)
	}
	if got := m.Marbles["cart"].Calls[0].Listen; got != 5432 {
		t.Errorf("listen of cart's call: got %d, want the callee's 5432", got)
	}
	p, ok := m.PolicyFor("web")
	if !ok || p.PackageName != "web" || p.PlatformName != "default" || p.Platform.SGX == nil {
		t.Errorf("PolicyFor(web): got %+v, %v", p, ok)
	}
}
