package audit

import "slices"

// Kind says what was decided.
type Kind string

// The kinds. Each has a row in disclosed and in docs/wire.md.
const (
	Start              Kind = "start" // the coordinator opened its state
	ManifestSet        Kind = "manifestSet"
	ManifestRefused    Kind = "manifestRefused"
	ActivationAccepted Kind = "activationAccepted"
	ActivationRefused  Kind = "activationRefused"
	RenewalAccepted    Kind = "renewalAccepted"
	RenewalRefused     Kind = "renewalRefused"
	ReplicaAccepted    Kind = "replicaAccepted" // a further coordinator got the key of the state
	ReplicaRefused     Kind = "replicaRefused"
	Issuance           Kind = "issuance"        // a certificate that no activation or renewal asked for
	Rotation           Kind = "rotation"        // of a CA or a secret
	SecretRelease      Kind = "secretRelease"   // to a running marble: pushed or fetched
	SecretUse          Kind = "secretUse"       // the first by an instance, then counts
	SecretDeposit      Kind = "secretDeposit"   // a marble supplied it
	SecretWritten      Kind = "secretWritten"   // a user supplied it
	SecretRead         Kind = "secretRead"      // shown to a user
	SecretRotated      Kind = "secretRotated"   // has its next version
	SecretDestroyed    Kind = "secretDestroyed" // a version, at the end of its overlap
	SecretRefused      Kind = "secretRefused"   // a marble asked for what it may not have
	FloorRaised        Kind = "floorRaised"     // of a platform
	FloorRefused       Kind = "floorRefused"
	EndorsementsSet    Kind = "endorsementsImported"
	UserRefused        Kind = "userRefused" // authentication or permission failed
	Suppressed         Kind = "suppressed"  // counts what Admit did not let through
)

// disclosure says what anybody may read of a record besides its place, time,
// kind, subject, decision, actor, code and evidence digest.
type disclosure struct {
	text    bool
	details []string // everyDetail stands for all of them
}

const everyDetail = "*"

// disclosed has a row for each kind. What it does not name is private, and so is
// everything of a kind without a row.
var disclosed = map[Kind]disclosure{
	Start:              {true, []string{"version", "tee", "replica"}},
	ManifestSet:        {true, []string{"revision", "previous", "droppedSecrets", "staleSecrets", "open", "accepted", "approvedBy", "proposal"}},
	ManifestRefused:    {},
	ActivationAccepted: {false, leased},
	ActivationRefused:  {false, asked},
	RenewalAccepted:    {false, leased},
	RenewalRefused:     {false, asked},
	ReplicaAccepted:    {false, asked},
	ReplicaRefused:     {false, asked},
	Issuance:           {true, []string{"serial", "notAfter"}},
	Rotation:           {true, []string{"serial", "previous", "notAfter", "root", "previousRoot", "overlapUntil", "retired"}},
	SecretRelease:      {true, []string{"instance", "secrets"}},
	SecretUse:          {true, []string{"instance", "version", "operation", "count", "since"}},
	SecretDeposit:      {true, []string{"instance", "version", "until"}},
	SecretWritten:      {true, []string{"version", "until"}},
	SecretRead:         {true, []string{"version", "instance"}},
	SecretRotated:      {true, []string{"version", "until", "destroyed", "values", "reason"}},
	SecretDestroyed:    {true, []string{"version", "values"}},
	SecretRefused:      {},
	FloorRaised:        {true, []string{"floor", "digest", "version"}},
	FloorRefused:       {},
	EndorsementsSet:    {true, []string{"bundle"}},
	UserRefused:        {},
	Suppressed:         {true, []string{everyDetail}}, // numbers by kind
	Recovery:           {true, opened},
	RecoveryDrill:      {true, opened},
	RollbackAccepted:   {true, opened},
	RecoveryApproval:   {true, opened},
	Restored:           {true, opened},
	Behind:             {true, opened},
	RecoveryKeys:       {true, opened},
	Resealed:           {true, opened},
	BackupTaken:        {true, opened},
	Proposal:           {false, proposed},
	Approval:           {false, append([]string{"certificate", "signature"}, proposed...)},
	ApprovalRefused:    {},
	ApprovalWithdrawn:  {false, proposed},
	ProposalWithdrawn:  {false, proposed},
	ProposalRejected:   {false, proposed},
	ProposalExpired:    {false, proposed},
	ProposalStale:      {false, proposed},
	Revoked:            {true, incident},
	Quarantined:        {true, incident},
	BreakGlass:         {true, incident},
	IncidentLifted:     {true, incident},
	BreakGlassEnded:    {true, incident},
	IncidentRefused:    {},
}

var (
	asked    = []string{"instance", "tee", "manifest", "endorsements"}
	leased   = append([]string{"serial", "notAfter", "secrets"}, asked...)
	incident = []string{"incident", "kind", "reason", "until", "accepted", "approvedBy", "proposal"}
	// proposed is what the text of an approval is made of.
	proposed = []string{"kind", "proposal", "predecessor", "expires", "accepts"}
)

func (k Kind) discloses(detail string) bool {
	d := disclosed[k].details
	return slices.Contains(d, detail) || slices.Contains(d, everyDetail)
}
