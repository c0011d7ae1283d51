package snp_test

import (
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// FuzzSNP gives hostile reports, certificates, chains and lists to a verifier.
// The corpus is real evidence.
func FuzzSNP(f *testing.F) {
	v := snp.NewVerifier()
	// Whatever holds must be one of the genuine reports: an ECDSA signature has a
	// second form, so their claims are compared and not their bytes.
	known := map[string]bool{}
	identity := func(c attest.Claims) string {
		return c.ReportData.String() + c.SNP.Measurement.String() + c.SNP.ChipID.String() + c.SNP.ReportID.String()
	}
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, s := range attesttest.All(f) {
		if s.Evidence.TEE != attest.SNP {
			continue
		}
		key, _ := s.Endorsements.Get(attest.KindVCEK)
		if it, ok := s.Endorsements.Get(attest.KindVLEK); ok {
			key = it
		}
		chain, _ := s.Endorsements.Get(attest.KindAMDChain)
		f.Add(s.Evidence.Raw, key.Body, chain.Body, []byte(nil))
		if s.Genuine {
			c, _ := v.Verify(s.Evidence, s.Endorsements, s.At())
			known[identity(c)] = true
		}
	}
	f.Fuzz(func(t *testing.T, raw, key, chain, crl []byte) {
		for _, kind := range []string{attest.KindVCEK, attest.KindVLEK} {
			items := []attest.Endorsement{{Kind: kind, Body: key}}
			if len(crl) > 0 {
				items = append(items, attest.Endorsement{Kind: attest.KindAMDCRL, Body: crl})
			}
			if len(chain) > 0 {
				items = append(items, attest.Endorsement{Kind: attest.KindAMDChain, Body: chain})
			}
			c, steps := v.Verify(attest.Evidence{TEE: attest.SNP, Raw: raw}, attest.NewEndorsements(items...), at)
			if len(steps) == 0 {
				t.Fatal("nothing was checked")
			}
			if failed(steps) == nil && !known[identity(c)] {
				t.Errorf("forged: genuine with claims %+v", c.SNP)
			}
		}
	})
}
