package coordinator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds of proposals.
const (
	maxProposals     = 16 // open at once
	maxUserProposals = 4  // of one user
	maxAction        = 64 << 10
)

var (
	// proposals are those that are open, by digest in hex.
	proposals = store.NewTable[proposalRecord]("proposals")
	// proposed are their documents, under the same key.
	proposed = store.NewBlobs("proposed")
)

// proposalRecord is a proposal with what it needs.
type proposalRecord struct {
	Proposal apiv1.Proposal `json:"proposal"` // without its demands
	Needs    []need         `json:"needs"`
	// Looser says that an action allows more than was allowed. It ends, as a
	// manifest's proposal does, when another manifest comes in force: who signed
	// knew the one before. A revocation stays, so that nobody gets rid of it by
	// setting a manifest.
	Looser bool `json:"looser,omitempty"`
}

func (r proposalRecord) key() string { return r.Proposal.Digest.String() }

// An act is a change that a user asks for besides that of the manifest, and that
// the manifest may want several users to agree to: a revocation, a break-glass.
// It is a document: json.Marshal writes all of it, and reads it back.
type act interface {
	// right is what it takes, such as "revoke:marbles/web".
	right() string
	// text says in one line what it does.
	text() string
	// commit writes it and its audit record in an Update. It judges again what may
	// have changed since it was asked for; its error refuses the act. It may set
	// fields that publish needs.
	commit(c *Coordinator, tx *store.Tx, by origin) error
	// publish shows requests what commit wrote, once that is durable.
	publish(c *Coordinator)
}

// acts makes an empty act by the name of its action, to read arguments into.
var acts = map[string]func() act{}

// origin says on whose word a change is made.
type origin struct {
	user     string    // who asked
	open     bool      // anybody could have
	at       time.Time // UTC
	agreed   []string  // all who signed, sorted; nil where the user alone was enough
	accepted []string  // risks
	proposal attest.Hex
}

// details are what an audit record says of how a change came about.
func (o origin) details(into map[string]string) map[string]string {
	if len(o.accepted) > 0 {
		into["accepted"] = strings.Join(o.accepted, " ")
	}
	if o.agreed != nil {
		into["approvedBy"], into["proposal"] = strings.Join(o.agreed, " "), o.proposal.String()
	}
	return into
}

// perform does what a user asks for, if the user's right alone is enough: then it
// returns nil. Where the manifest wants several to agree it keeps a proposal and
// returns that. A user without the right gets GOV-001. The caller records
// refusals, and does not hold c.setting: commit and publish are called under it.
func (c *Coordinator) perform(ctx context.Context, user *Principal, name string, a act) (*apiv1.Proposal, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	document, err := json.Marshal(apiv1.Action{Action: name, Arguments: a})
	switch {
	case err != nil:
		return nil, fmt.Errorf("encoding the action %s: %w", name, err)
	case len(document) > maxAction:
		return nil, problem.New("GOV-003", "the action %s has %d bytes, at most %d", name, len(document), maxAction)
	}
	c.setting.Lock()
	defer c.setting.Unlock()
	rev := c.current.Load()
	switch {
	case rev.m == nil:
		return nil, problem.New("CRD-010", "no manifest was set yet, so nobody has a right")
	case user == nil:
		return nil, problem.New("CRD-015", "the action %s needs a user's certificate", name)
	}
	if err := c.outcast(user); err != nil {
		return nil, err
	}
	_, path, _ := strings.Cut(a.right(), ":")
	needs := []need{{Path: path, Rights: []string{a.right()}}}
	missing, err := rev.judge(user.Name, demandsOf(needs))
	if err != nil {
		return nil, err
	}
	if len(missing) == 0 || restores(a) {
		return nil, c.act(ctx, a, nil, origin{user: user.Name, at: c.config.Now().UTC()})
	}
	looser := false
	switch a.(type) {
	case *breakGlass, *lifting:
		looser = true
	}
	return c.propose(ctx, rev, user, document, proposalRecord{
		Proposal: apiv1.Proposal{Kind: apiv1.ActionProposal, Text: name + ": " + a.text()}, Needs: needs, Looser: looser})
}

// restores says whether an act only puts a rule of the manifest in force again:
// one holder of the right is enough for that, whatever number lifting it takes.
func restores(a act) bool {
	l, ok := a.(*lifting)
	return ok && l.Kind == apiv1.BreakGlass
}

// act commits and publishes an act; also writes what goes with it in the same
// Update. The caller holds c.setting.
func (c *Coordinator) act(ctx context.Context, a act, also func(tx *store.Tx) error, by origin) error {
	err := c.update(ctx, func(tx *store.Tx) error {
		if also != nil {
			if err := also(tx); err != nil {
				return err
			}
		}
		return a.commit(c, tx, by)
	})
	if err != nil {
		return err
	}
	a.publish(c)
	return nil
}

