package coordinator

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// ProposalRequest names a proposal, and who asks.
type ProposalRequest struct {
	Digest    string // hex
	IfMatch   string // its id, hex
	Principal *Principal
}

// Approve keeps a user's signature (apiv1.ApprovalText) under a proposal. The
// one that settles the last demand puts the change in force, in the same Update.
// The same user's signature again changes nothing.
//
// Errors: CRD-015 (nobody), GOV-004 (no such proposal), GOV-006 and GOV-012
// (IfMatch), GOV-007 (expired), GOV-008 (the user has no say in it), GOV-005 (the
// signature does not hold), and those of SetManifest or of the action.
func (c *Coordinator) Approve(ctx context.Context, req ProposalRequest, signature []byte) (apiv1.ApproveResult, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return apiv1.ApproveResult{}, err
	}
	defer done()
	c.setting.Lock()
	defer c.setting.Unlock()
	rev := c.current.Load()
	r, err := c.openProposal(ctx, rev, req)
	if err != nil {
		return apiv1.ApproveResult{}, err
	}
	approval, err := c.approval(rev, r, req.Principal.Name, signature)
	if err != nil {
		return apiv1.ApproveResult{}, c.refuseApproval(ctx, req, err)
	}
	s := settling{c: c, rev: rev, r: r}
	if !r.has(approval) {
		all := append(slices.Clip(r.Proposal.Approvals), approval)
		s.r.Proposal.Approvals, s.approval = all, &all[len(all)-1]
	}
	result, err := s.run(ctx)
	if err != nil {
		return apiv1.ApproveResult{}, c.refuseApproval(ctx, req, err)
	}
	return result, nil
}

// refuseApproval records a refusal and returns it. A medium that fails is none.
func (c *Coordinator) refuseApproval(ctx context.Context, req ProposalRequest, err error) error {
	if !errors.As(err, new(*problem.Error)) || strings.HasPrefix(string(problem.CodeOf(err)), "STO-") {
		return err
	}
	return c.refuseUser(ctx, req.Principal, audit.Record{Kind: audit.ApprovalRefused, Subject: req.Digest}, err)
}

// openProposal returns a proposal that is open. It ends one that has expired.
func (c *Coordinator) openProposal(ctx context.Context, rev *revision, req ProposalRequest) (proposalRecord, error) {
	switch {
	case rev.m == nil:
		return proposalRecord{}, problem.New("CRD-010", "no manifest was set yet, so nothing is proposed")
	case req.Principal == nil:
		return proposalRecord{}, problem.New("CRD-015", "proposals are for users of the manifest")
	case c.outcast(req.Principal) != nil:
		return proposalRecord{}, c.outcast(req.Principal)
	}
	r, err := c.proposal(ctx, req.Digest)
	switch {
	case err != nil:
		return r, err
	case req.IfMatch == "":
		return r, problem.New("GOV-012", "the proposal's id is %s", r.Proposal.ID)
	case !strings.EqualFold(req.IfMatch, r.Proposal.ID.String()):
		return r, problem.New("GOV-006", "the request is about the proposal %.64s, and %s is open", req.IfMatch, r.Proposal.ID)
	case !c.config.Now().Before(r.Proposal.Expires):
		err := c.update(ctx, func(tx *store.Tx) error { return c.endExpired(tx, c.config.Now()) })
		return r, errors.Join(problem.New("GOV-007", "it expired at %s", stamp(r.Proposal.Expires)), err)
	}
	return r, nil
}

// proposal finds a proposal by its digest.
func (c *Coordinator) proposal(ctx context.Context, digest string) (r proposalRecord, err error) {
	key, err := digestKey(digest)
	if err != nil {
		return r, err
	}
	found := false
	err = c.store.View(ctx, func(tx *store.Tx) error {
		r, found = proposals.Get(tx, key)
		return nil
	})
	switch {
	case err != nil:
		return r, err
	case found:
		return r, nil
	case c.current.Load().digest() == key:
		return r, problem.New("GOV-004", "manifest %.8s is in force, and no proposal any more", key)
	}
	return r, problem.New("GOV-004", "no proposal with the digest %s is open", key)
}

