package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/transparency"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := New(start, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func spki(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func p256(t testing.TB) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return spki(t, k.Public())
}

func leafRequest(t testing.TB) LeafRequest {
	return LeafRequest{
		TrustDomain: "shop.example", Marble: "web", DNSNames: []string{"web.shop.example", "web"}, PublicKey: p256(t),
		NotAfter: start.Add(time.Hour), Facts: apiv1.LeafFacts{TEE: attest.SimSGX, Log: transparency.Promise{Index: 7}},
	}
}

func TestLeaf(t *testing.T) {
	a := newAuthority(t)
	r := leafRequest(t)
	token, err := a.PrepareLeaf(r, start)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Issue(token)
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := x509.ParseCertificate(got.Certificates[1])
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	between.AddCert(mesh)
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		opts := x509.VerifyOptions{Roots: a.Roots(), Intermediates: between, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{use}, DNSName: "web.shop.example"}
		if _, err := got.Leaf.Verify(opts); err != nil {
			t.Errorf("verifying for use %v: %v", use, err)
		}
	}
	if len(got.Leaf.URIs) != 1 || got.Leaf.URIs[0].String() != "spiffe://shop.example/web" {
		t.Errorf("got URIs %v, want spiffe://shop.example/web alone", got.Leaf.URIs)
	}
	if want := start.Add(-time.Minute); !got.Leaf.NotBefore.Equal(want) {
		t.Errorf("begins at %s, want %s", got.Leaf.NotBefore, want)
	}
	if want := start.Add(time.Hour); !got.Leaf.NotAfter.Equal(want) || !token.NotAfter().Equal(want) {
		t.Errorf("ends at %s, want %s", got.Leaf.NotAfter, want)
	}
	if token.Serial() != got.Serial || Serial(got.Leaf) != got.Serial {
		t.Errorf("serials %s, %s and %s differ", token.Serial(), got.Serial, Serial(got.Leaf))
	}
	for _, e := range got.Leaf.Extensions {
		if e.Id.Equal(apiv1.LeafOID) {
			if f, err := apiv1.ParseLeafFacts(e.Value); err != nil || f != r.Facts {
				t.Errorf("got facts %+v, %v, want %+v", f, err, r.Facts)
			}
			return
		}
	}
	t.Error("the leaf has no facts")
}

