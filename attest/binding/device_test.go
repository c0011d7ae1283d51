package binding_test

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
)

func TestExpectDevices(t *testing.T) {
	gpu := attest.Device{Name: "gpu", TEE: attest.NVIDIA, Raw: []byte("report")}
	want := binding.Claims{Purpose: binding.Activate, PublicKey: binding.KeyHash([]byte("key")), Nonce: make([]byte, 32),
		Exporter: make([]byte, 32), Devices: binding.Devices([]attest.Device{gpu})}
	nonce := binding.DeviceNonce(want.Nonce, want.PublicKey)
	other := binding.DeviceNonce([]byte("another nonce"), want.PublicKey)
	for _, c := range []struct {
		name    string
		devices []attest.Device
		nonce   []byte
		codes   []string
	}{
		{"the same", []attest.Device{gpu}, nonce[:], nil},
		{"another report", []attest.Device{{Name: "gpu", TEE: attest.NVIDIA, Raw: []byte("Report")}}, nonce[:], []string{"ATT-050"}},
		{"another name", []attest.Device{{Name: "gpu2", TEE: attest.NVIDIA, Raw: []byte("report")}}, nonce[:], []string{"ATT-050"}},
		{"one more", []attest.Device{gpu, gpu}, nonce[:], []string{"ATT-050"}},
		{"none", nil, nonce[:], []string{"ATT-050"}},
		{"an older answer", []attest.Device{gpu}, other[:], []string{"ATT-051"}},
		{"no nonce", []attest.Device{gpu}, nil, []string{"ATT-051"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := want
			got.Devices = binding.Devices(c.devices)
			verdict := attest.DeviceVerdict{Name: "gpu", Claims: attest.Claims{GPU: &attest.GPUClaims{Nonce: c.nonce}}}
			var failed []string
			for _, s := range append(binding.Expect(want, got), binding.ExpectDevices(want, []attest.DeviceVerdict{verdict})...) {
				if !s.OK {
					failed = append(failed, s.Code)
				}
			}
			if len(failed) != len(c.codes) || len(failed) > 0 && failed[0] != c.codes[0] {
				t.Errorf("got %v, want %v", failed, c.codes)
			}
		})
	}
}

// TestDevicesSurviveTheBuffer checks that the devices are in what the hardware signs.
func TestDevicesSurviveTheBuffer(t *testing.T) {
	c := binding.Claims{Purpose: binding.Renew, Nonce: make([]byte, 32), Exporter: make([]byte, 32),
		Devices: binding.Devices([]attest.Device{{Name: "gpu"}})}
	got, err := binding.Parse(c.Encode())
	if err != nil || string(got.Devices) != string(c.Devices) {
		t.Errorf("got %x, %v; want %x", got.Devices, err, c.Devices)
	}
	c.Purpose, c.Exporter = binding.Peer, nil
	if _, err := binding.Parse(c.Encode()); err == nil {
		t.Error("purpose peer with devices: got no error")
	}
}
