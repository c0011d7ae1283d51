package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

var certifiedAt = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// authority is a CA for attestation keys.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newAuthority makes a CA; nil as issuer makes a root.
func newAuthority(t testing.TB, name string, issuer *authority) authority {
	t.Helper()
	a := authority{key: newKey(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: certifiedAt.AddDate(-1, 0, 0),
		NotAfter: certifiedAt.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert = issue(t, template, &a.key.PublicKey, issuer, a)
	return a
}

func issue(t testing.TB, template *x509.Certificate, key *ecdsa.PublicKey, issuer *authority, self authority) *x509.Certificate {
	t.Helper()
	parent, signer := template, self.key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// certify makes a certificate of an attestation key as TPM vendors do: without
// subject, and with a critical subjectAltName that holds a directory name.
func (a authority) certify(t testing.TB, key *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	san := pkix.Extension{Id: []int{2, 5, 29, 17}, Critical: true, Value: []byte{0x30, 0x04, 0xa4, 0x02, 0x30, 0x00}}
	return issue(t, &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: certifiedAt.AddDate(0, -1, 0), NotAfter: certifiedAt.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, ExtraExtensions: []pkix.Extension{san}}, key, &a, a)
}

func document(t testing.TB, key *ecdsa.PrivateKey, certs ...*x509.Certificate) tpm.Document {
	t.Helper()
	b := attest.Bind([]byte("claims"))
	d := tpm.Document{Key: attesttest.TPMPublic(t, &key.PublicKey),
		Quote: attesttest.TPMQuote(t, key, b[:32], map[string]attest.Hex{"0": bytes.Repeat([]byte{1}, 32), "10": make(attest.Hex, 32)})}
	for _, c := range certs {
		d.Certificates = append(d.Certificates, c.Raw)
	}
	return d
}

func evidence(t testing.TB, d tpm.Document) attest.Evidence {
	t.Helper()
	raw, err := tpm.Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	return attest.Evidence{TEE: attest.TPM, Raw: raw}
}

func failures(steps []attest.Step) string {
	var names []string
	for _, s := range steps {
		if !s.OK {
			names = append(names, s.Code+" "+s.Field)
		}
	}
	return strings.Join(names, ", ")
}

// TestVouched shows who stands for a key.
func TestVouched(t *testing.T) {
	key := newKey(t)
	root := newAuthority(t, "Vendor Root", nil)
	middle := newAuthority(t, "Vendor CA", &root)
	foreign := newAuthority(t, "Other Root", nil)
	impostor := newAuthority(t, "Vendor Root", nil) // the name of the root, another key
	leaf := middle.certify(t, &key.PublicKey)
	direct := root.certify(t, &key.PublicKey)
	used := func(change func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(8), NotBefore: certifiedAt.AddDate(0, -1, 0), NotAfter: certifiedAt.AddDate(1, 0, 0), BasicConstraintsValid: true}
		change(c)
		return issue(t, c, &key.PublicKey, &root, root)
	}
	for name, c := range map[string]struct {
		roots   []*x509.Certificate
		certs   []*x509.Certificate
		at      time.Time
		vouched string
		failed  string
	}{
		"no certificate":           {[]*x509.Certificate{root.cert}, nil, certifiedAt, "", ""},
		"no roots":                 {nil, []*x509.Certificate{leaf, middle.cert}, certifiedAt, "", ""},
		"a chain":                  {[]*x509.Certificate{foreign.cert, root.cert}, []*x509.Certificate{leaf, middle.cert}, certifiedAt, "Vendor Root", ""},
		"a chain with its root":    {[]*x509.Certificate{root.cert}, []*x509.Certificate{leaf, middle.cert, root.cert}, certifiedAt, "Vendor Root", ""},
		"a leaf of the root":       {[]*x509.Certificate{root.cert}, []*x509.Certificate{direct}, certifiedAt, "Vendor Root", ""},
		"another root":             {[]*x509.Certificate{foreign.cert}, []*x509.Certificate{leaf, middle.cert}, certifiedAt, "", ""},
		"a CA is missing":          {[]*x509.Certificate{root.cert}, []*x509.Certificate{leaf}, certifiedAt, "", ""},
		"the wrong order":          {[]*x509.Certificate{root.cert}, []*x509.Certificate{middle.cert, leaf}, certifiedAt, "", "ATT-006 tpm.chain"},
		"an impostor":              {[]*x509.Certificate{root.cert}, []*x509.Certificate{impostor.certify(t, &key.PublicKey)}, certifiedAt, "", "ATT-006 tpm.chain"},
		"a certificate of another": {[]*x509.Certificate{root.cert}, []*x509.Certificate{root.certify(t, &newKey(t).PublicKey)}, certifiedAt, "", "ATT-006 tpm.chain"},
		"of a key for TLS":         {[]*x509.Certificate{root.cert}, []*x509.Certificate{used(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}, certifiedAt, "", "ATT-006 tpm.chain"},
		"of an AIK for TLS too": {[]*x509.Certificate{root.cert}, []*x509.Certificate{used(func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
		})}, certifiedAt, "Vendor Root", ""},
		"of a key that decrypts": {[]*x509.Certificate{root.cert}, []*x509.Certificate{used(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })}, certifiedAt, "", "ATT-006 tpm.chain"},
		"expired":                {[]*x509.Certificate{root.cert}, []*x509.Certificate{direct}, certifiedAt.AddDate(1, 0, 1), "Vendor Root", "ATT-030 tpm.validity"},
		"not yet":                {[]*x509.Certificate{root.cert}, []*x509.Certificate{direct}, certifiedAt.AddDate(0, -2, 0), "Vendor Root", "ATT-030 tpm.validity"},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := tpm.New(tpm.Config{Roots: c.roots})
			if err != nil {
				t.Fatal(err)
			}
			claims, steps := v.Verify(evidence(t, document(t, key, c.certs...)), attest.Endorsements{}, c.at)
			if got := failures(steps); claims.TPM.Vouched != c.vouched || got != c.failed {
				t.Errorf("got %q, failed %q, want %q, failed %q", claims.TPM.Vouched, got, c.vouched, c.failed)
			}
			if end := claims.TCB.ValidUntil(); c.vouched != "" != end.Equal(direct.NotAfter) {
				t.Errorf("valid until %v", end)
			}
		})
	}
	if _, err := tpm.New(tpm.Config{Roots: []*x509.Certificate{leaf}}); err == nil {
		t.Error("a root that is no CA: got no error")
	}
}

