package apiv1

import "time"

// RootStep leads from one root to the next: the new root's name and key,
// certified by the root before it. Whoever trusts Previous may trust the next
// root, and with it what comes after.
type RootStep struct {
	Previous []byte `json:"previous"` // certificate of the root before, DER
	Cross    []byte `json:"cross"`    // certificate of the next root's name and key, signed by Previous, DER
	// Until is when Previous stopped, or stops, to be trusted beside its successor.
	Until time.Time `json:"until"`
}

// Roots is GET /v1/roots: the root and the steps that led to it, oldest first,
// at most 64.
type Roots struct {
	Root  []byte     `json:"root"` // DER
	Steps []RootStep `json:"steps"`
}

// CAs is GET /v1/ca.
type CAs struct {
	Root  CAState   `json:"root"`
	Older []CAState `json:"older"` // roots that are trusted beside the root, newest first
	Mesh  CAState   `json:"mesh"`
}

// CAState is one CA.
type CAState struct {
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	// Next is when it is replaced, or for an older root when it stops to be trusted.
	Next time.Time `json:"next"`
}

// RotateCA is the body of POST /v1/ca/rotate.
type RotateCA struct {
	CA string `json:"ca"` // "mesh" or "root"
}
