package attesttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// GPU makes reports in the form of NVIDIA's GPUs under a throw-away root.
type GPU struct {
	Root *x509.Certificate
	// Chain is PEM, leaf first.
	Chain []byte
	key   *ecdsa.PrivateKey
}

// firmware is SHA-384 of what a GPU runs.
var firmware = sha512.Sum384([]byte("firmware"))

// NewGPU returns a GPU whose certificates, of these names, are valid for a
// century. Its key is on curve; NVIDIA's is P-384.
func NewGPU(t testing.TB, name string, curve elliptic.Curve) *GPU {
	t.Helper()
	g := &GPU{}
	from := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "NVIDIA Device Identity CA"}, NotBefore: from,
		NotAfter: from.AddDate(100, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.AddDate(100, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: []pkix.Extension{fwid(t)}}
	var signer *ecdsa.PrivateKey
	g.Root, signer = certify(t, root, nil, elliptic.P384())
	cert, key := certify(t, leaf, &issuer{g.Root, signer}, curve)
	g.key = key
	for _, c := range []*x509.Certificate{cert, g.Root} {
		g.Chain = append(g.Chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return g
}

type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// certify issues tmpl for a new key; without an issuer it signs itself.
func certify(t testing.TB, tmpl *x509.Certificate, by *issuer, curve elliptic.Curve) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = &issuer{tmpl, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// fwid is the extension DiceTcbInfo with one firmware digest.
func fwid(t testing.TB) pkix.Extension {
	t.Helper()
	type digest struct {
		Algorithm asn1.ObjectIdentifier
		Value     []byte
	}
	der, err := asn1.Marshal(struct {
		FWIDs []digest `asn1:"tag:6"`
	}{[]digest{{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, firmware[:]}}})
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1, 1}, Value: der}
}

// Report answers nonce: the request and the signed response, with measurement 1
// of 48 times the byte 7.
func (g *GPU) Report(t testing.TB, nonce [32]byte) []byte {
	t.Helper()
	r := append([]byte{0x11, 0xe0, 1, 0xff}, nonce[:]...)
	r = append(r, 0) // slot
	block := append([]byte{1, 1, 51, 0, 1, 48, 0}, make([]byte, 48)...)
	for i := range 48 {
		block[7+i] = 7
	}
	r = append(r, 0x11, 0x60, 0, 0, 1, byte(len(block)), 0, 0)
	r = append(r, block...)
	r = append(r, make([]byte, 32)...) // the GPU's nonce
	var opaque []byte
	for _, f := range []struct {
		kind  uint16
		value []byte
	}{{3, []byte("550.1\x00")}, {6, []byte{1, 2, 0, 0x96, 5, 0, 0, 0}}, {20, firmware[:]}} {
		opaque = binary.LittleEndian.AppendUint16(opaque, f.kind)
		opaque = binary.LittleEndian.AppendUint16(opaque, uint16(len(f.value)))
		opaque = append(opaque, f.value...)
	}
	r = binary.LittleEndian.AppendUint16(r, uint16(len(opaque)))
	return g.Sign(t, append(r, opaque...))
}

// Sign appends the GPU's signature.
func (g *GPU) Sign(t testing.TB, signed []byte) []byte {
	t.Helper()
	sum := sha512.Sum384(signed)
	r, s, err := ecdsa.Sign(rand.Reader, g.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 96)
	r.FillBytes(sig[:48])
	s.FillBytes(sig[48:])
	return append(append([]byte(nil), signed...), sig...)
}
