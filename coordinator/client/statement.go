package client

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// VerifyInput is what a statement is judged by. The zero value refuses every
// statement.
type VerifyInput struct {
	Policy    attest.Policy
	Verifiers attest.Verifiers
	Nonce     []byte // the 32 bytes that the statement was asked for with
	// TLSKey is the PKIX DER of the key that serves the connection on which the
	// statement came.
	TLSKey []byte
	// Certificates are what the connection showed, DER, leaf first. The leaf
	// must have TLSKey and lead to the attested root.
	Certificates [][]byte
	At           time.Time // when to judge
	// Manifest is the digest that must be in force, 32 bytes; empty accepts any
	// manifest and none.
	Manifest attest.Hex
	// Remembered is the newest state seen before; nil at the first contact.
	Remembered *Remembered
}

// Remembered is the newest state of a coordinator that somebody has verified.
type Remembered struct {
	Root       attest.Hex `json:"root"`               // SHA-256 of the root CA certificate
	Manifest   attest.Hex `json:"manifest,omitempty"` // digest; absent before the first
	Revision   int        `json:"revision"`
	Epoch      int        `json:"epoch,omitempty"` // 0 stands for 1
	Checkpoint string     `json:"checkpoint"`      // of the log, the signed note
	LogKey     string     `json:"logKey"`          // that signed it
}

// open returns the checkpoint that is remembered.
func (r Remembered) open() (transparency.Checkpoint, error) {
	c, err := transparency.Open([]byte(r.Checkpoint), r.LogKey)
	if err != nil {
		return c, problem.Because(err, "CRD-109", "the checkpoint that is remembered cannot be read")
	}
	return c, nil
}

// Verified is a coordinator's statement that passed, and what it establishes.
type Verified struct {
	Statement apiv1.Statement
	Root      *x509.Certificate // the deployment's root CA
	Verdict   attest.Verdict    // accepted; with the steps of the binding
	Floors    apiv1.Floors      // of platforms, in force
	// BreakGlass are rules of the manifest that do not count for a while: see
	// CheckBreakGlass.
	BreakGlass []apiv1.Incident
	Epoch      apiv1.Epoch // that the state is in; its first has number 1
	// Checkpoint of the log, signed with the key Statement.LogKey.
	Checkpoint transparency.Checkpoint
	TLSKey     []byte // PKIX DER of the attested key
	At         time.Time
	Address    string // host:port, where it was reached over the network
	// Nonce and Certificates are those that it was judged with.
	Nonce        []byte
	Certificates [][]byte
	// Accepted is what the log says of the manifest's acceptance, where a bundle
	// shows it; nil if nothing was shown.
	Accepted *Accepted
	// History is what the log showed; nil where it was not read.
	History *History
}

// Roots returns the deployment's trust anchors as a new pool: the root, and older
// ones that were still trusted then.
func (v Verified) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, der := range anchors(v.Statement, v.At) {
		if c, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(c)
		}
	}
	return pool
}

// Remembered returns what to hold a later statement against.
func (v Verified) Remembered() Remembered {
	root := sha256.Sum256(v.Statement.Root)
	return Remembered{Root: root[:], Manifest: v.Statement.Manifest, Revision: v.Statement.Revision, Epoch: v.Epoch.Number, Checkpoint: v.Statement.Checkpoint, LogKey: v.Statement.LogKey}
}

// VerifyStatement decides whether a statement is of the coordinator that the
// policy wants, and of this connection. It is pure. Order: the claims buffer is
// read and the evidence judged, then the root, the connection's certificates,
// the manifest and the remembered state are compared.
//
// A refusal is a *problem.Error of kind Refused: CRD-100 with the verdict, in
// which each binding is a step; CRD-101 contradiction, CRD-102 manifest, CRD-104
// a root that the remembered one does not lead to; and against what is remembered
// CRD-103 an older revision, LOG-050 a shorter log, LOG-051 another one, LOG-052
// another log key, LOG-053 another manifest than the log has set.
func VerifyStatement(s apiv1.Statement, in VerifyInput) (Verified, error) {
	verdict := judge(s, in)
	if !verdict.OK() {
		return Verified{}, refused(verdict)
	}
	root, err := checkRoot(s.Root, in.At)
	if err != nil {
		return Verified{}, err
	}
	if err := checkChain(root, in); err != nil {
		return Verified{}, err
	}
	if len(in.Manifest) > 0 && !bytes.Equal(in.Manifest, s.Manifest) {
		return Verified{}, problem.New("CRD-102", "wanted manifest %s, in force is %s", in.Manifest, orNone(s.Manifest))
	}
	v := Verified{Statement: s, Root: root, Verdict: verdict, TLSKey: in.TLSKey, At: in.At, Nonce: in.Nonce, Certificates: in.Certificates}
	if v.Floors, err = readFloors(s); err != nil {
		return Verified{}, err
	}
	if v.BreakGlass, err = readBreakGlass(s); err != nil {
		return Verified{}, err
	}
	if v.Epoch, err = readEpoch(s); err != nil {
		return Verified{}, err
	}
	if v.Checkpoint, err = openCheckpoint(s); err != nil {
		return Verified{}, err
	}
	if in.Remembered != nil {
		if _, err := FollowRoots(in.Remembered.Root, apiv1.Roots{Root: s.Root, Steps: s.RootSteps}, in.At); err != nil {
			return Verified{}, err
		}
		if err := newer(*in.Remembered, v.Remembered()); err != nil {
			return Verified{}, err
		}
	}
	return v, nil
}

