// Package audit keeps the log of every decision, and nothing else: who decided
// what about whom, with which verdict, and why.
//
// It owns the bytes of a record and the hash over all of them. A record is
// appended inside the Update that makes the decision, so that neither exists
// without the other. It refuses records over its limits, never rewrites one,
// and holds no secret value: callers pass digests and names.
//
// What callers without an identity can cause is bounded: Admit lets a few of
// their records through and counts the rest.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Kind says what was decided.
type Kind string

// The kinds.
const (
	Start              Kind = "start" // the coordinator opened its state
	ManifestSet        Kind = "manifestSet"
	ManifestRefused    Kind = "manifestRefused"
	ActivationAccepted Kind = "activationAccepted"
	ActivationRefused  Kind = "activationRefused"
	RenewalAccepted    Kind = "renewalAccepted"
	RenewalRefused     Kind = "renewalRefused"
	Issuance           Kind = "issuance" // a certificate that no activation or renewal asked for
	Rotation           Kind = "rotation" // of a CA or a secret
	SecretRelease      Kind = "secretRelease"
	FloorRaised        Kind = "floorRaised" // of a platform
	FloorRefused       Kind = "floorRefused"
	EndorsementsSet    Kind = "endorsementsImported"
	UserRefused        Kind = "userRefused" // authentication or permission failed
	Suppressed         Kind = "suppressed"  // counts what Admit did not let through
)

// Limits of a record. Texts over maxText bytes are cut, with "…" at the end.
const (
	maxText    = 1 << 10
	maxDetails = 32
	maxRecord  = 64 << 10 // bytes as stored
	version    = 1
)

// Record is one decision. Seq, Previous and Version are set by Append.
type Record struct {
	Version  int               `json:"version"` // 1
	Seq      uint64            `json:"seq"`     // place in the log, from 0
	Time     time.Time         `json:"time"`    // by the coordinator's clock, UTC
	Kind     Kind              `json:"kind"`
	Subject  string            `json:"subject,omitempty"`  // marble, manifest digest, …
	Decision string            `json:"decision,omitempty"` // decision id, such as "web/7f2c19ab"
	Actor    string            `json:"actor,omitempty"`    // user or marble that asked; empty for nobody
	Code     string            `json:"code,omitempty"`     // problem code, when refused
	Text     string            `json:"text,omitempty"`     // one line for people
	Details  map[string]string `json:"details,omitempty"`  // at most 32: serial, revision, instance, …
	Evidence attest.Hex        `json:"evidence,omitempty"` // SHA-256 of the raw evidence
	Verdict  json.RawMessage   `json:"verdict,omitempty"`  // attest.Verdict as json.Marshal wrote it
	Previous attest.Hex        `json:"previous"`           // checkpoint hash before this record, 32 bytes
}

// Entry is a record in the log, with its RFC 6962 leaf hash.
type Entry struct {
	Record
	Hash attest.Hex // SHA-256(0x00 || stored bytes), 32 bytes
}

// Checkpoint names a prefix of the log: its number of records and a hash over
// all of them. The hash of the empty log is 32 zero bytes; that of a longer one
// is SHA-256("ashlar audit chain v1" || 0x00 || previous hash || leaf hash).
type Checkpoint struct {
	Size uint64
	Hash [32]byte
}

var records = store.NewLog("audit")

// Log is the audit log of one store. It is safe for concurrent use.
type Log struct {
	store  *store.Store
	gate   gate
	index  index
	leaves leaves
}

// New returns the log that s holds. It reads nothing yet.
func New(s *store.Store) *Log { return &Log{store: s} }

// Append adds a record in the caller's Update. The entry is in the log when
// that Update succeeds. The stored bytes are the record as JSON, its fields in
// the order of the type and its maps in the order of their keys.
func (l *Log) Append(tx *store.Tx, r Record) (Entry, error) {
	before := l.Checkpoint(tx)
	r.Version, r.Seq, r.Previous = version, before.Size, before.Hash[:]
	r.Time = r.Time.UTC()
	r, err := clipped(r)
	if err != nil {
		return Entry{}, err
	}
	stored, err := encode(&r)
	if err != nil {
		return Entry{}, err
	}
	if _, err := records.Append(tx, stored); err != nil {
		return Entry{}, err
	}
	leaf := LeafHash(stored)
	next := chain(before.Hash, leaf)
	if err := records.SetCheckpoint(tx, next[:]); err != nil {
		return Entry{}, err
	}
	return Entry{Record: r, Hash: leaf[:]}, nil
}

