package attesttest

import (
	"bytes"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// TestFields changes every field of every set that is genuine.
func TestFields(t *testing.T) {
	for _, s := range All(t) {
		shape := s.Evidence.TEE.Shape()
		if !s.Genuine || shape != attest.SGX && shape != attest.TDX && shape != attest.SNP {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			good := Sample{Evidence: s.Evidence, Endorsements: s.Endorsements, At: s.At()}
			v := verifierOf(t, s)
			regions(t, v, good, 3)
			documentRegions(t, v, good)
		})
	}
}

func verifierOf(t *testing.T, s Set) attest.Verifier {
	t.Helper()
	if s.Evidence.TEE == attest.SNP {
		return snp.NewVerifier()
	}
	root := s.Root
	if root == nil {
		root = dcap.IntelRoot()
	}
	v, err := dcap.New(dcap.Config{TEE: s.Evidence.TEE, Root: root})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestLayouts checks that the regions of every format cover all its bytes.
func TestLayouts(t *testing.T) {
	for _, name := range []string{"sgx/automata-v3-606a-2025-08", "tdx/phala-v4-b0c0", "tdx/alibaba-v5-90c0", "snp/msft-turin-v5-vcek", "ratls/ego-sample"} {
		s := Load(t, name)
		at := 0
		if name == "ratls/ego-sample" {
			at = 16 // Open Enclave's header
		}
		for _, r := range layout(s.Evidence) {
			if r.offset != at || r.size < 0 {
				t.Fatalf("%s: %s begins at %d, want %d", name, r.name, r.offset, at)
			}
			at += r.size
		}
		if padding := s.Evidence.Raw[at:]; len(bytes.Trim(padding, "\x00")) > 0 {
			t.Errorf("%s: %d bytes that are not zero are in no region", name, len(padding))
		}
	}
}
