// Package audit keeps the log of every decision, and nothing else: who decided
// what about whom, with which verdict, and why.
//
// It owns the bytes of a record and the Merkle tree over all of them (RFC 6962).
// A leaf of the tree is the public entry of a record; what only users of the
// manifest may read stands beside it, and the entry names its hash. A record is
// appended inside the Update that makes the decision, so that neither exists
// without the other. It refuses records over its limits, never rewrites one,
// and holds no secret value: callers pass digests and names.
//
// What callers without an identity can cause is bounded, and what users cause by
// being refused: Admit and AdmitUser let a few of their records through and count
// the rest.
package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// Limits of a record. Texts over maxText bytes are cut, with "…" at the end.
const (
	maxText    = 1 << 10
	maxDetails = 32
	maxEntry   = 32 << 10 // bytes of the public part: a tile of 256 has at most 8 MiB
)

// Record is one decision, as its maker gives it. Which parts of it anybody may
// read depends on the kind: see disclosed.
type Record struct {
	Time     time.Time
	Kind     Kind
	Subject  string            // marble, manifest digest, …
	Decision string            // decision id, such as "web/7f2c19ab"
	Actor    string            // user or marble that asked; empty for nobody
	Code     string            // problem code, when refused
	Text     string            // one line for people
	Details  map[string]string // at most 32: serial, revision, instance, …
	Evidence attest.Hex        // attest.Evidence.Digest
	Verdict  json.RawMessage   // attest.Verdict as json.Marshal wrote it
}

// Entry is a record in the log. Details has the public and the private ones.
type Entry struct {
	Record
	Seq     uint64
	Hash    attest.Hex // leaf hash of the public part, 32 bytes
	Public  []byte     // transparency.Entry as JSON: the leaf
	Private []byte     // transparency.Private as JSON; nil if there is none

	whole bool // as it was stored by Append
}

// PublicText is the text that anybody may read: the record's own, or what its
// code means where that is private.
func (e Entry) PublicText() string {
	switch {
	case disclosed[e.Kind].text:
		return e.Text
	case e.Code != "":
		return problem.Lookup(problem.Code(e.Code)).Title
	}
	return ""
}

// Checkpoint names a prefix of the log: its number of records and the root of
// the Merkle tree over their public parts.
type Checkpoint struct {
	Size uint64
	Root [32]byte
}

var records = store.NewLog("audit")

// Log is the audit log of one store. It is safe for concurrent use.
type Log struct {
	store *store.Store
	rand  io.Reader // of salts
	gate  gate
	index index
	tree  tree
	bases bases
	// scanning has a token while older records are looked through.
	scanning chan struct{}
}

// New returns the log that s holds. It reads nothing yet.
func New(s *store.Store, rand io.Reader) *Log {
	return &Log{store: s, rand: rand, scanning: make(chan struct{}, 1)}
}

// Append adds a record in the caller's Update. The entry is in the log when
// that Update succeeds.
func (l *Log) Append(tx *store.Tx, r Record) (Entry, error) {
	seq := records.Len(tx)
	tree, err := rangeOf(tx)
	if err != nil {
		return Entry{}, err
	}
	r.Time = r.Time.UTC()
	if r, err = clipped(r); err != nil {
		return Entry{}, err
	}
	e := Entry{Record: r, Seq: seq}
	if e.Public, e.Private, err = l.split(seq, &e.Record); err != nil {
		return Entry{}, err
	}
	stored := l.bases.pack(e.Details["tee"], join(e.Public, e.Private))
	e.whole = stored[0] == formWhole
	if _, err := records.Append(tx, stored); err != nil {
		return Entry{}, err
	}
	leaf := transparency.LeafHash(e.Public)
	e.Hash = leaf[:]
	if err := tree.Append(e.Hash, nil); err != nil {
		return Entry{}, fmt.Errorf("extending the log's tree: %w", err)
	}
	return e, records.SetCheckpoint(tx, bytes.Join(tree.Hashes(), nil))
}

