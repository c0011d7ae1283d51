package snp_test

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// FuzzSNP gives hostile reports, certificates, chains and lists to a verifier.
// The corpus is real evidence.
func FuzzSNP(f *testing.F) {
	for _, s := range attesttest.All(f) {
		if s.Evidence.TEE != attest.SNP {
			continue
		}
		key, _ := s.Endorsements.Get(attest.KindVCEK)
		if it, ok := s.Endorsements.Get(attest.KindVLEK); ok {
			key = it
		}
		chain, _ := s.Endorsements.Get(attest.KindAMDChain)
		f.Add(s.Evidence.Raw, key.Body, chain.Body, []byte{0x30, 0})
	}
	s := attesttest.Load(f, "snp/msft-milan-v3-vcek")
	v := snp.NewVerifier()
	genuine, _ := v.Verify(s.Evidence, s.Endorsements, s.At())
	f.Fuzz(func(t *testing.T, raw, key, chain, crl []byte) {
		for _, kind := range []string{attest.KindVCEK, attest.KindVLEK} {
			items := []attest.Endorsement{{Kind: kind, Body: key}, {Kind: attest.KindAMDCRL, Body: crl}}
			if len(chain) > 0 {
				items = append(items, attest.Endorsement{Kind: attest.KindAMDChain, Body: chain})
			}
			c, steps := v.Verify(attest.Evidence{TEE: attest.SNP, Raw: raw}, attest.NewEndorsements(items...), s.At())
			if len(steps) == 0 {
				t.Fatal("nothing was checked")
			}
			if failed(steps) == nil && c.SNP.Measurement.String() == genuine.SNP.Measurement.String() && string(raw) != string(s.Evidence.Raw) {
				t.Fatal("another report with the same measurement holds")
			}
		}
	})
}
