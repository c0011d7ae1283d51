package snp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// The names in AMD's certificates.
const (
	rootPrefix    = "ARK-"
	askPrefix     = "SEV-"
	hwidSize      = 64
	hwidSizeTurin = 8
)

// The layout of a report.
const (
	reportSize = 0x4a0
	signedSize = 0x2a0
	numberSize = 72 // of R and of S, the least significant byte first
)

// signer is the kind of key of a machine.
type signer string

const (
	vcek signer = "VCEK"
	vlek signer = "VLEK"
)

func (s signer) kind() string {
	return map[signer]string{vcek: attest.KindVCEK, vlek: attest.KindVLEK}[s]
}

func issuerPrefix(s signer) string {
	return map[signer]string{vcek: "SEV-", vlek: "SEV-VLEK-"}[s]
}

// The tests' own PKI in AMD's shape. RSA keys are made once: they are slow.
var rsaKeys = sync.OnceValue(func() map[string]*rsa.PrivateKey {
	keys := map[string]*rsa.PrivateKey{}
	for _, name := range []string{"root", "ask", "other"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[name] = key
	}
	return keys
})

// forgedAt is when forged evidence is judged.
var forgedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// forged is a machine: change its fields, then take its evidence.
type forged struct {
	t       *testing.T
	product string
	signer  signer

	root, ask *x509.Certificate
	key       *ecdsa.PrivateKey
	leaf      *x509.Certificate // template
	leafKey   any               // public key in the leaf
	report    []byte            // unsigned
	items     []attest.Endorsement
}

func certify(t *testing.T, tmpl, parent *x509.Certificate, public any, key *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	tmpl.SignatureAlgorithm = x509.SHA384WithRSAPSS
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func caTemplate(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: forgedAt.AddDate(-5, 0, 0), NotAfter: forgedAt.AddDate(20, 0, 0)}
}

func der(t *testing.T, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// oid returns an extension of AMD's.
func oid(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, tail...)
}

// extensions of a key at patch level 10, 11, … by number.
func extensions(t *testing.T, product string, key signer) []pkix.Extension {
	t.Helper()
	list := []pkix.Extension{{Id: oid(1), Value: der(t, 0, "")}, {Id: oid(2), Value: der(t, product+"-B0", "ia5")}}
	numbers, chip := []int{1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, hwidSize)
	if product == snp.Turin {
		numbers, chip = []int{1, 2, 3, 5, 6, 7, 8, 9}, chip[:hwidSizeTurin]
	}
	for _, n := range numbers {
		level := 10 + n
		if n >= 4 && n <= 7 {
			level = 0
		}
		list = append(list, pkix.Extension{Id: oid(3, n), Value: der(t, level, "")})
	}
	if key == vlek {
		return append(list, pkix.Extension{Id: oid(5), Value: der(t, "CN=cloud.example", "ia5")})
	}
	for i := range chip {
		chip[i] = byte(i + 1)
	}
	return append(list, pkix.Extension{Id: oid(4), Value: chip})
}

// forge makes a machine with a version 3 report that agrees with its key.
func forge(t *testing.T, product string, key signer) *forged {
	t.Helper()
	f := &forged{t: t, product: product, signer: key}
	keys := rsaKeys()
	tmpl := caTemplate(rootPrefix+product, 100)
	f.root = certify(t, tmpl, tmpl, &keys["root"].PublicKey, keys["root"])
	f.ask = certify(t, caTemplate(issuerPrefix(key)+product, 101), f.root, &keys["ask"].PublicKey, keys["root"])
	var err error
	if f.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	f.leafKey = &f.key.PublicKey
	f.leaf = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: askPrefix + string(key)},
		NotBefore: forgedAt.AddDate(-1, 0, 0), NotAfter: forgedAt.AddDate(6, 0, 0), ExtraExtensions: extensions(t, product, key)}
	f.report = make([]byte, reportSize)
	binary.LittleEndian.PutUint32(f.report, 3)
	binary.LittleEndian.PutUint64(f.report[0x08:], 1<<17) // policy: the reserved bit alone
	binary.LittleEndian.PutUint32(f.report[0x34:], 1)
	if key == vlek {
		binary.LittleEndian.PutUint32(f.report[0x48:], 1<<2)
	}
	copy(f.report[0x188:], map[string][]byte{snp.Milan: {0x19, 1, 1}, snp.Genoa: {0x19, 0xa0, 1}, snp.Turin: {0x1a, 2, 1}}[product])
	level := []byte{11, 12, 0, 0, 0, 0, 13, 18}
	if product == snp.Turin {
		level = []byte{19, 11, 12, 13, 0, 0, 0, 18}
	}
	for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		copy(f.report[at:], level)
	}
	for i := range hwidSize {
		if product != snp.Turin || i < hwidSizeTurin {
			f.report[0x1a0+i] = byte(i + 1)
		}
	}
	f.items = []attest.Endorsement{{Kind: attest.KindAMDChain, Body: pems(f.ask, f.root)}}
	return f
}

func pems(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// certificate signs the leaf.
func (f *forged) certificate() *x509.Certificate {
	return certify(f.t, f.leaf, f.ask, f.leafKey, rsaKeys()["ask"])
}

// evidence signs the report.
func (f *forged) evidence() attest.Evidence {
	f.t.Helper()
	sum := sha512.Sum384(f.report[:signedSize])
	r, s, err := ecdsa.Sign(rand.Reader, f.key, sum[:])
	if err != nil {
		f.t.Fatal(err)
	}
	raw := append([]byte(nil), f.report...)
	for i, n := range []*big.Int{r, s} {
		number := raw[signedSize+i*numberSize:][:numberSize]
		slices.Reverse(n.FillBytes(number))
	}
	return attest.Evidence{TEE: attest.SNP, Raw: raw}
}

func (f *forged) endorsements() attest.Endorsements {
	f.t.Helper()
	return attest.NewEndorsements(append([]attest.Endorsement{{Kind: f.signer.kind(), Body: f.certificate().Raw}}, f.items...)...)
}

func (f *forged) verifier() *snp.Verifier {
	f.t.Helper()
	v, err := snp.New(snp.Config{Roots: []*x509.Certificate{f.root}})
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// crl makes a list of the root that revokes the serial numbers.
func (f *forged) crl(tmpl x509.RevocationList, key *rsa.PrivateKey, serials ...int64) {
	f.t.Helper()
	tmpl.Number, tmpl.SignatureAlgorithm = big.NewInt(1), x509.SHA384WithRSAPSS
	for _, n := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: forgedAt})
	}
	issuer := *f.root
	issuer.PublicKey = &key.PublicKey
	body, err := x509.CreateRevocationList(rand.Reader, &tmpl, &issuer, key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.items = append(f.items, attest.Endorsement{Kind: attest.KindAMDCRL, Body: body})
}

// set replaces an extension; a nil value removes it.
func (f *forged) set(value []byte, tail ...int) {
	for i, x := range f.leaf.ExtraExtensions {
		if !x.Id.Equal(oid(tail...)) {
			continue
		}
		f.leaf.ExtraExtensions[i].Value = value
		if value == nil {
			f.leaf.ExtraExtensions = append(f.leaf.ExtraExtensions[:i], f.leaf.ExtraExtensions[i+1:]...)
		}
		return
	}
	f.leaf.ExtraExtensions = append(f.leaf.ExtraExtensions, pkix.Extension{Id: oid(tail...), Value: value})
}