// readAct reads an action's document.
func readAct(document []byte) (act, error) {
	var doc struct {
		Action    string          `json:"action"`
		Arguments json.RawMessage `json:"arguments"`
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, problem.Because(err, "STO-017", "a proposed action")
	}
	empty, known := acts[doc.Action]
	if !known {
		return nil, problem.New("STO-017", "a proposed action has the name %.80q", doc.Action)
	}
	a := empty()
	if err := json.Unmarshal(doc.Arguments, a); err != nil {
		return nil, problem.Because(err, "STO-017", "the arguments of a proposed action")
	}
	return a, nil
}

// propose keeps a proposal, or finds the open one of this document. r has what
// the caller knows of it. The caller holds c.setting.
func (c *Coordinator) propose(ctx context.Context, rev *revision, user *Principal, document []byte, r proposalRecord) (*apiv1.Proposal, error) {
	r, err := c.newProposal(rev, user, document, r)
	if err != nil {
		return nil, err
	}
	err = c.update(ctx, func(tx *store.Tx) error {
		if err := c.endExpired(tx, r.Proposal.ProposedAt); err != nil {
			return err
		}
		if open, exists := proposals.Get(tx, r.key()); exists {
			r = open
			return nil
		}
		return c.keepProposal(tx, &r, document)
	})
	if err != nil {
		return nil, err
	}
	shown := r.shown(rev)
	return &shown, nil
}

func (c *Coordinator) newProposal(rev *revision, user *Principal, document []byte, r proposalRecord) (proposalRecord, error) {
	id := make([]byte, 32)
	if _, err := io.ReadFull(c.config.Rand, id); err != nil {
		return proposalRecord{}, fmt.Errorf("making the id of a proposal: %w", err)
	}
	p, now, digest := &r.Proposal, c.config.Now().UTC(), sha256.Sum256(document)
	p.Digest, p.ID, p.Size, p.Predecessor = digest[:], id, len(document), rev.record.Digest
	p.ProposedBy, p.ProposedAt = user.Name, now
	p.Expires = now.Add(time.Duration(rev.m.ProposalLifetime)).Truncate(time.Second)
	p.Accepts, p.Approvals = slices.Concat([]string{}, p.Accepts), []apiv1.Approval{}
	return r, nil
}

// keepProposal writes a proposal within the bounds, and its place in the log.
func (c *Coordinator) keepProposal(tx *store.Tx, r *proposalRecord, document []byte) error {
	own := 0
	for _, other := range proposals.All(tx) {
		if other.Proposal.ProposedBy == r.Proposal.ProposedBy {
			own++
		}
	}
	switch n := proposals.Len(tx); {
	case n >= maxProposals:
		return problem.New("GOV-003", "%d proposals are open", n)
	case own >= maxUserProposals:
		return problem.New("GOV-003", "%d proposals of %s are open", own, r.Proposal.ProposedBy)
	}
	p := &r.Proposal
	entry, err := c.log.Append(tx, proposalEntry(*p, audit.Proposal, p.ProposedBy, p.ProposedAt))
	if err != nil {
		return err
	}
	p.Record = entry.Seq
	if _, err := proposed.Put(tx, r.key(), document); err != nil {
		return err
	}
	return proposals.Put(tx, r.key(), *r)
}

// proposalEntry begins an audit record about a proposal.
func proposalEntry(p apiv1.Proposal, kind audit.Kind, actor string, at time.Time) audit.Record {
	return audit.Record{Time: at, Kind: kind, Subject: p.Digest.String(), Actor: actor, Text: p.Text, Details: map[string]string{
		"kind": p.Kind, "proposal": p.ID.String(), "predecessor": p.Predecessor.String(), "expires": stamp(p.Expires), "accepts": strings.Join(p.Accepts, " "),
	}}
}

// readProposed returns the document of a proposal.
func (c *Coordinator) readProposed(ctx context.Context, r proposalRecord) ([]byte, error) {
	return proposed.Read(ctx, c.store, r.key(), [32]byte(r.Proposal.Digest))
}

// drop removes a proposal.
func (r proposalRecord) drop(tx *store.Tx) {
	proposals.Delete(tx, r.key())
	proposed.Delete(tx, r.key())
}

// need is what a change demands: one demand, which stands for all that the same
// users may settle.
type need struct {
	Path   string   `json:"path"`
	Rights []string `json:"rights"`
	Least  int      `json:"least,omitempty"`
	Others int      `json:"others,omitempty"` // demands that it stands for, besides its own
}

