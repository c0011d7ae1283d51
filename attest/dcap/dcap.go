// Package dcap verifies evidence of Intel's DCAP family: SGX quotes of versions
// 3 to 5 and TDX quotes of versions 4 and 5 (ECDSA P-256), with TCB info version
// 3, QE identity version 2 and CRLs.
//
// It owns the formats and the order of checks; every signature is checked
// before any status is read. What the platform's patch level is worth, and
// which software may run, is the policy's decision, not this package's.
//
// It refuses to fetch anything, to read a clock, and to know a root by itself:
// packages sgx and tdx bring Intel's, package sim a throw-away one. It never
// panics on hostile bytes and imports only the standard library and attest.
//
// Sources: Intel SGX DCAP ECDSA Quote Library API, appendix A (quote version 3);
// Intel TDX DCAP Quoting Library API, appendix A (versions 4 and 5); Intel
// "SGX PCK Certificate and CRL Profile Specification"; Intel PCS API version 4.
package dcap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// IntelNames is the prefix of the common names in Intel's PKI.
const IntelNames = "Intel SGX"

// Config says what a verifier trusts.
type Config struct {
	// TEE is what the verifier answers for. Its shape, sgx or tdx, selects the
	// formats: "sim:tdx" reads TDX quotes.
	TEE attest.TEE
	// Root is the trust anchor, an ECDSA P-256 CA. A root certificate that
	// comes with evidence or endorsements counts only if it has this key.
	Root *x509.Certificate
	// Names is the prefix of the common names by which roles are told apart:
	// "<Names> Root CA", "<Names> PCK Platform CA", "<Names> PCK Processor CA",
	// "<Names> PCK Certificate", "<Names> TCB Signing". "" means IntelNames.
	Names string
}

// Verifier verifies quotes of one TEE under one root. It remembers chains,
// quoting enclaves and endorsements whose signatures held, by SHA-256 of their
// exact bytes, in bounded caches; time and revocation are judged on every use.
// It is safe for concurrent use.
type Verifier struct {
	tee    attest.TEE
	root   *x509.Certificate
	names  string
	source string // the root's common name, for Step.Source

	chains     pki.Cache[*chain]
	reports    pki.Cache[struct{}]
	collateral pki.Cache[*collateral]
}

var _ attest.Verifier = (*Verifier)(nil)

// New returns a verifier. It fails if the TEE's shape is neither sgx nor tdx or
// the root is not a P-256 CA certificate.
func New(c Config) (*Verifier, error) {
	if s := c.TEE.Shape(); s != attest.SGX && s != attest.TDX {
		return nil, fmt.Errorf("TEE %q has neither the shape of sgx nor of tdx", c.TEE)
	}
	if c.Root == nil || !c.Root.IsCA {
		return nil, errors.New("the root is not a CA certificate")
	}
	if key, ok := c.Root.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the root's key is not ECDSA P-256")
	}
	if c.Names == "" {
		c.Names = IntelNames
	}
	return &Verifier{tee: c.TEE, root: c.Root, names: c.Names, source: c.Root.Subject.CommonName}, nil
}

// TEE implements attest.Verifier.
func (v *Verifier) TEE() attest.TEE { return v.tee }
