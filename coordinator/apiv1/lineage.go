package apiv1

import "time"

// Lineage is GET /v1/lineage?kind=KIND&name=NAME and, of a marble, &instance=ID:
// what somebody touched and what counts still.
type Lineage struct {
	Subject Subject       `json:"subject"`
	Secrets []TouchedItem `json:"secrets"` // by name and version
	Leaves  []TouchedItem `json:"leaves"`  // leaf certificates that have not ended
}

// TouchedItem is one version of a secret, or the leaves of an instance.
type TouchedItem struct {
	Secret   string    `json:"secret,omitempty"`
	Version  uint64    `json:"version,omitempty"`
	Of       string    `json:"of,omitempty"` // marble/instance whose value it is, of instance secrets
	By       []string  `json:"by"`           // instances and users that touched it, sorted
	Ways     []string  `json:"ways"`         // "lease", "fetch", "use", "deposit", "read", "write"
	Serial   string    `json:"serial,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`              // exact to an hour
	Readers  []string  `json:"readers,omitempty"` // marbles that the manifest lets read or use it
	// Remedy is what makes it count no more: "rotate", "supply" (a new value has
	// to be given), "end" (it ends with its instance), or "" where nothing helps.
	Remedy string `json:"remedy"`
}

// RotateTouchedRequest is POST /v1/lineage/rotate.
type RotateTouchedRequest struct {
	Subject Subject `json:"subject"`
	DryRun  bool    `json:"dryRun,omitempty"`
}

// RotateTouchedResult answers it.
type RotateTouchedResult struct {
	Rotated []RotatedSecret `json:"rotated"` // in a dry run, those that would be
	Supply  []string        `json:"supply"`  // those that have to be supplied anew
}
