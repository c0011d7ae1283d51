package nvidia_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
)

// forge signs a real report anew under a throw-away chain with NVIDIA's names.
func forge(t *testing.T, curve elliptic.Curve, name string) (parts, *x509.Certificate) {
	t.Helper()
	p := golden(t, "hopper-h100")
	make1 := func(cn string, parent *x509.Certificate, signer *ecdsa.PrivateKey, c elliptic.Curve) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: cn}, NotBefore: at.Add(-time.Hour), NotAfter: at.Add(time.Hour),
			IsCA: parent == nil, BasicConstraintsValid: parent == nil, KeyUsage: x509.KeyUsageDigitalSignature}
		if parent == nil {
			tmpl.KeyUsage, parent, signer = x509.KeyUsageCertSign, tmpl, key
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	root, rootKey := make1("NVIDIA Device Identity CA", nil, nil, elliptic.P384())
	leaf, key := make1(name, root, rootKey, curve)
	signed := p.report[:len(p.report)-96]
	sum := sha512.Sum384(signed)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 96)
	r.FillBytes(sig[:48])
	s.FillBytes(sig[48:])
	p.report = append(append([]byte(nil), signed...), sig...)
	p.chain = blocks([]*pem.Block{{Type: "CERTIFICATE", Bytes: leaf.Raw}, {Type: "CERTIFICATE", Bytes: root.Raw}})
	return p, root
}

// TestForged checks that a chain with NVIDIA's names is worth nothing without
// its key, and that under its own root what the certificate lacks shows.
func TestForged(t *testing.T) {
	p, root := forge(t, elliptic.P384(), "GH100 A01 GSP FMC LF")
	raw := nvidia.Encode(p.report, p.chain)
	if _, got := verify(raw, at); got != "ATT-006 device.chain" {
		t.Errorf("under NVIDIA's root: got %q", got)
	}
	v, err := nvidia.New(root)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from the cache
		c, steps := v.Verify(attest.Evidence{Raw: raw}, attest.Endorsements{}, at)
		if got := failed(steps); got != "ATT-053 report.fwid" || c.GPU.Architecture != "Hopper" {
			t.Errorf("under its own root: got %q, %s", got, c.GPU.Architecture)
		}
	}
	_, steps := v.Verify(attest.Evidence{Raw: raw}, attest.Endorsements{}, at.Add(2*time.Hour))
	if got := failed(steps); got != "ATT-030 device.validity, ATT-053 report.fwid" {
		t.Errorf("after its end, cached: got %q", got)
	}
	p, root = forge(t, elliptic.P256(), "GH100")
	if v, err = nvidia.New(root); err != nil {
		t.Fatal(err)
	}
	if _, steps = v.Verify(attest.Evidence{Raw: nvidia.Encode(p.report, p.chain)}, attest.Endorsements{}, at); failed(steps) != "ATT-006 device.chain" {
		t.Errorf("leaf on P-256: got %q", failed(steps))
	}
}

func TestNewRefuses(t *testing.T) {
	p, root := forge(t, elliptic.P384(), "x")
	leaf, err := x509.ParseCertificate(unblock(p.chain)[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	small := *root
	small.PublicKey = &ecdsa.PublicKey{Curve: elliptic.P256()}
	for name, c := range map[string]*x509.Certificate{"none": nil, "a leaf": leaf, "P-256": &small} {
		if _, err := nvidia.New(c); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
