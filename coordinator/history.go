package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxRevisions bounds one page of the history.
const maxRevisions = 1000

// History returns up to limit (at most 1,000, 100 if 0) revisions of the
// manifest from one on, in order.
func (c *Coordinator) History(ctx context.Context, from, limit int) (apiv1.History, error) {
	page := apiv1.History{Revisions: []apiv1.Revision{}}
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, maxRevisions)
	err := c.store.View(ctx, func(tx *store.Tx) error {
		for _, r := range revisions.From(tx, numbered(from)) {
			if len(page.Revisions) == limit {
				page.Next = r.Number
				return nil
			}
			page.Revisions = append(page.Revisions, r.public())
		}
		return nil
	})
	return page, err
}

func (r revisionRecord) public() apiv1.Revision {
	return apiv1.Revision{Revision: r.Number, Digest: r.Digest, Previous: r.Previous, SetBy: r.SetBy, SetAt: r.SetAt, Open: r.Open, Record: r.Record,
		ApprovedBy: slices.Concat([]string{}, r.ApprovedBy), Accepted: slices.Concat([]string{}, r.Accepted)}
}

// ManifestRevision returns a manifest that is or was in force; GOV-013 for a
// number that none has.
func (c *Coordinator) ManifestRevision(ctx context.Context, number int) (apiv1.Manifest, error) {
	var r revisionRecord
	found := false
	err := c.store.View(ctx, func(tx *store.Tx) error {
		r, found = revisions.Get(tx, numbered(number))
		return nil
	})
	if err != nil {
		return apiv1.Manifest{}, err
	}
	if !found {
		return apiv1.Manifest{}, problem.New("GOV-013", "the newest revision is %d, not %d", c.current.Load().record.Number, number)
	}
	rev, err := c.readRevision(ctx, r)
	if err != nil {
		return apiv1.Manifest{}, err
	}
	return apiv1.Manifest{Digest: r.Digest, Revision: r.Number, SetBy: r.SetBy, SetAt: r.SetAt, Raw: rev.m.Raw()}, nil
}

// Proposals returns those that are open, oldest first. They are for users of the
// manifest in force.
func (c *Coordinator) Proposals(ctx context.Context) (apiv1.Proposals, error) {
	page := apiv1.Proposals{Proposals: []apiv1.Proposal{}}
	rev, now := c.current.Load(), c.config.Now()
	if rev.m == nil {
		return page, problem.New("CRD-010", "no manifest was set yet, so nothing is proposed")
	}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		for _, r := range proposals.All(tx) {
			if now.Before(r.Proposal.Expires) {
				page.Proposals = append(page.Proposals, r.shown(rev))
			}
		}
		return nil
	})
	slices.SortFunc(page.Proposals, func(a, b apiv1.Proposal) int { return a.ProposedAt.Compare(b.ProposedAt) })
	return page, err
}

// Proposal returns one that is open by its digest in hex; GOV-004 if there is
// none.
func (c *Coordinator) Proposal(ctx context.Context, digest string) (apiv1.Proposal, error) {
	rev := c.current.Load()
	if rev.m == nil {
		return apiv1.Proposal{}, problem.New("CRD-010", "no manifest was set yet, so nothing is proposed")
	}
	r, err := c.proposal(ctx, digest)
	if err != nil {
		return apiv1.Proposal{}, err
	}
	return r.shown(rev), nil
}

// ProposedDocument returns the bytes of an open proposal: a manifest, or an
// apiv1.Action.
func (c *Coordinator) ProposedDocument(ctx context.Context, digest string) ([]byte, error) {
	r, err := c.proposal(ctx, digest)
	if err != nil {
		return nil, err
	}
	return c.readProposed(ctx, r)
}

// waitingAttention says that something waits for approvals, not what.
func waitingAttention(tx *store.Tx, now time.Time) []apiv1.Attention {
	var all []apiv1.Attention
	for key, r := range proposals.All(tx) {
		if e := problem.Lookup("GOV-011"); now.Before(r.Proposal.Expires) {
			all = append(all, apiv1.Attention{Code: string(e.Code), Subject: r.Proposal.Kind + " " + key[:8],
				Text: e.Title + ", until " + stamp(r.Proposal.Expires), Next: e.Next, Since: r.Proposal.ProposedAt})
		}
	}
	return all
}
