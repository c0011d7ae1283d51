package transparency

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// MaxProofFile is the size limit of a proof file, in bytes.
	MaxProofFile = 1 << 20

	proofHeader    = "c2sp.org/tlog-proof@v1"
	maxCertificate = 16 << 10 // bytes
)

// ProofFile shows without a network that an entry stands in a log
// (c2sp.org/tlog-proof). What the format calls extra data holds the entry itself.
type ProofFile struct {
	Log         string // the log's key, as Signer.VerifierKey; only the reader's own says whose it is
	Index       uint64 // of the entry
	Entry       []byte
	Private     []byte // nil if it is not shown
	Certificate []byte // leaf certificate that the entry is of, DER; nil if there is none
	Proof       Proof  // of inclusion
	Note        []byte // the signed checkpoint
}

// proofExtra is the extra data of a proof file.
type proofExtra struct {
	Log         string `json:"log"`
	Entry       string `json:"entry"`
	Private     string `json:"private,omitempty"`
	Certificate []byte `json:"certificate,omitempty"`
}

// Encode returns the file.
func (p ProofFile) Encode() ([]byte, error) {
	extra, err := json.Marshal(proofExtra{p.Log, string(p.Entry), string(p.Private), p.Certificate})
	if err != nil {
		return nil, fmt.Errorf("encoding a proof file: %w", err)
	}
	b := fmt.Appendf(nil, "%s\nextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(extra), p.Index)
	for _, h := range p.Proof {
		b = append(base64.StdEncoding.AppendEncode(b, h), '\n')
	}
	b = append(append(b, '\n'), p.Note...)
	if len(b) > MaxProofFile {
		return nil, problem.New("LOG-070", "it would have %d bytes, limit %d", len(b), MaxProofFile)
	}
	return b, nil
}

// IsProofFile says whether a file that begins with head is meant as a proof.
func IsProofFile(head []byte) bool { return strings.HasPrefix(string(head), proofHeader+"\n") }

// ParseProofFile reads a proof file in its only form. LOG-070.
func ParseProofFile(b []byte) (ProofFile, error) {
	var p ProofFile
	if len(b) > MaxProofFile {
		return p, problem.New("LOG-070", "it has %d bytes, limit %d", len(b), MaxProofFile)
	}
	head, signed, ok := bytes.Cut(b, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !ok || len(lines) < 3 || lines[0] != proofHeader || len(lines)-3 > MaxProof {
		return p, problem.New("LOG-070", "it does not begin with %s, extra data, an index and at most %d hashes", proofHeader, MaxProof)
	}
	if err := p.parseExtra(lines[1]); err != nil {
		return ProofFile{}, err
	}
	index, err := strconv.ParseUint(strings.TrimPrefix(lines[2], "index "), 10, 63)
	if err != nil {
		return ProofFile{}, problem.New("LOG-070", "its third line is %.60q, want an index", lines[2])
	}
	p.Index, p.Note = index, signed
	for _, line := range lines[3:] {
		h, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(h) != sha256.Size {
			return ProofFile{}, problem.New("LOG-070", "a hash of it is %.60q, want 32 bytes in base64", line)
		}
		p.Proof = append(p.Proof, attest.Hex(h))
	}
	if again, err := p.Encode(); err != nil || !bytes.Equal(again, b) {
		return ProofFile{}, problem.New("LOG-070", "it is not written in its only form")
	}
	return p, nil
}

func (p *ProofFile) parseExtra(line string) error {
	text, ok := strings.CutPrefix(line, "extra ")
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		return problem.New("LOG-070", "its second line is %.40q, want extra data in base64", line)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var x proofExtra
	if err := d.Decode(&x); err != nil {
		return problem.Because(err, "LOG-070", "reading its extra data")
	}
	if len(x.Certificate) > maxCertificate {
		return problem.New("LOG-070", "its certificate has %d bytes, limit %d", len(x.Certificate), maxCertificate)
	}
	p.Log, p.Entry, p.Certificate = x.Log, []byte(x.Entry), x.Certificate
	if x.Private != "" {
		p.Private = []byte(x.Private)
	}
	return nil
}

// Proved is what a proof file shows.
type Proved struct {
	Entry        Entry
	Private      *Private // nil if it is not shown
	Checkpoint   Checkpoint
	Cosignatures []Cosignature
}

// Verify checks everything in the file but the certificate: that the log with the
// key vkey signed the checkpoint, that the entry stands at its index below it, and
// that the private part is the one that it names. Without a vkey the file's own is
// taken, which shows only that the file is whole. LOG-052 is another log; LOG-002,
// LOG-004, LOG-011, LOG-012 and LOG-081 are those of the parts.
func (p ProofFile) Verify(vkey string, witnesses []WitnessKey) (Proved, error) {
	if vkey != "" && vkey != p.Log {
		return Proved{}, problem.New("LOG-052", "it is of %.200q, wanted %.200q", p.Log, vkey)
	}
	var out Proved
	var err error
	if out.Checkpoint, out.Cosignatures, err = OpenCosigned(p.Note, p.Log, witnesses); err != nil {
		return Proved{}, err
	}
	if err := VerifyInclusion(p.Index, LeafHash(p.Entry), p.Proof, out.Checkpoint); err != nil {
		return Proved{}, err
	}
	if out.Entry, err = ParseEntry(p.Entry); err != nil {
		return Proved{}, err
	}
	if out.Entry.Seq != p.Index {
		return Proved{}, problem.New("LOG-004", "the entry at %d says that it is entry %d", p.Index, out.Entry.Seq)
	}
	if p.Private != nil {
		private, err := ParsePrivate(out.Entry, p.Private)
		if err != nil {
			return Proved{}, err
		}
		out.Private = &private
	}
	return out, nil
}
