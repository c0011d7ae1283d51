package differential

import (
	"crypto/x509"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/logger"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// amdRoots are the library's roots with the ASVK, which its defaults lack.
func amdRoots(t *testing.T) map[string][]*trust.AMDRootCerts {
	t.Helper()
	certificates := func(bundle []byte) []*x509.Certificate {
		certs, err := pki.ParseCertificates(bundle)
		if err != nil || len(certs) != 2 {
			t.Fatalf("reading the library's roots: %d certificates, %v", len(certs), err)
		}
		return certs
	}
	roots := map[string][]*trust.AMDRootCerts{}
	for product, bundles := range map[string][2][]byte{
		snp.Milan: {trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes}, snp.Genoa: {trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes},
	} {
		chip, provider := certificates(bundles[0]), certificates(bundles[1])
		r := trust.AMDRootCertsProduct(product)
		r.ProductCerts = &trust.ProductCerts{Ask: chip[0], Ark: chip[1], Asvk: provider[0]}
		roots[product] = []*trust.AMDRootCerts{r}
	}
	return roots
}

// sevGuest has go-sev-guest judge a case: signatures, chain, windows, and that
// certificate and report agree. Its panics are refusals.
func sevGuest(roots map[string][]*trust.AMDRootCerts) func(testCase) answer {
	return func(c testCase) (a answer) {
		defer func() {
			if p := recover(); p != nil {
				a = answer{reason: fmt.Sprintf("panic: %v", p)}
			}
		}()
		report, err := abi.ReportToProto(c.evidence.Raw)
		if err != nil {
			return answer{reason: err.Error()}
		}
		vcek, _ := c.endorsements.Get(attest.KindVCEK)
		vlek, _ := c.endorsements.Get(attest.KindVLEK)
		attestation := &sevsnp.Attestation{Report: report, CertificateChain: &sevsnp.CertificateChain{VcekCert: vcek.Body, VlekCert: vlek.Body}}
		if err := verify.SnpAttestation(attestation, &verify.Options{DisableCertFetching: true, Now: c.at, TrustedRoots: roots}); err != nil {
			return answer{reason: err.Error()}
		}
		any := abi.SnpPolicy{SMT: true, MigrateMA: true, Debug: true, CXLAllowed: true}
		if err := validate.SnpAttestation(attestation, &validate.Options{GuestPolicy: any, PermitProvisionalFirmware: true}); err != nil {
			return answer{reason: err.Error()}
		}
		return answer{ok: true}
	}
}

// TestSEVGuest compares with go-sev-guest.
func TestSEVGuest(t *testing.T) {
	logger.Init("go-sev-guest", false, false, io.Discard)
	v := snp.NewVerifier()
	ours := func(c testCase) answer { return judged(v, c) }
	compare(t, cases(t, attest.SNP), ours, sevGuest(amdRoots(t)), func(a, b answer) bool { return a.ok == b.ok }, []disagreement{
		{"accepted", "", "msft-turin", "go-sev-guest cannot read the certificates of Turin"},
		{"^refused: ATT-003 report.format$", "accepted", "evidence with zeros behind", "go-sev-guest ignores bytes behind a report"},
		{"^refused: ATT-006 (vcek|vlek).chain$", "accepted", "cert_chain.pem", "go-sev-guest takes CAs from its own roots; here a chain that comes along must hold as well"},
		{"^refused: ATT-010 report.signature$", "accepted", "evidence with a bit of byte 394 flipped", "go-sev-guest checks the signature of what it writes anew, without the upper bits of the stepping"},
	})
}
