package audit

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// Two decisions about the same kind of TEE differ in their digests and names,
// and hardly in the texts of their verdicts. Most records are therefore stored as the
// difference to an earlier one, which is stored whole: one byte for the form, then
// the parts, or the place of the other record and the length of the parts
// (unsigned varints) and the parts, deflated with that record's as dictionary
// (RFC 1951). What is hashed and shown is always the whole.
const (
	formWhole = 0
	formDelta = 1

	maxBases = 4    // TEEs that records are stored as differences of
	maxBase  = 16   // whole records at hand for reading
	worth    = 6    // a difference is at most a sixth of the whole
	rebase   = 1000 // records after which a base may be replaced
	deltaFit = 3    // level of compress/flate: the lowest that makes good use of a dictionary
)

// maxParts bounds both parts of a record and the length before them.
const maxParts = maxEntry + transparency.MaxPrivate + binary.MaxVarintLen64

var errForm = errors.New("it is stored in no known form")

// base is a whole record, durable since before it became one.
type base struct {
	seq    uint64
	writer *flate.Writer // with the record as dictionary
	out    bytes.Buffer
}

type bases struct {
	mu    sync.Mutex // guards all fields
	byTEE map[string]*base
	read  map[uint64][]byte // parts of whole records, by place
}

// pack makes the bytes to store of a record's parts.
func (b *bases) pack(tee string, parts []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	on := b.byTEE[tee]
	if on == nil || tee == "" {
		return slices.Concat([]byte{formWhole}, parts)
	}
	on.out.Reset()
	on.out.WriteByte(formDelta)
	on.out.Write(binary.AppendUvarint(binary.AppendUvarint(nil, on.seq), uint64(len(parts))))
	on.writer.Reset(&on.out)
	_, err := on.writer.Write(parts)
	if cerr := on.writer.Close(); err != nil || cerr != nil || on.out.Len() > len(parts)/worth {
		return slices.Concat([]byte{formWhole}, parts)
	}
	return bytes.Clone(on.out.Bytes())
}

// parts returns the parts of a stored record.
func (l *Log) parts(ctx context.Context, stored store.LogRecord) ([]byte, error) {
	if len(stored.Data) == 0 {
		return nil, errForm
	}
	form, rest := stored.Data[0], stored.Data[1:]
	if form == formWhole {
		return rest, nil
	}
	on, n := binary.Uvarint(rest)
	if form != formDelta || n <= 0 || on >= stored.Seq {
		return nil, errForm
	}
	size, m := binary.Uvarint(rest[n:])
	if m <= 0 || size > maxParts {
		return nil, errForm
	}
	dictionary, err := l.whole(ctx, on)
	if err != nil {
		return nil, err
	}
	parts := make([]byte, size)
	r := flate.NewReaderDict(bytes.NewReader(rest[n+m:]), dictionary)
	defer r.Close()
	if _, err := io.ReadFull(r, parts); err != nil {
		return nil, errForm
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, errForm
	}
	return parts, nil
}

// whole returns the parts of a record that is stored whole.
func (l *Log) whole(ctx context.Context, seq uint64) ([]byte, error) {
	b := &l.bases
	b.mu.Lock()
	known, ok := b.read[seq]
	b.mu.Unlock()
	if ok {
		return known, nil
	}
	found, err := records.Read(ctx, l.store, seq, 1)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 || len(found[0].Data) == 0 || found[0].Data[0] != formWhole {
		return nil, errForm
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.read) >= maxBase || b.read == nil {
		b.read = map[uint64][]byte{}
	}
	b.read[seq] = found[0].Data[1:]
	return found[0].Data[1:], nil
}

// public returns the public part of a stored record.
func (l *Log) public(ctx context.Context, stored store.LogRecord) ([]byte, error) {
	parts, err := l.parts(ctx, stored)
	if err != nil {
		return nil, problem.Because(err, "STO-016", "record %d", stored.Seq)
	}
	public, _, ok := cut(parts)
	if !ok {
		return nil, problem.New("STO-016", "record %d is not a public and a private part", stored.Seq)
	}
	return public, nil
}

// Committed says that the Update which appended e has succeeded, so that later
// records may be stored as the difference to it: to an accepted decision that
// stands there whole, the first of its TEE since the start or long after the last.
func (l *Log) Committed(e Entry) {
	tee := e.Details["tee"]
	if !e.whole || tee == "" || e.Kind != ActivationAccepted && e.Kind != RenewalAccepted {
		return
	}
	b := &l.bases
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.byTEE[tee]
	if old != nil && e.Seq < old.seq+rebase || old == nil && len(b.byTEE) >= maxBases {
		return
	}
	next := &base{seq: e.Seq}
	var err error
	if next.writer, err = flate.NewWriterDict(&next.out, deltaFit, join(e.Public, e.Private)); err != nil {
		return // only for a level that does not exist: records stay whole
	}
	if b.byTEE == nil {
		b.byTEE = map[string]*base{}
	}
	b.byTEE[tee] = next
}
