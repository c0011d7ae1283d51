package ratls

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sgx"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// golden are the real certificates, with the instant at which their
// endorsements are valid.
var golden = []struct {
	name string
	form Form
	at   string // "" if the set has no endorsements
	// failed is what the default policy with any measurement refuses
	failed []string
}{
	{"ratls/ccc-gramine", FormCCC, "2025-06-25T00:00:00Z", []string{attest.CodeDebug, attest.CodeTCBStatus}},
	{"ratls/ccc-rats-tls", FormCCC, "2025-06-25T00:00:00Z", []string{attest.CodeDebug, attest.CodeTCBStatus}},
	{"ratls/ccc-intel-sgxsdk", FormCCC, "", nil},
	{"ratls/ego-sample", FormOpenEnclave, "2025-07-04T10:28:44Z", []string{attest.CodeTCBStatus}},
}

func goldenCert(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(attesttest.Load(t, name).Certificate)
	if block == nil {
		t.Fatalf("%s: no PEM", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func codes(steps []attest.Step) []string {
	var out []string
	for _, s := range steps {
		if !s.OK && !slices.Contains(out, s.Code) {
			out = append(out, s.Code)
		}
	}
	return out
}

func TestRealCertificates(t *testing.T) {
	for _, c := range golden {
		t.Run(c.name, func(t *testing.T) {
			cert := goldenCert(t, c.name)
			f, err := Extract(cert)
			if err != nil {
				t.Fatal(err)
			}
			if f.Form != c.form || f.Evidence.TEE != attest.SGX {
				t.Errorf("got form %s of %s, want %s of sgx", f.Form, f.Evidence.TEE, c.form)
			}
			if bad := codes(f.CheckBinding(cert)); bad != nil {
				t.Errorf("the binding does not hold: %v", bad)
			}
			if c.at == "" {
				return
			}
			at, err := time.Parse(time.RFC3339, c.at)
			if err != nil {
				t.Fatal(err)
			}
			policy := attest.Policy{Package: attest.Package{SGX: &attest.SGXReference{AllowAny: true}}}
			v := attest.Judge(attest.NewVerifiers(sgx.NewVerifier()), f.Evidence, f.Binding(cert),
				attesttest.Load(t, c.name).Endorsements, policy, at)
			got := codes(v.Steps)
			slices.Sort(got)
			if !v.Genuine || !slices.Equal(got, c.failed) {
				t.Errorf("got genuine=%v, failed %v, want genuine, failed %v", v.Genuine, got, c.failed)
			}
		})
	}
}

// TestTamperedCertificates: whatever is changed in a real certificate, it does
// not vouch for its key any more.
func TestTamperedCertificates(t *testing.T) {
	other := newKey(t)
	for _, c := range golden {
		t.Run(c.name, func(t *testing.T) {
			for name, tamper := range map[string]func(*x509.Certificate, *Found){
				"another key": func(cert *x509.Certificate, _ *Found) {
					cert.RawSubjectPublicKeyInfo = spki(t, other)
				},
				"report data": func(_ *x509.Certificate, f *Found) {
					f.Evidence.Raw[headerSize+sgxReportData] ^= 1
				},
				"report data's second half": func(_ *x509.Certificate, f *Found) {
					f.Evidence.Raw[headerSize+sgxReportData+63] ^= 1
				},
				"claims": func(_ *x509.Certificate, f *Found) {
					if f.ClaimsBuffer == nil {
						f.ClaimsBuffer = []byte{0xa0}
						return
					}
					f.ClaimsBuffer[len(f.ClaimsBuffer)-1] ^= 1
				},
			} {
				cert := goldenCert(t, c.name)
				f, err := Extract(cert)
				if err != nil {
					t.Fatal(err)
				}
				tamper(cert, &f)
				if codes(f.CheckBinding(cert)) == nil {
					t.Errorf("%s changed: the binding still holds", name)
				}
			}
		})
	}
}

// TestRealLegacyForms takes the other extension of certificates that have two.
// The SDK's quote binds the claims buffer, which only the CCC extension holds:
// alone it does not vouch for the key.
func TestRealLegacyForms(t *testing.T) {
	for _, c := range []struct {
		name string
		form Form
		bad  []string
	}{
		{"ratls/ccc-gramine", FormGramine, nil},
		{"ratls/ccc-intel-sgxsdk", FormIntelSDK, []string{codeKey}},
	} {
		cert := goldenCert(t, c.name)
		cert.Extensions = slices.DeleteFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidCCC) })
		f, err := Extract(cert)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if bad := codes(f.CheckBinding(cert)); f.Form != c.form || !slices.Equal(bad, c.bad) {
			t.Errorf("%s: got form %s, failed %v, want %s, failed %v", c.name, f.Form, bad, c.form, c.bad)
		}
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func spki(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bench is a simulated machine that vouches for keys in any form.
type bench struct {
	*platform.Platform
	key *ecdsa.PrivateKey
}

func newBench(t testing.TB) bench {
	t.Helper()
	p, err := platform.New(platform.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return bench{p, newKey(t)}
}

var measured = platform.Measurement{Program: bytes.Repeat([]byte{1}, 32), Agent: bytes.Repeat([]byte{2}, 32)}

// quote returns a simulated quote under the name of its shape.
func (b bench) quote(t testing.TB, shape attest.TEE, data attest.Binding) []byte {
	t.Helper()
	e, err := b.NewInsecureIssuer("sim:"+shape, measured).Issue(context.Background(), data)
	if err != nil {
		t.Fatal(err)
	}
	return e.Raw
}

// cert returns a certificate for the bench's key with extensions.
func (b bench) cert(t testing.TB, ext ...pkix.Extension) *x509.Certificate {
	t.Helper()
	now := time.Now()
	c, err := Template{CommonName: "test", NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour)}.sign(b.key, ext...)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

// foreign is a claims buffer as other implementations write it.
func foreign(t testing.TB, algorithm uint64, hash []byte, more map[string]any) []byte {
	t.Helper()
	m := map[string]any{"pubkey-hash": must(cbor.Marshal([]any{algorithm, hash}))}
	for k, v := range more {
		m[k] = v
	}
	return must(cbor.Marshal(m))
}

func ccc(quote, claims []byte) pkix.Extension {
	return pkix.Extension{Id: oidCCC, Value: must(cbor.Marshal(cbor.Tag{Number: tagECDSAQuote, Content: []any{quote, claims}}))}
}

func cmwCBOR(parts ...any) pkix.Extension {
	return pkix.Extension{Id: oidCMW, Value: must(asn1.Marshal(must(cbor.Marshal(parts))))}
}

func cmwJSON(t testing.TB, parts ...any) pkix.Extension {
	t.Helper()
	text, err := json.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidCMW, Value: must(asn1.MarshalWithParams(string(text), "utf8"))}
}

func withHeader(quote []byte) []byte {
	h := []byte{1, 0, 0, 0, 2, 0, 0, 0}
	return append(binary.LittleEndian.AppendUint64(h, uint64(len(quote))), quote...)
}

func TestAcceptedForms(t *testing.T) {
	b := newBench(t)
	key := spki(t, b.key)
	own := binding.Claims{Purpose: binding.Peer, PublicKey: binding.KeyHash(key)}.Encode()
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key}), 0)
	s256, s384, s512 := sha256.Sum256(key), sha512.Sum384(key), sha512.Sum512(key)
	pair := func(shape attest.TEE, claims []byte) []byte {
		return must(cbor.Marshal([]any{b.quote(t, shape, attest.Bind(claims)), claims}))
	}
	over := func(claims []byte) pkix.Extension { return ccc(b.quote(t, attest.SGX, attest.Bind(claims)), claims) }
	raw := func(oid asn1.ObjectIdentifier, v []byte) pkix.Extension { return pkix.Extension{Id: oid, Value: v} }
	sgxKey := b.quote(t, attest.SGX, attest.Bind(key))

	for _, c := range []struct {
		name string
		ext  pkix.Extension
		form Form
		tee  attest.TEE
	}{
		{"CCC, own claims", over(own), FormCCC, attest.SGX},
		{"CCC, TDX", ccc(b.quote(t, attest.TDX, attest.Bind(own)), own), FormCCC, attest.TDX},
		{"CCC, SHA-256", over(foreign(t, 1, s256[:], nil)), FormCCC, attest.SGX},
		{"CCC, SHA-384", over(foreign(t, 7, s384[:], nil)), FormCCC, attest.SGX},
		{"CCC, SHA-512", over(foreign(t, 8, s512[:], map[string]any{"nonce": []byte("n"), "key_0": []byte("v")})), FormCCC, attest.SGX},
		{"CCC, bytes after the quote", ccc(append(b.quote(t, attest.SGX, attest.Bind(own)), make([]byte, 70)...), own), FormCCC, attest.SGX},
		{"CCC, Open Enclave header", ccc(withHeader(b.quote(t, attest.SGX, attest.Bind(own))), own), FormCCC, attest.SGX},
		{"CMW, CBOR", cmwCBOR(mediaType("sim-tdx"), pair(attest.TDX, own), 4), FormCMW, attest.SimTDX},
		{"CMW, no indicator", cmwCBOR(mediaType("sgx"), pair(attest.SGX, own)), FormCMW, attest.SGX},
		{"CMW, JSON", cmwJSON(t, mediaType("sim-sgx"), base64.RawURLEncoding.EncodeToString(pair(attest.SGX, own)), 4), FormCMW, attest.SimSGX},
		{"Open Enclave", raw(oidOpenEnclave, withHeader(sgxKey)), FormOpenEnclave, attest.SGX},
		{"Open Enclave, hash of the PEM", raw(oidOpenEnclave, withHeader(b.quote(t, attest.SGX, attest.Bind(text)))), FormOpenEnclave, attest.SGX},
		{"Open Enclave, no header", raw(oidOpenEnclave, sgxKey), FormOpenEnclave, attest.SGX},
		{"Open Enclave, bytes after", raw(oidOpenEnclave, append(withHeader(sgxKey), 0, 0)), FormOpenEnclave, attest.SGX},
		{"Gramine", raw(oidGramine, sgxKey), FormGramine, attest.SGX},
		{"Gramine, identifier encoded twice", raw(oidGramineTwice, sgxKey), FormGramine, attest.SGX},
		{"Intel SDK", raw(oidIntelSDK, sgxKey), FormIntelSDK, attest.SGX},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert := b.cert(t, c.ext)
			f, err := Extract(cert)
			if err != nil {
				t.Fatal(err)
			}
			if f.Form != c.form || f.Evidence.TEE != c.tee {
				t.Errorf("got form %s of %s, want %s of %s", f.Form, f.Evidence.TEE, c.form, c.tee)
			}
			if bad := codes(f.CheckBinding(cert)); bad != nil {
				t.Errorf("the binding does not hold: %v", bad)
			}
			cert.RawSubjectPublicKeyInfo = spki(t, newKey(t))
			if codes(f.CheckBinding(cert)) == nil {
				t.Error("the evidence vouches for another key too")
			}
		})
	}
	f, err := Extract(b.cert(t, over(foreign(t, 1, s256[:], map[string]any{"nonce": []byte("n")}))))
	if err != nil || string(f.Nonce()) != "n" {
		t.Errorf("got nonce %q, error %v, want n", f.Nonce(), err)
	}
}

