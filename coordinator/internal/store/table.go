package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Table is a typed view of one table: keys are strings, values are T, encoded
// as JSON. Make tables once, as package variables or fields; a Table holds no
// data and needs no store.
//
// Values are immutable. What Get and All return is shared with every other
// reader: never write to a slice, map or pointer inside it. What Put was given
// is not kept, so it may be changed afterwards.
//
// A value lives through JSON: only what json.Marshal writes survives. A type
// that hides itself from JSON as "[redacted]" is refused by Put; give T plain
// bytes for what must be kept, the store seals them.
type Table[T any] struct {
	name string
}

// NewTable names a table. Names have 1 to 64 bytes.
func NewTable[T any](name string) Table[T] {
	mustName(name)
	return Table[T]{name: name}
}

// Get returns the value under key.
func (t Table[T]) Get(tx *Tx, key string) (T, bool) {
	tx.check()
	if tree := tx.tree(t.name); tree != nil {
		if e, ok := tree.Get(&entry{key: key}); ok {
			return t.value(tx, e), true
		}
	}
	var zero T
	return zero, false
}

// Put sets the value under key. A key has 1 to 512 bytes. The error is STO-009
// over a limit of the store; it also fails the transaction.
func (t Table[T]) Put(tx *Tx, key string, value T) error {
	tx.checkWritable()
	if key == "" || len(key) > maxKey {
		return tx.fail(problem.New("STO-009", "table %s: a key has 1 to %d bytes, got %d", t.name, maxKey, len(key)))
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return tx.fail(fmt.Errorf("encoding %s/%s: %w", t.name, key, err))
	}
	if bytes.Contains(raw, []byte(`"[redacted]"`)) {
		return tx.fail(fmt.Errorf("encoding %s/%s: %T hides a part of itself from JSON, so storing it would lose that", t.name, key, value))
	}
	return tx.put(t.name, key, raw)
}

// Delete removes key; deleting what is absent is no error.
func (t Table[T]) Delete(tx *Tx, key string) {
	tx.checkWritable()
	tx.delete(t.name, key)
}

// Len returns the number of records in the table, in constant time.
func (t Table[T]) Len(tx *Tx) int {
	tx.check()
	if tree := tx.tree(t.name); tree != nil {
		return tree.Len()
	}
	return 0
}

// All iterates over the table in ascending order of keys. The table may be
// changed meanwhile; the iteration goes on over what it started with.
func (t Table[T]) All(tx *Tx) iter.Seq2[string, T] { return t.From(tx, "") }

// From iterates over the records with keys not below key, in ascending order.
func (t Table[T]) From(tx *Tx, key string) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		tx.check()
		tree := tx.frozen(t.name)
		if tree == nil {
			return
		}
		tree.AscendGreaterOrEqual(&entry{key: key}, func(e *entry) bool {
			tx.check()
			return yield(e.key, t.value(tx, e))
		})
	}
}

// Prefix iterates over the records whose keys start with prefix.
func (t Table[T]) Prefix(tx *Tx, prefix string) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		for k, v := range t.From(tx, prefix) {
			if !strings.HasPrefix(k, prefix) || !yield(k, v) {
				return
			}
		}
	}
}

// value returns e's value, decoding it the first time that anybody asks.
func (t Table[T]) value(tx *Tx, e *entry) T {
	b := e.box.Load()
	if !b.decoded {
		var v T
		if err := json.Unmarshal(b.raw, &v); err != nil {
			tx.fail(problem.Because(err, "STO-017", "%s/%s", t.name, e.key))
			return v
		}
		raw := b.raw
		if e.sealed {
			raw = nil
		}
		b = &box{raw: raw, value: v, decoded: true}
		e.box.Store(b)
	}
	v, ok := b.value.(T)
	if !ok && b.value != nil {
		panic(fmt.Sprintf("store: table %q holds %T, not %T", t.name, b.value, v))
	}
	return v
}
