// Package attest holds the vocabulary of remote attestation and the one
// verdict that every trust decision of Ashlar is made by.
//
// Words are those of RFC 9334: Evidence is what the hardware says, Endorsements
// are what its vendor says about it, reference values are what the relying
// party wants (Policy). A Verifier turns evidence into Claims and judges no
// measurement; Policy.Check compares claims with reference values; Judge does
// both and returns a Verdict, which names everything that is wrong and who can
// mend it.
//
// The package does no input or output, reads no clock and imports only the
// standard library. The TEEs live in sub-packages.
package attest

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"
)

// TEE names a kind of trusted execution environment.
type TEE string

// The TEEs. A simulated one has its own name, its own verifier and its own
// root, so that no flag on the evidence can make it pass for hardware.
const (
	SGX TEE = "sgx"
	TDX TEE = "tdx"
	SNP TEE = "snp"
	// The paravisor of an Azure confidential VM stands between guest and
	// hardware: the hardware vouches for a vTPM, and the vTPM for the guest.
	SNPAzure TEE = "snp:azure"
	TDXAzure TEE = "tdx:azure"
	TPM      TEE = "tpm"    // a TPM alone: discrete, firmware, or a cloud's vTPM
	CCA      TEE = "cca"    // Arm CCA realm
	NVIDIA   TEE = "nvidia" // a GPU of NVIDIA in confidential mode: only ever a device
	SimSGX   TEE = "sim:sgx"
	SimTDX   TEE = "sim:tdx"
)

// Simulated reports whether the TEE is a software one.
func (t TEE) Simulated() bool { return strings.HasPrefix(string(t), "sim:") }

// Shape returns the hardware TEE whose formats t uses: "sgx" for "sim:sgx".
func (t TEE) Shape() TEE { return TEE(strings.TrimPrefix(string(t), "sim:")) }

// MaxEvidence is the size limit of a piece of raw evidence, in bytes.
const MaxEvidence = 64 << 10

// Binding is the 64 bytes of report data that the hardware signs for us:
// SHA-256 of the claims buffer (package binding), then 32 zero bytes.
type Binding [64]byte

// Bind returns the binding of a claims buffer.
func Bind(claimsBuffer []byte) Binding {
	var b Binding
	sum := sha256.Sum256(claimsBuffer)
	copy(b[:], sum[:])
	return b
}

// MaxEventLog is the size limit of an event log, in bytes; MaxDevices that of
// the devices of one piece of evidence.
const (
	MaxEventLog = 512 << 10
	MaxDevices  = 8
)

// Evidence is a quote or report as the hardware gave it, with what explains it
// and the evidence of devices that belong to it.
type Evidence struct {
	TEE TEE    `json:"tee"`
	Raw []byte `json:"raw"`
	// EventLog is the TCG event log (CCEL, or a TPM's) that the measurement
	// registers came from. Nobody signs it: it counts as far as replaying it
	// gives the registers that Raw vouches for. At most MaxEventLog bytes.
	EventLog []byte `json:"eventLog,omitempty"`
	// Devices are pieces of evidence of devices. Raw vouches for them through
	// its claims buffer. At most MaxDevices.
	Devices []Device `json:"devices,omitempty"`
}

// Device is evidence of a device that a TEE uses, such as a GPU.
type Device struct {
	Name string `json:"name"` // as the package calls it: "gpu"
	TEE  TEE    `json:"tee"`
	Raw  []byte `json:"raw"` // at most MaxEvidence bytes
}

// Digest returns SHA-256 over the TEE's name, a zero byte, and the raw bytes;
// with an event log or devices, over that digest, SHA-256 of the log and
// DevicesDigest.
func (e Evidence) Digest() [32]byte {
	sum := digestOf(string(e.TEE), e.Raw)
	if len(e.EventLog) == 0 && len(e.Devices) == 0 {
		return sum
	}
	log, devices := sha256.Sum256(e.EventLog), DevicesDigest(e.Devices)
	h := sha256.New()
	for _, part := range [][32]byte{sum, log, devices} {
		h.Write(part[:])
	}
	return [32]byte(h.Sum(nil))
}

// DevicesDigest is what a claims buffer says of the devices: SHA-256 over, for
// each in order, SHA-256 of its name and SHA-256 of its TEE's name, a zero byte
// and its raw bytes. Without devices it is zero.
func DevicesDigest(devices []Device) [32]byte {
	if len(devices) == 0 {
		return [32]byte{}
	}
	h := sha256.New()
	for _, d := range devices {
		name, raw := sha256.Sum256([]byte(d.Name)), digestOf(string(d.TEE), d.Raw)
		h.Write(name[:])
		h.Write(raw[:])
	}
	return [32]byte(h.Sum(nil))
}

func digestOf(tee string, raw []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(tee))
	h.Write([]byte{0})
	h.Write(raw)
	return [32]byte(h.Sum(nil))
}

// Issuer makes evidence for the environment that it runs in.
type Issuer interface {
	TEE() TEE
	// Issue returns evidence whose report data is b. It honours ctx.
	Issue(ctx context.Context, b Binding) (Evidence, error)
}

// DeviceIssuer has a device make evidence.
type DeviceIssuer interface {
	// IssueDevice returns evidence that carries nonce. It honours ctx.
	IssueDevice(ctx context.Context, nonce [32]byte) (Device, error)
}

// Verifier checks evidence of one TEE: parsing, signatures and chains up to
// the root it was made with, revocation, validity windows, and the TCB status
// as data. It judges no measurement, keeps no clock and does no I/O. It is
// safe for concurrent use and never panics on hostile bytes.
type Verifier interface {
	TEE() TEE
	// Verify returns what the evidence says and each check that was made. The
	// claims are meaningful only as far as the steps hold: a caller looks at
	// them only where every step is OK, or to explain.
	Verify(e Evidence, en Endorsements, at time.Time) (Claims, []Step)
}

// Verifiers are the TEEs that a relying party can verify. A TEE without a
// verifier is refused.
type Verifiers map[TEE]Verifier

// NewVerifiers returns the set of vs, keyed by their TEE.
func NewVerifiers(vs ...Verifier) Verifiers {
	m := make(Verifiers, len(vs))
	for _, v := range vs {
		m[v.TEE()] = v
	}
	return m
}
