package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// loader collects what an engine holds and judges it at the end.
type loader struct {
	codec      *codec
	maxRecords int
	state      *state
	sum        [32]byte
	format     []byte
	head       []byte
	entries    int
	damage     error // first record that does not open
}

// load reads and verifies the whole live state.
func (s *Store) load(ctx context.Context) (*state, []byte, error) {
	l := &loader{
		codec: s.codec, maxRecords: s.maxRecords,
		state: &state{tables: map[string]*tree{}, logs: map[string]logState{}},
	}
	rev, err := s.engine.Load(ctx, l.take)
	if err != nil {
		return nil, nil, codedRead(err, "loading the state")
	}
	l.state.rev = rev
	if err := l.judge(); err != nil {
		return nil, nil, err
	}
	if err := s.checkLogs(ctx, l.state); err != nil {
		return nil, nil, err
	}
	return l.state, l.head, nil
}

// take files one entry. Records are opened as they come; whether the key is
// the right one is said first, by judge.
func (l *loader) take(e Entry) error {
	l.entries++
	switch {
	case e.Key == FormatKey:
		l.format = slices.Clone(e.Value)
		return nil
	case e.Key == HeadKey:
		l.head = slices.Clone(e.Value)
		return nil
	case l.damage != nil:
		return nil
	case l.state.count >= l.maxRecords:
		return problem.New("STO-009", "the state holds more than %d records", l.maxRecords)
	}
	table, rec, err := l.codec.openRecord(e)
	if err != nil {
		l.damage = err
		return nil
	}
	t := l.state.tables[table]
	if t == nil {
		t = newTree()
		l.state.tables[table] = t
	}
	t.ReplaceOrInsert(rec)
	l.state.count++
	xor(&l.sum, rec.sum)
	return nil
}

// openHead says whether the key is the right one, and opens the head.
func (c *codec) openHead(format, head []byte) (h headRecord, hash [32]byte, err error) {
	rest, ok := strings.CutPrefix(string(format), formatText)
	if !ok {
		return h, hash, problem.New("STO-003", "wanted a format record, got none")
	}
	version, id, _ := strings.Cut(rest, " ")
	if version != formatVer {
		return h, hash, problem.New("STO-003", "wanted format version %s, got %.16q", formatVer, version)
	}
	if id != c.keyID {
		return h, hash, problem.New("STO-004", "wanted key %.16s, got key %.16s", id, c.keyID)
	}
	if head == nil {
		return h, hash, problem.New("STO-006", "the head is missing")
	}
	_, plain, err := c.open(HeadKey, head)
	if err != nil {
		return h, hash, problem.New("STO-005", "the head %v", err)
	}
	if err := json.Unmarshal(plain, &h); err != nil {
		return h, hash, problem.Because(err, "STO-017", "the head")
	}
	return h, sha256.Sum256(plain), nil
}

// ReadHead reads the head of the state in an engine, and nothing else of it: the
// errors are those of Open that it finds there.
func ReadHead(ctx context.Context, engine Engine, key seal.Key) (Head, error) {
	if !key.Valid() {
		return Head{}, errors.New("store: the key is missing")
	}
	c, err := newCodec(key, nil)
	if err != nil {
		return Head{}, err
	}
	entries, err := engine.Range(ctx, FormatKey, HeadKey+"\x00", 2)
	if err != nil {
		return Head{}, codedRead(err, "reading the head")
	}
	if len(entries) == 0 {
		return Head{}, problem.New("STO-012", "the engine holds nothing")
	}
	found := map[string][]byte{}
	for _, e := range entries {
		found[e.Key] = e.Value
	}
	h, hash, err := c.openHead(found[FormatKey], found[HeadKey])
	return Head{Sequence: h.Sequence, Hash: hash}, err
}

// codedRead is the error of an engine that could not be read.
func codedRead(err error, format string, args ...any) error {
	if problem.CodeOf(err) != "" {
		return err
	}
	return unusable(err, format, args...)
}

// unusable is STO-007, with the next step that the engine has for it.
func unusable(err error, format string, args ...any) error {
	p := problem.Because(err, "STO-007", format, args...)
	if problem.CodeOf(err) != "" {
		p.Next = problem.From(err).Next
	}
	return p
}

// judge says what is wrong, the most telling thing first.
func (l *loader) judge() error {
	if l.entries == 0 {
		return problem.New("STO-012", "the engine holds nothing")
	}
	head, hash, err := l.codec.openHead(l.format, l.head)
	if err != nil {
		return err
	}
	if l.damage != nil {
		return l.damage
	}
	l.state.head, l.state.hash = head, hash
	if l.state.count != head.Records {
		return problem.New("STO-006", "head %d counts %d records, found %d", head.Sequence, head.Records, l.state.count)
	}
	if !bytes.Equal(l.sum[:], head.State) {
		return problem.New("STO-006", "the records are not those of head %d", head.Sequence)
	}
	if head.Logs != nil {
		l.state.logs = head.Logs
	}
	return nil
}

// checkLogs checks that each log ends where the head says. The records before
// are checked when they are read.
func (s *Store) checkLogs(ctx context.Context, st *state) error {
	for name, l := range st.logs {
		from := l.Len
		if from > 0 {
			from--
		}
		entries, err := s.engine.Range(ctx, s.codec.logKey(name, from), s.codec.logKey(name, ^uint64(0)), 2)
		if err != nil {
			return codedRead(err, "reading the end of log %s", name)
		}
		if want := int(l.Len - from); len(entries) != want {
			return problem.New("STO-006", "log %s has %d records in the head; its end is not there", name, l.Len)
		}
		if l.Len == 0 {
			continue
		}
		if _, err := s.codec.openLog(name, from, entries[0], s.maxValue); err != nil {
			return err
		}
	}
	return nil
}

// settle finds out, after a failed commit, whether it was made, and takes over
// what the engine holds. It runs in the writer.
func (s *Store) settle() error {
	if s.outrun != nil {
		return s.outrun
	}
	if !s.doubt {
		return nil
	}
	ctx := context.Background()
	entries, err := s.engine.Range(ctx, HeadKey, HeadKey+"\x00", 1)
	if err != nil {
		return unusable(err, "reading the head after a failed commit")
	}
	if len(entries) != 1 {
		return problem.New("STO-006", "the head is missing")
	}
	if bytes.Equal(entries[0].Value, s.sealedHead) {
		s.doubt = false
		return nil
	}
	loaded, sealedHead, err := s.load(ctx)
	if err != nil {
		return err
	}
	durable := s.state.Load()
	if loaded.head.Sequence != durable.head.Sequence+1 || !bytes.Equal(loaded.head.Previous, durable.hash[:]) {
		return problem.New("STO-018", "wanted the successor of head %d, got head %d", durable.head.Sequence, loaded.head.Sequence)
	}
	s.doubt, s.sealedHead = false, sealedHead
	s.state.Store(loaded)
	return nil
}
