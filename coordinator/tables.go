package coordinator

import (
	"fmt"
	"io"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// What the store holds. Everything is sealed by it.
var (
	// keys has two records: under "ca" the authority with its private keys, under
	// "log" the seed of the log's Ed25519 key.
	keys = store.NewTable[keyRecord]("authority")
	// heads has one record, under "current": the revision in force.
	heads = store.NewTable[revisionRecord]("manifest")
	// revisions has all of them, by number in 8 digits.
	revisions = store.NewTable[revisionRecord]("revisions")
	// manifests are the bytes of all revisions, as uploaded.
	manifests = store.NewLog("manifests")
	// instances are those with a lease, by marble/instance.
	instances = store.NewTable[instanceRecord]("instances")
	// counts is the number of instance records, by marble.
	counts = store.NewTable[int]("counts")
)

type keyRecord struct {
	State []byte `json:"state"`
}

// Format hides the private keys from every verb.
func (keyRecord) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// revisionRecord is one manifest that was accepted, linked to its predecessor.
type revisionRecord struct {
	Number   int        `json:"number"` // from 1
	Digest   attest.Hex `json:"digest"`
	Previous attest.Hex `json:"previous,omitempty"`
	SetBy    string     `json:"setBy"`
	SetAt    time.Time  `json:"setAt"`
	Open     bool       `json:"open,omitempty"` // anybody could have set it
	Place    uint64     `json:"place"`          // in the log of manifests
	Record   uint64     `json:"record"`         // in the audit log: its acceptance
	// ApprovedBy are who signed it, where one user was not enough; Proposal is the
	// id that they signed. Accepted are risks.
	ApprovedBy []string   `json:"approvedBy,omitempty"`
	Proposal   attest.Hex `json:"proposal,omitempty"`
	Accepted   []string   `json:"accepted,omitempty"`
}

// origin is on whose word the revision is in force.
func (r revisionRecord) origin() origin {
	return origin{user: r.SetBy, at: r.SetAt, agreed: r.ApprovedBy, accepted: r.Accepted, proposal: r.Proposal}
}

// instanceRecord is one instance with a lease.
type instanceRecord struct {
	Address     string     `json:"address"`
	Loopback    string     `json:"loopback"`
	TEE         attest.TEE `json:"tee"`
	TCBStatus   string     `json:"tcbStatus"`
	ActivatedAt time.Time  `json:"activatedAt"`
	AttestedAt  time.Time  `json:"attestedAt"`
	RenewAfter  time.Time  `json:"renewAfter,omitzero"`
	DegradeAt   time.Time  `json:"degradeAt,omitzero"`
	DrainAt     time.Time  `json:"drainAt,omitzero"`
	NotAfter    time.Time  `json:"notAfter"` // of the newest leaf: the cut
	Serial      string     `json:"serial"`   // of the newest leaf
	// Previous is the leaf that the newest one renewed; it counts until it
	// ends, in case the newest one was lost on its way.
	Previous         string    `json:"previous,omitempty"`
	PreviousNotAfter time.Time `json:"previousNotAfter,omitzero"`
	Leaving          bool      `json:"leaving,omitempty"` // it said under these leaves that it is stopping
	Decision         string    `json:"decision"`
	Basis            basis     `json:"basis,omitzero"` // what the newest leaf was given for
	// Origin and Evidence are what lineage has of the instance; Released are the
	// versions of secrets that came with the newest leaf.
	Origin   secrets.Origin    `json:"origin,omitzero"`
	Evidence attest.Hex        `json:"evidence,omitempty"`
	Released map[string]uint64 `json:"released,omitempty"`

	// Rules are what its newest evidence was judged by, as revision.rulesOf names
	// them.
	Rules attest.Hex `json:"rules,omitempty"`

	touchedAt time.Time // when something is released now; not kept
	// Provenances are of the newest leaf, then of older ones that came from
	// elsewhere and have not ended.
	Provenances []provenance `json:"provenances,omitempty"`
}

func instanceKey(marble, id string) string { return marble + "/" + id }

const (
	keyCA      = "ca"
	keyLog     = "log"
	keyCurrent = "current"
)
