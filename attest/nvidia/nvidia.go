// Package nvidia verifies evidence of NVIDIA's GPUs in confidential mode, Hopper
// and Blackwell, under NVIDIA's device identity root.
//
// It owns the format: an SPDM 1.1 GET_MEASUREMENTS request and its MEASUREMENTS
// response (DMTF DSP0274), signed by the GPU, in the JSON that NVIDIA's
// attestation SDK writes. From the evidence alone it checks the signature, the
// certificate chain and that the firmware is the one that the certificate was
// made for. What the measurements should be (RIM) and whether a certificate was
// revoked (OCSP) are online services of NVIDIA: claims say that neither was
// asked, and policy decides.
//
// It refuses to fetch anything, to read a clock, and any other root. It never
// panics on hostile bytes.
package nvidia

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	_ "embed"
	"errors"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// root.pem is "NVIDIA Device Identity CA", P-384, self-signed in 2021.
//
//go:embed root.pem
var rootPEM []byte

// Verifier verifies reports under one root. It remembers chains whose signatures
// held, by SHA-256 of their exact bytes, in a bounded cache; time is judged on
// every use. It is safe for concurrent use.
type Verifier struct {
	root   *x509.Certificate
	chains pki.Cache[*chain]
}

var _ attest.Verifier = (*Verifier)(nil)

// NewVerifier returns a verifier that trusts NVIDIA's device identity root and
// nothing else.
func NewVerifier() *Verifier {
	certs, err := pki.ParseCertificates(rootPEM)
	if err == nil {
		var v *Verifier
		if v, err = New(certs[0]); err == nil {
			return v
		}
	}
	panic("nvidia: " + err.Error()) // the embedded root is wrong: a defect of the build
}

// New returns a verifier under a root, which must be a P-384 CA.
func New(root *x509.Certificate) (*Verifier, error) {
	if root == nil || !root.IsCA {
		return nil, errors.New("the root is not a CA certificate")
	}
	if key, ok := root.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("the root's key is not ECDSA P-384")
	}
	return &Verifier{root: root}, nil
}

// TEE implements attest.Verifier.
func (v *Verifier) TEE() attest.TEE { return attest.NVIDIA }
