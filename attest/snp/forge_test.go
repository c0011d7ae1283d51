package snp_test

import (
	"crypto/x509"

	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

type (
	forged = attesttest.AMDForge
	signer = attesttest.AMDSigner
)

const (
	vcek = attesttest.VCEK
	vlek = attesttest.VLEK
)

var (
	forgedAt   = attesttest.AMDForgeTime
	rsaKeys    = attesttest.AMDKeys
	forge      = attesttest.NewAMDForge
	certify    = attesttest.AMDCertify
	caTemplate = attesttest.AMDCA
	der        = attesttest.DER
	pems       = attesttest.CertificatePEMs
)

// verifier returns a verifier that trusts a forge.
func verifier(f *forged) *snp.Verifier {
	f.T.Helper()
	v, err := snp.New(snp.Config{Roots: []*x509.Certificate{f.Root}})
	if err != nil {
		f.T.Fatal(err)
	}
	return v
}
