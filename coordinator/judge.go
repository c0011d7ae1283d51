package coordinator

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// question is what an activation, a renewal and the joining of a coordinator have
// in common: evidence that is to vouch for a key of a marble, or of a
// coordinator, in this session.
type question struct {
	purpose   binding.Purpose
	session   Session
	info      InstanceInfo
	evidence  attest.Evidence
	buffer    []byte
	publicKey []byte
	nonce     []byte
}

var instanceID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

// check refuses what is malformed, before anything is spent on it.
func (q *question) check() error {
	if q.joins() {
		return q.checkReplica()
	}
	if !instanceID.MatchString(q.info.ID) {
		return problem.New("CRD-002", "instance id %.80q is not 1 to 64 letters, digits and dashes", q.info.ID)
	}
	if q.info.Loopback == "" {
		q.info.Loopback = "127.0.0.1"
	}
	for _, a := range []struct{ name, ip string }{{"address", q.info.Address}, {"loopback", q.info.Loopback}} {
		ip, err := netip.ParseAddr(a.ip)
		if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
			return problem.New("CRD-002", "%s %.80q is no IP of an interface", a.name, a.ip)
		}
		// The host chooses it: elsewhere, what peers send would leave the TEE in
		// clear, and the network could call as this marble.
		if a.name == "loopback" && !ip.IsLoopback() {
			return problem.New("CRD-002", "%s %.80q is no loopback address", a.name, a.ip)
		}
	}
	pub, err := x509.ParsePKIXPublicKey(q.publicKey)
	if err != nil {
		return problem.New("CRD-038", "the public key is not PKIX DER")
	}
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return problem.New("CRD-038", "the public key is of type %T or on another curve", pub)
	}
	if der, err := x509.MarshalPKIXPublicKey(k); err != nil || !bytes.Equal(der, q.publicKey) {
		return problem.New("CRD-038", "the public key is not in the canonical form of PKIX DER")
	}
	return nil
}

func (q *question) renews() bool { return q.purpose == binding.Renew }

func (q *question) joins() bool { return q.purpose == binding.Replica }

// expected are the claims that the evidence must bind in this session.
func (q *question) expected() binding.Claims {
	key := binding.KeyHash(q.publicKey)
	if q.joins() {
		key = binding.KeyHashX25519(q.publicKey)
	}
	return binding.Claims{
		Purpose: q.purpose, PublicKey: key, Nonce: q.nonce, Exporter: q.session.Exporter,
		Devices: binding.Devices(q.evidence.Devices),
	}
}

// standard is the package and the platform that the evidence has to meet.
func (q *question) standard(rev *revision) (attest.Policy, error) {
	policy, ok := rev.policyAs(q.purpose, q.info.Marble)
	switch {
	case ok:
		return policy, nil
	case q.joins():
		return policy, admitsNobody(rev)
	case rev.m == nil:
		return policy, problem.New("CRD-011", "no manifest was set yet")
	}
	return policy, unknownMarble(rev, q.info.Marble)
}

// ruled is what an instance is told, or would be.
type ruled struct {
	verdict attest.Verdict
	denial  *problem.Error // why evidence that holds gets nothing; nil if it does
}

func (r ruled) accepted() bool { return r.verdict.OK() && r.denial == nil }

func (r ruled) reason() (code, text string) {
	if r.denial != nil {
		return string(r.denial.Code), r.denial.Detail
	}
	return r.verdict.Reason()
}

// ruling is what was ruled, with what goes into the log.
type ruling struct {
	ruled
	rev    *revision
	json   []byte // of the verdict
	id     string // "web/7f2c19ab"
	at     time.Time
	asked  question
	matter matter
	floors *floorsRecord // in force at the time
	behind []attest.Step // failed checks of the marks
	raises bool          // accepted, it raises the marks

	incidents *incidents         // that stood at the time
	excused   []attest.TCBStatus // that break-glass has the platform accept
}

