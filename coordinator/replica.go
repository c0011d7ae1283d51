package coordinator

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/plain"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// coordinators is the name under which the joining of a further coordinator is
	// decided on: the subject in the log, and before the slash of a decision's id.
	coordinators = "coordinators"
	useReplica   = "replica"
	// maxHolders bounds the coordinators that are remembered to have got the key.
	maxHolders = 64
)

// replicas are the coordinators that have got the key of the state, by their names.
var replicas = store.NewTable[replicaRecord]("replicas")

// replicaRecord is a coordinator that has got the key.
type replicaRecord struct {
	Name     string     `json:"name"`
	At       time.Time  `json:"at"`
	TEE      attest.TEE `json:"tee"`
	Decision string     `json:"decision"`
	Basis    basis      `json:"basis"`
	// Package, Platform and Provenance are what incidents are found by.
	Package    string     `json:"package"`
	Platform   string     `json:"platform"`
	Provenance provenance `json:"provenance"`
}

func replicaEvidence(name string) string { return "replica/" + name }

// replicaOf finds who got the key by a decision.
func replicaOf(tx *store.Tx, decision string) (replicaRecord, bool) {
	for _, r := range replicas.All(tx) {
		if r.Decision == decision {
			return r, true
		}
	}
	return replicaRecord{}, false
}

func (q *question) checkReplica() error {
	if !apiv1.IsReplicaName(q.info.ID) {
		return problem.New("REP-024", "name %.80q is not 1 to 63 letters, digits and dashes", q.info.ID)
	}
	if len(q.publicKey) != apiv1.ReplicaKeySize {
		return problem.New("REP-024", "wanted an X25519 key of %d bytes, got %d", apiv1.ReplicaKeySize, len(q.publicKey))
	}
	return nil
}

// admitsNobody says why nobody may join: that is no refusal of who asks.
func admitsNobody(rev *revision) error {
	if rev.m == nil {
		return problem.New("REP-020", "no manifest was set yet")
	}
	return problem.New("REP-020", "revision %d of the manifest has no section coordinators", rev.record.Number)
}

// givesKey refuses where there is nothing to hand over, or nobody whom it could
// be handed to.
func (c *Coordinator) givesKey(ctx context.Context) error {
	if err := errors.Join(c.open(ctx), c.refuseBehind()); err != nil {
		return problem.From(err)
	}
	if k := c.config.Keeper; k == nil || !k.Key.Valid() {
		return problem.New("REP-022", "it keeps none")
	}
	rev := c.current.Load()
	if _, admits := rev.policyAs(binding.Replica, coordinators); !admits {
		return admitsNobody(rev)
	}
	return nil
}

// ChallengeReplica begins the handing over of the state's key: it returns a nonce
// for AdmitReplica, which counts once, for 60 s, in this session alone, and the
// coordinator's own statement for the nonce of the question and the key (PKIX DER)
// of the connection. Errors: those of Attest, REC-030 (the state is behind), and
// REP-020 and REP-022.
func (c *Coordinator) ChallengeReplica(ctx context.Context, s Session, q apiv1.ReplicaQuestion, tlsKey []byte) (apiv1.ReplicaChallenge, error) {
	var out apiv1.ReplicaChallenge
	err := c.givesKey(ctx)
	if err != nil {
		return out, err
	}
	if out.Nonce, err = c.joins.make(useReplica, s, c.config.Now()); err != nil {
		return out, err
	}
	out.Statement, err = c.Attest(ctx, q.Nonce, tlsKey)
	return out, err
}

// AdmitReplica judges a further coordinator by the manifest's section coordinators
// as a marble is judged by its own, with floors, incidents and endorsements, and
// seals the key of the state to it. The decision is durable before the key is
// returned.
//
// REP-020 says that the manifest admits nobody, and REP-021 that it does not admit
// this one: with the verdict, and the id of the decision as instance. Further:
// CRD-020 to CRD-022 (nonce), ATT-070 and REP-024 (malformed), CRD-004
// (endorsements), REC-030 (the state is behind) and REP-022.
func (c *Coordinator) AdmitReplica(ctx context.Context, s Session, req apiv1.ReplicaRequest) (apiv1.ReplicaKey, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return apiv1.ReplicaKey{}, err
	}
	defer done()
	if err := c.givesKey(ctx); err != nil {
		return apiv1.ReplicaKey{}, err
	}
	q := question{
		purpose: binding.Replica, session: s, info: InstanceInfo{Marble: coordinators, ID: req.Name}, evidence: req.Evidence,
		buffer: req.ClaimsBuffer, publicKey: req.PublicKey, nonce: req.Nonce,
	}
	if err := q.check(); err != nil {
		return apiv1.ReplicaKey{}, err
	}
	if err := c.joins.redeem(q.nonce, useReplica, s, c.config.Now()); err != nil {
		return apiv1.ReplicaKey{}, err
	}
	var key apiv1.ReplicaKey
	err = c.decideOn(ctx, q, func(r *ruling) (err error) {
		key, err = c.handOver(ctx, r)
		return err
	})
	if err != nil {
		return apiv1.ReplicaKey{}, notAdmitted(err)
	}
	c.live.accept(coordinators)
	return key, nil
}