// judge makes the verdict over the evidence and what it binds.
func judge(s apiv1.Statement, in VerifyInput) attest.Verdict {
	verdict := attest.Judge(in.Verifiers, s.Evidence, attest.Bind(s.ClaimsBuffer), s.Endorsements, in.Policy, in.At)
	got, err := binding.Parse(s.ClaimsBuffer)
	var steps []attest.Step
	if err != nil {
		steps = []attest.Step{{Code: "ATT-011", Field: "binding", Want: "a claims buffer of purpose coordinator", Got: err.Error(),
			Source: "claims buffer", Fix: attest.Fix{Who: attest.Nobody, How: "the coordinator's statement is damaged"}}}
	} else {
		steps = binding.Expect(expected(s, in), got)
	}
	verdict.Steps = append(verdict.Steps, steps...)
	if len(verdict.Failed()) > 0 {
		verdict.Verdict = attest.Refused
	}
	return verdict
}

// expected returns the claims that the evidence must bind. Nonce and key are
// the verifier's own; the rest is what the statement says, so that each part of
// it is covered by the evidence.
func expected(s apiv1.Statement, in VerifyInput) binding.Claims {
	root, note, key := sha256.Sum256(s.Root), sha256.Sum256([]byte(s.Checkpoint)), sha256.Sum256([]byte(s.LogKey))
	c := binding.Claims{Purpose: binding.Coordinator, PublicKey: binding.KeyHash(in.TLSKey), Nonce: in.Nonce,
		Root: root[:], Manifest: s.Manifest, Checkpoint: note[:], Log: key[:], Devices: binding.Devices(s.Evidence.Devices)}
	if len(s.Floors) > 0 {
		floors := sha256.Sum256(s.Floors)
		c.Floors = floors[:]
	}
	if len(s.BreakGlass) > 0 {
		sum := sha256.Sum256(s.BreakGlass)
		c.BreakGlass = sum[:]
	}
	if len(s.Epoch) > 0 {
		epoch := sha256.Sum256(s.Epoch)
		c.Epoch = epoch[:]
	}
	if len(s.UploadKey) > 0 {
		upload := sha256.Sum256(s.UploadKey)
		c.Upload = upload[:]
	}
	return c
}

// openCheckpoint reads the checkpoint of a statement, which the log's own key
// must have signed.
func openCheckpoint(s apiv1.Statement) (transparency.Checkpoint, error) {
	c, err := transparency.Open([]byte(s.Checkpoint), s.LogKey)
	if err != nil {
		return c, problem.Because(err, "CRD-101", "the checkpoint of the log cannot be read")
	}
	return c, nil
}

// readFloors reads the floors of a statement; without any it gives none.
func readFloors(s apiv1.Statement) (apiv1.Floors, error) {
	var f apiv1.Floors
	if len(s.Floors) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(s.Floors, &f); err != nil {
		return f, problem.Because(err, "CRD-101", "the floors cannot be read")
	}
	return f, nil
}

// readEpoch reads the epoch of a statement; without one it is the first.
func readEpoch(s apiv1.Statement) (apiv1.Epoch, error) {
	e := apiv1.Epoch{Number: 1}
	if len(s.Epoch) == 0 {
		return e, nil
	}
	if err := json.Unmarshal(s.Epoch, &e); err != nil || e.Number < 2 {
		return e, problem.New("CRD-101", "the epoch cannot be read")
	}
	return e, nil
}