// judge makes the one decision about a question under a revision. An error
// means that none could be made.
func (c *Coordinator) judge(ctx context.Context, rev *revision, q question) (*ruling, error) {
	floors := c.floors.Load()
	standing, at := c.incidents.Load(), c.config.Now()
	policy, err := q.standard(rev)
	if err != nil {
		return nil, err
	}
	excused := standing.statusesOn(policy.PlatformName, at)
	policy = floors.raise(policy, excused)
	claims, err := binding.Parse(q.buffer)
	if err != nil {
		return nil, problem.Because(err, "ATT-070", "reading the claims buffer")
	}
	endorsements, err := c.endorsements(ctx, q.evidence)
	if err != nil {
		return nil, err
	}
	r := &ruling{rev: rev, at: at, asked: q, floors: floors, incidents: standing, excused: excused}
	r.matter = matter{evidence: q.evidence, claims: claims, expected: q.expected(), endorsements: endorsements, policy: policy, at: r.at}
	r.behind, r.raises = c.marks.compare(endorsements, r.at)
	r.verdict = withSteps(r.matter.judge(c.config.Verifiers), r.behind)
	r.raises = r.raises || c.marks.late(r.seen())
	if r.json, err = json.Marshal(r.verdict); err != nil {
		return nil, fmt.Errorf("encoding a verdict: %w", err)
	}
	var random [4]byte
	if _, err := io.ReadFull(c.config.Rand, random[:]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	r.id = q.info.Marble + "/" + hex.EncodeToString(random[:])
	return r, nil
}

// endorsements looks for what evidence is to be judged with. Evidence that no
// verifier would look at needs none.
func (c *Coordinator) endorsements(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
	if c.config.Verifiers[e.TEE] == nil || len(e.Raw) == 0 || len(e.Raw) > attest.MaxEvidence {
		return attest.NewEndorsements(), nil
	}
	en, err := c.config.Endorse(ctx, e)
	var coded *problem.Error
	if len(en.Items()) == 0 {
		en = attest.NewEndorsements() // the zero set has no digest
	}
	if err == nil || errors.As(err, &coded) {
		return en, err
	}
	return en, problem.Because(err, "CRD-004", "looking for endorsements of %q evidence", e.TEE)
}

// seen is the time that the ruling proves to have come: zero where nothing that
// it rests on ever ends. A clock that was far ahead for a moment must not shut
// the deployment out for longer than the vendors' documents count.
func (r *ruling) seen() time.Time {
	if r.verdict.Claims.TCB.ValidUntil().IsZero() {
		return time.Time{}
	}
	return r.at
}

// withBinding adds the comparison of the claims buffer to a verdict, after the
// step that says that the evidence binds this buffer. One that fails refuses.
func withBinding(v attest.Verdict, steps []attest.Step) attest.Verdict {
	for _, s := range steps {
		if !s.OK {
			v.Verdict = attest.Refused
		}
	}
	i := slices.IndexFunc(v.Steps, func(s attest.Step) bool { return s.Code == attest.CodeBinding })
	if i < 0 {
		i = len(v.Steps) - 1
	}
	v.Steps = slices.Insert(slices.Clip(v.Steps), i+1, steps...)
	return v
}

// verdictDigest is what a leaf names the verdict by.
func (r *ruling) verdictDigest() [32]byte { return sha256.Sum256(r.json) }

// decision returns the ruling as the client API shows it.
func (r *ruling) decision() apiv1.Decision {
	d := apiv1.Decision{
		ID: r.id, Time: r.at.UTC(), Purpose: string(r.asked.purpose), Marble: r.asked.info.Marble, Instance: r.asked.info.ID,
		Accepted: r.accepted(), Verdict: r.verdict, Endorsements: r.set(),
	}
	d.Code, d.Reason = r.reason()
	return d
}

// set is the digest of the endorsement set that the ruling rests on.
func (r *ruling) set() attest.Hex {
	digest := r.matter.endorsements.Digest()
	return digest[:]
}

var kinds = map[binding.Purpose]map[bool]audit.Kind{
	binding.Activate: {true: audit.ActivationAccepted, false: audit.ActivationRefused},
	binding.Renew:    {true: audit.RenewalAccepted, false: audit.RenewalRefused},
	binding.Replica:  {true: audit.ReplicaAccepted, false: audit.ReplicaRefused},
}

// record returns the ruling as the audit log keeps it.
func (r *ruling) record(details map[string]string) audit.Record {
	evidence := r.asked.evidence.Digest()
	all := map[string]string{
		"instance": r.asked.info.ID, "tee": string(r.asked.evidence.TEE), "manifest": r.rev.digest(), "remote": r.asked.session.Remote,
		"endorsements": r.set().String(),
	}
	for k, v := range details {
		all[k] = v
	}
	code, text := r.reason()
	return audit.Record{
		Time: r.at, Kind: kinds[r.asked.purpose][r.accepted()], Subject: r.asked.info.Marble, Decision: r.id, Actor: r.asked.info.Marble,
		Code: code, Text: text, Details: all, Evidence: evidence[:], Verdict: r.json,
	}
}

// refuse records a refusal, as far as callers without an identity may fill the
// log, and returns it with the verdict as the marble may see it. Denial is why
// evidence that holds gets nothing.
func (c *Coordinator) refuse(ctx context.Context, r *ruling, denial *problem.Error) error {
	c.refused.Add(1)
	r.denial = denial
	d := r.decision()
	rec := r.record(nil)
	if c.recordable(r) {
		if r.verdict.Genuine && denial == nil {
			d.Nearest, d.Distance = attest.Nearest(r.verdict.Claims, r.rev.packages)
			rec.Details["nearest"], rec.Details["distance"] = d.Nearest, strconv.Itoa(d.Distance)
		}
		packed, err := r.pack()
		if err != nil {
			return err
		}
		err = c.update(ctx, func(tx *store.Tx) error {
			entry, err := c.log.Append(tx, rec)
			if err != nil {
				return err
			}
			d.Seq, d.Record = entry.Seq, entry.Hash
			return keepRefusal(tx, r, packed)
		})
		if err != nil {
			return err
		}
	}
	c.live.refuse(&d)
	return r.told(denial)
}

// told is a refusal as the marble may see it. What it lacks, users of the
// manifest find under its instance, the decision.
func (r *ruling) told(denial *problem.Error) error {
	shown := r.verdict.Redacted()
	code, reason := shown.Reason()
	p := problem.New(problem.Code(code), "%s", reason)
	if denial != nil {
		p = denial
	}
	for _, s := range shown.Steps {
		if !s.OK && s.Fix.How != "" {
			p.Next = s.Fix.How
			break
		}
	}
	var err error
	if p.Verdict, err = json.Marshal(shown); err != nil {
		return fmt.Errorf("encoding a verdict: %w", err)
	}
	p.Instance = r.id
	return p
}

// recordable says whether a refusal may be recorded. One to a live instance may
// every few seconds, whatever callers without an identity do meanwhile.
func (c *Coordinator) recordable(r *ruling) bool {
	if r.asked.purpose == binding.Renew && c.live.mayRecord(instanceKey(r.asked.info.Marble, r.asked.info.ID), r.at) {
		return true
	}
	return c.log.Admit(kinds[r.asked.purpose][false], r.at)
}

// maxCandidates bounds the names that a misspelt one is compared with: whoever
// asks needs no identity for it.
const maxCandidates = 500

// unknownMarble says that there is no such marble, and which one may be meant.
func unknownMarble(rev *revision, name string) error {
	p := problem.New("CRD-030", "the manifest has no marble %.80q", name)
	if len(rev.marbles) > maxCandidates {
		return p
	}
	if best := nearest.Word(name, rev.marbles); best != "" {
		p.Detail += fmt.Sprintf("; did you mean %q?", best)
	}
	return p
}