// notAdmitted gives a refusal the one code that tells the replica that it was
// refused for itself.
func notAdmitted(err error) error {
	var p *problem.Error
	if !errors.As(err, &p) || p.Verdict == nil {
		return err
	}
	e := problem.New("REP-021", "%s (%s)", p.Detail, p.Code).WithNext("%s", p.Next)
	e.Instance, e.Verdict = p.Instance, p.Verdict
	return e
}

// handOver records who gets the key, and returns the key sealed to it.
func (c *Coordinator) handOver(ctx context.Context, r *ruling) (apiv1.ReplicaKey, error) {
	bound := apiv1.ReplicaBinding{Root: c.authority.Load().Root(), Nonce: r.asked.nonce}
	sealed, err := apiv1.SealReplicaKey(r.asked.publicKey, bound, c.config.Keeper.Key.Reveal())
	if err != nil {
		return apiv1.ReplicaKey{}, problem.Because(err, "REP-024", "encrypting to the key of %s", r.asked.info.ID)
	}
	packed, err := r.pack()
	if err != nil {
		return apiv1.ReplicaKey{}, err
	}
	var entry audit.Entry
	err = c.update(ctx, func(tx *store.Tx) error {
		entry, err = c.recordHolder(tx, r, packed)
		return err
	})
	if err != nil {
		return apiv1.ReplicaKey{}, err
	}
	c.log.Committed(entry)
	if r.raises {
		if err := c.marks.load(context.WithoutCancel(ctx), c.store); err != nil {
			return apiv1.ReplicaKey{}, err
		}
	}
	if err := errors.Join(c.recheck(ctx, r), c.refuseBehind()); err != nil {
		return apiv1.ReplicaKey{}, err
	}
	return apiv1.ReplicaKey{Sealed: sealed, Decision: r.id}, nil
}

// recordHolder writes all that an accepted coordinator changes.
func (c *Coordinator) recordHolder(tx *store.Tx, r *ruling, packed []byte) (audit.Entry, error) {
	if r.overtaken(tx) {
		return audit.Entry{}, errAgain
	}
	policy := r.matter.policy
	record := replicaRecord{
		Name: r.asked.info.ID, At: r.at.UTC(), TEE: r.asked.evidence.TEE, Decision: r.id,
		Package: policy.PackageName, Platform: policy.PlatformName, Provenance: provenanceOf(r.verdict.Claims, time.Time{}),
	}
	if _, known := replicas.Get(tx, record.Name); !known && replicas.Len(tx) >= maxHolders {
		forgetHolder(tx)
	}
	var err error
	if record.Basis, err = keep(tx, replicaEvidence(record.Name), packed, r.matter.endorsements); err != nil {
		return audit.Entry{}, err
	}
	if r.raises {
		if err := raiseMarks(tx, r.matter.endorsements, r.seen()); err != nil {
			return audit.Entry{}, err
		}
	}
	if err := replicas.Put(tx, record.Name, record); err != nil {
		return audit.Entry{}, err
	}
	return c.log.Append(tx, r.record(nil))
}

// forgetHolder makes room by forgetting who got the key first. The log has it.
func forgetHolder(tx *store.Tx) {
	var oldest replicaRecord
	for _, r := range replicas.All(tx) {
		if oldest.Name == "" || r.At.Before(oldest.At) {
			oldest = r
		}
	}
	replicas.Delete(tx, oldest.Name)
	evidences.Delete(tx, replicaEvidence(oldest.Name))
}

// holderAttention shows coordinators that have got the key and that an incident
// is about.
func (c *Coordinator) holderAttention(tx *store.Tx) []apiv1.Attention {
	var all []apiv1.Attention
	for _, r := range replicas.All(tx) {
		s := suspect{packageName: r.Package, platform: r.Platform}
		s.add(r.Provenance)
		if in := c.incidents.Load().barred(s); in != nil && len(all) < maxShown {
			e := problem.Lookup("REP-025")
			all = append(all, apiv1.Attention{Code: string(e.Code), Subject: "replica " + r.Name, Next: e.Next, Since: in.At,
				Text: "it got the key at " + stamp(r.At) + ", and " + refusalOf(in).Detail})
		}
	}
	return all
}

// maxReplicas bounds the replicas of a status.
const maxReplicas = 64

// knownReplicas are the replicas that there are, and those of them that wait for
// the key or would not take over, and say why.
func (c *Coordinator) knownReplicas() (known []apiv1.Replica, waiting []apiv1.Attention) {
	if c.config.Replicas == nil {
		return nil, nil
	}
	known = slices.Clone(c.config.Replicas())
	known = known[:min(len(known), maxReplicas)]
	for i := range known {
		r := &known[i]
		for _, text := range []*string{&r.Name, &r.Role, &r.Reason, &r.Version, &r.TEE} { // the host keeps them
			*text = plain.Clip(*text, maxReason)
		}
		if r.Role != apiv1.ReplicaActive && r.Reason != "" {
			e := problem.Lookup("REP-023")
			if r.Role == apiv1.ReplicaStandby {
				e = problem.Lookup("REP-011")
			}
			waiting = append(waiting, apiv1.Attention{Code: string(e.Code), Subject: "replica " + r.Name, Text: r.Reason, Next: e.Next, Since: r.Since})
		}
	}
	return known, waiting
}
