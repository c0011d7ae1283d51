package sim

import (
	"bytes"
	"crypto/x509"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Names is the prefix of the common names in a simulated vendor's PKI, where
// Intel's has "Intel SGX".
const Names = "Ashlar SIMULATION"

// NewVerifiers returns the verifiers of "sim:sgx" and "sim:tdx" under the root
// of a simulation platform. A root that is not one is refused (ATT-094): a
// hardware vendor's root never verifies simulated evidence.
func NewVerifiers(root *x509.Certificate) ([]attest.Verifier, error) {
	if root == nil {
		return nil, problem.New("ATT-094", "no root of a simulation platform was given")
	}
	if got, want := root.Subject.CommonName, Names+" Root CA"; got != want {
		return nil, problem.New("ATT-094", "the root is %.80q, want %q: no other root verifies simulated evidence", got, want)
	}
	if bytes.Equal(root.RawSubjectPublicKeyInfo, dcap.IntelRoot().RawSubjectPublicKeyInfo) {
		return nil, problem.New("ATT-094", "the root has Intel's key")
	}
	var all []attest.Verifier
	for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
		v, err := dcap.New(dcap.Config{TEE: tee, Root: root, Names: Names})
		if err != nil {
			return nil, problem.Because(err, "ATT-094", "making the verifier of %s", tee)
		}
		all = append(all, v)
	}
	return all, nil
}

// AddVerifiers adds those under a root to verifiers of other TEEs.
func AddVerifiers(to attest.Verifiers, root *x509.Certificate) error {
	simulated, err := NewVerifiers(root)
	if err != nil {
		return err
	}
	for _, v := range simulated {
		to[v.TEE()] = v
	}
	return nil
}
