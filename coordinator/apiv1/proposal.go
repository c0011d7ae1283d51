package apiv1

import (
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Kinds of proposals.
const (
	ManifestProposal = "manifest" // its document is a manifest
	ActionProposal   = "action"   // its document is an Action
)

// Proposal is a change that waits until enough users have signed it:
// GET /v1/proposals/{digest}. Its id is its ETag.
type Proposal struct {
	Digest attest.Hex `json:"digest"` // SHA-256 of its document
	ID     attest.Hex `json:"id"`     // 32 random bytes, so that no signature counts twice
	Kind   string     `json:"kind"`   // "manifest" or "action"
	Text   string     `json:"text"`   // one line for people
	Size   int        `json:"size"`   // of its document, in bytes
	// Predecessor is the digest of the manifest that was in force. A proposed
	// manifest replaces this one and no other.
	Predecessor attest.Hex `json:"predecessor"`
	ProposedBy  string     `json:"proposedBy"`
	ProposedAt  time.Time  `json:"proposedAt"`
	Expires     time.Time  `json:"expires"` // in whole seconds, UTC
	// Accepts are the risks that whoever signs accepts, by name, sorted.
	Accepts   []string   `json:"accepts"`
	Demands   []Demand   `json:"demands"`
	Approvals []Approval `json:"approvals"`
	Record    uint64     `json:"record"` // in the audit log
}

// Demand is a part of a change, and who has to agree to it: so many of the
// holders, or one of those who suffice alone.
type Demand struct {
	Path     string   `json:"path"`             // what is changed, such as "packages/web"
	Others   int      `json:"others,omitempty"` // parts that the same users may change, and that are not listed
	Rights   []string `json:"rights"`           // of which one is needed
	Needed   int      `json:"needed"`           // how many holders have to agree
	Holders  []string `json:"holders"`          // users with the first of the rights
	Alone    []string `json:"alone,omitempty"`  // users with a narrow right to this change
	Approved []string `json:"approved"`         // of all these, who has agreed
	Settled  bool     `json:"settled"`          // enough have
}

// Approval is a user's signature under a proposal.
type Approval struct {
	User        string     `json:"user"`
	At          time.Time  `json:"at"`
	Certificate attest.Hex `json:"certificate"` // SHA-256 of the user's certificate, DER
	Signature   []byte     `json:"signature"`   // over ApprovalText
	Record      uint64     `json:"record"`      // in the audit log
}

// Proposals is GET /v1/proposals: those that are open, oldest first, at most 16.
type Proposals struct {
	Proposals []Proposal `json:"proposals"`
}

// Action is the document of a proposal that is no manifest. Its bytes are what
// json.Marshal writes.
type Action struct {
	Action    string `json:"action"`    // such as "revoke"
	Arguments any    `json:"arguments"` // as the action takes them
}

// ApproveRequest is POST /v1/proposals/{digest}/approvals.
type ApproveRequest struct {
	Signature []byte `json:"signature"` // over ApprovalText, at most 1,024 bytes
}

// ApproveResult answers an ApproveRequest.
type ApproveResult struct {
	Settled bool `json:"settled"` // with this approval the change took effect
	// Proposal is as it is now, or was when it took effect.
	Proposal Proposal `json:"proposal"`
	// Set is what became of a manifest that took effect.
	Set *SetResult `json:"set,omitempty"`
}

// Revision is a manifest that is or was in force.
type Revision struct {
	Revision   int        `json:"revision"` // from 1
	Digest     attest.Hex `json:"digest"`
	Previous   attest.Hex `json:"previous,omitempty"` // digest of the one before; absent for the first
	SetBy      string     `json:"setBy"`
	SetAt      time.Time  `json:"setAt"`
	ApprovedBy []string   `json:"approvedBy"`     // who signed it, where one user was not enough
	Accepted   []string   `json:"accepted"`       // risks
	Open       bool       `json:"open,omitempty"` // anybody could have set it
	Record     uint64     `json:"record"`         // in the audit log: its acceptance
}

// History is GET /v1/manifest/history?from=N&limit=N, in order.
type History struct {
	Revisions []Revision `json:"revisions"`
	Next      int        `json:"next,omitempty"` // pass as from; absent at the end
}
