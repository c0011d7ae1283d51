package client

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// FollowRoots goes the signed steps from a root that somebody trusts, by the
// SHA-256 of its certificate, to the root of today. It needs no evidence: each
// root has certified the next. It is CRD-104 where no way begins at the trusted
// root, where a signature on it does not hold, and where the trusted root has
// ended. Each step leads from one self-signed CA to another: a CA beneath a root,
// or what it has issued to a marble, is no step.
func FollowRoots(trusted attest.Hex, r apiv1.Roots, at time.Time) (*x509.Certificate, error) {
	root, err := checkRoot(r.Root, at)
	if err != nil {
		return nil, err
	}
	if isRoot(r.Root, trusted) {
		return root, nil
	}
	steps := stepsFrom(trusted, r)
	if len(steps) == 0 {
		sum := sha256.Sum256(r.Root)
		return nil, problem.New("CRD-104", "trusted is root %s, this one is %s, and no signed step begins at the trusted one", short(trusted), short(sum[:]))
	}
	for i, s := range steps {
		next := r.Root
		if i+1 < len(steps) {
			next = steps[i+1].Previous
		}
		if err := checkStep(s, next, at, i == 0); err != nil {
			return nil, err
		}
	}
	return root, nil
}

// stepsFrom are the steps from a root that is trusted on; none from the root of
// today. Those before it prove nothing to who trusts it: anybody can certify a
// root.
func stepsFrom(trusted attest.Hex, r apiv1.Roots) []apiv1.RootStep {
	if isRoot(r.Root, trusted) {
		return nil
	}
	for i := len(r.Steps) - 1; i >= 0; i-- {
		if isRoot(r.Steps[i].Previous, trusted) {
			return r.Steps[i:]
		}
	}
	return nil
}

func isRoot(der []byte, digest attest.Hex) bool {
	sum := sha256.Sum256(der)
	return bytes.Equal(sum[:], digest)
}

// checkStep checks that a root certifies the next one. The one that is trusted
// must still be valid; those in between need not.
func checkStep(s apiv1.RootStep, next []byte, at time.Time, first bool) error {
	previous, err := x509.ParseCertificate(s.Previous)
	if err != nil {
		return problem.Because(err, "CRD-104", "a root on the way cannot be read")
	}
	if first && at.After(previous.NotAfter) {
		return problem.New("CRD-104", "the trusted root ended at %s", previous.NotAfter.UTC().Format(time.RFC3339))
	}
	cross, err := x509.ParseCertificate(s.Cross)
	if err != nil {
		return problem.Because(err, "CRD-104", "a step from root to root cannot be read")
	}
	if err := cross.CheckSignatureFrom(previous); err != nil {
		return problem.Because(err, "CRD-104", "a step is not signed by the root before it")
	}
	if !cross.IsCA {
		return problem.New("CRD-104", "a step certifies no CA")
	}
	root, err := x509.ParseCertificate(next)
	if err != nil {
		return problem.Because(err, "CRD-104", "a root on the way cannot be read")
	}
	if !bytes.Equal(cross.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) || !bytes.Equal(cross.RawSubject, root.RawSubject) || !root.IsCA || root.CheckSignatureFrom(root) != nil {
		return problem.New("CRD-104", "a step leads to another root than the next one")
	}
	return nil
}

// anchors are the certificates of the roots that a statement says are trusted,
// the root first.
func anchors(s apiv1.Statement, at time.Time) [][]byte {
	all := [][]byte{s.Root}
	for i := len(s.RootSteps) - 1; i >= 0 && at.Before(s.RootSteps[i].Until); i-- {
		all = append(all, s.RootSteps[i].Previous)
	}
	return all
}