func TestTokenIsRedeemedOnce(t *testing.T) {
	a := newAuthority(t)
	token, err := a.PrepareLeaf(leafRequest(t), start)
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := a.Rotated(start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rotated.Issue(token); !errors.Is(err, errForeign) {
		t.Errorf("another mesh CA: got %v, want %v", err, errForeign)
	}
	if _, err := a.Issue(token); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(token); !errors.Is(err, errRedeemed) {
		t.Errorf("second time: got %v, want %v", err, errRedeemed)
	}
}

func TestRequestIsRefused(t *testing.T) {
	a := newAuthority(t)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	edPub, _, _ := ed25519.GenerateKey(rand.Reader)
	for name, change := range map[string]func(*LeafRequest){
		"P-384 key":         func(r *LeafRequest) { r.PublicKey = spki(t, p384.Public()) },
		"Ed25519 key":       func(r *LeafRequest) { r.PublicKey = spki(t, edPub) },
		"no key":            func(r *LeafRequest) { r.PublicKey = nil },
		"key and more":      func(r *LeafRequest) { r.PublicKey = append(r.PublicKey, 0) },
		"empty marble":      func(r *LeafRequest) { r.Marble = "" },
		"long marble":       func(r *LeafRequest) { r.Marble = strings.Repeat("w", 64) },
		"path in marble":    func(r *LeafRequest) { r.Marble = "ashlar/coordinator" },
		"dots":              func(r *LeafRequest) { r.Marble = ".." },
		"escape in marble":  func(r *LeafRequest) { r.Marble = "w%62" },
		"empty domain":      func(r *LeafRequest) { r.TrustDomain = "" },
		"port in domain":    func(r *LeafRequest) { r.TrustDomain = "shop.example:1" },
		"long domain":       func(r *LeafRequest) { r.TrustDomain = strings.Repeat("s", 256) },
		"long DNS name":     func(r *LeafRequest) { r.DNSNames = []string{strings.Repeat("abc.", 64) + "de"} },
		"long label":        func(r *LeafRequest) { r.DNSNames = []string{strings.Repeat("a", 64) + ".example"} },
		"space in DNS name": func(r *LeafRequest) { r.DNSNames = []string{"web shop"} },
		"zero in DNS name":  func(r *LeafRequest) { r.DNSNames = []string{"web\x00.example"} },
		"101 names":         func(r *LeafRequest) { r.DNSNames = strings.Split(strings.Repeat("a,", 100)+"a", ",") },
		"ended":             func(r *LeafRequest) { r.NotAfter = start },
		"26 hours":          func(r *LeafRequest) { r.NotAfter = start.Add(26 * time.Hour) },
		"no TEE":            func(r *LeafRequest) { r.Facts.TEE = "" },
	} {
		t.Run(name, func(t *testing.T) {
			r := leafRequest(t)
			change(&r)
			if token, err := a.PrepareLeaf(r, start); err == nil {
				t.Errorf("got token %s, want an error", token.Serial())
			}
		})
	}
}

func TestLeafEndsWithTheChain(t *testing.T) {
	a := newAuthority(t)
	late := a.MeshCA().NotAfter.Add(-10 * time.Minute)
	r := leafRequest(t)
	r.NotAfter = late.Add(time.Hour)
	token, err := a.PrepareLeaf(r, late)
	if err != nil {
		t.Fatal(err)
	}
	if !token.NotAfter().Equal(a.MeshCA().NotAfter) {
		t.Errorf("ends at %s, want the mesh CA's end %s", token.NotAfter(), a.MeshCA().NotAfter)
	}
}

// TestLints changes one thing of a good template and wants the lint of that
// name to find it.
func TestLints(t *testing.T) {
	a := newAuthority(t)
	other, _ := url.Parse("spiffe://shop.example/db")
	for _, c := range []struct {
		lint, what string
		change     func(*x509.Certificate)
	}{
		{"serial", "small", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(77) }},
		{"subject", "other name", func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "db"} }},
		{"subject", "more than a name", func(c *x509.Certificate) { c.Subject.Organization = []string{"Intel"} }},
		{"uri", "other", func(c *x509.Certificate) { c.URIs = []*url.URL{other} }},
		{"uri", "two", func(c *x509.Certificate) { c.URIs = append(c.URIs, other) }},
		{"uri", "none", func(c *x509.Certificate) { c.URIs = nil }},
		{"names", "further DNS name", func(c *x509.Certificate) { c.DNSNames = []string{"web.shop.example", "web", "db"} }},
		{"names", "no DNS name", func(c *x509.Certificate) { c.DNSNames = nil }},
		{"names", "mail address", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} }},
		{"names", "IP", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }},
		{"usage", "signs certificates", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		{"usage", "no key usage", func(c *x509.Certificate) { c.KeyUsage = 0 }},
		{"usage", "any purpose", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny) }},
		{"usage", "unknown purpose", func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }},
		{"constraints", "a CA", func(c *x509.Certificate) { c.IsCA = true }},
		{"constraints", "does not say", func(c *x509.Certificate) { c.BasicConstraintsValid = false }},
		{"window", "begins later", func(c *x509.Certificate) { c.NotBefore = start.Add(time.Minute) }},
		{"window", "begins long ago", func(c *x509.Certificate) { c.NotBefore = start.Add(-time.Hour) }},
		{"window", "ends later", func(c *x509.Certificate) { c.NotAfter = start.Add(2 * time.Hour) }},
		{"window", "outlives the mesh CA", func(c *x509.Certificate) { c.NotAfter = start.Add(2 * MeshLife) }},
		{"window", "ended", func(c *x509.Certificate) { c.NotAfter = start.Add(-time.Second) }},
		{"extensions", "critical facts", func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = true }},
		{"extensions", "no facts", func(c *x509.Certificate) { c.ExtraExtensions = nil }},
		{"extensions", "other facts", func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{5, 0} }},
		{"extensions", "unknown", func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}})
		}},
	} {
		t.Run(c.lint+"/"+c.what, func(t *testing.T) {
			p, err := a.leafProfile(leafRequest(t), start)
			if err != nil {
				t.Fatal(err)
			}
			tmpl, err := p.template(a)
			if err != nil {
				t.Fatal(err)
			}
			c.change(tmpl)
			_, err = a.lintTemplate(p, tmpl)
			if err == nil || !strings.Contains(err.Error(), c.lint+": ") {
				t.Errorf("got %v, want an error of lint %s", err, c.lint)
			}
		})
	}
}

