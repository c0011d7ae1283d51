package apiv1

import (
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
)

// Endorsements is GET /v1/endorsements: what the coordinator has of the vendors'
// documents. The documents themselves are GET /v1/endorsements/bundle.
type Endorsements struct {
	Sets []EndorsementSet `json:"sets"` // ordered by key
	// Ending are documents that end soon, or have ended, and were not renewed.
	Ending []EndingDocument `json:"ending"`
	// Marks are the newest issues that decisions ever rested on, by the identity
	// of the document: older ones are refused.
	Marks map[string]endorse.Mark `json:"marks"`
	Clock time.Time               `json:"clock,omitzero"` // the latest time seen
}

// EndorsementSet is what one platform's evidence is judged with.
type EndorsementSet struct {
	Key       string             `json:"key"` // "sgx/00606a000000/platform", "snp/CHIPID/TCB"
	Need      endorse.Need       `json:"need"`
	Digest    attest.Hex         `json:"digest"` // of the set
	Documents []endorse.Document `json:"documents"`
	Missing   []string           `json:"missing,omitempty"` // kinds
	Source    string             `json:"source"`            // of the newest document
	Fetched   time.Time          `json:"fetched,omitzero"`  // when a source last had all of it
	Error     string             `json:"error,omitempty"`   // why the last fetch gave less than all
}

// EndingDocument is a document that ends soon.
type EndingDocument struct {
	Key      string           `json:"key"` // of the first set that has it
	Document endorse.Document `json:"document"`
}

// ImportedEndorsements answers PUT /v1/endorsements/bundle.
type ImportedEndorsements struct {
	Sets []ImportedSet `json:"sets"` // ordered by key
}

// ImportedSet is what became of one set of a bundle.
type ImportedSet struct {
	Key     string `json:"key"`
	Changed bool   `json:"changed"`          // at least one of its documents is new
	Reason  string `json:"reason,omitempty"` // why documents of it were refused
}
