package dcap_test

import (
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
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

// forgeTime is when forged evidence is valid.
var forgeTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// forge makes evidence with endorsements under a root of its own. Tests change
// a field before make; what is not changed is good.
type forge struct {
	t   testing.TB
	tee attest.TEE

	rootKey, caKey, leafKey, signerKey, attKey *ecdsa.PrivateKey
	root, trusted                              *x509.Certificate // the same, unless a test says otherwise
	ca, leaf, signer                           *x509.Certificate // templates
	extension                                  []byte            // of the leaf
	body, qeReport, auth                       []byte
	tcb, qe                                    map[string]any
	rootCRL, pckCRL                            *x509.RevocationList // templates; nil: absent

	after func(*forged) // changes what is signed already
}

// forged is what a forge makes, before it is put together.
type forged struct {
	signed, sig, key, qeReport, qeSig, auth []byte
	certs                                   [][]byte // DER: leaf, CA, root
	certType                                uint16
	chain                                   []byte // of the signer, PEM
	tail                                    []byte // in the signature data, after the certification data
	tcb, qe, rootCRL, pckCRL                []byte
}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func template(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: forgeTime.Add(-30 * day), NotAfter: forgeTime.Add(300 * day), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
}

func newForge(t testing.TB, tee attest.TEE) *forge {
	t.Helper()
	f := &forge{t: t, tee: tee, rootKey: key(t), caKey: key(t), leafKey: key(t), signerKey: key(t), attKey: key(t), auth: []byte("qe data")}
	f.ca, f.leaf, f.signer = template(2, "Test PCK Processor CA"), template(3, "Test PCK Certificate"), template(4, "Test TCB Signing")
	f.ca.IsCA, f.ca.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	root := template(1, "Test Root CA")
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	f.root = f.parse(f.certificate(root, root, &f.rootKey.PublicKey, f.rootKey))
	f.trusted, f.ca.SubjectKeyId = f.root, []byte("ca")
	f.extension = extension(t, 5, "010203040506", "0000")
	f.rootCRL = &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: forgeTime.Add(-day), NextUpdate: forgeTime.Add(100 * day)}
	f.pckCRL = &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: forgeTime.Add(-day), NextUpdate: forgeTime.Add(20 * day)}
	f.qeReport = make([]byte, 384)
	f.qeReport[128], f.qeReport[256], f.qeReport[258] = 0xaa, 1, 7 // signer, product, SVN
	f.qe = map[string]any{"id": "QE", "version": 2, "issueDate": "2026-05-31T00:00:00Z", "nextUpdate": "2026-06-30T00:00:00Z",
		"tcbEvaluationDataNumber": 20, "miscselect": "00000000", "miscselectMask": "FFFFFFFF", "attributes": zeros(16), "attributesMask": ones(16),
		"mrsigner": "AA" + zeros(31), "isvprodid": 1, "tcbLevels": []any{isvLevel(7, "UpToDate")}}
	f.tcb = map[string]any{"id": "SGX", "version": 3, "issueDate": "2026-05-30T00:00:00Z", "nextUpdate": "2026-06-29T00:00:00Z",
		"fmspc": "010203040506", "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 21, "tcbLevels": []any{f.level(5, 3, "UpToDate")}}
	f.body = make([]byte, 384)
	if tee == attest.TDX {
		f.body = make([]byte, 648)
		for i := range 16 {
			f.body[i] = 3
		}
		f.body[1] = 1
		f.tcb["id"], f.qe["id"] = "TDX", "TD_QE"
		f.tcb["tdxModule"] = module("", nil)
		f.tcb["tdxModuleIdentities"] = []any{module("TDX_01", []any{isvLevel(3, "UpToDate")})}
	}
	return f
}

func zeros(n int) string { return hex.EncodeToString(make([]byte, n)) }

func ones(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return hex.EncodeToString(b)
}

func isvLevel(svn int, status string) map[string]any {
	return map[string]any{"tcb": map[string]any{"isvsvn": svn}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": []any{"SA-" + status}}
}

func module(id string, levels []any) map[string]any {
	return map[string]any{"id": id, "mrsigner": zeros(48), "attributes": zeros(8), "attributesMask": ones(8), "tcbLevels": levels}
}

func (f *forge) level(sgx, tdx int, status string) map[string]any {
	c := func(n int) []any {
		out := make([]any, 16)
		for i := range out {
			out[i] = map[string]any{"svn": n}
		}
		return out
	}
	tcb := map[string]any{"sgxtcbcomponents": c(sgx), "pcesvn": 5}
	if f.tee == attest.TDX {
		tcb["tdxtcbcomponents"] = c(tdx)
	}
	return map[string]any{"tcb": tcb, "tcbDate": "2025-02-02T00:00:00Z", "tcbStatus": status, "advisoryIDs": []any{"SA-PLATFORM"}}
}

// extension makes Intel's extension of a PCK certificate, all SVNs being svn.
func extension(t testing.TB, svn int, fmspc, pceID string) []byte {
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
	for i := 1; i <= 17; i++ {
		tcb = append(tcb, field{oid(2, i), svn})
	}
	tcb = append(tcb, field{oid(2, 18), make([]byte, 16)})
	return marshal([]field{{oid(1), make([]byte, 16)}, {oid(2), marshal(tcb)}, {oid(3), raw(pceID)}, {oid(4), raw(fmspc)}, {oid(5), asn1.Enumerated(0)}}).FullBytes
}

func (f *forge) certificate(child, parent *x509.Certificate, pub *ecdsa.PublicKey, signer *ecdsa.PrivateKey) []byte {
	f.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, child, parent, pub, signer)
	if err != nil {
		f.t.Fatal(err)
	}
	return der
}