// approval judges a user's signature under a proposal.
func (c *Coordinator) approval(rev *revision, r proposalRecord, name string, signature []byte) (apiv1.Approval, error) {
	if err := r.hasSay(rev, name); err != nil {
		return apiv1.Approval{}, err
	}
	for sum, u := range rev.users {
		if u.name != name {
			continue
		}
		if err := apiv1.VerifyApproval(u.cert, apiv1.ApprovalText(rev.trustDomain(), r.Proposal), signature); err != nil {
			return apiv1.Approval{}, problem.Because(err, "GOV-005", "of %s under %s", name, r.Proposal.Digest)
		}
		return apiv1.Approval{User: name, At: c.config.Now().UTC(), Certificate: sum[:], Signature: signature}, nil
	}
	return apiv1.Approval{}, problem.New("CRD-041", "the manifest in force has no user %.80q", name)
}

// has reports whether a user's signature is there already. One under another
// certificate is another.
func (r proposalRecord) has(approval apiv1.Approval) bool {
	return slices.ContainsFunc(r.Proposal.Approvals, func(a apiv1.Approval) bool {
		return a.User == approval.User && slices.Equal(a.Certificate, approval.Certificate)
	})
}

// hasSay refuses a user whose agreement to a proposal would count for nothing.
func (r proposalRecord) hasSay(rev *revision, name string) error {
	approvals := manifest.Approvers(rev.m, demandsOf(r.Needs))
	if slices.ContainsFunc(approvals, func(a manifest.Approval) bool { return a.Counts(name) }) {
		return nil
	}
	return problem.New("GOV-008", "%s has no say in it: %s", name, table(approvals))
}

// settling is one approval on its way. The caller holds c.setting.
type settling struct {
	c        *Coordinator
	rev      *revision
	r        proposalRecord  // with the approval
	approval *apiv1.Approval // in r; nil if it was there already
}

// run keeps the approval, and puts the change in force if that settles it.
func (s settling) run(ctx context.Context) (apiv1.ApproveResult, error) {
	agreed := s.r.agreed(s.rev)
	if len(manifest.Settled(s.rev.m, demandsOf(s.r.Needs), agreed)) > 0 {
		err := s.c.update(ctx, func(tx *store.Tx) error {
			if err := s.log(tx); err != nil {
				return err
			}
			return proposals.Put(tx, s.r.key(), s.r)
		})
		return apiv1.ApproveResult{Proposal: s.r.shown(s.rev)}, err
	}
	document, err := s.c.readProposed(ctx, s.r)
	if err != nil {
		return apiv1.ApproveResult{}, err
	}
	p := s.r.Proposal
	by := origin{user: p.ProposedBy, at: s.c.config.Now().UTC(), agreed: agreed, accepted: p.Accepts, proposal: p.ID}
	result := apiv1.ApproveResult{Settled: true}
	if p.Kind == apiv1.ManifestProposal {
		result.Set, err = s.manifest(ctx, document, by)
	} else {
		err = s.action(ctx, document, by)
	}
	result.Proposal = s.r.shown(s.rev)
	return result, err
}

// manifest puts the proposed manifest in force. What SetManifest judged of it
// holds still: the manifest in force is the same.
func (s settling) manifest(ctx context.Context, document []byte, by origin) (*apiv1.SetResult, error) {
	m, problems := manifest.Parse(document)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if err := errors.Join(replaces(s.rev, m, s.r.Proposal.Predecessor.String()), identities(m), s.c.claimed(m)); err != nil {
		return nil, problem.From(err)
	}
	next, err := following(s.rev, m, by)
	if err != nil {
		return nil, err
	}
	result, err := s.c.put(ctx, next, s.c.consequences(manifest.Compare(s.rev.m, m), s.rev, next), s.end)
	return &result, err
}

func (s settling) action(ctx context.Context, document []byte, by origin) error {
	a, err := readAct(document)
	if err != nil {
		return err
	}
	return s.c.act(ctx, a, s.end, by)
}

// end writes the last approval and removes the proposal.
func (s settling) end(tx *store.Tx) error {
	s.r.drop(tx)
	return s.log(tx)
}

// log writes the approval's place in the log into it.
func (s settling) log(tx *store.Tx) error {
	if s.approval == nil {
		return nil
	}
	e := proposalEntry(s.r.Proposal, audit.Approval, s.approval.User, s.approval.At)
	e.Details["certificate"] = s.approval.Certificate.String()
	e.Details["signature"] = base64.StdEncoding.EncodeToString(s.approval.Signature)
	entry, err := s.c.log.Append(tx, e)
	s.approval.Record = entry.Seq
	return err
}

