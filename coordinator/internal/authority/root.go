package authority

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

const (
	// MaxOlderRoots is how many roots may be trusted beside the root: each makes
	// every chain longer.
	MaxOlderRoots = 3
	// maxSteps is how many steps from root to root are kept.
	maxSteps = 64
)

// older is a root that was replaced and is still trusted, so that leaves that
// chain to it count until they end.
type older struct {
	root  *x509.Certificate
	cross *x509.Certificate // the next root, signed by it; part of every chain
	until time.Time
}

var errTooManyRoots = fmt.Errorf("%d roots are still trusted beside the root", MaxOlderRoots)

// RootRotated returns an authority with a new root and a new mesh CA under it.
// The root before signs the new one, is trusted beside it until overlap has
// passed (Retired), and loses its key. Chains that are issued meanwhile lead to
// both roots: nobody has to know the new one.
func (a *Authority) RootRotated(at time.Time, overlap time.Duration) (*Authority, error) {
	if len(a.older) >= MaxOlderRoots {
		return nil, errTooManyRoots
	}
	root, err := newRoot(at, a.random)
	if err != nil {
		return nil, err
	}
	cross, err := a.crossSign(root.cert)
	if err != nil {
		return nil, fmt.Errorf("signing the new root by the old one: %w", err)
	}
	next, until := &Authority{root: root, random: a.random}, at.Add(overlap).UTC()
	next.older = append([]older{{root: a.root.cert, cross: cross, until: until}}, a.older...)
	next.steps = append(slices.Clone(a.steps), apiv1.RootStep{Previous: a.root.cert.Raw, Cross: cross.Raw, Until: until})
	if len(next.steps) > maxSteps {
		next.steps = next.steps[len(next.steps)-maxSteps:]
	}
	return next.Rotated(at)
}

// crossSign certifies the name and the key of the next root by the root. The
// certificate ends with the root.
func (a *Authority) crossSign(next *x509.Certificate) (*x509.Certificate, error) {
	serial, err := a.NewSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial.n, Subject: next.Subject, NotBefore: next.NotBefore, NotAfter: a.root.cert.NotAfter,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
		SubjectKeyId: next.SubjectKeyId, SignatureAlgorithm: x509.ECDSAWithSHA384,
	}
	if tmpl.NotAfter.After(next.NotAfter) {
		tmpl.NotAfter = next.NotAfter
	}
	return signCA(tmpl, next.PublicKey, a.root, a.random)
}

// Retired returns the authority without the oldest roots whose overlap has
// passed; the same one if there is none. The caller has made sure that no live
// leaf chains to them.
func (a *Authority) Retired(at time.Time) *Authority {
	n := len(a.older)
	for n > 0 && !at.Before(a.older[n-1].until) {
		n--
	}
	if n == len(a.older) {
		return a
	}
	next := *a
	next.older = a.older[:n:n]
	return &next
}

// RootCA describes the root.
func (a *Authority) RootCA() CAInfo { return describe(a.root.cert) }

// OlderRoot is a root that is trusted beside the root until a time.
type OlderRoot struct {
	CAInfo
	Until time.Time
}

// OlderRoots describes the roots that are trusted beside the root, newest first.
func (a *Authority) OlderRoots() []OlderRoot {
	var all []OlderRoot
	for _, o := range a.older {
		all = append(all, OlderRoot{describe(o.root), o.until})
	}
	return all
}

// RootSteps returns the signed steps that led to the root, oldest first, at most
// 64. They must not be changed.
func (a *Authority) RootSteps() []apiv1.RootStep { return a.steps }

// Current reports whether a chain, DER, leads to the root through the mesh CA
// alone: its certificates outlive every older root.
func (a *Authority) Current(chain [][]byte) bool {
	if len(chain) < 2 {
		return false
	}
	mesh, err := x509.ParseCertificate(chain[1])
	return err == nil && mesh.CheckSignatureFrom(a.root.cert) == nil
}

// chain completes a certificate: the mesh CA, and while older roots are trusted
// what leads to them.
func (a *Authority) chain(leaf []byte) [][]byte {
	all := [][]byte{leaf, a.mesh.cert.Raw}
	for _, o := range a.older {
		all = append(all, o.cross.Raw)
	}
	return all
}

// restoreOlder reads the older roots of a state, and checks that each signed its
// successor.
func (a *Authority) restoreOlder(all []olderJSON) error {
	next := a.root.cert
	for _, o := range all {
		root, err := x509.ParseCertificate(o.Root)
		if err != nil {
			return fmt.Errorf("restoring an older root: %w", err)
		}
		cross, err := x509.ParseCertificate(o.Cross)
		if err != nil {
			return fmt.Errorf("restoring the way from an older root: %w", err)
		}
		if err := cross.CheckSignatureFrom(root); err != nil {
			return fmt.Errorf("restoring the way from an older root: %w", err)
		}
		if !bytes.Equal(cross.RawSubjectPublicKeyInfo, next.RawSubjectPublicKeyInfo) || !bytes.Equal(cross.RawSubject, next.RawSubject) {
			return errors.New("restoring the way from an older root: it leads elsewhere")
		}
		a.older = append(a.older, older{root: root, cross: cross, until: o.Until})
		next = root
	}
	return nil
}
