package nvidia_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
)

// TestForged checks that a chain with NVIDIA's names is worth nothing without
// NVIDIA's key, and what shows under its own root.
func TestForged(t *testing.T) {
	gpu := attesttest.NewGPU(t, "GB200 A01 GSP FMC LF", elliptic.P384())
	raw := nvidia.Encode(gpu.Report(t, [32]byte{1}), gpu.Chain)
	if _, got := verify(raw, at); got != "ATT-006 device.chain" {
		t.Errorf("under NVIDIA's root: got %q", got)
	}
	v, err := nvidia.New(gpu.Root)
	if err != nil {
		t.Fatal(err)
	}
	under := func(raw []byte, when time.Time) (attest.Claims, string) {
		c, steps := v.Verify(attest.Evidence{Raw: raw}, attest.Endorsements{}, when)
		return c, failed(steps)
	}
	for range 2 { // the second time from the cache
		c, got := under(raw, at)
		if g := c.GPU; got != "" || g.Architecture != "Blackwell" || g.Driver != "550.1" || g.VBIOS != "96.00.02.01.05" || len(g.Measurements) != 1 {
			t.Errorf("under its own root: got %q, %+v", got, g)
		}
	}
	if _, got := under(raw, at.AddDate(200, 0, 0)); got != "ATT-030 device.validity" {
		t.Errorf("after its end, cached: got %q", got)
	}
	p := golden(t, "hopper-h100")
	other := gpu.Sign(t, p.report[:len(p.report)-96])
	if _, got := under(nvidia.Encode(other, gpu.Chain), at); got != "ATT-053 report.fwid" {
		t.Errorf("other firmware: got %q", got)
	}
}

// TestNoGPU checks that what else NVIDIA certifies is no GPU.
func TestNoGPU(t *testing.T) {
	for _, name := range []string{"LS10 A01 FSP FMC LF", "", "XGH100 A01"} {
		other := attesttest.NewGPU(t, name, elliptic.P384())
		v, err := nvidia.New(other.Root)
		if err != nil {
			t.Fatal(err)
		}
		_, steps := v.Verify(attest.Evidence{Raw: nvidia.Encode(other.Report(t, [32]byte{1}), other.Chain)}, attest.Endorsements{}, at)
		if got := failed(steps); got != "ATT-006 device.chain" {
			t.Errorf("%q: got %q", name, got)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	gpu := attesttest.NewGPU(t, "GH100", elliptic.P256())
	v, err := nvidia.New(gpu.Root)
	if err != nil {
		t.Fatal(err)
	}
	_, steps := v.Verify(attest.Evidence{Raw: nvidia.Encode(gpu.Report(t, [32]byte{}), gpu.Chain)}, attest.Endorsements{}, at)
	if got := failed(steps); got != "ATT-006 device.chain" {
		t.Errorf("leaf on P-256: got %q", got)
	}
	leaf, err := x509.ParseCertificate(unblock(gpu.Chain)[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	small := *gpu.Root
	small.PublicKey = &ecdsa.PublicKey{Curve: elliptic.P256()}
	for name, c := range map[string]*x509.Certificate{"none": nil, "a leaf": leaf, "P-256": &small} {
		if _, err := nvidia.New(c); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
