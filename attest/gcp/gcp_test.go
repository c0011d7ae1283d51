package gcp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func devRoot(t testing.TB) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(read(t, "root.crt"))
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var at = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

// TestVendorsTool reads what Google's tool made.
func TestVendorsTool(t *testing.T) {
	e, err := Verify(read(t, "endorsement.binarypb"), devRoot(t), at)
	if err != nil {
		t.Fatal(err)
	}
	if e.Signer != "GCE-uefi-signer" || e.Firmware.String()[:8] != "6510d598" || e.Made.Year() != 2026 || !e.Valid.Contains(at) {
		t.Errorf("got %s, %s, %s, %s", e.Signer, e.Firmware, e.Made, e.Valid)
	}
	var counts []uint64
	for _, m := range e.SNP.Measurements {
		counts = append(counts, m.VCPUs)
	}
	if want := []uint64{1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 224, 240}; !slices.Equal(counts, want) {
		t.Errorf("processors: got %v, want %v", counts, want)
	}
	for what, c := range map[string][2]string{
		"one processor": {e.SNP.Measurements[0].Value.String(), "20ec0dbd1c0a26d184a6f11ec5a796d68ec03c9d101bdd84c03f3d9cbbc4a292a9fad098edacfa04da0da58f20be885e"},
		"MRTD":          {e.TDX.Measurements[0].Value.String(), "6e540be4917f24f74cc3292b59803d06dc7c38eb4a3c1fd6be9c735ba74bb7a23e25f98da94779d17508b243e4fb582b"},
		"family":        {e.SNP.FamilyID.String(), "f73a6949e8f3473b9553e40e056fa3a2"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: got %s, want %s", what, c[0], c[1])
		}
	}
	if e.SNP.Policy != 458752 || e.SNP.SVSM != nil || len(e.TDX.Measurements) != 1 {
		t.Errorf("got %+v, %+v", e.SNP, e.TDX)
	}
}

func TestVerifyRefuses(t *testing.T) {
	good := read(t, "endorsement.binarypb")
	other := &authority{}
	other.make(t, "GCE-cc-tcb-root", nil)
	changed := bytes.Clone(good)
	changed[bytes.Index(changed, []byte{0x20, 0xec, 0x0d, 0xbd})] ^= 1
	for name, c := range map[string]struct {
		raw  []byte
		root *x509.Certificate
		at   time.Time
		want string
	}{
		"a changed measurement":  {changed, devRoot(t), at, "signature does not hold"},
		"a damaged signature":    {append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), devRoot(t), at, "signature does not hold"},
		"another root, its name": {good, other.cert, at, "does not lead to"},
		"too early":              {good, devRoot(t), at.AddDate(-10, 0, 0), "valid"},
		"too late":               {good, devRoot(t), at.AddDate(10, 0, 0), "valid"},
		"cut":                    {good[:len(good)-1], devRoot(t), at, errTruncated.Error()},
		"twice":                  {append(bytes.Clone(good), good...), devRoot(t), at, "comes twice"},
		"empty":                  {nil, devRoot(t), at, "bytes"},
		"too large":              {make([]byte, MaxEndorsement+1), devRoot(t), at, "bytes"},
	} {
		if _, err := Verify(c.raw, c.root, c.at); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// authority signs certificates and endorsements.
type authority struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

func (a *authority) make(t testing.TB, name string, issuer *authority) {
	t.Helper()
	var err error
	if a.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	ca := !strings.Contains(name, "signer")
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: at.AddDate(-1, 0, 0), NotAfter: at.AddDate(1, 0, 0),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, SignatureAlgorithm: x509.SHA256WithRSAPSS}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := template, a.key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &a.key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
}

// sign makes an endorsement of a golden measurement.
func (a *authority) sign(t testing.TB, golden []byte) []byte {
	t.Helper()
	h := crypto.SHA256.New()
	h.Write(golden)
	sig, err := rsa.SignPSS(rand.Reader, a.key, crypto.SHA256, h.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		t.Fatal(err)
	}
	return put(put(nil, 1, golden), 2, sig)
}

