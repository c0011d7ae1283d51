// Package tdx verifies evidence of Intel TDX guests under Intel's own root.
//
// It owns the choice of that root; formats and checks are package dcap's. It
// refuses any other root: simulated guests are package sim's.
package tdx

import (
	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

// NewVerifier returns a verifier of TDX quotes version 4 and 5 that trusts the
// Intel SGX root CA, which also stands over TDX, and nothing else. It is safe
// for concurrent use and keeps bounded caches, so make one and share it.
func NewVerifier() attest.Verifier {
	v, err := dcap.New(dcap.Config{TEE: attest.TDX, Root: dcap.IntelRoot()})
	if err != nil {
		panic("tdx: " + err.Error()) // the embedded root is wrong: a defect of the build
	}
	return v
}
