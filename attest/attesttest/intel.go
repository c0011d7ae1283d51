package attesttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// ForgeTime is when forged evidence is valid.
var ForgeTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// Day is 24 hours.
const Day = 24 * time.Hour

// IntelForge makes SGX or TDX evidence with endorsements in Intel's shape, under
// a root of its own. Change a field, then call Make: what is not changed is good.
type IntelForge struct {
	T     testing.TB
	TEE   attest.TEE
	Names string // prefix of the common names

	RootKey, CAKey, LeafKey, SignerKey, AttestationKey *ecdsa.PrivateKey

	Root, Trusted    *x509.Certificate    // the same, unless a test says otherwise
	CA, Leaf, Signer *x509.Certificate    // templates
	Extension        []byte               // of the leaf
	Version          uint16               // of the quote
	Body             []byte               // SGX: 384 bytes; TDX: 584 (TD 1.0), or in version 5 648 (TD 1.5) or 885
	QEReport, Auth   []byte               // of the quoting enclave; Make fills in the report data
	TCB, QE          map[string]any       // TCB info and QE identity
	RootCRL, PCKCRL  *x509.RevocationList // templates; nil: absent

	After func(*IntelForged) // changes what is signed already
}

// IntelForged is what a forge makes, before it is put together.
type IntelForged struct {
	Signed, Signature, Key, QEReport, QESignature, Auth []byte

	Certificates             [][]byte // DER: leaf, CA, root
	CertType                 uint16
	Chain                    []byte // of the signer, PEM
	CRLChain                 []byte // of the PCK CRL, PEM
	Tail                     []byte // in the signature data, after the certification data
	TCB, QE, RootCRL, PCKCRL []byte
}

// NewKey returns a fresh P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Template returns a certificate that is valid at ForgeTime.
func Template(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: ForgeTime.Add(-30 * Day), NotAfter: ForgeTime.Add(300 * Day), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
}

// NewIntelForge returns a forge of a TEE of SGX's or TDX's shape. TDX quotes are
// of version 5 with a TD 1.5 body and TDX module 1.3.
func NewIntelForge(t testing.TB, tee attest.TEE, names string) *IntelForge {
	t.Helper()
	f := &IntelForge{T: t, TEE: tee, Names: names, RootKey: NewKey(t), CAKey: NewKey(t), LeafKey: NewKey(t), SignerKey: NewKey(t),
		AttestationKey: NewKey(t), Auth: bytes.Repeat([]byte{7}, 32), Version: 3}
	f.CA, f.Leaf, f.Signer = Template(2, names+" PCK Processor CA"), Template(3, names+" PCK Certificate"), Template(4, names+" TCB Signing")
	f.CA.IsCA, f.CA.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	root := Template(1, names+" Root CA")
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	f.Root = f.Parse(f.Certificate(root, root, &f.RootKey.PublicKey, f.RootKey))
	f.Trusted, f.CA.SubjectKeyId = f.Root, []byte("ca")
	f.Extension = PCKExtension(t, 5, "010203040506", "0000")
	f.RootCRL = &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: ForgeTime.Add(-Day), NextUpdate: ForgeTime.Add(100 * Day)}
	f.PCKCRL = &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: ForgeTime.Add(-Day), NextUpdate: ForgeTime.Add(20 * Day)}
	f.QEReport = make([]byte, 384)
	f.QEReport[128], f.QEReport[256], f.QEReport[258] = 0xaa, 1, 7 // signer, product, SVN
	f.QE = map[string]any{"id": "QE", "version": 2, "issueDate": "2026-05-31T00:00:00Z", "nextUpdate": "2026-06-30T00:00:00Z",
		"tcbEvaluationDataNumber": 20, "miscselect": "00000000", "miscselectMask": "FFFFFFFF", "attributes": Zeros(16), "attributesMask": Ones(16),
		"mrsigner": "AA" + Zeros(31), "isvprodid": 1, "tcbLevels": []any{ISVLevel(7, "UpToDate")}}
	f.TCB = map[string]any{"id": "SGX", "version": 3, "issueDate": "2026-05-30T00:00:00Z", "nextUpdate": "2026-06-29T00:00:00Z",
		"fmspc": "010203040506", "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 21, "tcbLevels": []any{f.Level(5, 3, "UpToDate")}}
	f.Body = make([]byte, 384)
	if tee.Shape() == attest.TDX {
		f.tdx()
	}
	return f
}