func put(b []byte, number int, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(number)<<3|wireBytes)
	return append(binary.AppendUvarint(b, uint64(len(value))), value...)
}

func putNumber(b []byte, number int, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(number)<<3|wireVarint), value)
}

// TestBuilt verifies endorsements with intermediates and damages single fields.
func TestBuilt(t *testing.T) {
	var root, middle, signer authority
	root.make(t, "root", nil)
	middle.make(t, "middle", &root)
	signer.make(t, "signer", &middle)
	pems := func(certs ...*x509.Certificate) (b []byte) {
		for _, c := range certs {
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		return b
	}
	digest := bytes.Repeat([]byte{7}, 48)
	golden := func(bundle, snp, tdx []byte) []byte {
		b := put(put(put(nil, 1, putNumber(nil, 1, 1700000000)), 4, signer.cert.Raw), 5, digest)
		if bundle != nil {
			b = put(b, 6, bundle)
		}
		if snp != nil {
			b = put(b, 7, snp)
		}
		if tdx != nil {
			b = put(b, 8, tdx)
		}
		return put(putNumber(b, 99, 5), 98, []byte("of tomorrow")) // unknown fields
	}
	chain := pems(root.cert, middle.cert)
	processors := func(n uint64, value []byte) []byte { return put(nil, 2, put(putNumber(nil, 1, n), 2, value)) }
	for name, c := range map[string]struct{ golden, want string }{
		"a chain":               {string(golden(chain, processors(4, digest), nil)), ""},
		"a chain, no root":      {string(golden(pems(middle.cert), nil, nil)), ""},
		"with SVSM":             {string(golden(chain, put(nil, 7, digest), nil)), ""},
		"no intermediate":       {string(golden(nil, nil, nil)), "does not lead to"},
		"wrong order":           {string(golden(pems(middle.cert, root.cert, middle.cert), nil, nil)), "does not lead to"},
		"damaged bundle":        {string(golden([]byte("PEM"), nil, nil)), "bundle"},
		"a short measurement":   {string(golden(chain, processors(4, digest[:47]), nil)), "47 bytes"},
		"processors twice":      {string(golden(chain, append(processors(4, digest), processors(4, digest)...), nil)), "come twice"},
		"a short SVSM":          {string(golden(chain, put(nil, 7, digest[:1]), nil)), "1 bytes"},
		"a short MRTD":          {string(golden(chain, nil, put(nil, 2, put(nil, 3, digest[:1])))), "1 bytes"},
		"a number for bytes":    {string(golden(chain, putNumber(nil, 3, 1), nil)), "wire type"},
		"a group":               {string(golden(chain, []byte{7<<3 | 3}, nil)), "not supported"},
		"field zero":            {string(golden(chain, []byte{2, 0}, nil)), errTruncated.Error()},
		"an endless number":     {string(golden(chain, bytes.Repeat([]byte{0xff}, 11), nil)), errTruncated.Error()},
		"no firmware's digest":  {string(put(nil, 4, signer.cert.Raw)), "lacks"},
		"a certificate damaged": {string(put(put(nil, 4, []byte("x")), 5, digest)), "certificate"},
	} {
		e, err := Verify(signer.sign(t, []byte(c.golden)), root.cert, at)
		if c.want == "" && (err != nil || e.Signer != "signer") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(read(f, "endorsement.binarypb"))
	root := devRoot(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := Parse(raw)
		if err == nil && len(e.Firmware) != digestSize {
			t.Error("an endorsement without firmware")
		}
		if _, err := Verify(raw, root, at); err == nil && !bytes.Contains(read(t, "endorsement.binarypb"), e.golden) {
			t.Error("a golden measurement that nobody signed")
		}
	})
}
