package coordinator

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

const (
	// minLife is the shortest life that a leaf is issued with.
	minLife = 5 * time.Second
	// maxTries bounds how often a decision is made anew because the manifest
	// or a secret changed under it.
	maxTries = 5
)

// errAgain says that what a decision rests on changed before it was recorded.
var errAgain = errors.New("decide again")

// Activate gives a marble instance its first lease, or a new one to an instance
// that starts again, whose older leaf then counts no more.
//
// The nonce is spent first, whatever comes of the request: CRD-020 to CRD-022.
// A refusal of the evidence has the code of its first failed step, the verdict,
// and the id of the decision as instance. Further: CRD-002 and CRD-038
// (malformed), CRD-004 (endorsements), CRD-011 (no manifest), CRD-030 (no such
// marble), CRD-031 (too many instances), CRD-032 (nothing left to lease).
func (c *Coordinator) Activate(ctx context.Context, req ActivateRequest) (Activation, error) {
	q := question{
		purpose: binding.Activate, session: req.Session, info: req.Instance, evidence: req.Evidence,
		buffer: req.ClaimsBuffer, publicKey: req.PublicKey, nonce: req.Nonce,
	}
	grant, err := c.answer(ctx, q, useActivate, nil)
	if err != nil {
		return Activation{}, err
	}
	c.live.accept(q.info.Marble)
	if grant.moved {
		c.changed()
	}
	return Activation{Lease: grant.lease, Parameters: grant.parameters, Serves: grant.serves, Decision: grant.decision}, nil
}

// Renew gives a live instance its next leaf, for fresh evidence that is judged
// under the manifest and the endorsements in force now. Errors are those of
// Activate, and CRD-033 to CRD-035 for a leaf that counts no more.
func (c *Coordinator) Renew(ctx context.Context, req RenewRequest) (Lease, error) {
	var record instanceRecord
	err := c.store.View(ctx, func(tx *store.Tx) error {
		var err error
		record, err = renewable(tx, req.Peer, c.config.Now())
		return err
	})
	if err != nil {
		return Lease{}, err
	}
	q := question{
		purpose: binding.Renew, session: req.Session, evidence: req.Evidence, buffer: req.ClaimsBuffer, publicKey: req.PublicKey, nonce: req.Nonce,
		info: InstanceInfo{Marble: req.Peer.Marble, ID: req.Peer.Instance, Address: record.Address, Loopback: record.Loopback},
	}
	grant, err := c.answer(ctx, q, useRenew(req.Peer), &req.Peer)
	if err != nil {
		return Lease{}, err
	}
	c.live.accept(q.info.Marble)
	if grant.moved {
		c.changed()
	}
	grant.lease.Parameters = &grant.parameters
	return grant.lease, nil
}

// renewable returns the record of a peer whose leaf still counts.
func renewable(tx *store.Tx, p Peer, at time.Time) (instanceRecord, error) {
	r, ok := instances.Get(tx, instanceKey(p.Marble, p.Instance))
	end := r.NotAfter
	if p.Serial == r.Previous {
		end = r.PreviousNotAfter
	}
	switch {
	case !ok:
		return r, problem.New("CRD-034", "no instance %s has a lease", short(instanceKey(p.Marble, p.Instance)))
	case p.Serial == "" || p.Serial != r.Serial && p.Serial != r.Previous:
		return r, problem.New("CRD-035", "instance %s was activated again, with another leaf", short(instanceKey(p.Marble, p.Instance)))
	case !at.Before(end):
		return r, problem.New("CRD-033", "the leaf ended at %s", stamp(end))
	}
	return r, nil
}

// grant is an accepted question.
type grant struct {
	lease      Lease
	parameters manifest.Parameters
	serves     []uint16
	decision   string
	moved      bool // the View has something else to tell proxies
}