// split returns the public and the private part of a record. A verdict that
// makes the private part too large is left out, and its size noted: a decision
// must not fail for its verdict.
func (l *Log) split(seq uint64, r *Record) (public, private []byte, err error) {
	e := transparency.Entry{
		Version: transparency.EntryVersion, Seq: seq, Time: r.Time, Kind: string(r.Kind), Subject: r.Subject, Decision: r.Decision,
		Actor: r.Actor, Code: r.Code, Evidence: r.Evidence,
	}
	var p transparency.Private
	if disclosed[r.Kind].text {
		e.Text = r.Text
	} else {
		p.Text = r.Text
	}
	for k, v := range r.Details {
		to := &p.Details
		if r.Kind.discloses(k) {
			to = &e.Details
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[k] = v
	}
	if private, err = l.conceal(p, r); err != nil {
		return nil, nil, err
	}
	if private != nil {
		sum := sha256.Sum256(private)
		e.Private = sum[:]
	}
	if public, err = json.Marshal(e); err != nil {
		return nil, nil, fmt.Errorf("encoding an audit record: %w", err)
	}
	if len(public) > maxEntry {
		return nil, nil, problem.New("STO-009", "the public part of an audit record has at most %d bytes, got %d", maxEntry, len(public))
	}
	return public, private, nil
}

// conceal returns the bytes of a private part, nil if there is nothing in it.
// The verdict, which is most of it and was encoded a moment ago, is not parsed.
func (l *Log) conceal(p transparency.Private, r *Record) ([]byte, error) {
	if p.Text == "" && p.Details == nil && r.Verdict == nil {
		return nil, nil
	}
	p.Salt = make([]byte, transparency.SaltSize)
	if _, err := io.ReadFull(l.rand, p.Salt); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	b, err := json.Marshal(p)
	if err == nil && len(b)+len(r.Verdict) > transparency.MaxPrivate-len(verdictKey) && r.Verdict != nil {
		if p.Details == nil {
			p.Details = map[string]string{}
		}
		p.Details["verdictBytes"] = strconv.Itoa(len(r.Verdict))
		r.Details["verdictBytes"], r.Verdict = p.Details["verdictBytes"], nil
		b, err = json.Marshal(p)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding an audit record: %w", err)
	}
	if r.Verdict != nil {
		b = slices.Concat(b[:len(b)-1], []byte(verdictKey), r.Verdict, []byte("}"))
	}
	if len(b) > transparency.MaxPrivate {
		return nil, problem.New("STO-009", "the private part of an audit record has at most %d bytes, got %d", transparency.MaxPrivate, len(b))
	}
	return b, nil
}

const verdictKey = `,"verdict":`

// join makes one of the parts of a record: the length of the public part (unsigned
// varint), the public part, the private part.
func join(public, private []byte) []byte {
	return slices.Concat(binary.AppendUvarint(nil, uint64(len(public))), public, private)
}

// cut is the opposite of join.
func cut(stored []byte) (public, private []byte, ok bool) {
	size, n := binary.Uvarint(stored)
	if n <= 0 || size > uint64(len(stored)-n) {
		return nil, nil, false
	}
	end := n + int(size)
	if end < len(stored) {
		private = stored[end:]
	}
	return stored[n:end:end], private, true
}

// Checkpoint returns the log's checkpoint as tx sees it.
func (l *Log) Checkpoint(tx *store.Tx) (Checkpoint, error) {
	tree, err := rangeOf(tx)
	if err != nil {
		return Checkpoint{}, err
	}
	return checkpointOf(tree)
}

// Verify walks the whole log and recomputes its tree. STO-006 is a record
// that is missing or altered, STO-016 one that does not fit.
func (l *Log) Verify(ctx context.Context) (Checkpoint, error) {
	want, err := l.Current(ctx)
	if err != nil {
		return Checkpoint{}, err
	}
	got := ranges.NewEmptyRange(0)
	for size := got.End(); size < want.Size; size = got.End() {
		if err := ctx.Err(); err != nil {
			return Checkpoint{Size: size}, err
		}
		page, err := records.Read(ctx, l.store, size, int(min(page, want.Size-size)))
		if err != nil {
			return Checkpoint{Size: size}, err
		}
		for _, stored := range page {
			e, err := l.decode(ctx, stored)
			if err != nil {
				return Checkpoint{Size: got.End()}, err
			}
			if err := got.Append(e.Hash, nil); err != nil {
				return Checkpoint{Size: got.End()}, err
			}
		}
	}
	c, err := checkpointOf(got)
	if err == nil && c != want {
		err = problem.New("STO-016", "wanted the root %s over %d records, got %s", attest.Hex(want.Root[:]), want.Size, attest.Hex(c.Root[:]))
	}
	return c, err
}

// Current returns the newest durable checkpoint.
func (l *Log) Current(ctx context.Context) (c Checkpoint, err error) {
	err = l.store.View(ctx, func(tx *store.Tx) error {
		c, err = l.Checkpoint(tx)
		return err
	})
	return c, err
}

// decode reads a stored record, which must say of itself where it stands.
func (l *Log) decode(ctx context.Context, stored store.LogRecord) (Entry, error) {
	parts, err := l.parts(ctx, stored)
	if err != nil {
		return Entry{}, problem.Because(err, "STO-016", "record %d", stored.Seq)
	}
	public, private, ok := cut(parts)
	if !ok {
		return Entry{}, problem.New("STO-016", "record %d is not a public and a private part", stored.Seq)
	}
	e, err := transparency.ParseEntry(public)
	var p transparency.Private
	if err == nil && (private != nil || len(e.Private) > 0) {
		p, err = transparency.ParsePrivate(e, private)
	}
	if err == nil && e.Seq != stored.Seq {
		err = fmt.Errorf("it says that it is record %d", e.Seq)
	}
	if err != nil {
		return Entry{}, problem.Because(err, "STO-016", "record %d", stored.Seq)
	}
	leaf := transparency.LeafHash(public)
	details := map[string]string{}
	maps.Copy(details, e.Details)
	maps.Copy(details, p.Details)
	return Entry{
		Record: Record{
			Time: e.Time, Kind: Kind(e.Kind), Subject: e.Subject, Decision: e.Decision, Actor: e.Actor, Code: e.Code, Text: e.Text + p.Text,
			Details: details, Evidence: e.Evidence, Verdict: p.Verdict,
		},
		Seq: e.Seq, Hash: leaf[:], Public: public, Private: private,
	}, nil
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
