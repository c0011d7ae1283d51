package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Accepted is what the log says of the acceptance of a manifest.
type Accepted struct {
	Seq      uint64    `json:"seq"` // of the record
	Time     time.Time `json:"time"`
	Actor    string    `json:"actor"` // user name, "owner", or "first" for the open first set
	Revision int       `json:"revision"`
	Open     bool      `json:"open"` // anybody who reached the coordinator could have set it
}

// record are the fields of an audit record that matter here (docs/wire.md).
type record struct {
	Version  int               `json:"version"`
	Seq      uint64            `json:"seq"`
	Time     time.Time         `json:"time"`
	Kind     string            `json:"kind"`
	Subject  string            `json:"subject"`
	Actor    string            `json:"actor"`
	Details  map[string]string `json:"details"`
	Previous attest.Hex        `json:"previous"`
}

// checkAcceptance checks that a's record says that the statement's manifest was
// accepted, and that it leads to the statement's checkpoint. heads are called
// with each checkpoint on the way.
func checkAcceptance(s apiv1.Statement, a apiv1.Acceptance, heads func(size uint64, hash []byte)) (*Accepted, error) {
	var r record
	if err := json.Unmarshal(a.Record, &r); err != nil {
		return nil, problem.Because(err, "CRD-122", "its record cannot be read")
	}
	revision, err := strconv.Atoi(r.Details["revision"])
	switch {
	case r.Version != 1 || r.Kind != "manifestSet" || err != nil || len(r.Previous) != sha256.Size:
		return nil, problem.New("CRD-122", "its record is of kind %.40q, version %d", r.Kind, r.Version)
	case r.Subject != s.Manifest.String() || revision != s.Revision:
		return nil, problem.New("CRD-122", "its record is of revision %d, %.80s; attested is revision %d, %s", revision, r.Subject, s.Revision, s.Manifest)
	}
	head := follow(r, a, heads)
	if size := r.Seq + 1 + uint64(len(a.After)/sha256.Size); size != s.Checkpoint.Size {
		return nil, problem.New("CRD-122", "its proof ends at record %d, the checkpoint is over %d", size, s.Checkpoint.Size)
	}
	if !bytes.Equal(head, s.Checkpoint.Hash) {
		return nil, problem.New("CRD-122", "its proof leads to checkpoint %s, attested is %s", attest.Hex(head), s.Checkpoint.Hash)
	}
	return &Accepted{Seq: r.Seq, Time: r.Time, Actor: r.Actor, Revision: revision, Open: r.Details["open"] == "true"}, nil
}

// follow recomputes the checkpoints from before the record to the proof's end.
func follow(r record, a apiv1.Acceptance, heads func(size uint64, hash []byte)) []byte {
	leaf := sha256.Sum256(append([]byte{0}, a.Record...))
	head, size := []byte(r.Previous), r.Seq
	heads(size, head)
	step := []byte("ashlar audit chain v1\x00")
	prefix := len(step)
	for rest := append(leaf[:], a.After...); len(rest) >= sha256.Size; rest = rest[sha256.Size:] {
		step = append(append(step[:prefix], head...), rest[:sha256.Size]...)
		next := sha256.Sum256(step)
		head, size = next[:], size+1
		heads(size, head)
	}
	return head
}