// answer judges a question and, if the answer is yes, records and issues. It
// begins anew if the manifest changes meanwhile. peer is nil for activations.
func (c *Coordinator) answer(ctx context.Context, q question, use string, peer *Peer) (grant, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return grant{}, err
	}
	defer done()
	if err := q.check(); err != nil {
		return grant{}, err
	}
	spent := c.nonces
	if peer != nil {
		spent = c.demands
	}
	if err := spent.redeem(q.nonce, use, q.session, c.config.Now()); err != nil {
		return grant{}, err
	}
	var g grant
	err = c.decideOn(ctx, q, func(r *ruling) (err error) {
		g, err = c.admit(ctx, r, peer)
		return err
	})
	if err != nil {
		return grant{}, err
	}
	return g, nil
}

// decideOn judges a question, records a refusal, and has what is accepted
// admitted: anew for as long as admit says that what it rests on has changed.
func (c *Coordinator) decideOn(ctx context.Context, q question, admit func(*ruling) error) error {
	for range maxTries {
		r, err := c.judge(ctx, c.current.Load(), q)
		if err != nil {
			return err
		}
		if !r.verdict.OK() {
			return c.refuse(ctx, r, nil)
		}
		if bar := r.bar(); bar != nil {
			return c.refuse(ctx, r, bar)
		}
		err = admit(r)
		var denial *problem.Error
		if errors.As(err, &denial) && denial.Kind() == problem.Refused {
			return c.refuse(ctx, r, denial)
		}
		if !errors.Is(err, errAgain) {
			return err
		}
		c.awaitManifest()
		if err := errors.Join(c.loadFloors(ctx), c.syncIncidents(ctx)); err != nil {
			return err
		}
	}
	return problem.New("CRD-018", "it changed %d times", maxTries)
}

// admit records an accepted question in one Update and then issues. The leaf is
// signed after the record is durable, since it names the record; should that
// fail, the instance activates again and replaces itself.
func (c *Coordinator) admit(ctx context.Context, r *ruling, peer *Peer) (grant, error) {
	a := c.authority.Load()
	mb := r.rev.m.Marbles[r.asked.info.Marble]
	end, err := leaseEnd(r, mb, a)
	if err != nil {
		return grant{}, err
	}
	serial, err := a.NewSerial()
	if err != nil {
		return grant{}, err
	}
	times := lapseOf(renewAfter(r.at, end, serial.String()), end, mb.Renewal)
	s := settlement{ruling: r, peer: peer, serial: serial.String(), times: times, end: times.cut, marble: mb, names: r.released()}
	if s.made, err = c.makeSecrets(ctx, a, s); err != nil {
		return grant{}, err
	}
	if s.packed, err = r.pack(); err != nil {
		return grant{}, err
	}
	if err := c.update(ctx, func(tx *store.Tx) error { return c.settle(tx, &s) }); err != nil {
		return grant{}, err
	}
	c.log.Committed(s.entry)
	issued, err := c.issue(a, r, serial, s)
	if err != nil {
		return grant{}, problem.Because(err, "CRD-006", "issuing the leaf of decision %s", r.id)
	}
	if r.raises {
		if err := c.marks.load(context.WithoutCancel(ctx), c.store); err != nil {
			return grant{}, err
		}
	}
	for _, key := range append(s.ended, s.key()) {
		if err := c.live.sync(context.WithoutCancel(ctx), c.store, key); err != nil {
			return grant{}, err
		}
	}
	if err := c.recheck(ctx, r); err != nil {
		return grant{}, err
	}
	return grant{
		lease: Lease{
			Certificates: issued.Certificates, Bundle: a.Bundle(), NotAfter: issued.Leaf.NotAfter,
			RenewAfter: s.record.RenewAfter, DegradeAt: s.record.DegradeAt, DrainAt: s.record.DrainAt,
			Secrets: s.values, Revision: r.rev.digest(), SPIFFEID: authority.SPIFFEID(r.rev.m.TrustDomain, r.asked.info.Marble),
		},
		parameters: mb.Parameters, serves: servedPorts(mb), decision: r.id, moved: s.moved,
	}, nil
}

func servedPorts(mb manifest.Marble) []uint16 {
	var ports []uint16
	for _, p := range mb.Serves {
		ports = append(ports, p.Port)
	}
	slices.Sort(ports)
	return ports
}

