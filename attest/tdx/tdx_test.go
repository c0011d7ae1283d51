package tdx_test

import (
	"slices"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
)

func TestConformance(t *testing.T) {
	for _, name := range []string{"tdx/phala-v4-b0c0", "tdx/alibaba-v5-90c0", "tdx/gcp-v4-8065-2025-07"} {
		t.Run(name, func(t *testing.T) {
			s := attesttest.Load(t, name)
			attesttest.Verifier(t, tdx.NewVerifier, attesttest.Sample{Evidence: s.Evidence, Endorsements: s.Endorsements, At: s.At()})
		})
	}
}

func TestForeignEvidence(t *testing.T) {
	for name, want := range map[string]string{
		"sgx/automata-v3-606a-2025-08": attest.CodeVersion,
		"synthetic/tdx/synthetic-ok":   attest.CodeChain,
	} {
		t.Run(name, func(t *testing.T) {
			s := attesttest.Load(t, name)
			s.Evidence.TEE = attest.TDX
			_, steps := tdx.NewVerifier().Verify(s.Evidence, s.Endorsements, s.At())
			i := slices.IndexFunc(steps, func(s attest.Step) bool { return !s.OK })
			if i < 0 || steps[i].Code != want {
				t.Errorf("got steps %+v, want the first failure to be %s", steps, want)
			}
		})
	}
}
