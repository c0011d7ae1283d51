package apiv1

import (
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Kinds of incidents.
const (
	Revocation = "revocation" // the subject has no identity any more
	Quarantine = "quarantine" // it keeps its identity, and may neither call nor be called
	BreakGlass = "breakGlass" // a rule is lifted for a while
)

// Kinds of what is revoked.
const (
	MarbleSubject   = "marble"
	PackageSubject  = "package"
	PlatformSubject = "platform"
	UserSubject     = "user"
)

// Incident is a measure that stands: GET /v1/revocations, /v1/quarantine and
// /v1/break-glass list them, and each list is ordered by ID.
type Incident struct {
	ID         int        `json:"id"` // of this deployment's incidents, from 1
	Kind       string     `json:"kind"`
	Subject    Subject    `json:"subject,omitzero"` // of a revocation or quarantine
	Lifts      *Exception `json:"lifts,omitempty"`  // of a break-glass: the rule that does not count
	Reason     string     `json:"reason"`
	By         string     `json:"by"`
	ApprovedBy []string   `json:"approvedBy,omitempty"` // all who agreed, where one was not enough
	At         time.Time  `json:"at"`
	Until      time.Time  `json:"until,omitzero"` // of a break-glass
	Record     uint64     `json:"record"`         // in the audit log
}

// Subject says who an incident is about.
type Subject struct {
	Kind string `json:"kind"` // "marble", "package", "platform" or "user"
	// Name is that of the manifest. Of a platform it may be a machine as evidence
	// names it, in hexadecimal: an FMSPC, a PPID, a platform instance id, a chip
	// id.
	Name        string     `json:"name"`
	Instance    string     `json:"instance,omitempty"`    // of a marble; empty for all of them
	Measurement attest.Hex `json:"measurement,omitempty"` // of a package; empty for all that it accepts
}

// Exception is a rule that does not count for a while: a hop that no call
// grants, or a TCB status that a platform does not accept. One of the two is set.
type Exception struct {
	Hop    *ExtraHop       `json:"hop,omitempty"`
	Status *AcceptedStatus `json:"status,omitempty"`
}

// ExtraHop lets a marble call a port that its manifest entry does not name.
type ExtraHop struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Port   string `json:"port"`
	Listen uint16 `json:"listen,omitempty"` // loopback port of the caller; the callee's number if 0
}

// AcceptedStatus has a platform accept a TCB status.
type AcceptedStatus struct {
	Platform string           `json:"platform"`
	Status   attest.TCBStatus `json:"status"`
}

// Incidents is a list of incidents. That of GET /v1/break-glass is also part of a
// Statement, whose evidence binds its bytes.
type Incidents struct {
	Incidents []Incident `json:"incidents"`
}

// RevokeRequest is POST /v1/revocations and POST /v1/quarantine.
type RevokeRequest struct {
	Subject Subject  `json:"subject"`
	Reason  string   `json:"reason"`            // 1 to 512 bytes
	Accepts []string `json:"accepts,omitempty"` // risks by name: "lock-out"
	DryRun  bool     `json:"dryRun,omitempty"`  // nothing is done: the answer says what would be
}

// RevokeResult answers a RevokeRequest.
type RevokeResult struct {
	// Incident is what stands now; absent while it waits for approvals.
	Incident *Incident `json:"incident,omitempty"`
	Proposal *Proposal `json:"proposal,omitempty"` // that others have to approve
	// Instances are the live ones that it is about, at most 1,000, and Hops the
	// hops that it closes.
	Instances []string `json:"instances"`
	Hops      []string `json:"hops"`
	// Secrets are those that they have read and that count still: none is rotated
	// by this.
	Secrets []string `json:"secrets"`
}

// BreakGlassRequest is POST /v1/break-glass.
type BreakGlassRequest struct {
	Lifts  Exception       `json:"lifts"`
	Reason string          `json:"reason"` // 1 to 512 bytes
	For    attest.Duration `json:"for"`    // 1m to 24h
}

// LiftRequest is DELETE of an incident: /v1/revocations/{id} and the like.
type LiftRequest struct {
	Reason string `json:"reason"` // 1 to 512 bytes
}

// IncidentResult answers requests that have no more to say.
type IncidentResult struct {
	Incident *Incident `json:"incident,omitempty"`
	Proposal *Proposal `json:"proposal,omitempty"` // that others have to approve
}