func (n need) demand() manifest.Demand {
	return manifest.Demand{Path: n.Path, Rights: n.Rights, Least: n.Least}
}

func demandsOf(needs []need) []manifest.Demand {
	all := make([]manifest.Demand, len(needs))
	for i, n := range needs {
		all[i] = n.demand()
	}
	return all
}

// needsOf joins demands that the same users settle under a manifest.
func needsOf(m *manifest.Manifest, demands []manifest.Demand) []need {
	var all []need
	known := map[string]int{}
	for _, a := range manifest.Approvers(m, demands) {
		key := fmt.Sprintf("%d %q %q", a.Needed, a.Holders, a.Alone)
		if i, same := known[key]; same {
			all[i].Others++
			continue
		}
		known[key] = len(all)
		all = append(all, need{Path: a.Path, Rights: a.Rights, Least: a.Least})
	}
	return all
}

// shown is a proposal as the client API shows it while a manifest is in force.
func (r proposalRecord) shown(rev *revision) apiv1.Proposal {
	p := r.Proposal
	agreed := r.agreed(rev)
	p.Demands = []apiv1.Demand{}
	for i, a := range manifest.Approvers(rev.m, demandsOf(r.Needs)) {
		d := apiv1.Demand{Path: a.Path, Others: r.Needs[i].Others, Rights: a.Rights, Needed: a.Needed,
			Holders: slices.Concat([]string{}, a.Holders), Alone: a.Alone, Approved: []string{}}
		for _, user := range agreed {
			if a.Counts(user) {
				d.Approved = append(d.Approved, user)
			}
		}
		d.Settled = len(manifest.Settled(rev.m, []manifest.Demand{a.Demand}, agreed)) == 0
		p.Demands = append(p.Demands, d)
	}
	return p
}

// agreed are the users whose signatures count, sorted: those who still have the
// certificate that they signed with.
func (r proposalRecord) agreed(rev *revision) []string {
	var names []string
	for _, a := range r.Proposal.Approvals {
		if u, ok := rev.users[[32]byte(a.Certificate)]; ok && u.name == a.User {
			names = append(names, a.User)
		}
	}
	slices.Sort(names)
	return names
}

// judge returns what a user's agreement leaves to be settled: nothing where it
// is enough. GOV-001 for a user whose agreement counts for nothing, GOV-002
// where all users together are not enough.
func (r *revision) judge(user string, demands []manifest.Demand) ([]manifest.Missing, error) {
	counts := false
	approvals := manifest.Approvers(r.m, demands)
	for _, a := range approvals {
		counts = counts || a.Counts(user) && r.stands(user)
	}
	if !counts && len(demands) > 0 {
		return nil, problem.New("GOV-001", "%s may do none of it: %s", user, table(approvals))
	}
	missing := manifest.Settled(r.m, demands, []string{user})
	for _, m := range missing {
		if !m.Possible() {
			return nil, problem.New("GOV-002", "%s needs %d users, and %d have the right to it: %s", m.Path, m.Needed, len(m.Agreed)+len(m.Could), orNobody(slices.Concat(m.Agreed, m.Could)))
		}
	}
	return missing, nil
}

// stands reports whether the manifest in force has a user, who is not revoked.
func (r *revision) stands(name string) bool {
	for _, u := range r.users {
		if u.name == name {
			return true
		}
	}
	return false
}

// maxRows bounds the table of a refusal.
const maxRows = 10

// table says what is needed where, and who has it.
func table(approvals []manifest.Approval) string {
	var rows []string
	for i, a := range approvals {
		if i == maxRows {
			rows = append(rows, fmt.Sprintf("and %d more", len(approvals)-i))
			break
		}
		who := slices.Concat(a.Holders, a.Alone)
		slices.Sort(who)
		rows = append(rows, fmt.Sprintf("%s needs %s, which %s", a.Path, strings.Join(a.Rights, " or "), has(slices.Compact(who))))
	}
	return strings.Join(rows, "; ")
}

func has(users []string) string {
	if len(users) == 1 {
		return users[0] + " has"
	}
	return orNobody(users) + " have"
}

func orNobody(users []string) string {
	if len(users) == 0 {
		return "no users"
	}
	return strings.Join(users, ", ")
}

// digestKey reads the digest that names a proposal.
func digestKey(text string) (string, error) {
	if b, err := hex.DecodeString(text); err != nil || len(b) != sha256.Size {
		return "", problem.New("GOV-004", "%.80q is no digest of 64 hexadecimal digits", text)
	}
	return strings.ToLower(text), nil
}
