package client

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxAhead is how far a maker's clock may be ahead of the reader's.
const maxAhead = 5 * time.Minute

// BundleInput is what a bundle is judged by. All of it is the reader's own; the
// zero value refuses every bundle.
type BundleInput struct {
	Policy    attest.Policy
	Verifiers attest.Verifiers
	// At is when to judge. Zero means the bundle's own time, which is its maker's
	// word: hardware keeps no clock.
	At time.Time
	// Now is the reader's clock; a bundle of a later time is refused.
	Now time.Time
	// Nonce is what the reader had the bundle's maker ask with, 32 bytes: the
	// evidence was made after it was chosen. Empty takes the bundle's own, which
	// shows nothing about when.
	Nonce []byte
	// Manifest is the digest that must have been in force, 32 bytes; empty
	// accepts any manifest and none.
	Manifest attest.Hex
	// Remembered is the newest state of the deployment that the reader has
	// verified; nil if there is none. The bundle must be of the same root, and
	// where their logs can be compared, of the same log. It may be older.
	Remembered *Remembered
	// Witnessing is what is demanded of the log's witnesses.
	Witnessing Witnessing
}

// VerifyBundle decides, without a network, whether a bundle is of a coordinator
// that the policy wants. It is pure. Of what the bundle holds it checks all that
// it can: the evidence and what that binds, the root, the certificates that the
// connection showed, the manifest's bytes, and that the log which the evidence
// binds has accepted them. Who did not choose the nonce learns what ran, and not
// that it ran just then.
//
// A refusal is a *problem.Error with the verdict, in which everything that is
// wrong is a step. Its code is CRD-100 where the evidence is refused, or that of
// the first step: CRD-101 contradiction, CRD-102 manifest, CRD-104 another root,
// CRD-122 no acceptance, CRD-123 other manifest bytes, CRD-124 a time to come,
// LOG-051 a fork of what is remembered, LOG-052 another log, LOG-055 hashes of
// another log, LOG-082 too few witnesses; CRD-121 is a bundle over its limits.
func VerifyBundle(b Bundle, in BundleInput) (Verified, error) {
	if err := b.check(); err != nil {
		return Verified{}, err
	}
	if in.At.IsZero() {
		in.At = b.Time
	}
	if len(in.Nonce) == 0 {
		in.Nonce = b.Nonce
	}
	s := b.Statement
	look := VerifyInput{Policy: in.Policy, Verifiers: in.Verifiers, Nonce: in.Nonce, TLSKey: s.TLSKey, Certificates: b.Certificates, At: in.At}
	v := Verified{Statement: s, TLSKey: s.TLSKey, Nonce: b.Nonce, Certificates: b.Certificates, Address: b.Address, At: in.At}
	v.Verdict = judge(s, look)
	c := checks{&v.Verdict}

	root, err := checkRoot(s.Root, in.At)
	c.add("CRD-101", "root", "a CA that is valid then", subject(root), err)
	if root != nil {
		c.add("CRD-101", "certificates", "the attested key, under that root", "hold", checkChain(root, look))
	}
	c.add("CRD-124", "bundle.time", "not later than "+stamp(in.Now), stamp(b.Time), checkTime(b.Time, in.Now))
	if len(in.Manifest) > 0 {
		c.add("CRD-102", "manifest.inForce", in.Manifest.String(), orNone(s.Manifest), checkWanted(in.Manifest, s.Manifest))
	}
	c.add("CRD-123", "manifest.bytes", orNone(s.Manifest), "the same", checkManifest(b))
	v.Checkpoint, err = openCheckpoint(s)
	c.add("CRD-101", "checkpoint", "signed by the log", "holds", err)
	v.Accepted = c.log(b, v, in)
	if err == nil {
		c.logged(b, &v, in)
	}
	if v.Floors, err = readFloors(s); err != nil {
		c.add("CRD-101", "floors", "floors of platforms", "", err)
	}
	if len(v.Verdict.Failed()) > 0 || !v.Verdict.OK() {
		v.Verdict.Verdict = attest.Refused
		return Verified{}, refusedBundle(v.Verdict)
	}
	v.Root, v.Statement.RootSteps = root, nil
	if in.Remembered != nil { // no evidence binds the steps, and nobody's connection vouches for them
		v.Statement.RootSteps = stepsFrom(in.Remembered.Root, apiv1.Roots{Root: s.Root, Steps: s.RootSteps})
	}
	return v, nil
}

// checks collects what is looked at besides the evidence as steps of its
// verdict.
type checks struct{ verdict *attest.Verdict }

// fromBundle is the source of steps that are not about the evidence.
const fromBundle = "bundle"

var fixBundle = attest.Fix{Who: attest.Operator, How: "have the bundle made again, by somebody who can reach the coordinator"}

// add notes a check; an error gives its own code and text.
func (c checks) add(code problem.Code, field, want, got string, err error) {
	s := attest.Step{Code: string(code), Field: field, OK: err == nil, Want: want, Got: got, Source: fromBundle}
	if err != nil {
		p := problem.From(err)
		s.Code, s.Got, s.Fix = string(p.Code), p.Detail, fixBundle
	}
	c.verdict.Steps = append(c.verdict.Steps, s)
}

// log checks the proof of the manifest's acceptance, and the log against the
// one that the reader remembers.
func (c checks) log(b Bundle, v Verified, in BundleInput) *Accepted {
	old := in.Remembered
	var accepted *Accepted
	if b.Statement.Revision > 0 {
		var err error
		accepted, err = checkAcceptance(b.Statement, v.Checkpoint, *cmp.Or(b.Acceptance, &apiv1.Acceptance{}))
		c.add("CRD-122", "log.acceptance", "its entry, in the attested log", "holds", err)
	}
	if old == nil {
		return accepted
	}
	_, other := FollowRoots(old.Root, apiv1.Roots{Root: b.Statement.Root, Steps: b.Statement.RootSteps}, in.At)
	c.add("CRD-104", "remembered.root", old.Root.String(), "leads to the root", other)
	return accepted
}

func checkTime(t, now time.Time) error {
	if t.After(now.Add(maxAhead)) {
		return problem.New("CRD-124", "it says %s, and here it is %s", stamp(t), stamp(now))
	}
	return nil
}

func checkWanted(want, got attest.Hex) error {
	if !bytes.Equal(want, got) {
		return problem.New("CRD-102", "%s", orNone(got))
	}
	return nil
}

// checkManifest compares the bytes with the digest that the evidence binds.
func checkManifest(b Bundle) error {
	if len(b.Manifest) == 0 && len(b.Statement.Manifest) == 0 {
		return nil
	}
	sum := sha256.Sum256(b.Manifest)
	if !bytes.Equal(sum[:], b.Statement.Manifest) {
		return problem.New("CRD-123", "%s", attest.Hex(sum[:]))
	}
	return nil
}

func subject(c *x509.Certificate) string {
	if c == nil {
		return ""
	}
	return c.Subject.CommonName + ", to " + stamp(c.NotAfter)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// refusedBundle returns the error of a verdict whose first failed step may be
// about the bundle.
func refusedBundle(v attest.Verdict) error {
	err := refused(v)
	code, text := v.Reason()
	failed := v.Failed()
	if e := problem.From(err); len(failed) > 0 && failed[0].Code == code && failed[0].Source == fromBundle {
		e.Code, e.Detail, e.Next = problem.Code(code), text, problem.Lookup(problem.Code(code)).Next
		return e
	}
	return err
}