func (f *IntelForge) tdx() {
	f.Version, f.Body = 5, make([]byte, 648)
	for i := range 16 {
		f.Body[i], f.Body[584+i] = 3, 3 // TEE_TCB_SVN, TEE_TCB_SVN_2
	}
	f.Body[1], f.Body[585] = 1, 1
	f.Body[120+3] = 0x10 // SEPT_VE_DISABLE
	f.TCB["id"], f.QE["id"] = "TDX", "TD_QE"
	f.TCB["tdxModule"] = Module("", nil)
	f.TCB["tdxModuleIdentities"] = []any{Module("TDX_01", []any{ISVLevel(3, "UpToDate")})}
}

// TD10 makes the quote one of version 4 or 5 with a TD 1.0 body.
func (f *IntelForge) TD10(version uint16) { f.Version, f.Body = version, f.Body[:584] }

// Zeros returns n zero bytes in hexadecimal.
func Zeros(n int) string { return hex.EncodeToString(make([]byte, n)) }

// Ones returns n bytes of 0xff in hexadecimal.
func Ones(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return hex.EncodeToString(b)
}

// ISVLevel returns a TCB level of an enclave or a TDX module.
func ISVLevel(svn int, status string) map[string]any {
	return map[string]any{"tcb": map[string]any{"isvsvn": svn}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": []any{"SA-" + status}}
}

// Module returns the identity of a TDX module, or the entry "tdxModule".
func Module(id string, levels []any) map[string]any {
	return map[string]any{"id": id, "mrsigner": Zeros(48), "attributes": Zeros(8), "attributesMask": Ones(8), "tcbLevels": levels}
}

// Level returns a TCB level of a platform with all components of a kind alike,
// and PCESVN 5.
func (f *IntelForge) Level(sgx, tdx int, status string) map[string]any {
	c := func(n int) []any {
		out := make([]any, 16)
		for i := range out {
			out[i] = map[string]any{"svn": n}
		}
		return out
	}
	tcb := map[string]any{"sgxtcbcomponents": c(sgx), "pcesvn": 5}
	if f.TEE.Shape() == attest.TDX {
		tcb["tdxtcbcomponents"] = c(tdx)
	}
	return map[string]any{"tcb": tcb, "tcbDate": "2025-02-02T00:00:00Z", "tcbStatus": status, "advisoryIDs": []any{"SA-PLATFORM"}}
}

// PCKExtension makes Intel's extension of a PCK certificate with the PCESVN
// svn and all component SVNs svn, but for those that list gives, first to last.
func PCKExtension(t testing.TB, svn int, fmspc, pceID string, list ...int) []byte {
	t.Helper()
	type field struct {
		ID    asn1.ObjectIdentifier
		Value any
	}
	oid := func(arcs ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, arcs...)
	}
	raw := func(h string) []byte { b, _ := hex.DecodeString(h); return b }
	marshal := func(fields []field) asn1.RawValue {
		var seq []byte
		for _, f := range fields {
			b, err := asn1.Marshal(f)
			if err != nil {
				t.Fatal(err)
			}
			seq = append(seq, b...)
		}
		b, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: seq})
		if err != nil {
			t.Fatal(err)
		}
		return asn1.RawValue{FullBytes: b}
	}
	var tcb []field
	cpusvn := make([]byte, 16)
	for i := 1; i <= 17; i++ {
		n := svn
		if i <= len(list) {
			n = list[i-1]
		}
		tcb = append(tcb, field{oid(2, i), n})
		if i <= 16 {
			cpusvn[i-1] = byte(n)
		}
	}
	tcb = append(tcb, field{oid(2, 18), cpusvn})
	return marshal([]field{{oid(1), make([]byte, 16)}, {oid(2), marshal(tcb)}, {oid(3), raw(pceID)}, {oid(4), raw(fmspc)}, {oid(5), asn1.Enumerated(0)}}).FullBytes
}

// Certificate signs a certificate and returns its DER.
func (f *IntelForge) Certificate(child, parent *x509.Certificate, pub *ecdsa.PublicKey, signer *ecdsa.PrivateKey) []byte {
	f.T.Helper()
	der, err := x509.CreateCertificate(rand.Reader, child, parent, pub, signer)
	if err != nil {
		f.T.Fatal(err)
	}
	return der
}

// Parse reads a certificate.
func (f *IntelForge) Parse(der []byte) *x509.Certificate {
	f.T.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		f.T.Fatal(err)
	}
	return c
}

// Sign returns an ECDSA signature over SHA-256 of data: r and s, big endian.
func (f *IntelForge) Sign(k *ecdsa.PrivateKey, data []byte) []byte {
	f.T.Helper()
	sum := sha256.Sum256(data)
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		f.T.Fatal(err)
	}
	size := (k.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

func (f *IntelForge) document(member string, content map[string]any) []byte {
	f.T.Helper()
	body, err := json.Marshal(content)
	if err != nil {
		f.T.Fatal(err)
	}
	return []byte(`{"` + member + `":` + string(body) + `,"signature":"` + hex.EncodeToString(f.Sign(f.SignerKey, body)) + `"}`)
}

// CRL signs a list; nil for none.
func (f *IntelForge) CRL(list *x509.RevocationList, issuer *x509.Certificate, k *ecdsa.PrivateKey) []byte {
	f.T.Helper()
	if list == nil {
		return nil
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, k)
	if err != nil {
		f.T.Fatal(err)
	}
	return der
}

// PEMs returns certificates as PEM.
func PEMs(ders ...[]byte) []byte {
	var out []byte
	for _, d := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
	}
	return out
}

