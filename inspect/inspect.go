// Package inspect tells what a file, a piece of evidence or a certificate
// measures, as reference values for a manifest.
//
// It owns the recognition of what a file is, by its content and never by its
// name, and the choice of reference values. It refuses to call a number true
// that nobody vouches for: each finding says what its numbers rest on, and
// Reference gives them for a policy only where that is enough. It connects to
// nothing and writes nothing.
package inspect

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/inspect/enclave"
	"github.com/ashlar-mesh/ashlar/inspect/launch"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Basis says what the numbers of a finding rest on.
type Basis string

// The bases.
const (
	Calculated Basis = "calculated" // from the bytes of the file, as hardware does
	Signed     Basis = "signed"     // by the enclave's signer; hardware starts nothing else under it
	Verified   Basis = "verified"   // leads to the vendor's root, or to Options.Root
	Unverified Basis = "unverified" // evidence that nobody vouches for, here and now
)

// Field is one thing that a finding says.
type Field struct {
	Name   string `json:"name"` // as in steps: "sgx.uniqueID"
	Value  string `json:"value"`
	Policy bool   `json:"policy"` // it is among the reference values
}

// Finding is what something measures.
type Finding struct {
	Source string   `json:"source"` // path or address
	What   string   `json:"what"`   // "EGo binary"
	Basis  Basis    `json:"basis"`
	Fields []Field  `json:"fields"`
	Notes  []string `json:"notes"`
	// Package are the reference values; Reference says whether to rely on them.
	Package attest.Package `json:"package"`
	// Unfit says why no policy should be made of the finding; "" if nothing does.
	Unfit string `json:"unfit,omitempty"`
	// Verdict is the judgement of evidence; nil for files.
	Verdict *attest.Verdict `json:"verdict,omitempty"`
}

// Reference returns the reference values for a policy. Numbers that were not
// verified are refused (CLI-041) unless unverified is set; what is unfit always is
// (CLI-026), and so is an image for two TEEs, of which one was not chosen
// (CLI-042).
func (f Finding) Reference(unverified bool) (attest.Package, error) {
	switch {
	case f.Unfit != "":
		return attest.Package{}, problem.New("CLI-026", "%s: %s", f.Source, f.Unfit)
	case f.Basis == Unverified && !unverified:
		return attest.Package{}, problem.New("CLI-041", "%s: nobody vouches for these numbers here", f.Source)
	case f.Package.SNP != nil && f.Package.TDX != nil:
		return attest.Package{}, problem.New("CLI-042", "%s can be launched for two TEEs: which one shall be accepted?", f.Source).WithNext("--tee snp, or --tee tdx")
	}
	return f.Package, nil
}

// Event reports whether a field is an event of an event log: a finding may have
// hundreds.
func (x Field) Event() bool { return strings.HasPrefix(x.Name, eventPrefix) }

func (f *Finding) add(name, value string, policy bool) {
	f.Fields = append(f.Fields, Field{name, value, policy})
}

func (f *Finding) note(text string) { f.Notes = append(f.Notes, text) }

// Options say what the file alone does not.
type Options struct {
	At  time.Time  // when to judge evidence; zero means when meta.json says, or Now
	Now time.Time  // the time of day
	TEE attest.TEE // of an image for several; "" means all that it is made for
	// Root is the trust anchor of evidence and of launch endorsements; nil means
	// the vendor's for evidence, and none for launch endorsements.
	Root  *x509.Certificate
	Agent string // the agent's binary, to pin it for the software TEE; "" pins none

	// How a guest is launched.
	VMM           launch.VMM
	VCPUs         []int // one launch digest each
	CPU           string
	GuestFeatures uint64
	Order         launch.Order
	Kernel        string // path; "" if the firmware boots what it finds
	Initrd        string // path, with Kernel
	CommandLine   string // with Kernel
}

// Sizes: how much of a file is looked at to recognise it, and the limit of what
// is read whole to look for evidence and certificates.
const (
	peek        = 64
	maxEvidence = 2 << 20
)

// file is an opened file that is being recognised.
type file struct {
	*os.File
	path       string
	size       int64
	head, tail []byte // up to peek bytes
}

// Path inspects a file or a folder of evidence. Errors: CLI-003 cannot be read,
// CLI-040 damaged, CLI-042 the options do not fit the image, CLI-043 an enclave
// that is not signed, CLI-044 nothing in it is measured.
func Path(path string, o Options) (Finding, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Finding{}, problem.Because(err, "CLI-003", "inspecting %s", path)
	}
	if info.IsDir() {
		return folder(path, o)
	}
	if !info.Mode().IsRegular() {
		return Finding{}, problem.New("CLI-003", "%s is no regular file", path)
	}
	osFile, err := os.Open(path)
	if err != nil {
		return Finding{}, problem.Because(err, "CLI-003", "inspecting %s", path)
	}
	defer func() { _ = osFile.Close() }() // only read from
	f := file{File: osFile, path: path, size: info.Size()}
	if err := f.look(); err != nil {
		return Finding{}, problem.Because(err, "CLI-003", "reading %s", path)
	}
	found, err := f.recognise(o)
	found.Source = path
	if err != nil && problem.CodeOf(err) == "" {
		err = problem.Because(err, "CLI-040", "%s", path)
	}
	return found, err
}

// look reads both ends.
func (f *file) look() (err error) {
	n := min(f.size, peek)
	f.head, f.tail = make([]byte, n), make([]byte, n)
	if _, err = f.ReadAt(f.head, 0); err == nil || errors.Is(err, io.EOF) {
		_, err = f.ReadAt(f.tail, f.size-n)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// whole reads the file, of at most limit bytes.
func (f *file) whole(limit int64) ([]byte, error) {
	if f.size > limit {
		return nil, problem.New("CLI-040", "%s has %d bytes, limit %d", f.path, f.size, limit)
	}
	b := make([]byte, f.size)
	_, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

// recognise tells what the file is by its content.
func (f *file) recognise(o Options) (Finding, error) {
	switch {
	case f.size == enclave.SigStructSize && enclave.IsSigStruct(f.head):
		return f.sigStruct()
	case enclave.IsELF(f.head):
		return f.binary(o)
	case launch.IsIGVM(f.head):
		return f.igvm(o)
	case launch.IsFirmware(f.tail):
		return f.firmware(o)
	case isEventLog(f.head):
		return f.eventLog()
	case len(f.head) >= 44 && bytes.Equal(f.head[40:44], []byte("_FVH")):
		return Finding{}, problem.New("CLI-044", "%s is firmware, but says nothing of SEV-SNP or TDX", f.path)
	}
	if f.size <= maxEvidence {
		b, err := f.whole(maxEvidence)
		if err != nil {
			return Finding{}, err
		}
		if found, ok, err := f.evidence(b, o); ok || err != nil {
			return found, err
		}
	}
	if f.size <= enclave.MaxManifest {
		b, err := f.whole(enclave.MaxManifest)
		if err != nil {
			return Finding{}, err
		}
		if enclave.IsManifest(b) {
			return f.gramine(b)
		}
	}
	return f.program(o)
}

// hexList wraps the values of a register.
func hexList(values ...[]byte) []attest.Hex {
	list := make([]attest.Hex, 0, len(values))
	for _, v := range values {
		if !slices.ContainsFunc(list, func(h attest.Hex) bool { return bytes.Equal(h, v) }) {
			list = append(list, slices.Clone(v))
		}
	}
	return list
}
