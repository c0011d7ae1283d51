package apiv1

import (
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Floors is GET /v1/floors: what platforms must demand at least, whatever the
// manifest says. Its bytes are also part of a Statement, whose evidence binds
// them.
type Floors struct {
	Version int             `json:"version"` // how often one was raised
	Floors  []PlatformFloor `json:"floors"`  // ordered by platform
}

// PlatformFloor is the floor of one platform: GET /v1/floors/{platform}. It is raised
// by PUT of an attest.Floor, with the digest of the one in force as If-Match.
type PlatformFloor struct {
	Platform string       `json:"platform"`
	Floor    attest.Floor `json:"floor"`
	Digest   attest.Hex   `json:"digest,omitempty"` // SHA-256 of the floor as JSON; absent before the first
	RaisedBy string       `json:"raisedBy,omitempty"`
	RaisedAt time.Time    `json:"raisedAt,omitzero"`
	Record   uint64       `json:"record"` // in the audit log
}

// RaiseResult answers PUT /v1/floors/{platform}.
type RaiseResult struct {
	Floor PlatformFloor `json:"floor"`
	// Effects are what the platform demands from now on that its manifest does
	// not, one line each.
	Effects []string `json:"effects"`
}