// TestOtherAlgorithm has a template encoded for an algorithm that is not the one
// it would be signed with.
func TestOtherAlgorithm(t *testing.T) {
	a := newAuthority(t)
	p, err := a.leafProfile(leafRequest(t), start)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := p.template(a)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SignatureAlgorithm = x509.ECDSAWithSHA384
	if _, err := a.lintTemplate(p, tmpl); err == nil || !strings.Contains(err.Error(), "algorithm") {
		t.Errorf("got %v, want a complaint about the algorithm", err)
	}
}

// TestLintsOfForeignCertificates covers the lints that no template can reach.
func TestLintsOfForeignCertificates(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	r := leafRequest(t)
	token, err := b.PrepareLeaf(r, start)
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Issue(token)
	if err != nil {
		t.Fatal(err)
	}
	p := token.profile
	check := func(name string, p profile, c *x509.Certificate) {
		t.Helper()
		if err := lint(p, c, a.mesh.cert); err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("got %v, want an error of lint %s", err, name)
		}
	}
	check("issuer", p, got.Leaf)
	old := *got.Leaf
	old.Version = 1
	check("version", p, &old)
	p.spki = p256(t)
	check("key", p, got.Leaf)
}

func TestJudge(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	prepare := func(a *Authority) *Token {
		token, err := a.PrepareLeaf(leafRequest(t), start)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	token := prepare(a)
	der, err := a.sign(token.tbs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := judge(token, der, a.mesh.cert); err != nil {
		t.Fatalf("good certificate: %v", err)
	}
	otherDER, _ := a.sign(prepare(a).tbs)
	foreign, _ := b.sign(token.tbs)
	broken := append([]byte(nil), der...)
	broken[len(broken)-1] ^= 1
	for name, c := range map[string]struct {
		der    []byte
		change func(*profile)
	}{
		"other bytes":       {otherDER, func(*profile) {}},
		"other issuer":      {foreign, func(*profile) {}},
		"broken signature":  {broken, func(*profile) {}},
		"truncated":         {der[:50], func(*profile) {}},
		"other key":         {der, func(p *profile) { p.spki = p256(t) }},
		"other identity":    {der, func(p *profile) { p.uri = "spiffe://shop.example/db" }},
		"unwanted identity": {der, func(p *profile) { p.uri = "" }},
		"fewer names":       {der, func(p *profile) { p.dns = nil }},
		"shorter life":      {der, func(p *profile) { p.notAfter = start.Add(time.Minute) }},
		"ended":             {der, func(p *profile) { p.at = start.Add(2 * time.Hour) }},
	} {
		t.Run(name, func(t *testing.T) {
			bad := &Token{issuer: token.issuer, profile: token.profile, tbs: token.tbs, serial: token.serial}
			c.change(&bad.profile)
			if _, err := judge(bad, c.der, a.mesh.cert); err == nil {
				t.Error("got nil, want an error")
			}
		})
	}
	ca := &Token{issuer: a.root.cert, tbs: a.mesh.cert.RawTBSCertificate,
		profile: profile{spki: a.mesh.cert.RawSubjectPublicKeyInfo, at: start, notAfter: a.mesh.cert.NotAfter}}
	if _, err := judge(ca, a.mesh.cert.Raw, a.root.cert); err == nil {
		t.Error("a CA certificate: got nil, want an error")
	}
}

func TestServingCertificate(t *testing.T) {
	a := newAuthority(t)
	for _, c := range []struct{ domain, uri string }{{"", ""}, {"shop.example", "spiffe://shop.example/ashlar/coordinator"}} {
		token, err := a.PrepareServing(ServingRequest{TrustDomain: c.domain, Names: []string{"localhost", "127.0.0.1", "::1"}, PublicKey: p256(t), NotAfter: start.Add(24 * time.Hour)}, start)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Issue(token)
		if err != nil {
			t.Fatal(err)
		}
		if got.Leaf.VerifyHostname("localhost") != nil || got.Leaf.VerifyHostname("127.0.0.1") != nil || got.Leaf.VerifyHostname("::1") != nil {
			t.Errorf("names %v %v do not hold", got.Leaf.DNSNames, got.Leaf.IPAddresses)
		}
		uri := ""
		if len(got.Leaf.URIs) == 1 {
			uri = got.Leaf.URIs[0].String()
		}
		if uri != c.uri {
			t.Errorf("got URI %q, want %q", uri, c.uri)
		}
		if len(got.Leaf.ExtKeyUsage) != 1 {
			t.Errorf("got usages %v, want server alone", got.Leaf.ExtKeyUsage)
		}
	}
}

func TestStateComesBack(t *testing.T) {
	a := newAuthority(t)
	state, err := a.State()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Restore(state.Reveal(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if string(a.Root()) != string(b.Root()) || a.MeshCA() != b.MeshCA() {
		t.Errorf("got %+v, want %+v", b.MeshCA(), a.MeshCA())
	}
	token, err := b.PrepareLeaf(leafRequest(t), start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Issue(token); err != nil {
		t.Fatal(err)
	}

	other := newAuthority(t)
	otherState, _ := other.State()
	mixed := func(change func(mine, theirs *stateJSON)) []byte {
		var mine, theirs stateJSON
		if json.Unmarshal(state.Reveal(), &mine) != nil || json.Unmarshal(otherState.Reveal(), &theirs) != nil {
			t.Fatal("state is not JSON")
		}
		change(&mine, &theirs)
		out, _ := json.Marshal(mine)
		return out
	}
	for name, bad := range map[string][]byte{
		"empty":        nil,
		"other key":    mixed(func(m, o *stateJSON) { m.MeshKey = o.MeshKey }),
		"other root":   mixed(func(m, o *stateJSON) { m.Root, m.RootKey = o.Root, o.RootKey }),
		"no key":       mixed(func(m, o *stateJSON) { m.RootKey = nil }),
		"no root cert": mixed(func(m, o *stateJSON) { m.Root = nil }),
	} {
		if _, err := Restore(bad, rand.Reader); err == nil {
			t.Errorf("%s: got nil, want an error", name)
		}
	}
}

func TestRotation(t *testing.T) {
	a := newAuthority(t)
	if a.RotateDue(start) {
		t.Error("due at once")
	}
	due := start.Add(MeshLife - RotateBefore + time.Minute)
	if !a.RotateDue(due) {
		t.Error("not due a week before the end")
	}
	b, err := a.Rotated(due)
	if err != nil {
		t.Fatal(err)
	}
	if string(a.Root()) != string(b.Root()) || a.MeshCA().Serial == b.MeshCA().Serial || b.RotateDue(due) {
		t.Errorf("got root equal %t, %+v", string(a.Root()) == string(b.Root()), b.MeshCA())
	}
	end := start.Add(RootLife - time.Hour)
	last, err := a.Rotated(end)
	if err != nil {
		t.Fatal(err)
	}
	if got := last.MeshCA().NotAfter; got.After(a.root.cert.NotAfter) {
		t.Errorf("mesh CA ends at %s, after its root", got)
	}
}

func TestKeysPrintNothing(t *testing.T) {
	a := newAuthority(t)
	state, err := a.State()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := a.root.key.signer.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d := new(big.Int).SetBytes(raw).String()
	for _, v := range []any{a.root.key, &a.root.key, state, struct{ K key }{a.root.key}} {
		asJSON, _ := json.Marshal(v)
		for _, s := range []string{fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), fmt.Sprintf("%x", v), string(asJSON), slog.AnyValue(v).Resolve().String()} {
			if strings.Contains(s, d) || len(s) > 100 {
				t.Errorf("%T prints %.200q", v, s)
			}
		}
	}
}

func BenchmarkIssueLeaf(b *testing.B) {
	a := newAuthority(b)
	r := leafRequest(b)
	for b.Loop() {
		token, err := a.PrepareLeaf(r, start)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := a.Issue(token); err != nil {
			b.Fatal(err)
		}
	}
}
