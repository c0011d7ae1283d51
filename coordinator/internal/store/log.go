package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxCheckpoint is the largest checkpoint of a log, in bytes.
const maxCheckpoint = 2 << 10

// maxRead is the largest number of log records that one Read returns.
const maxRead = 1000

// Log is an append-only sequence of records that are not held in memory.
// Records are sealed and bound to their place; the length and the checkpoint of
// every log are part of the sealed head. Make logs once; a Log holds no data.
type Log struct {
	name string
}

// LogRecord is one record of a log.
type LogRecord struct {
	Seq  uint64 // place in the log, from 0
	Data []byte
}

// NewLog names a log. Names have 1 to 64 bytes; a store has at most 16 logs.
func NewLog(name string) Log {
	mustName(name)
	return Log{name: name}
}

// Append adds a record and returns its place. It becomes readable when the
// Update has returned. The error is STO-009 over the limit of a value; it also
// fails the transaction.
func (l Log) Append(tx *Tx, data []byte) (seq uint64, err error) {
	tx.checkWritable()
	if len(data) > tx.store.maxValue {
		return 0, tx.fail(problem.New("STO-009", "a record of log %s has at most %d bytes, got %d", l.name, tx.store.maxValue, len(data)))
	}
	state, err := tx.ownLog(l.name)
	if err != nil {
		return 0, tx.fail(err)
	}
	seq = state.Len
	state.Len++
	tx.logs[l.name] = state
	tx.appends = append(tx.appends, pendingAppend{log: l.name, seq: seq, packed: pack(data)})
	tx.bytes += len(data)
	return seq, nil
}

// SetCheckpoint keeps up to 2 KiB about the log, such as a hash over all of
// its records, in the sealed head of this commit and of those that follow.
func (l Log) SetCheckpoint(tx *Tx, checkpoint []byte) error {
	tx.checkWritable()
	if len(checkpoint) > maxCheckpoint {
		return tx.fail(fmt.Errorf("checkpoint of log %s: %d bytes, at most %d", l.name, len(checkpoint), maxCheckpoint))
	}
	state, err := tx.ownLog(l.name)
	if err != nil {
		return tx.fail(err)
	}
	state.Checkpoint = slices.Clone(checkpoint)
	tx.logs[l.name] = state
	return nil
}

// Checkpoint returns what SetCheckpoint was last given, or nil. The caller must
// not change it.
func (l Log) Checkpoint(tx *Tx) []byte {
	tx.check()
	return tx.log(l.name).Checkpoint
}

// Len returns the number of records, with those of this transaction.
func (l Log) Len(tx *Tx) uint64 {
	tx.check()
	return tx.log(l.name).Len
}

// Read returns up to limit (at most 1000) durable records from place from on,
// in order. A missing, moved or altered record is STO-006. Beyond the end it
// returns none.
func (l Log) Read(ctx context.Context, s *Store, from uint64, limit int) ([]LogRecord, error) {
	end := s.state.Load().logs[l.name].Len
	if limit > maxRead {
		limit = maxRead
	}
	if from >= end || limit <= 0 {
		return nil, nil
	}
	if left := end - from; uint64(limit) > left {
		limit = int(left)
	}
	release, err := s.use()
	if err != nil {
		return nil, err
	}
	defer release()
	first, last := s.codec.logKey(l.name, from), s.codec.logKey(l.name, from+uint64(limit))
	entries, err := s.engine.Range(ctx, first, last, limit)
	if err != nil {
		return nil, unusable(err, "reading log %s", l.name)
	}
	if len(entries) != limit {
		return nil, problem.New("STO-006", "log %s: wanted %d records from %d on, got %d", l.name, limit, from, len(entries))
	}
	records := make([]LogRecord, limit)
	for i, e := range entries {
		seq := from + uint64(i)
		data, err := s.codec.openLog(l.name, seq, e, s.maxValue)
		if err != nil {
			return nil, err
		}
		records[i] = LogRecord{Seq: seq, Data: data}
	}
	return records, nil
}
