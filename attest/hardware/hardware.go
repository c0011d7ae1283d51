// Package hardware names the verifiers of all hardware vendors, each under the
// vendor's own root.
//
// It owns that list and nothing else: a relying party that trusts hardware
// takes Verifiers, and adds the simulation's only where it was given its root.
package hardware

import (
	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/azure"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
	"github.com/ashlar-mesh/ashlar/attest/sgx"
	"github.com/ashlar-mesh/ashlar/attest/snp"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// Verifiers returns a verifier for each kind of hardware that is known here.
// They are safe for concurrent use and keep bounded caches: make them once and
// share them. The map is the caller's.
func Verifiers() attest.Verifiers {
	amd, intel := snp.NewVerifier(), tdx.NewVerifier()
	all := attest.NewVerifiers(sgx.NewVerifier(), intel, amd, tpm.NewVerifier(), nvidia.NewVerifier())
	for _, hardware := range []attest.Verifier{amd, intel} {
		v, err := azure.New(hardware)
		if err != nil {
			panic("hardware: " + err.Error()) // not the kinds above: a defect of the build
		}
		all[v.TEE()] = v
	}
	return all
}
