package binding

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"github.com/ashlar-mesh/ashlar/attest"
)

// DeviceNonce is the nonce that devices are asked with, so that their evidence
// is as fresh as that of the TEE: SHA-256 of "ashlar device v1", a zero byte,
// the verifier's nonce and the KeyHash of the key that is vouched for.
func DeviceNonce(nonce []byte, key [32]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("ashlar device v1\x00"))
	h.Write(nonce)
	h.Write(key[:])
	return [32]byte(h.Sum(nil))
}

// Devices is what Claims.Devices must be for these devices; nil for none.
func Devices(devices []attest.Device) []byte {
	if len(devices) == 0 {
		return nil
	}
	sum := attest.DevicesDigest(devices)
	return sum[:]
}

// ExpectDevices checks that each device of a verdict answered this request's
// nonce (ATT-051). That the devices are those that the TEE vouched for, Expect
// checks.
func ExpectDevices(want Claims, devices []attest.DeviceVerdict) []attest.Step {
	var steps []attest.Step
	nonce := DeviceNonce(want.Nonce, want.PublicKey)
	for _, d := range devices {
		var got []byte
		if d.Claims.GPU != nil {
			got = d.Claims.GPU.Nonce
		}
		s := attest.Step{Code: "ATT-051", Field: "devices." + d.Name + ".nonce", OK: bytes.Equal(got, nonce[:]),
			Want: hex.EncodeToString(nonce[:]), Got: orAbsent(got), Source: "device"}
		if !s.OK {
			s.Fix = attest.Fix{Who: attest.Nobody, How: "the device's evidence answers another challenge: ask it anew, with the nonce made of this one"}
		}
		steps = append(steps, s)
	}
	return steps
}
