package cli

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
)

// TestEndorsementScripts runs testdata/endorsements/*.txt beside services that
// have the captured documents of real machines.
func TestEndorsementScripts(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var sets []attest.Endorsements
	for _, name := range []string{"tdx/phala-v4-b0c0", "sgx/automata-v3-606a-eval17", "snp/msft-turin-v5-vcek"} {
		sets = append(sets, attesttest.Load(t, name).Endorsements)
	}
	good, forging := attesttest.NewVendors(t, sets...), attesttest.NewVendors(t, sets...)
	forging.Script(services.Fault{Document: "tcbInfo", Damage: true})
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/endorsements",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("EVIDENCE", dir+"/../attest/attesttest/testdata/evidence")
			e.Setenv("SERVICE", good.URL)
			e.Setenv("FORGING", forging.URL)
			return nil
		},
	})
}