// TestMutations flips bits of the document: a step fails, or the claims are the
// same, or nobody stands for the key any more.
func TestMutations(t *testing.T) {
	key := newKey(t)
	root := newAuthority(t, "Vendor Root", nil)
	v, err := tpm.New(tpm.Config{Roots: []*x509.Certificate{root.cert}})
	if err != nil {
		t.Fatal(err)
	}
	e := evidence(t, document(t, key, root.certify(t, &key.PublicKey)))
	want, steps := v.Verify(e, attest.Endorsements{}, certifiedAt)
	if f := failures(steps); f != "" {
		t.Fatal(f)
	}
	for i := range e.Raw {
		changed := slices.Clone(e.Raw)
		changed[i] ^= 1 << (i % 7)
		got, steps := v.Verify(attest.Evidence{TEE: attest.TPM, Raw: changed}, attest.Endorsements{}, certifiedAt)
		if got.TPM != nil && got.TPM.Vouched == "" {
			got.TPM.Vouched, got.TCB = want.TPM.Vouched, want.TCB
		}
		if failures(steps) == "" && !reflect.DeepEqual(got, want) {
			t.Fatalf("byte %d changed: genuine with other claims", i)
		}
	}
	for n := range e.Raw {
		if _, steps := v.Verify(attest.Evidence{TEE: attest.TPM, Raw: e.Raw[:n]}, attest.Endorsements{}, certifiedAt); failures(steps) == "" {
			t.Fatalf("cut to %d bytes: genuine", n)
		}
	}
}

func TestDocument(t *testing.T) {
	raw := string(evidence(t, document(t, newKey(t))).Raw)
	for name, c := range map[string]struct{ raw, want string }{
		"version 2":      {strings.Replace(raw, `"version":1`, `"version":2`, 1), attest.CodeVersion},
		"no version":     {strings.Replace(raw, `"version":1,`, ``, 1), attest.CodeVersion},
		"unknown member": {strings.Replace(raw, `"version":1,`, `"version":1,"more":1,`, 1), attest.CodeFormat},
		"member twice":   {strings.Replace(raw, `"version":1,`, `"version":1,"version":1,`, 1), attest.CodeFormat},
		"white space":    {" " + raw, attest.CodeFormat},
		"trailing":       {raw + "{}", attest.CodeFormat},
		"upper case":     {strings.Replace(raw, strings.Repeat("01", 32), strings.Repeat("0A", 32), 1), attest.CodeFormat},
		"no JSON":        {"\xff", attest.CodeFormat},
	} {
		_, steps := tpm.NewVerifier().Verify(attest.Evidence{TEE: attest.TPM, Raw: []byte(c.raw)}, attest.Endorsements{}, certifiedAt)
		if len(steps) != 1 || steps[0].OK || steps[0].Code != c.want {
			t.Errorf("%s: got %+v, want %s", name, steps, c.want)
		}
	}
	if _, err := tpm.Encode(tpm.Document{Key: make([]byte, attest.MaxEvidence)}); err == nil {
		t.Error("a document above the limit: got no error")
	}
}

// TestQualifyingData shows how qualifying data becomes report data.
func TestQualifyingData(t *testing.T) {
	key := newKey(t)
	for _, n := range []int{0, 1, 32, 48, 64, 65} {
		q := attesttest.TPMQuote(t, key, bytes.Repeat([]byte{7}, n), nil)
		c, steps := tpm.Check(q, &key.PublicKey)
		if n > 64 {
			if failures(steps) != "ATT-043 tpm.quote" || c.TPM != nil {
				t.Errorf("%d bytes: got %q", n, failures(steps))
			}
			continue
		}
		want := append(bytes.Repeat([]byte{7}, n), make([]byte, 64-n)...)
		if failures(steps) != "" || !bytes.Equal(c.ReportData, want) {
			t.Errorf("%d bytes: got %s, failed %q", n, c.ReportData, failures(steps))
		}
	}
}

func FuzzVerify(f *testing.F) {
	key := newKey(f)
	root := newAuthority(f, "Vendor Root", nil)
	d := document(f, key, root.certify(f, &key.PublicKey))
	f.Add(d.Quote.Attested, d.Quote.Signature, d.Key, d.Certificates[0])
	v, err := tpm.New(tpm.Config{Roots: []*x509.Certificate{root.cert}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, attested, signature, public, cert []byte) {
		d := tpm.Document{Key: public, Certificates: [][]byte{cert}, Quote: tpm.Quote{Attested: attested, Signature: signature, PCRs: d.Quote.PCRs}}
		raw, err := tpm.Encode(d)
		if err != nil {
			return
		}
		c, steps := v.Verify(attest.Evidence{TEE: attest.TPM, Raw: raw}, attest.Endorsements{}, certifiedAt)
		if failures(steps) == "" && c.TPM == nil {
			t.Error("genuine without claims")
		}
		v.Verify(attest.Evidence{TEE: attest.TPM, Raw: attested}, attest.Endorsements{}, certifiedAt)
	})
}