// Withdraw takes back a user's own approval of a proposal; GOV-010 if there is
// none. Other errors are those of Approve.
func (c *Coordinator) Withdraw(ctx context.Context, req ProposalRequest) (apiv1.Proposal, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return apiv1.Proposal{}, err
	}
	defer done()
	c.setting.Lock()
	defer c.setting.Unlock()
	rev := c.current.Load()
	r, err := c.openProposal(ctx, rev, req)
	if err != nil {
		return apiv1.Proposal{}, err
	}
	kept := slices.DeleteFunc(slices.Clone(r.Proposal.Approvals), func(a apiv1.Approval) bool { return a.User == req.Principal.Name })
	if len(kept) == len(r.Proposal.Approvals) {
		return apiv1.Proposal{}, problem.New("GOV-010", "%s has not approved %.8s", req.Principal.Name, r.key())
	}
	r.Proposal.Approvals = kept
	err = c.update(ctx, func(tx *store.Tx) error {
		if _, err := c.log.Append(tx, proposalEntry(r.Proposal, audit.ApprovalWithdrawn, req.Principal.Name, c.config.Now())); err != nil {
			return err
		}
		return proposals.Put(tx, r.key(), r)
	})
	return r.shown(rev), err
}

// EndProposal ends a proposal: its proposer withdraws it, and a user who has a
// say in it rejects it, unless it is to revoke that user. GOV-008 for others; other
// errors are those of Approve.
func (c *Coordinator) EndProposal(ctx context.Context, req ProposalRequest) (apiv1.Proposal, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return apiv1.Proposal{}, err
	}
	defer done()
	c.setting.Lock()
	defer c.setting.Unlock()
	rev := c.current.Load()
	r, err := c.openProposal(ctx, rev, req)
	if err != nil {
		return apiv1.Proposal{}, err
	}
	kind := audit.ProposalWithdrawn
	if r.Proposal.ProposedBy != req.Principal.Name {
		kind = audit.ProposalRejected
		if err := cmp.Or(r.hasSay(rev, req.Principal.Name), c.concerns(ctx, r, req.Principal.Name)); err != nil {
			return apiv1.Proposal{}, c.refuseApproval(ctx, req, err)
		}
	}
	err = c.update(ctx, func(tx *store.Tx) error { return c.endProposal(tx, r, kind, req.Principal.Name, c.config.Now()) })
	return r.shown(rev), err
}

// concerns refuses a user whose revocation is proposed.
func (c *Coordinator) concerns(ctx context.Context, r proposalRecord, user string) error {
	if r.Proposal.Kind != apiv1.ActionProposal {
		return nil
	}
	document, err := c.readProposed(ctx, r)
	if err != nil {
		return err
	}
	a, err := readAct(document)
	if err != nil {
		return err
	}
	if revoked, ok := a.(*revocation); ok && revoked.Subject.Kind == apiv1.UserSubject && revoked.Subject.Name == user {
		return problem.New("GOV-008", "%s is whom it revokes", user)
	}
	return nil
}

// endProposal removes a proposal and says in the log why.
func (c *Coordinator) endProposal(tx *store.Tx, r proposalRecord, kind audit.Kind, actor string, at time.Time) error {
	r.drop(tx)
	_, err := c.log.Append(tx, proposalEntry(r.Proposal, kind, actor, at))
	return err
}

// endExpired removes the proposals whose time is over.
func (c *Coordinator) endExpired(tx *store.Tx, now time.Time) error {
	for _, r := range proposals.All(tx) {
		if now.Before(r.Proposal.Expires) {
			continue
		}
		if err := c.endProposal(tx, r, audit.ProposalExpired, "", now); err != nil {
			return err
		}
	}
	return nil
}

// endStale removes the proposals that were made, and signed, under another manifest
// than is in force from now on, but for revocations.
func (c *Coordinator) endStale(tx *store.Tx, now time.Time) error {
	for _, r := range proposals.All(tx) {
		if r.Proposal.Kind != apiv1.ManifestProposal && !r.Looser {
			continue
		}
		if err := c.endProposal(tx, r, audit.ProposalStale, "", now); err != nil {
			return err
		}
	}
	return nil
}

// expire is endExpired where there are any, for Tick.
func (c *Coordinator) expire(ctx context.Context) error {
	now, due := c.config.Now(), false
	err := c.store.View(ctx, func(tx *store.Tx) error {
		for _, r := range proposals.All(tx) {
			due = due || !now.Before(r.Proposal.Expires)
		}
		return nil
	})
	if err != nil || !due {
		return err
	}
	return c.update(ctx, func(tx *store.Tx) error { return c.endExpired(tx, now) })
}
