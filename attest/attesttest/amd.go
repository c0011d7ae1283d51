package attesttest

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
)

// AMDSigner is the kind of key that signs a report.
type AMDSigner string

// The kinds of key: of a chip, and of a provider.
const (
	VCEK AMDSigner = "VCEK"
	VLEK AMDSigner = "VLEK"
)

// Kind returns the kind of endorsement that holds the key's certificate.
func (s AMDSigner) Kind() string {
	return map[AMDSigner]string{VCEK: attest.KindVCEK, VLEK: attest.KindVLEK}[s]
}

// issuer is how the name of the key's CA begins.
func (s AMDSigner) issuer() string {
	return map[AMDSigner]string{VCEK: "SEV-", VLEK: "SEV-VLEK-"}[s]
}

// Sizes in a report, in bytes: what is signed, a number of the signature (the
// least significant byte first), a chip's ID and that of Turin.
const (
	snpSigned     = 0x2a0
	snpNumber     = 72
	hwidSize      = 64
	hwidSizeTurin = 8
)

// AMDKeys are the RSA keys of a PKI in AMD's shape: "root", "ask" and "other".
// They are made once, being slow.
var AMDKeys = sync.OnceValue(func() map[string]*rsa.PrivateKey {
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

// AMDForgeTime is when forged evidence is judged.
var AMDForgeTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// AMDForge is a machine with SEV-SNP under a root of its own. Change a field,
// then take its Evidence and Endorsements: what is not changed is good.
type AMDForge struct {
	T       testing.TB
	Product string // "Milan", "Genoa", "Turin"
	Signer  AMDSigner

	Root, CA *x509.Certificate
	Key      *ecdsa.PrivateKey
	Leaf     *x509.Certificate // template
	LeafKey  any               // public key in the leaf
	Report   []byte            // unsigned
	Items    []attest.Endorsement
}

// AMDCertify signs a certificate as AMD does, with RSA-PSS and SHA-384.
func AMDCertify(t testing.TB, tmpl, parent *x509.Certificate, public any, key *rsa.PrivateKey) *x509.Certificate {
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

// amdName returns a name as AMD's certificates have it.
func amdName(common string) pkix.Name {
	return pkix.Name{OrganizationalUnit: []string{"Engineering"}, Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"},
		Organization: []string{"Advanced Micro Devices"}, CommonName: common}
}

// AMDCA returns the template of a CA.
func AMDCA(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: amdName(name), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: AMDForgeTime.AddDate(-5, 0, 0), NotAfter: AMDForgeTime.AddDate(20, 0, 0)}
}

// DER encodes a value.
func DER(t testing.TB, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// amdOID returns an extension of AMD's.
func amdOID(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, tail...)
}

// amdExtensions of a key at patch level 10, 11, … by number.
func amdExtensions(t testing.TB, product string, key AMDSigner) []pkix.Extension {
	t.Helper()
	list := []pkix.Extension{{Id: amdOID(1), Value: DER(t, 0, "")}, {Id: amdOID(2), Value: DER(t, product+"-B0", "ia5")}}
	numbers, chip := []int{1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, hwidSize)
	if product == "Turin" {
		numbers, chip = []int{1, 2, 3, 5, 6, 7, 8, 9}, chip[:hwidSizeTurin]
	}
	for _, n := range numbers {
		level := 10 + n
		if n >= 4 && n <= 7 {
			level = 0
		}
		list = append(list, pkix.Extension{Id: amdOID(3, n), Value: DER(t, level, "")})
	}
	if key == VLEK {
		return append(list, pkix.Extension{Id: amdOID(5), Value: DER(t, "CN=cloud.example", "ia5")})
	}
	for i := range chip {
		chip[i] = byte(i + 1)
	}
	return append(list, pkix.Extension{Id: amdOID(4), Value: chip})
}

// NewAMDForge makes a machine with a version 3 report that agrees with its key.
func NewAMDForge(t testing.TB, product string, key AMDSigner) *AMDForge {
	t.Helper()
	f := &AMDForge{T: t, Product: product, Signer: key}
	keys := AMDKeys()
	tmpl := AMDCA("ARK-"+product, 100)
	f.Root = AMDCertify(t, tmpl, tmpl, &keys["root"].PublicKey, keys["root"])
	f.CA = AMDCertify(t, AMDCA(key.issuer()+product, 101), f.Root, &keys["ask"].PublicKey, keys["root"])
	var err error
	if f.Key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	f.LeafKey = &f.Key.PublicKey
	f.Leaf = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: amdName("SEV-" + string(key)),
		NotBefore: AMDForgeTime.AddDate(-1, 0, 0), NotAfter: AMDForgeTime.AddDate(6, 0, 0), ExtraExtensions: amdExtensions(t, product, key)}
	f.Report = make([]byte, 0x4a0)
	binary.LittleEndian.PutUint32(f.Report, 3)
	binary.LittleEndian.PutUint64(f.Report[0x08:], 1<<17) // policy: the reserved bit alone
	binary.LittleEndian.PutUint32(f.Report[0x34:], 1)
	if key == VLEK {
		binary.LittleEndian.PutUint32(f.Report[0x48:], 1<<2)
	}
	copy(f.Report[0x188:], map[string][]byte{"Milan": {0x19, 1, 1}, "Genoa": {0x19, 0xa0, 1}, "Turin": {0x1a, 2, 1}}[product])
	level := []byte{11, 12, 0, 0, 0, 0, 13, 18}
	if product == "Turin" {
		level = []byte{19, 11, 12, 13, 0, 0, 0, 18}
	}
	for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		copy(f.Report[at:], level)
	}
	for i := range hwidSize {
		if product != "Turin" || i < hwidSizeTurin {
			f.Report[0x1a0+i] = byte(i + 1)
		}
	}
	f.Items = []attest.Endorsement{{Kind: attest.KindAMDChain, Body: CertificatePEMs(f.CA, f.Root)}}
	return f
}

