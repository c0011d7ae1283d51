package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

var rootsAt = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

type testRoot struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func signRoot(t testing.TB, name string, key *ecdsa.PrivateKey, by testRoot, end time.Time) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: rootsAt.Add(-time.Hour), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	parent, signer := by.cert, by.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func makeRoot(t testing.TB, name string, end time.Time) testRoot {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return testRoot{key, signRoot(t, name, key, testRoot{}, end)}
}

func TestFollowRoots(t *testing.T) {
	year := rootsAt.Add(365 * 24 * time.Hour)
	a, b, c, foreign := makeRoot(t, "a", year), makeRoot(t, "b", rootsAt.Add(-time.Minute)), makeRoot(t, "c", year), makeRoot(t, "c", year)
	ended := makeRoot(t, "ended", rootsAt.Add(-time.Minute))
	step := func(from, to testRoot) apiv1.RootStep {
		return apiv1.RootStep{Previous: from.cert.Raw, Cross: signRoot(t, to.cert.Subject.CommonName, to.key, from, year).Raw}
	}
	// The root in between has ended: the way through it still holds.
	good := apiv1.Roots{Root: c.cert.Raw, Steps: []apiv1.RootStep{step(ended, a), step(a, b), step(b, c)}}
	for _, tt := range []struct {
		name string
		from testRoot
		r    func(apiv1.Roots) apiv1.Roots
		ok   bool
	}{
		{"the root itself", c, nil, true},
		{"one step", b, nil, false}, // b has ended
		{"two steps", a, nil, true},
		{"a root that has ended", ended, nil, false},
		{"a foreign root", foreign, nil, false},
		{"no steps", a, func(r apiv1.Roots) apiv1.Roots { r.Steps = nil; return r }, false},
		{"a step is missing", a, func(r apiv1.Roots) apiv1.Roots { r.Steps = slices.Delete(r.Steps, 2, 3); return r }, false},
		{"another root at the end", a, func(r apiv1.Roots) apiv1.Roots { r.Root = foreign.cert.Raw; return r }, false},
		{"a step of another signer", a, func(r apiv1.Roots) apiv1.Roots { r.Steps[1].Cross = step(foreign, b).Cross; return r }, false},
		{"a step with another key", a, func(r apiv1.Roots) apiv1.Roots { r.Steps[2].Cross = step(b, foreign).Cross; return r }, false},
		{"a step that is no certificate", a, func(r apiv1.Roots) apiv1.Roots { r.Steps[1].Cross = []byte{1}; return r }, false},
		{"a root that is no certificate", a, func(r apiv1.Roots) apiv1.Roots { r.Steps[2].Previous = []byte{1}; return r }, false},
		{"the end is no CA", a, func(r apiv1.Roots) apiv1.Roots { r.Root = []byte{1}; return r }, false},
	} {
		r := apiv1.Roots{Root: good.Root, Steps: slices.Clone(good.Steps)}
		if tt.r != nil {
			r = tt.r(r)
		}
		sum := sha256.Sum256(tt.from.cert.Raw)
		got, err := FollowRoots(sum[:], r, rootsAt)
		if tt.ok != (err == nil) || tt.ok && !got.Equal(c.cert) {
			t.Errorf("%s: got %v, %v, want ok %t", tt.name, got, err, tt.ok)
		}
		if code := problem.CodeOf(err); err != nil && code != "CRD-104" && code != "CRD-101" {
			t.Errorf("%s: got code %s", tt.name, code)
		}
	}
}

// TestStepsOfOthers has somebody else answer who wants roots: what anybody could
// have signed, or a marble with what it was issued, leads nowhere.
func TestStepsOfOthers(t *testing.T) {
	year := rootsAt.Add(365 * 24 * time.Hour)
	a, b, foreign := makeRoot(t, "a", year), makeRoot(t, "b", year), makeRoot(t, "foreign", year)
	cross := func(by, to testRoot) []byte { return signRoot(t, to.cert.Subject.CommonName, to.key, by, year).Raw }
	holds := apiv1.Roots{Root: b.cert.Raw, Steps: []apiv1.RootStep{
		{Previous: foreign.cert.Raw, Cross: cross(foreign, a), Until: year}, {Previous: a.cert.Raw, Cross: cross(a, b), Until: year}}}
	for name, tt := range map[string]struct {
		trusted testRoot
		want    []*x509.Certificate
	}{"the root before": {a, []*x509.Certificate{b.cert, a.cert}}, "the root of today": {b, []*x509.Certificate{b.cert}}} {
		got, err := Follow(tt.trusted.cert, holds, rootsAt)
		if err != nil || !slices.EqualFunc(got, tt.want, func(der []byte, c *x509.Certificate) bool { return slices.Equal(der, c.Raw) }) {
			t.Errorf("trusted is %s: got %d certificates, %v, want %d: nothing before it", name, len(got), err, len(tt.want))
		}
	}

	// A marble has the key of a leaf, and names it as a root behind the mesh CA.
	mesh := testRoot{key: makeRoot(t, "mesh", year).key}
	mesh.cert = signRoot(t, "mesh", mesh.key, a, year)
	own := makeRoot(t, "marble", year)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: own.cert.Subject, NotBefore: rootsAt.Add(-time.Hour), NotAfter: year, BasicConstraintsValid: true}
	leaf, err := x509.CreateCertificate(rand.Reader, tmpl, mesh.cert, own.key.Public(), mesh.key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(a.cert.Raw)
	for name, r := range map[string]apiv1.Roots{
		"a leaf behind the mesh CA": {Root: own.cert.Raw, Steps: []apiv1.RootStep{
			{Previous: a.cert.Raw, Cross: mesh.cert.Raw, Until: year}, {Previous: mesh.cert.Raw, Cross: leaf, Until: year}}},
		"a CA that a mesh CA signed": {Root: own.cert.Raw, Steps: []apiv1.RootStep{
			{Previous: a.cert.Raw, Cross: mesh.cert.Raw, Until: year}, {Previous: mesh.cert.Raw, Cross: cross(mesh, own), Until: year}}},
	} {
		if _, err := FollowRoots(sum[:], r, rootsAt); problem.CodeOf(err) != "CRD-104" {
			t.Errorf("%s: got %v, want CRD-104", name, err)
		}
	}
}

func TestAnchorsFollowTheOverlap(t *testing.T) {
	s := apiv1.Statement{Root: []byte("c"), RootSteps: []apiv1.RootStep{
		{Previous: []byte("z"), Until: rootsAt.Add(-time.Hour)}, {Previous: []byte("a"), Until: rootsAt.Add(time.Hour)}, {Previous: []byte("b"), Until: rootsAt.Add(2 * time.Hour)}}}
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{{0, "cba"}, {time.Hour, "cb"}, {2 * time.Hour, "c"}} {
		got := ""
		for _, der := range anchors(s, rootsAt.Add(tt.after)) {
			got += string(der)
		}
		if got != tt.want {
			t.Errorf("after %s: got %q, want %q", tt.after, got, tt.want)
		}
	}
}
