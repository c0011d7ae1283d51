// Package sim is the software TEE: evidence with the exact bytes of an SGX or
// TDX quote, made under a throw-away root by a platform process that plays the
// CPU (package platform), and judged by the same core as hardware.
//
// It owns the client of that process (Client, Issuer) and the verifiers for
// "sim:sgx" and "sim:tdx". It protects nothing against whoever runs the
// machine, and never claims to: its evidence has TEEs of its own, its verifiers
// refuse the vendor's root, and the vendor's verifiers refuse its evidence.
// docs/wire.md gives the protocol of the platform's socket.
package sim

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits of the platform's protocol.
const (
	MaxRequest  = 64 << 10 // bytes of a request's JSON
	MaxResponse = 1 << 20  // bytes of a response's JSON
	MaxFiles    = 256      // files measured beside the program
	MaxFileName = 255      // bytes of a measured file's name
	MaxFileSize = 1 << 30  // bytes of a measured file
	// Timeout bounds one exchange; the context may end it earlier.
	Timeout = 30 * time.Second
)

// Op names what is asked of the platform.
type Op string

// The operations.
const (
	OpEvidence     Op = "evidence"
	OpEndorsements Op = "endorsements"
	OpRoot         Op = "root"
	OpSealKey      Op = "sealkey"
)

// Request is one question to the platform. A connection carries one request
// and one response, each a 4-byte big-endian length and that much JSON.
type Request struct {
	Op Op `json:"op"`
	// TEE is "sim:sgx" or "sim:tdx" (evidence, endorsements).
	TEE attest.TEE `json:"tee,omitempty"`
	// Binding is the report data, 64 bytes (evidence).
	Binding attest.Hex `json:"binding,omitempty"`
	// Program says which program to measure; nil means who asks (evidence).
	Program *Program `json:"program,omitempty"`
	// Files are measured beside the program (evidence).
	Files []File `json:"files,omitempty"`
	// Policy says who else may get the key (sealkey).
	Policy SealPolicy `json:"policy,omitempty"`
	// Info asks for the key of older security versions, as an earlier response
	// gave it; absent, for the newest (sealkey).
	Info []byte `json:"info,omitempty"`
}

// Program names the program to measure: by a descriptor that the asker has open
// on its executable, or by the id of a running descendant of the asker.
type Program struct {
	FD  *int `json:"fd,omitempty"`
	PID int  `json:"pid,omitempty"`
}

// ByFD names the program by an open descriptor of this process. The file must
// stay open until evidence has been issued.
func ByFD(fd uintptr) *Program {
	n := int(fd)
	return &Program{FD: &n}
}

// ByPID names the program by the process that runs it, a descendant of this
// process that has already been started (after its execve).
func ByPID(pid int) *Program { return &Program{PID: pid} }

// File is a further file to measure, by a descriptor that the asker has open.
type File struct {
	Name string `json:"name"` // at most 255 bytes, unique
	FD   int    `json:"fd"`
}

// Response answers a Request. Exactly one field is set, but for SealInfo.
type Response struct {
	Evidence     *attest.Evidence     `json:"evidence,omitempty"`
	Endorsements *attest.Endorsements `json:"endorsements,omitempty"`
	Root         string               `json:"root,omitempty"`     // PEM
	SealKey      []byte               `json:"sealKey,omitempty"`  // 32 bytes
	SealInfo     []byte               `json:"sealInfo,omitempty"` // gives SealKey again; goes with it
	Problem      *problem.Error       `json:"problem,omitempty"`
}

// SealPolicy says which programs derive the same sealing key.
type SealPolicy string

// The policies.
const (
	SealUnique  SealPolicy = "unique"  // the same executable on this platform
	SealProduct SealPolicy = "product" // any program on this platform
)

// SealKey is a 32-byte key that only the platform can derive. It prints
// nothing of its value; key[:] reads it.
type SealKey [32]byte

const redacted = "[redacted]"

// String implements fmt.Stringer.
func (SealKey) String() string { return redacted }

// Format implements fmt.Formatter, so that no verb prints the bytes.
func (SealKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (SealKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON implements json.Marshaler.
func (SealKey) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// FileDigest returns SHA-256 of a file, as the platform measures it: what a
// manifest lists under "program", "agent" and "files".
func FileDigest(path string) (attest.Hex, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("measuring %s: %w", path, err)
	}
	return h.Sum(nil), nil
}
