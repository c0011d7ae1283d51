// Package hardware names the verifiers of all hardware vendors, each under the
// vendor's own root.
//
// It owns that list and nothing else: a relying party that trusts hardware
// takes Verifiers, and adds the simulation's only where it was given its root.
package hardware

import (
	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
	"github.com/ashlar-mesh/ashlar/attest/sgx"
	"github.com/ashlar-mesh/ashlar/attest/snp"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
)

// Verifiers returns a verifier for each kind of hardware that is known here.
// They are safe for concurrent use and keep bounded caches: make them once and
// share them. The map is the caller's.
func Verifiers() attest.Verifiers {
	return attest.NewVerifiers(sgx.NewVerifier(), tdx.NewVerifier(), snp.NewVerifier(), nvidia.NewVerifier())
}