// leaseEnd is the earliest end of the lease, what the evidence rests on, and
// the chain.
func leaseEnd(r *ruling, mb manifest.Marble, a *authority.Authority) (time.Time, error) {
	end, why := r.at.Add(time.Duration(mb.Lease)), "the lease"
	if v := r.verdict.Claims.TCB.ValidUntil(); !v.IsZero() && v.Before(end) {
		end, why = v, "what the evidence rests on"
	}
	if v := r.excusedUntil(); !v.IsZero() && v.Before(end) {
		end, why = v, "break-glass"
	}
	if ca := a.MeshCA().NotAfter; ca.Before(end) {
		end, why = ca, "the mesh CA"
	}
	end = end.UTC().Truncate(time.Second)
	if end.Sub(r.at) < minLife {
		return end, problem.New("CRD-032", "%s ends at %s", why, stamp(end))
	}
	return end, nil
}

// renewAfter is when fresh evidence is due: at half of the leaf's life, earlier
// by up to a tenth of it, as the serial number says, so that leaves that were
// issued together are not renewed together.
func renewAfter(at, end time.Time, serial string) time.Time {
	sum := sha256.Sum256([]byte(serial))
	life := end.Sub(at)
	early := time.Duration(float64(life) / 10 * float64(binary.BigEndian.Uint16(sum[:])) / (1 << 16))
	return at.Add(life/2 - early)
}

// settlement is what one accepted question changes.
type settlement struct {
	*ruling
	peer   *Peer
	serial string
	times  lapse
	end    time.Time // of the leaf: the cut
	marble manifest.Marble
	names  []string
	made   map[string]secrets.Made
	packed []byte // what the ruling was made from

	// Written by settle.
	record  instanceRecord
	values  map[string]secrets.Value
	secrets []string // as the log has them: "name@version"
	entry   audit.Entry
	ended   []string // instances that made room
	moved   bool
}

func (s *settlement) key() string { return instanceKey(s.asked.info.Marble, s.asked.info.ID) }

func (s *settlement) request() secrets.Request {
	return secrets.Request{
		Manifest: s.rev.m, Asker: secrets.Asker{Marble: s.asked.info.Marble, Instance: s.asked.info.ID}, Names: s.names, At: s.at,
	}
}

// makeSecrets generates what the marble's parameters name and nobody made before.
func (c *Coordinator) makeSecrets(ctx context.Context, a *authority.Authority, s settlement) (map[string]secrets.Made, error) {
	if len(s.names) == 0 {
		return nil, nil
	}
	var missing []secrets.Missing
	err := c.store.View(ctx, func(tx *store.Tx) error {
		var err error
		_, missing, err = secrets.Find(tx, s.request())
		return err
	})
	if err != nil {
		return nil, secretError(err, "looking for the secrets of %s", s.asked.info.Marble)
	}
	return c.maker.Make(ctx, a, missing, s.at)
}

// settle makes all changes of an accepted question. It may run on a state that
// is newer than what was judged, and returns errAgain then.
func (c *Coordinator) settle(tx *store.Tx, s *settlement) error {
	if s.overtaken(tx) {
		return errAgain
	}
	old, exists := instances.Get(tx, s.key())
	s.record = instanceRecord{
		Address: s.asked.info.Address, Loopback: s.asked.info.Loopback, TEE: s.asked.evidence.TEE, TCBStatus: string(s.verdict.TCBStatus),
		ActivatedAt: s.at.UTC(), AttestedAt: s.at.UTC(), NotAfter: s.end,
		RenewAfter: s.times.due.UTC(), DegradeAt: s.times.degrade.UTC(), DrainAt: s.times.drain.UTC(),
		Serial: s.serial, Decision: s.id, Rules: s.rev.rulesOf(s.asked.info.Marble), Origin: s.origin(), Evidence: s.evidenceDigest(), Provenances: provenances(old.Provenances, provenanceOf(s.verdict.Claims, s.end), s.at),
	}
	if s.peer != nil {
		var err error
		if old, err = renewable(tx, *s.peer, s.at); err != nil {
			return err
		}
		s.record.ActivatedAt, s.record.Previous, s.record.PreviousNotAfter = old.ActivatedAt, old.Serial, old.NotAfter
		if s.peer.Serial == old.Previous {
			s.record.Previous, s.record.PreviousNotAfter = old.Previous, old.PreviousNotAfter
		}
	}
	s.moved = len(s.marble.Serves)+len(s.marble.Calls) > 0 &&
		(!exists || old.lapse().phase(s.at) >= isDrained || c.live.isLeaving(s.key()) || old.Address != s.record.Address || old.Loopback != s.record.Loopback)
	if !exists {
		if err := c.count(tx, s); err != nil {
			return err
		}
	}
	var complete bool
	var err error
	if s.record.Basis, err = keep(tx, instanceEvidence(s.key()), s.packed, s.matter.endorsements); err != nil {
		return err
	}
	if s.raises {
		if err := raiseMarks(tx, s.matter.endorsements, s.seen()); err != nil {
			return err
		}
	}
	if complete, err = c.release(tx, s); err != nil {
		return err
	}
	if !complete {
		return errAgain
	}
	if err := instances.Put(tx, s.key(), s.record); err != nil {
		return err
	}
	details := map[string]string{"serial": s.serial, "notAfter": stamp(s.end)}
	if len(s.secrets) > 0 {
		details["secrets"] = strings.Join(s.secrets, " ")
	}
	entry, err := c.log.Append(tx, s.ruling.record(details))
	s.entry = entry
	return err
}

