// Package apiv1 holds the JSON documents of the client API /v1, which the
// coordinator answers with and the client package and the CLI read. Field names
// are stable. It imports only attest and transparency.
package apiv1

import (
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// NonceSize is the length of every nonce, in bytes.
const NonceSize = 32

// Statement is what the coordinator says about itself, and the evidence that
// binds every part of it: GET /v1/attestation?nonce=HEX.
type Statement struct {
	Evidence     attest.Evidence     `json:"evidence"`
	ClaimsBuffer []byte              `json:"claimsBuffer"` // package binding, purpose "coordinator"
	Endorsements attest.Endorsements `json:"endorsements"`
	Root         []byte              `json:"root"`                // root CA certificate, DER
	RootSteps    []RootStep          `json:"rootSteps,omitempty"` // that led to the root, oldest first, at most 64
	TLSKey       []byte              `json:"tlsKey"`              // PKIX DER of the key that serves this connection
	TrustDomain  string              `json:"trustDomain,omitempty"`
	Manifest     attest.Hex          `json:"manifest,omitempty"`  // digest of the manifest in force; absent before the first
	Revision     int                 `json:"revision"`            // 0 before the first manifest
	Checkpoint   string              `json:"checkpoint"`          // of the log: a signed note (c2sp.org/tlog-checkpoint)
	LogKey       string              `json:"logKey"`              // verifier key of the log (c2sp.org/signed-note)
	Floors       []byte              `json:"floors,omitempty"`    // Floors as JSON, byte for byte as the evidence binds them; absent before the first
	Epoch        []byte              `json:"epoch,omitempty"`     // Epoch as JSON, byte for byte as the evidence binds it; absent in the first
	UploadKey    []byte              `json:"uploadKey,omitempty"` // X25519, 32 bytes: secrets are sealed to it (SealSecret); of this process
	// BreakGlass is Incidents as JSON, byte for byte as the evidence binds them: the
	// rules that are lifted for a while; absent where none is.
	BreakGlass []byte    `json:"breakGlass,omitempty"`
	Time       time.Time `json:"time"` // by the coordinator's clock: information only
}

// Checkpoint names a prefix of the audit log.
type Checkpoint struct {
	Size uint64     `json:"size"` // number of records
	Hash attest.Hex `json:"hash"` // root of the tree over them (RFC 6962), 32 bytes
}

// Manifest is GET /v1/manifest. The bytes are those that were uploaded.
type Manifest struct {
	Digest   attest.Hex `json:"digest"`
	Revision int        `json:"revision"`
	SetBy    string     `json:"setBy"` // user name, or "first" for the open first set
	SetAt    time.Time  `json:"setAt"`
	Raw      []byte     `json:"raw"`
}

// Acceptance is GET /v1/manifest/acceptance?size=N: what shows that the log of
// the first N entries holds the acceptance of the manifest in force. GET
// /v1/log/proof?index=I&size=N shows it of any entry.
type Acceptance struct {
	Entry []byte             `json:"entry"` // transparency.Entry as JSON: the leaf, at most 64 KiB
	Proof transparency.Proof `json:"proof"` // that it is in the log (RFC 6962 section 2.1.1)
}

// Consistency is GET /v1/log/consistency?older=M&size=N.
type Consistency struct {
	Proof transparency.Proof `json:"proof"` // RFC 6962 section 2.1.2
}

// SetResult answers PUT /v1/manifest: with 200 if the manifest is in force, with
// 202 if it waits for approvals.
type SetResult struct {
	Digest   attest.Hex `json:"digest"`
	Revision int        `json:"revision"` // the manifest's, or the one that it would have
	Effects  []string   `json:"effects"`
	// Risks are what the effects demand to be accepted by name.
	Risks []string `json:"risks"`
	// Proposal is what waits for approvals: nobody has signed it yet, the one who
	// asked included. Absent if the manifest is in force.
	Proposal *Proposal `json:"proposal,omitempty"`
	// DryRun says that nothing was written. Proposal then is what would be.
	DryRun bool `json:"dryRun,omitempty"`
	// OpenFirstSet says that this was the first manifest and that anybody who
	// reached the coordinator could have set it.
	OpenFirstSet bool `json:"openFirstSet"`
	// Recovery has the shares that were given out with this manifest, each
	// encrypted to its holder; absent if none were.
	Recovery *RecoveryDocument `json:"recovery,omitempty"`
}

// Status is GET /v1/status. Its size does not depend on how many marbles there
// are: Attention is bounded.
type Status struct {
	State       string      `json:"state"` // coordinator.State in words
	Simulation  bool        `json:"simulation"`
	TrustDomain string      `json:"trustDomain,omitempty"`
	Manifest    attest.Hex  `json:"manifest,omitempty"`
	Revision    int         `json:"revision"`
	CA          CA          `json:"ca"`
	Checkpoint  Checkpoint  `json:"checkpoint"`
	Marbles     int         `json:"marbles"`            // roles in the manifest
	Instances   int         `json:"instances"`          // with a live lease
	Degraded    int         `json:"degraded,omitempty"` // instances whose renewal is overdue
	Drained     int         `json:"drained,omitempty"`  // instances that get no new requests for it
	Proxies     int         `json:"proxies"`            // connected to ADS
	Refused     uint64      `json:"refused"`            // activations and renewals refused since start
	Attention   []Attention `json:"attention"`
	// Floors are those in force, at most 64.
	Floors []PlatformFloor `json:"floors,omitempty"`
	// Replicas are the coordinators that share the state, at most 64, as they say
	// of themselves; absent where one has it for itself.
	Replicas  []Replica `json:"replicas,omitempty"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
}

// CA is the mesh CA in use.
type CA struct {
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"notAfter"`
}

// Attention is something that somebody should look at.
type Attention struct {
	Code    string    `json:"code"`
	Subject string    `json:"subject"` // "pay", "proxy web/7f2c", …
	Text    string    `json:"text"`
	Next    string    `json:"next,omitempty"`
	Since   time.Time `json:"since"`
}

// Marbles is GET /v1/marbles?after=NAME&limit=N.
type Marbles struct {
	Marbles []Marble `json:"marbles"`
	Next    string   `json:"next,omitempty"` // pass as after; absent at the end
}

// Marble is one role with its live instances.
type Marble struct {
	Name        string     `json:"name"`
	Package     string     `json:"package"`
	Calls       []string   `json:"calls"`
	Instances   []Instance `json:"instances"`
	LastRefusal *Decision  `json:"lastRefusal,omitempty"` // newer than the newest acceptance
}

// Instance is one running copy of a marble.
type Instance struct {
	ID          string     `json:"id"`
	TEE         attest.TEE `json:"tee"`
	Address     string     `json:"address"`
	SPIFFEID    string     `json:"spiffeID"`
	Stage       string     `json:"stage"`
	Reason      string     `json:"reason,omitempty"`
	TCBStatus   string     `json:"tcbStatus"`
	ActivatedAt time.Time  `json:"activatedAt"`
	AttestedAt  time.Time  `json:"attestedAt"` // newest evidence
	NotAfter    time.Time  `json:"notAfter"`   // of the leaf: when the instance is cut
	// When the next renewal is due, and when the instance is degraded and drained
	// (gets no new requests) if it fails.
	RenewAfter time.Time `json:"renewAfter,omitzero"`
	DegradeAt  time.Time `json:"degradeAt,omitzero"`
	DrainAt    time.Time `json:"drainAt,omitzero"`
	Serial     string    `json:"serial"`
	Decision   string    `json:"decision"`
	Proxy      Proxy     `json:"proxy"`
}

// Proxy is how an instance's Envoy stands.
type Proxy struct {
	Connected bool        `json:"connected"`
	Revision  string      `json:"revision,omitempty"` // newest that it took whole
	Types     []ProxyType `json:"types"`
}

// ProxyType is one xDS resource type of a proxy.
type ProxyType struct {
	Type  string    `json:"type"`            // "cluster", "endpoint", "listener", "route"
	State string    `json:"state"`           // "sent", "applied", "refused"
	Error string    `json:"error,omitempty"` // Envoy's own text
	Names []string  `json:"names,omitempty"` // resources of the refused message
	At    time.Time `json:"at"`
}

// Decision is one activation, renewal or joining of a coordinator that was judged.
type Decision struct {
	ID       string         `json:"id"`  // "web/7f2c19ab"
	Seq      uint64         `json:"seq"` // audit record
	Time     time.Time      `json:"time"`
	Purpose  string         `json:"purpose"`  // "activate", "renew", "replica"
	Marble   string         `json:"marble"`   // "coordinators" of a further coordinator
	Instance string         `json:"instance"` // of a further coordinator its name
	Accepted bool           `json:"accepted"`
	Code     string         `json:"code,omitempty"` // of the first failed step
	Reason   string         `json:"reason,omitempty"`
	Nearest  string         `json:"nearest,omitempty"` // package that differs least, when refused
	Distance int            `json:"distance,omitempty"`
	Verdict  attest.Verdict `json:"verdict"`
	// Endorsements is the digest of the endorsement set that the evidence was
	// judged with.
	Endorsements attest.Hex `json:"endorsements,omitempty"`
	Record       attest.Hex `json:"record"` // hash of the audit record
}

// Decisions is GET /v1/decisions?marble=NAME&limit=N, newest first.
type Decisions struct {
	Decisions []Decision `json:"decisions"`
}

// AuditRecord is one entry of GET /v1/audit?from=N&limit=N.
type AuditRecord struct {
	Seq     uint64     `json:"seq"`
	Time    time.Time  `json:"time"`
	Kind    string     `json:"kind"`
	Subject string     `json:"subject"`
	Actor   string     `json:"actor,omitempty"`
	Code    string     `json:"code,omitempty"`
	Text    string     `json:"text"` // public, or private where that is shown
	Hash    attest.Hex `json:"hash"` // leaf hash of the entry
	// Entry is the leaf, transparency.Entry as JSON; Private is what it names the
	// SHA-256 of, shown to users of the manifest alone.
	Entry   []byte `json:"entry"`
	Private []byte `json:"private,omitempty"`
}

// Audit is a page of the log.
type Audit struct {
	Records    []AuditRecord `json:"records"`
	Next       uint64        `json:"next"`
	Checkpoint Checkpoint    `json:"checkpoint"`
}