func TestRefusedExtensions(t *testing.T) {
	b := newBench(t)
	own := binding.Claims{Purpose: binding.Peer, PublicKey: binding.KeyHash(spki(t, b.key))}.Encode()
	quote, tdQuote := b.quote(t, attest.SGX, attest.Bind(own)), b.quote(t, attest.TDX, attest.Bind(own))
	content := must(cbor.Marshal([]any{quote, own}))
	for _, c := range []struct {
		name string
		exts []pkix.Extension
		want problem.Code
	}{
		{"none", nil, "ATT-080"},
		{"two CCC", []pkix.Extension{ccc(quote, own), ccc(tdQuote, own)}, "ATT-081"},
		{"two Gramine readings", []pkix.Extension{{Id: oidGramine, Value: quote}, {Id: oidGramineTwice, Value: quote}}, "ATT-081"},
		{"CCC beside two CMWs", []pkix.Extension{ccc(quote, own), cmwCBOR("a", content), cmwCBOR("b", content)}, "ATT-081"},
		{"empty value", []pkix.Extension{{Id: oidCCC}}, "ATT-082"},
		{"too large", []pkix.Extension{{Id: oidGramine, Value: make([]byte, maxExtension+1)}}, "ATT-082"},
		{"quote too large", []pkix.Extension{{Id: oidGramine, Value: append(bytes.Clone(quote), make([]byte, attest.MaxEvidence)...)}}, "ATT-082"},
		{"claims too large", []pkix.Extension{ccc(quote, make([]byte, binding.MaxSize+1))}, "ATT-082"},
		{"other tag", []pkix.Extension{{Id: oidCCC, Value: must(cbor.Marshal(cbor.Tag{Number: 60001, Content: []any{quote, own}}))}}, "ATT-082"},
		{"no claims", []pkix.Extension{ccc(quote, nil)}, "ATT-082"},
		{"three parts", []pkix.Extension{{Id: oidCCC, Value: must(cbor.Marshal(cbor.Tag{Number: tagECDSAQuote, Content: []any{quote, own, own}}))}}, "ATT-082"},
		{"bytes after the tag", []pkix.Extension{{Id: oidCCC, Value: append(ccc(quote, own).Value, 0)}}, "ATT-082"},
		{"short quote", []pkix.Extension{ccc(quote[:40], own)}, "ATT-082"},
		{"quote of version 9", []pkix.Extension{ccc(append([]byte{9}, quote[1:]...), own)}, "ATT-082"},
		{"CMW says TDX", []pkix.Extension{cmwCBOR(mediaType("tdx"), content, 4)}, "ATT-083"},
		{"CMW says SGX", []pkix.Extension{cmwCBOR(mediaType("sim-sgx"), must(cbor.Marshal([]any{tdQuote, own})), 4)}, "ATT-083"},
		{"CMW of unknown type", []pkix.Extension{cmwCBOR("application/eat+cwt", content, 4)}, "ATT-082"},
		{"CMW of an endorsement", []pkix.Extension{cmwCBOR(mediaType("sgx"), content, 2)}, "ATT-082"},
		{"CMW of one part", []pkix.Extension{cmwCBOR(mediaType("sgx"))}, "ATT-082"},
		{"CMW collection", []pkix.Extension{{Id: oidCMW, Value: must(asn1.Marshal(must(cbor.Marshal(map[string]any{"a": content}))))}}, "ATT-082"},
		{"CMW with padding", []pkix.Extension{cmwJSON(t, mediaType("sgx"), base64.URLEncoding.EncodeToString(append(content, 1))+"=", 4)}, "ATT-082"},
		{"CMW as integer", []pkix.Extension{{Id: oidCMW, Value: must(asn1.Marshal(5))}}, "ATT-082"},
		{"bytes after the CMW", []pkix.Extension{{Id: oidCMW, Value: append(cmwCBOR(mediaType("sgx"), content, 4).Value, 0)}}, "ATT-082"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Extract(&x509.Certificate{Extensions: c.exts})
			if problem.CodeOf(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestRefusedBindings(t *testing.T) {
	b := newBench(t)
	key := spki(t, b.key)
	sum := sha256.Sum256(key)
	claims := binding.Claims{
		Purpose: binding.Activate, PublicKey: sum, Nonce: make([]byte, 32), Exporter: make([]byte, 32),
	}.Encode()
	nonCanonical := must(cbor.Marshal(map[string]any{
		"purpose": "peer", "pubkey-hash": must(cbor.Marshal([]any{1, sum[:]})), "extra": 1,
	}))
	for _, c := range []struct {
		name   string
		claims []byte
		want   string
	}{
		{"evidence for an activation", claims, "ATT-071"},
		{"own claims, not canonical", nonCanonical, "ATT-070"},
		{"unknown hash", foreign(t, 2, sum[:], nil), "ATT-070"},
		{"no hash", []byte{0xa0}, "ATT-070"},
		{"no map", []byte{0x01}, "ATT-070"},
		{"shortened hash", foreign(t, 1, sum[:16], nil), "ATT-084"},
		{"hash of another key", foreign(t, 1, make([]byte, 32), nil), "ATT-084"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert := b.cert(t, ccc(b.quote(t, attest.SGX, attest.Bind(c.claims)), c.claims))
			f, err := Extract(cert)
			if err != nil {
				t.Fatal(err)
			}
			if got := codes(f.CheckBinding(cert)); !slices.Equal(got, []string{c.want}) {
				t.Errorf("got failed %v, want %s", got, c.want)
			}
		})
	}
}

func TestExtensionEmits(t *testing.T) {
	b := newBench(t)
	own := binding.Claims{Purpose: binding.Peer, PublicKey: binding.KeyHash(spki(t, b.key))}
	v5 := attesttest.Load(t, "tdx/alibaba-v5-90c0").Evidence
	for _, c := range []struct {
		name string
		e    attest.Evidence
		oid  asn1.ObjectIdentifier
	}{
		{"SGX", attest.Evidence{TEE: attest.SGX, Raw: b.quote(t, attest.SGX, own.Binding())}, oidCCC},
		{"TDX", attest.Evidence{TEE: attest.TDX, Raw: b.quote(t, attest.TDX, own.Binding())}, oidCCC},
		{"simulated SGX", attest.Evidence{TEE: attest.SimSGX, Raw: b.quote(t, attest.SGX, own.Binding())}, oidCMW},
		{"simulated TDX", attest.Evidence{TEE: attest.SimTDX, Raw: b.quote(t, attest.TDX, own.Binding())}, oidCMW},
		{"TDX version 5", v5, oidCMW},
	} {
		t.Run(c.name, func(t *testing.T) {
			ext, err := Extension(c.e, own.Encode())
			if err != nil {
				t.Fatal(err)
			}
			if !ext.Id.Equal(c.oid) || ext.Critical {
				t.Errorf("got extension %v, critical %v, want %v, not critical", ext.Id, ext.Critical, c.oid)
			}
			f, err := Extract(&x509.Certificate{Extensions: []pkix.Extension{ext}})
			if err != nil {
				t.Fatal(err)
			}
			if f.Evidence.TEE != c.e.TEE || !bytes.Equal(f.Evidence.Raw, c.e.Raw) || !bytes.Equal(f.ClaimsBuffer, own.Encode()) {
				t.Error("what was wrapped comes out changed")
			}
		})
	}
	for name, e := range map[string]attest.Evidence{
		"SNP":           {TEE: attest.SNP, Raw: make([]byte, 1184)},
		"wrong name":    {TEE: attest.TDX, Raw: b.quote(t, attest.SGX, own.Binding())},
		"empty":         {TEE: attest.SGX},
		"above a limit": {TEE: attest.SGX, Raw: append(b.quote(t, attest.SGX, own.Binding()), make([]byte, attest.MaxEvidence)...)},
	} {
		if _, err := Extension(e, own.Encode()); err == nil {
			t.Errorf("%s: wrapped", name)
		}
	}
}

func FuzzExtension(f *testing.F) {
	b := newBench(f)
	own := binding.Claims{Purpose: binding.Peer, PublicKey: binding.KeyHash(spki(f, b.key))}.Encode()
	quote := b.quote(f, attest.SGX, attest.Bind(own))
	content := must(cbor.Marshal([]any{quote, own}))
	f.Add(uint8(0), ccc(quote, own).Value)
	f.Add(uint8(1), cmwCBOR(mediaType("sgx"), content, 4).Value)
	f.Add(uint8(1), cmwJSON(f, mediaType("sim-sgx"), base64.RawURLEncoding.EncodeToString(content), 4).Value)
	f.Add(uint8(2), withHeader(quote))
	f.Add(uint8(3), quote)
	for _, c := range golden {
		for _, ext := range goldenCert(f, c.name).Extensions {
			for i, k := range kinds {
				if slices.ContainsFunc(k.oids, ext.Id.Equal) {
					f.Add(uint8(i), ext.Value)
				}
			}
		}
	}
	cert := b.cert(f)
	f.Fuzz(func(t *testing.T, kind uint8, value []byte) {
		c := *cert
		c.Extensions = []pkix.Extension{{Id: kinds[int(kind)%len(kinds)].oids[0], Value: value}}
		found, err := Extract(&c)
		if err != nil {
			if problem.CodeOf(err) == "" {
				t.Errorf("error without a code: %v", err)
			}
			return
		}
		if len(found.Evidence.Raw) > attest.MaxEvidence || len(found.ClaimsBuffer) > binding.MaxSize {
			t.Error("extracted more than the limits allow")
		}
		found.CheckBinding(&c)
		found.Nonce()
	})
}

func FuzzCertificate(f *testing.F) {
	for _, c := range golden {
		f.Add(goldenCert(f, c.name).Raw)
	}
	policy := attest.Policy{Package: attest.Package{SGX: &attest.SGXReference{AllowAny: true}}}
	peer := Peer{
		Verifiers: attest.NewVerifiers(sgx.NewVerifier(), tdx.NewVerifier()), Policy: policy,
		Endorse: func(context.Context, attest.Evidence) (attest.Endorsements, error) { return attest.Endorsements{}, nil },
		Now:     func() time.Time { return time.Date(2025, 7, 1, 0, 0, 0, 0, time.UTC) },
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if _, err := peer.Judge(context.Background(), cert); err == nil || !strings.HasPrefix(string(problem.CodeOf(err)), "ATT-") {
			t.Errorf("got %v, want a coded refusal: nothing endorses this", err)
		}
	})
}