// overtaken reports whether what a ruling rests on has changed since.
func (r *ruling) overtaken(tx *store.Tx) bool {
	head, _ := heads.Get(tx, keyCurrent)
	floors, _ := floorsTable.Get(tx, keyCurrent)
	happened, _ := incidentHeads.Get(tx, keyCurrent)
	return head.Number != r.rev.record.Number || floors.Version != r.floors.Version || happened.Version != r.incidents.head.Version
}

// count counts a further instance. At the limit it first makes room by removing
// those of the marble whose lease has ended.
func (c *Coordinator) count(tx *store.Tx, s *settlement) error {
	limit := s.marble.MaxInstances
	if limit <= 0 || limit > manifest.MaxInstances {
		limit = manifest.MaxInstances
	}
	marble := s.asked.info.Marble
	n, _ := counts.Get(tx, marble)
	if n >= limit {
		for key, r := range instances.Prefix(tx, marble+"/") {
			if !s.at.Before(r.NotAfter) {
				remove(tx, key)
				s.ended = append(s.ended, key)
			}
		}
		if n, _ = counts.Get(tx, marble); n >= limit {
			return problem.New("CRD-031", "%d instances of %s live, the manifest allows %d", n, marble, limit)
		}
	}
	return counts.Put(tx, marble, n+1)
}

// remove removes an instance that has no lease any more, with what is its own.
func remove(tx *store.Tx, key string) {
	marble, id, _ := strings.Cut(key, "/")
	instances.Delete(tx, key)
	evidences.Delete(tx, instanceEvidence(key))
	secrets.Drop(tx, secrets.Asker{Marble: marble, Instance: id})
	if n, _ := counts.Get(tx, marble); n > 1 {
		_ = counts.Put(tx, marble, n-1) // a failure is the transaction's
	} else {
		counts.Delete(tx, marble)
	}
}

// issue prepares, lints, signs and judges the leaf.
func (c *Coordinator) issue(a *authority.Authority, r *ruling, serial authority.SerialNumber, s settlement) (authority.Issued, error) {
	facts := apiv1.LeafFacts{
		Evidence: r.asked.evidence.Digest(), Verdict: r.verdictDigest(), TEE: attest.TEE(r.asked.evidence.TEE),
		Manifest: r.rev.m.Digest(), Log: c.signer.Promise(s.entry.Seq, [32]byte(s.entry.Hash)),
	}
	token, err := a.PrepareLeaf(authority.LeafRequest{
		TrustDomain: r.rev.m.TrustDomain, Marble: r.asked.info.Marble, Instance: r.asked.info.ID, DNSNames: s.marble.DNSNames,
		PublicKey: r.asked.publicKey, NotAfter: s.end, Facts: facts, Serial: serial,
	}, r.at)
	if err != nil {
		return authority.Issued{}, err
	}
	return a.Issue(token)
}
