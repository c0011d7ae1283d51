package transparency

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"mime"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// MaxWitnessProof is how many hashes a request to a witness may hold.
	MaxWitnessProof = 63
	// MaxWitnessAnswer is the size limit of a witness's answer, in bytes.
	MaxWitnessAnswer = 16 << 10
	// WitnessPath is where a witness takes checkpoints, below its address.
	WitnessPath = "/add-checkpoint"
	// WitnessSize is the media type of an answer that tells what the witness has.
	WitnessSize = "text/x.tlog.size"

	maxWitnessRequest = MaxNote + 4<<10

	statusOK            = 200 // of HTTP, as c2sp.org/tlog-witness uses them
	statusConflict      = 409
	statusUnprocessable = 422
)

// WitnessRequest asks a witness to co-sign a checkpoint (c2sp.org/tlog-witness,
// add-checkpoint).
type WitnessRequest struct {
	Old   uint64 // size of the checkpoint that the witness co-signed last, 0 at first
	Proof Proof  // consistency from Old to the checkpoint; empty from 0
	Note  []byte // the signed checkpoint
}

// Encode returns the body of the request.
func (r WitnessRequest) Encode() []byte {
	b := append(strconv.AppendUint([]byte("old "), r.Old, 10), '\n')
	for _, h := range r.Proof {
		b = append(base64.StdEncoding.AppendEncode(b, h), '\n')
	}
	return append(append(b, '\n'), r.Note...)
}

// ParseWitnessRequest reads the body of a request, strictly. LOG-085.
func ParseWitnessRequest(body []byte) (WitnessRequest, error) {
	head, signed, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok || len(body) > maxWitnessRequest {
		return WitnessRequest{}, problem.New("LOG-085", "%d bytes without an empty line, or more than %d", len(body), maxWitnessRequest)
	}
	lines := strings.Split(string(head), "\n")
	old, isOld := strings.CutPrefix(lines[0], "old ")
	size, err := strconv.ParseUint(old, 10, 63)
	if !isOld || err != nil || strconv.FormatUint(size, 10) != old {
		return WitnessRequest{}, problem.New("LOG-085", "its first line is %.40q, want \"old\" and a size", lines[0])
	}
	if len(lines)-1 > MaxWitnessProof {
		return WitnessRequest{}, problem.New("LOG-085", "its proof has %d hashes, limit %d", len(lines)-1, MaxWitnessProof)
	}
	r := WitnessRequest{Old: size, Note: signed}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != sha256.Size || strings.ContainsAny(line, "\r\n") {
			return WitnessRequest{}, problem.New("LOG-085", "a line of its proof is %.60q, want 32 bytes in base64", line)
		}
		r.Proof = append(r.Proof, attest.Hex(h))
	}
	return r, nil
}

// WitnessAnswer is what a witness answered.
type WitnessAnswer struct {
	Status int    // of HTTP
	Type   string // Content-Type
	Body   []byte // at most MaxWitnessAnswer bytes are looked at
}

// Stale returns the size that the witness co-signed last, where it answers that
// the request began at another one.
func (a WitnessAnswer) Stale() (uint64, bool) {
	kind, _, err := mime.ParseMediaType(a.Type)
	line, ok := strings.CutSuffix(string(a.Body), "\n")
	if a.Status != statusConflict || err != nil || kind != WitnessSize || !ok {
		return 0, false
	}
	size, err := strconv.ParseUint(line, 10, 63)
	return size, err == nil
}

// Cosignature returns the witness's co-signature of the checkpoint signed, which
// must be whole and its own. LOG-081 is an answer without one, LOG-083 one that
// it was not willing or able to give, LOG-084 the witness's word that the log has
// two versions.
func (a WitnessAnswer) Cosignature(signed []byte, vkey string, by WitnessKey) (Cosignature, error) {
	switch {
	case a.Status == statusConflict:
		return Cosignature{}, problem.New("LOG-084", "%s has co-signed another log of the same size", by.Name())
	case a.Status == statusUnprocessable:
		return Cosignature{}, problem.New("LOG-084", "%s finds no consistency with what it co-signed before", by.Name())
	case a.Status != statusOK:
		return Cosignature{}, problem.New("LOG-083", "%s answers with status %d, %.80q", by.Name(), a.Status, a.Body)
	case len(a.Body) > MaxWitnessAnswer:
		return Cosignature{}, problem.New("LOG-081", "%s answers with %d bytes, limit %d", by.Name(), len(a.Body), MaxWitnessAnswer)
	}
	// Only lines of its own are taken: what else it sends must not make the note
	// unreadable.
	joined := bytes.Clone(signed)
	for line := range strings.Lines(string(a.Body)) {
		if strings.HasPrefix(line, "— "+by.Name()+" ") {
			joined = append(joined, line...)
		}
	}
	_, found, err := OpenCosigned(joined, vkey, []WitnessKey{by})
	if err != nil {
		return Cosignature{}, err
	}
	if len(found) == 0 {
		return Cosignature{}, problem.New("LOG-081", "%s answers without a co-signature of its own", by.Name())
	}
	return found[0], nil
}
