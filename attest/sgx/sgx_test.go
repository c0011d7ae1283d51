package sgx_test

import (
	"slices"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/sgx"
)

func TestConformance(t *testing.T) {
	for _, name := range []string{"sgx/automata-v3-606a-2025-08", "sgx/automata-v3-a067-debug", "ratls/ego-sample"} {
		t.Run(name, func(t *testing.T) {
			s := attesttest.Load(t, name)
			attesttest.Verifier(t, sgx.NewVerifier, attesttest.Sample{Evidence: s.Evidence, Endorsements: s.Endorsements, At: s.At()})
		})
	}
}

func TestForeignEvidence(t *testing.T) {
	for name, want := range map[string]string{
		"tdx/phala-v4-b0c0":          attest.CodeVersion,
		"synthetic/sgx/synthetic-ok": attest.CodeChain,
	} {
		t.Run(name, func(t *testing.T) {
			s := attesttest.Load(t, name)
			s.Evidence.TEE = attest.SGX
			_, steps := sgx.NewVerifier().Verify(s.Evidence, s.Endorsements, s.At())
			i := slices.IndexFunc(steps, func(s attest.Step) bool { return !s.OK })
			if i < 0 || steps[i].Code != want {
				t.Errorf("got steps %+v, want the first failure to be %s", steps, want)
			}
		})
	}
}