// CertificatePEMs returns certificates as PEM.
func CertificatePEMs(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Certificate signs the leaf.
func (f *AMDForge) Certificate() *x509.Certificate {
	return AMDCertify(f.T, f.Leaf, f.CA, f.LeafKey, AMDKeys()["ask"])
}

// Evidence signs the report.
func (f *AMDForge) Evidence() attest.Evidence {
	f.T.Helper()
	sum := sha512.Sum384(f.Report[:snpSigned])
	r, s, err := ecdsa.Sign(rand.Reader, f.Key, sum[:])
	if err != nil {
		f.T.Fatal(err)
	}
	raw := append([]byte(nil), f.Report...)
	for i, n := range []*big.Int{r, s} {
		number := raw[snpSigned+i*snpNumber:][:snpNumber]
		slices.Reverse(n.FillBytes(number))
	}
	return attest.Evidence{TEE: attest.SNP, Raw: raw}
}

// Endorsements returns the certificate of the key and Items.
func (f *AMDForge) Endorsements() attest.Endorsements {
	f.T.Helper()
	return attest.NewEndorsements(append([]attest.Endorsement{{Kind: f.Signer.Kind(), Body: f.Certificate().Raw}}, f.Items...)...)
}

// AddCRL adds a list of the root that revokes serial numbers.
func (f *AMDForge) AddCRL(tmpl x509.RevocationList, key *rsa.PrivateKey, serials ...int64) {
	f.T.Helper()
	tmpl.Number, tmpl.SignatureAlgorithm = big.NewInt(1), x509.SHA384WithRSAPSS
	for _, n := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: AMDForgeTime})
	}
	issuer := *f.Root
	issuer.PublicKey = &key.PublicKey
	body, err := x509.CreateRevocationList(rand.Reader, &tmpl, &issuer, key)
	if err != nil {
		f.T.Fatal(err)
	}
	f.Items = append(f.Items, attest.Endorsement{Kind: attest.KindAMDCRL, Body: body})
}

// SetExtension replaces an extension; a nil value removes it.
func (f *AMDForge) SetExtension(value []byte, tail ...int) {
	for i, x := range f.Leaf.ExtraExtensions {
		if !x.Id.Equal(amdOID(tail...)) {
			continue
		}
		f.Leaf.ExtraExtensions[i].Value = value
		if value == nil {
			f.Leaf.ExtraExtensions = append(f.Leaf.ExtraExtensions[:i], f.Leaf.ExtraExtensions[i+1:]...)
		}
		return
	}
	f.Leaf.ExtraExtensions = append(f.Leaf.ExtraExtensions, pkix.Extension{Id: amdOID(tail...), Value: value})
}