// encode returns the bytes to store. A verdict that makes the record too large
// is left out, and its size noted: a decision must not fail for its verdict.
func encode(r *Record) ([]byte, error) {
	stored, err := marshal(*r)
	if err == nil && len(stored) > maxRecord && r.Verdict != nil {
		r.Details["verdictBytes"] = strconv.Itoa(len(r.Verdict))
		r.Verdict = nil
		stored, err = marshal(*r)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding an audit record: %w", err)
	}
	if len(stored) > maxRecord {
		return nil, problem.New("STO-009", "an audit record has at most %d bytes, got %d", maxRecord, len(stored))
	}
	return stored, nil
}

// marshal is json.Marshal for a record, except that it does not parse the
// verdict, which is most of it and was encoded a moment ago.
func marshal(r Record) ([]byte, error) {
	verdict := r.Verdict
	r.Verdict = nil
	b, err := json.Marshal(r)
	if err != nil || verdict == nil {
		return b, err
	}
	last := len(b) - len(`,"previous":""}`) - 2*len(r.Previous)
	return slices.Insert(b, last, slices.Concat([]byte(`,"verdict":`), verdict)...), nil
}

// Checkpoint returns the log's checkpoint as tx sees it.
func (l *Log) Checkpoint(tx *store.Tx) Checkpoint {
	c := Checkpoint{Size: records.Len(tx)}
	copy(c.Hash[:], records.Checkpoint(tx))
	return c
}

// LeafHash is the hash of one stored record: SHA-256(0x00 || stored), as in
// RFC 6962 section 2.1.
func LeafHash(stored []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(stored)
	return [32]byte(h.Sum(nil))
}

func chain(previous, leaf [32]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("ashlar audit chain v1\x00"))
	h.Write(previous[:])
	h.Write(leaf[:])
	return [32]byte(h.Sum(nil))
}

// Verify walks the whole log and recomputes its checkpoint. STO-006 is a record
// that is missing or altered, STO-016 a chain that does not fit.
func (l *Log) Verify(ctx context.Context) (Checkpoint, error) {
	want, err := l.current(ctx)
	if err != nil {
		return Checkpoint{}, err
	}
	var got Checkpoint
	for got.Size < want.Size {
		if err := ctx.Err(); err != nil {
			return got, err
		}
		page, err := records.Read(ctx, l.store, got.Size, int(min(page, want.Size-got.Size)))
		if err != nil {
			return got, err
		}
		for _, stored := range page {
			if err := fits(stored, got); err != nil {
				return got, err
			}
			got.Hash = chain(got.Hash, LeafHash(stored.Data))
			got.Size++
		}
	}
	if got != want {
		return got, problem.New("STO-016", "wanted the hash %s over %d records, got %s",
			attest.Hex(want.Hash[:]), want.Size, attest.Hex(got.Hash[:]))
	}
	return got, nil
}

// fits checks that a stored record says of itself where it stands.
func fits(stored store.LogRecord, before Checkpoint) error {
	e, err := decode(stored)
	if err != nil {
		return err
	}
	if e.Seq != before.Size || [32]byte(e.Previous) != before.Hash {
		return problem.New("STO-016", "record %d says that it is record %d after %s", before.Size, e.Seq, e.Previous)
	}
	return nil
}

func (l *Log) current(ctx context.Context) (c Checkpoint, err error) {
	err = l.store.View(ctx, func(tx *store.Tx) error {
		c = l.Checkpoint(tx)
		return nil
	})
	return c, err
}

func decode(stored store.LogRecord) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(stored.Data, &e.Record); err != nil {
		return e, problem.Because(err, "STO-016", "record %d does not parse", stored.Seq)
	}
	if e.Version != version || len(e.Previous) != sha256.Size {
		return e, problem.New("STO-016", "record %d has version %d and a previous hash of %d bytes", stored.Seq, e.Version, len(e.Previous))
	}
	leaf := LeafHash(stored.Data)
	e.Hash = leaf[:]
	return e, nil
}

// clipped returns the record within the limits of its texts.
func clipped(r Record) (Record, error) {
	if len(r.Details) > maxDetails {
		return r, problem.New("STO-009", "an audit record has at most %d details, got %d", maxDetails, len(r.Details))
	}
	for _, s := range []*string{&r.Subject, &r.Decision, &r.Actor, &r.Code, &r.Text} {
		*s = clip(*s)
	}
	details := make(map[string]string, len(r.Details))
	for k, v := range r.Details {
		details[clip(k)] = clip(v)
	}
	r.Details = details
	return r, nil
}

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	cut := maxText - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
