// Package sgx verifies evidence of Intel SGX enclaves under Intel's own root.
//
// It owns the choice of that root; formats and checks are package dcap's. It
// refuses any other root: simulated enclaves are package sim's.
package sgx

import (
	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

// NewVerifier returns a verifier of SGX quotes of versions 3 to 5 that trusts the Intel
// SGX root CA and nothing else. It is safe for concurrent use and keeps bounded
// caches, so make one and share it.
func NewVerifier() attest.Verifier {
	v, err := dcap.New(dcap.Config{TEE: attest.SGX, Root: dcap.IntelRoot()})
	if err != nil {
		panic("sgx: " + err.Error()) // the embedded root is wrong: a defect of the build
	}
	return v
}