// readBreakGlass reads the rules that a statement says are lifted.
func readBreakGlass(s apiv1.Statement) ([]apiv1.Incident, error) {
	var list apiv1.Incidents
	if len(s.BreakGlass) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(s.BreakGlass, &list); err != nil {
		return nil, problem.Because(err, "CRD-101", "the rules that are lifted cannot be read")
	}
	for _, in := range list.Incidents {
		if in.Kind != apiv1.BreakGlass || in.Lifts == nil || (in.Lifts.Hop == nil) == (in.Lifts.Status == nil) {
			return nil, problem.New("CRD-101", "incident %d among the rules that are lifted lifts none", in.ID)
		}
	}
	return list.Incidents, nil
}

// CheckBreakGlass refuses a deployment in which rules of the manifest are lifted
// for a while (INC-022): the manifest does not say all of who may call whom, or
// on what hardware. Whoever trusts the manifest alone calls it.
func (v Verified) CheckBreakGlass() error {
	if len(v.BreakGlass) == 0 {
		return nil
	}
	in := v.BreakGlass[0]
	return problem.New("INC-022", "rules that are lifted: %d, the first by %s until %s: %s", len(v.BreakGlass), in.By, in.Until.UTC().Format(time.RFC3339), in.Reason)
}

func refused(v attest.Verdict) error {
	code, text := v.Reason()
	if code == "" {
		text = "the evidence is not genuine"
	}
	e := problem.New("CRD-100", "%s", text)
	if code != "" {
		e.Detail = fmt.Sprintf("%s (%s)", text, code)
		e.Next = problem.Lookup(problem.Code(code)).Next
	}
	if b, err := json.Marshal(v); err == nil {
		e.Verdict = b
	}
	return e
}

// checkRoot reads the root certificate: a self-signed CA that is valid now.
func checkRoot(der []byte, at time.Time) (*x509.Certificate, error) {
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, problem.Because(err, "CRD-101", "the root certificate cannot be read")
	}
	if !root.IsCA || root.CheckSignatureFrom(root) != nil {
		return nil, problem.New("CRD-101", "the root certificate %q is not a self-signed CA", root.Subject.CommonName)
	}
	if at.Before(root.NotBefore) || at.After(root.NotAfter) {
		return nil, problem.New("CRD-101", "the root certificate is valid from %s to %s, and it is %s",
			root.NotBefore.UTC().Format(time.RFC3339), root.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	return root, nil
}

// checkChain checks that the connection's leaf has the attested key and leads
// to the attested root.
func checkChain(root *x509.Certificate, in VerifyInput) error {
	if len(in.Certificates) == 0 {
		return nil
	}
	leaf, err := x509.ParseCertificate(in.Certificates[0])
	if err != nil {
		return problem.Because(err, "CRD-101", "the connection's certificate cannot be read")
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, in.TLSKey) {
		return problem.New("CRD-101", "the connection's certificate has another key than the attested one")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, der := range in.Certificates[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: in.At, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := leaf.Verify(opts); err != nil {
		return problem.Because(err, "CRD-101", "the connection's certificate does not lead to the attested root")
	}
	return nil
}

// newer compares what a coordinator shows now with what was seen before, as far
// as the two statements tell; roots are FollowRoots'. That a longer log begins
// with the one that was seen takes its tiles: Dial.
func newer(old, now Remembered) error {
	was, err := old.open()
	if err != nil {
		return err
	}
	is, err := now.open()
	if err != nil {
		return err
	}
	switch {
	case old.LogKey != now.LogKey:
		return problem.New("LOG-052", "its log is signed by %s, and %s was seen before", is.Origin, was.Origin)
	case is.Size < was.Size:
		return problem.New("LOG-050", "its log has %d entries, and %d were seen before", is.Size, was.Size)
	case is.Size == was.Size && is.Root != was.Root:
		return problem.New("LOG-051", "the root of its log of %d entries is %s, and %s was seen before: the two have forked",
			is.Size, short(is.Root[:]), short(was.Root[:]))
	case now.Epoch < old.Epoch:
		return problem.New("CRD-103", "its state is in epoch %d, and epoch %d was seen before", max(now.Epoch, 1), old.Epoch)
	case now.Revision < old.Revision:
		return problem.New("CRD-103", "it is at revision %d, and %d was seen before", now.Revision, old.Revision)
	case (now.Revision == old.Revision || is.Size == was.Size) && !bytes.Equal(now.Manifest, old.Manifest):
		return problem.New("LOG-053", "in force is revision %d, %s, and the log has set no other than revision %d, %s, which was seen before",
			now.Revision, orNone(now.Manifest), old.Revision, orNone(old.Manifest))
	}
	return nil
}

func short(h attest.Hex) string {
	if len(h) > 8 {
		h = h[:8]
	}
	return hex.EncodeToString(h)
}

func orNone(h attest.Hex) string {
	if len(h) == 0 {
		return "none"
	}
	return h.String()
}
