package coordinator

import (
	"crypto/elliptic"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestDevices activates a marble whose package names a GPU: the TEE vouches for
// the GPU's report, and the report answers the coordinator's nonce.
func TestDevices(t *testing.T) {
	d := newDeployment(t)
	gpu := attesttest.NewGPU(t, "GH100 A01 GSP FMC LF", elliptic.P384())
	v, err := nvidia.New(gpu.Root)
	if err != nil {
		t.Fatal(err)
	}
	d.config.Verifiers[attest.NVIDIA] = v
	d.mustSet(shop(t, func(m object) {
		m["packages"].(object)["job"].(object)["devices"] = object{"gpu": object{"nvidia": object{"architectures": []string{"Hopper"},
			"allowUncheckedMeasurements": true, "allowUncheckedRevocation": true}}}
	}))
	answer := func(nonce [32]byte) attest.Device {
		return attest.Device{Name: "gpu", TEE: attest.NVIDIA, Raw: nvidia.Encode(gpu.Report(t, nonce), gpu.Chain)}
	}
	for _, c := range []struct {
		name string
		// change makes what is sent differ from what the TEE vouched for.
		ask    func(a *attempt) []attest.Device
		change func(a *attempt)
		code   problem.Code
	}{
		{"fresh", func(a *attempt) []attest.Device {
			return []attest.Device{answer(binding.DeviceNonce(a.nonce, a.claims.PublicKey))}
		}, nil, ""},
		{"none", func(*attempt) []attest.Device { return nil }, nil, "ATT-052"},
		{"an older answer", func(*attempt) []attest.Device { return []attest.Device{answer([32]byte{1})} }, nil, "ATT-051"},
		{"for another key", func(a *attempt) []attest.Device {
			return []attest.Device{answer(binding.DeviceNonce(a.nonce, [32]byte{}))}
		}, nil, "ATT-051"},
		{"exchanged after the TEE vouched", func(a *attempt) []attest.Device {
			return []attest.Device{answer(binding.DeviceNonce(a.nonce, a.claims.PublicKey))}
		}, func(a *attempt) {
			a.evidence.Devices = []attest.Device{answer(binding.DeviceNonce(a.nonce, a.claims.PublicKey))}
		}, "ATT-050"},
		{"left out after the TEE vouched", func(a *attempt) []attest.Device {
			return []attest.Device{answer(binding.DeviceNonce(a.nonce, a.claims.PublicKey))}
		}, func(a *attempt) { a.evidence.Devices = nil }, "ATT-050"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := d.attempt("job", "1")
			devices := c.ask(a)
			a.claims.Devices = binding.Devices(devices)
			a.quote(d)
			a.evidence.Devices = devices
			if c.change != nil {
				c.change(a)
			}
			_, err := a.activate(d)
			wantCode(t, err, c.code)
		})
	}
}