func (f *forge) parse(der []byte) *x509.Certificate {
	f.t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *forge) sign(k *ecdsa.PrivateKey, data []byte) []byte {
	f.t.Helper()
	sum := sha256.Sum256(data)
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		f.t.Fatal(err)
	}
	size := (k.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

func (f *forge) document(member string, content map[string]any) []byte {
	f.t.Helper()
	body, err := json.Marshal(content)
	if err != nil {
		f.t.Fatal(err)
	}
	return []byte(`{"` + member + `":` + string(body) + `,"signature":"` + hex.EncodeToString(f.sign(f.signerKey, body)) + `"}`)
}

func (f *forge) crl(list *x509.RevocationList, issuer *x509.Certificate, k *ecdsa.PrivateKey) []byte {
	f.t.Helper()
	if list == nil {
		return nil
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, k)
	if err != nil {
		f.t.Fatal(err)
	}
	return der
}

func pems(ders ...[]byte) []byte {
	var out []byte
	for _, d := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
	}
	return out
}

// make signs everything and puts it together.
func (f *forge) make() (attest.Evidence, attest.Endorsements) {
	f.t.Helper()
	ca := f.parse(f.certificate(f.ca, f.root, &f.caKey.PublicKey, f.rootKey))
	f.leaf.ExtraExtensions = append(f.leaf.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, Value: f.extension})
	leaf := f.certificate(f.leaf, ca, &f.leafKey.PublicKey, f.caKey)
	signer := f.certificate(f.signer, f.root, &f.signerKey.PublicKey, f.rootKey)
	out := &forged{certs: [][]byte{leaf, ca.Raw, f.root.Raw}, certType: 5, chain: pems(signer, f.root.Raw), auth: f.auth,
		tcb: f.document("tcbInfo", f.tcb), qe: f.document("enclaveIdentity", f.qe),
		rootCRL: f.crl(f.rootCRL, f.root, f.rootKey), pckCRL: f.crl(f.pckCRL, ca, f.caKey)}

	point, err := f.attKey.PublicKey.Bytes()
	if err != nil {
		f.t.Fatal(err)
	}
	out.key = point[1:]
	sum := sha256.Sum256(append(append([]byte(nil), out.key...), f.auth...))
	out.qeReport = append([]byte(nil), f.qeReport...)
	copy(out.qeReport[320:], sum[:])
	out.qeSig = f.sign(f.leafKey, out.qeReport)
	out.signed = append(f.header(), f.body...)
	out.sig = f.sign(f.attKey, out.signed)
	if f.after != nil {
		f.after(out)
	}
	return attest.Evidence{TEE: f.tee, Raw: f.quote(out)}, endorsements(out)
}

func endorsements(out *forged) attest.Endorsements {
	items := []attest.Endorsement{}
	for _, it := range []attest.Endorsement{{Kind: attest.KindTCBInfo, Body: out.tcb, Chain: out.chain}, {Kind: attest.KindQEIdentity, Body: out.qe, Chain: out.chain},
		{Kind: attest.KindRootCRL, Body: out.rootCRL}, {Kind: attest.KindPCKCRL, Body: out.pckCRL}} {
		if it.Body != nil {
			items = append(items, it)
		}
	}
	return attest.NewEndorsements(items...)
}

func (f *forge) header() []byte {
	h := make([]byte, 48)
	h[2] = 2
	if f.tee == attest.SGX {
		h[0] = 3
		return h
	}
	h[0], h[4] = 5, 0x81
	kind := uint16(3)
	if len(f.body) == 584 {
		kind = 2
	}
	h = binary.LittleEndian.AppendUint16(h, kind)
	return binary.LittleEndian.AppendUint32(h, uint32(len(f.body)))
}

func (f *forge) quote(o *forged) []byte {
	le16, le32 := binary.LittleEndian.AppendUint16, binary.LittleEndian.AppendUint32
	inner := append(append([]byte(nil), o.qeReport...), o.qeSig...)
	inner = append(le16(inner, uint16(len(o.auth))), o.auth...)
	certs := pems(o.certs...)
	inner = append(le32(le16(inner, o.certType), uint32(len(certs))), certs...)
	sig := append(append([]byte(nil), o.sig...), o.key...)
	if f.tee == attest.TDX {
		sig = le32(le16(sig, 6), uint32(len(inner)))
	}
	sig = append(append(sig, inner...), o.tail...)
	return append(le32(append([]byte(nil), o.signed...), uint32(len(sig))), sig...)
}

func (f *forge) verifier() *dcap.Verifier {
	f.t.Helper()
	v, err := dcap.New(dcap.Config{TEE: f.tee, Root: f.trusted, Names: "Test"})
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}
