package authority

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

const overlap = 48 * time.Hour

func mustRootRotate(t testing.TB, a *Authority, at time.Time) *Authority {
	t.Helper()
	next, err := a.RootRotated(at, overlap)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func issueLeaf(t testing.TB, a *Authority, at time.Time) Issued {
	t.Helper()
	r := leafRequest(t)
	r.NotAfter = at.Add(time.Hour)
	token, err := a.PrepareLeaf(r, at)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.Issue(token)
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

// leadsTo verifies a chain from one root alone.
func leadsTo(t testing.TB, chain [][]byte, root []byte, at time.Time) error {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for i, der := range append([][]byte{root}, chain...) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		switch i {
		case 0:
			roots.AddCert(c)
		case 1:
		default:
			between.AddCert(c)
		}
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

func TestChainsLeadToEveryTrustedRoot(t *testing.T) {
	first := newAuthority(t)
	second := mustRootRotate(t, first, start.Add(time.Hour))
	third := mustRootRotate(t, second, start.Add(2*time.Hour))
	at := start.Add(3 * time.Hour)
	old, now := issueLeaf(t, first, start.Add(30*time.Minute)), issueLeaf(t, third, at)
	for i, root := range [][]byte{first.Root(), second.Root(), third.Root()} {
		if err := leadsTo(t, now.Certificates, root, at); err != nil {
			t.Errorf("a leaf under root 3 does not lead to root %d: %v", i+1, err)
		}
	}
	if err := leadsTo(t, old.Certificates, first.Root(), start.Add(40*time.Minute)); err != nil {
		t.Errorf("a leaf under root 1: %v", err)
	}
	if err := leadsTo(t, old.Certificates, third.Root(), start.Add(40*time.Minute)); err == nil {
		t.Error("a leaf under root 1 leads to root 3")
	}
	if got := len(third.Bundle()); got != 3 {
		t.Errorf("got %d trust anchors, want 3", got)
	}
	if third.Current(old.Certificates) || !third.Current(now.Certificates) || third.Current(nil) || third.Current([][]byte{{1}, {2}}) {
		t.Error("Current takes one chain for the other")
	}
}

func TestRootsRetireInOrder(t *testing.T) {
	first := newAuthority(t)
	second := mustRootRotate(t, first, start.Add(-time.Hour))
	third := mustRootRotate(t, second, start)
	for _, c := range []struct {
		at   time.Duration
		left int
	}{{0, 2}, {overlap - time.Hour - 1, 2}, {overlap - time.Hour, 1}, {overlap, 0}} {
		got := third.Retired(start.Add(c.at))
		if len(got.OlderRoots()) != c.left || len(got.Bundle()) != c.left+1 {
			t.Errorf("after %s: got %d older roots, want %d", c.at, len(got.OlderRoots()), c.left)
		}
		if len(got.RootSteps()) != 2 {
			t.Errorf("after %s: got %d steps, want 2", c.at, len(got.RootSteps()))
		}
		if n := len(issueLeaf(t, got, start.Add(c.at)).Certificates); n != 2+c.left {
			t.Errorf("after %s: got a chain of %d, want %d", c.at, n, 2+c.left)
		}
	}
	if third.Retired(start) != third {
		t.Error("nothing is due, and it is another authority")
	}
}

func TestTooManyRoots(t *testing.T) {
	a := newAuthority(t)
	for range MaxOlderRoots {
		a = mustRootRotate(t, a, start)
	}
	if _, err := a.RootRotated(start, overlap); !errors.Is(err, errTooManyRoots) {
		t.Errorf("got %v, want %v", err, errTooManyRoots)
	}
	if _, err := a.Retired(start.Add(overlap)).RootRotated(start.Add(overlap), overlap); err != nil {
		t.Errorf("after the overlap: %v", err)
	}
}

func TestOlderRootsComeBack(t *testing.T) {
	a := mustRootRotate(t, mustRootRotate(t, newAuthority(t), start), start.Add(time.Hour))
	state, err := a.State()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Restore(state.Reveal(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Bundle()) != 3 || len(b.RootSteps()) != 2 || b.OlderRoots()[1].Until != a.OlderRoots()[1].Until {
		t.Errorf("got %+v", b.OlderRoots())
	}
	for i, root := range a.Bundle() {
		if err := leadsTo(t, issueLeaf(t, b, start.Add(2*time.Hour)).Certificates, root, start.Add(2*time.Hour)); err != nil {
			t.Errorf("anchor %d: %v", i, err)
		}
	}
	for name, change := range map[string]func(*stateJSON){
		"swapped":        func(s *stateJSON) { s.Older[0], s.Older[1] = s.Older[1], s.Older[0] },
		"foreign root":   func(s *stateJSON) { s.Older[1].Root = newAuthority(t).Root() },
		"leads nowhere":  func(s *stateJSON) { s.Older[0].Cross = s.Older[1].Cross },
		"root no DER":    func(s *stateJSON) { s.Older[0].Root = []byte{1} },
		"cross no DER":   func(s *stateJSON) { s.Older[0].Cross = nil },
		"middle is lost": func(s *stateJSON) { s.Older = s.Older[1:] },
	} {
		var s stateJSON
		if err := json.Unmarshal(state.Reveal(), &s); err != nil {
			t.Fatal(err)
		}
		change(&s)
		bad, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(bad, rand.Reader); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
}

func TestStepsAreBounded(t *testing.T) {
	a := newAuthority(t)
	a.steps = make([]apiv1.RootStep, maxSteps)
	b := mustRootRotate(t, a, start)
	if steps := b.RootSteps(); len(steps) != maxSteps || string(steps[maxSteps-1].Previous) != string(a.Root()) {
		t.Errorf("got %d steps", len(steps))
	}
}
