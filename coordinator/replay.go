package coordinator

import (
	"context"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Rejudge makes a decision again from what it was made from: the same evidence,
// endorsements, manifest, floors and time. The verdict has the same bytes. Kept
// are the newest decision of each live instance and the newest refusals of each
// marble; of any other it is CRD-062.
func (c *Coordinator) Rejudge(ctx context.Context, id string) (attest.Verdict, error) {
	k, m, err := c.recall(ctx, id)
	if err != nil {
		return attest.Verdict{}, err
	}
	return withSteps(m.judge(c.config.Verifiers), k.Steps), nil
}

// Basis returns what a decision was made from, with what Rejudge gives. Errors
// are those of Rejudge.
func (c *Coordinator) Basis(ctx context.Context, id string) (apiv1.Basis, error) {
	k, m, err := c.recall(ctx, id)
	if err != nil {
		return apiv1.Basis{}, err
	}
	b := apiv1.Basis{Decision: id, At: k.At, Revision: k.Revision, Policy: m.policy, Evidence: k.Evidence, ClaimsBuffer: k.Claims,
		Expected: k.Expected, Endorsements: m.endorsements, Verdict: withSteps(m.judge(c.config.Verifiers), k.Steps)}
	err = c.store.View(ctx, func(tx *store.Tx) error {
		r, _ := revisions.Get(tx, numbered(k.Revision))
		b.Manifest = r.Digest
		return nil
	})
	return b, err
}

// recall puts together what a decision was made from.
func (c *Coordinator) recall(ctx context.Context, id string) (kept, matter, error) {
	marble, _, _ := strings.Cut(id, "/")
	var key string
	var b basis
	var record revisionRecord
	err := c.store.View(ctx, func(tx *store.Tx) error {
		if r, ok := refusals.Get(tx, id); ok {
			key, b = decisionKey(id), r.Basis
			return nil
		}
		if r, ok := replicaOf(tx, id); ok {
			key, b = replicaEvidence(r.Name), r.Basis
			return nil
		}
		for instance, r := range instances.Prefix(tx, marble+"/") {
			if r.Decision == id && r.Basis.Evidence != nil {
				key, b = instanceEvidence(instance), r.Basis
				return nil
			}
		}
		return problem.New("CRD-062", "of %.80q", id)
	})
	if err != nil {
		return kept{}, matter{}, err
	}
	k, err := c.readKept(ctx, key, b)
	if err != nil {
		return k, matter{}, err
	}
	m, err := k.matter(key)
	if err != nil {
		return k, m, err
	}
	if m.endorsements, err = c.readSet(ctx, b.Set); err != nil {
		return k, m, err
	}
	var floors floorsRecord
	err = c.store.View(ctx, func(tx *store.Tx) error {
		record, _ = revisions.Get(tx, numbered(k.Revision))
		floors, _ = floorsTable.Get(tx, numbered(k.Floors))
		return nil
	})
	if err != nil {
		return k, m, err
	}
	rev, err := c.readRevision(ctx, record)
	if err != nil {
		return k, m, err
	}
	policy, ok := rev.policyAs(m.expected.Purpose, marble)
	if !ok {
		return k, m, problem.New("CRD-062", "revision %d of the manifest has no marble %s", k.Revision, marble)
	}
	m.policy, m.at = floors.raise(policy, k.Excused), k.At
	return k, m, nil
}

// matter is what was judged, without endorsements, policy and time.
func (k kept) matter(key string) (matter, error) {
	m := matter{evidence: k.Evidence}
	var err error
	if m.claims, err = binding.Parse(k.Claims); err == nil {
		m.expected, err = binding.Parse(k.Expected)
	}
	if err != nil {
		return m, problem.Because(err, "STO-017", "claims of %.200s", key)
	}
	return m, nil
}

// numbered is the key of a revision or version.
func numbered(n int) string { return fmt.Sprintf("%08d", n) }