// PCK returns the template of the leaf with Intel's extension.
func (f *IntelForge) PCK() *x509.Certificate {
	c := *f.Leaf
	c.ExtraExtensions = append([]pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, Value: f.Extension}}, f.Leaf.ExtraExtensions...)
	return &c
}

// Make signs everything and puts it together.
func (f *IntelForge) Make() (attest.Evidence, attest.Endorsements) {
	f.T.Helper()
	ca := f.Parse(f.Certificate(f.CA, f.Root, &f.CAKey.PublicKey, f.RootKey))
	leaf := f.Certificate(f.PCK(), ca, &f.LeafKey.PublicKey, f.CAKey)
	signer := f.Certificate(f.Signer, f.Root, &f.SignerKey.PublicKey, f.RootKey)
	out := &IntelForged{Certificates: [][]byte{leaf, ca.Raw, f.Root.Raw}, CertType: 5, Chain: PEMs(signer, f.Root.Raw), CRLChain: PEMs(ca.Raw, f.Root.Raw), Auth: f.Auth,
		TCB: f.document("tcbInfo", f.TCB), QE: f.document("enclaveIdentity", f.QE),
		RootCRL: f.CRL(f.RootCRL, f.Root, f.RootKey), PCKCRL: f.CRL(f.PCKCRL, ca, f.CAKey)}
	point, err := f.AttestationKey.PublicKey.Bytes()
	if err != nil {
		f.T.Fatal(err)
	}
	out.Key = point[1:]
	sum := sha256.Sum256(append(append([]byte(nil), out.Key...), f.Auth...))
	out.QEReport = append([]byte(nil), f.QEReport...)
	copy(out.QEReport[320:], sum[:])
	out.QESignature = f.Sign(f.LeafKey, out.QEReport)
	out.Signed = append(f.header(), f.Body...)
	out.Signature = f.Sign(f.AttestationKey, out.Signed)
	if f.After != nil {
		f.After(out)
	}
	return attest.Evidence{TEE: f.TEE, Raw: f.Quote(out)}, out.endorsements()
}

func (o *IntelForged) endorsements() attest.Endorsements {
	items := []attest.Endorsement{}
	for _, it := range []attest.Endorsement{{Kind: attest.KindTCBInfo, Body: o.TCB, Chain: o.Chain}, {Kind: attest.KindQEIdentity, Body: o.QE, Chain: o.Chain},
		{Kind: attest.KindRootCRL, Body: o.RootCRL}, {Kind: attest.KindPCKCRL, Body: o.PCKCRL, Chain: o.CRLChain}} {
		if it.Body != nil {
			items = append(items, it)
		}
	}
	return attest.NewEndorsements(items...)
}

// intelVendor is the QE vendor ID of Intel.
var intelVendor = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

func (f *IntelForge) header() []byte {
	h := make([]byte, 48)
	binary.LittleEndian.PutUint16(h, f.Version)
	h[2] = 2
	copy(h[12:], intelVendor)
	if f.TEE.Shape() == attest.TDX {
		h[4] = 0x81
	}
	if f.Version < 5 {
		return h
	}
	kind := map[int]uint16{384: 1, 584: 2, 648: 3, 885: 4}[len(f.Body)]
	h = binary.LittleEndian.AppendUint16(h, kind)
	return binary.LittleEndian.AppendUint32(h, uint32(len(f.Body)))
}

// Quote puts a quote together.
func (f *IntelForge) Quote(o *IntelForged) []byte {
	le16, le32 := binary.LittleEndian.AppendUint16, binary.LittleEndian.AppendUint32
	inner := append(append([]byte(nil), o.QEReport...), o.QESignature...)
	inner = append(le16(inner, uint16(len(o.Auth))), o.Auth...)
	certs := PEMs(o.Certificates...)
	inner = append(le32(le16(inner, o.CertType), uint32(len(certs))), certs...)
	sig := append(append([]byte(nil), o.Signature...), o.Key...)
	if f.Version >= 4 {
		sig = le32(le16(sig, 6), uint32(len(inner)))
	}
	sig = append(append(sig, inner...), o.Tail...)
	return append(le32(append([]byte(nil), o.Signed...), uint32(len(sig))), sig...)
}
