package etcd

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Layout, version 1 (2026-11), below the prefix:
//
//	rev                    what the last commit was: 16 random bytes. Its ModRevision is the engine's revision
//	fence                  rewritten after a commit of unknown outcome, so that it cannot land any more
//	e/ + key               an entry: 0 and the value, or 1 and the value's size (4 bytes, big endian)
//	v/ + n + key + place   a piece of a value; n is the key's length (1 byte), place counts from 0 (2 bytes, big endian)
//	pending                a commit that is made but not yet applied: id (16 bytes) and size (4 bytes) of its stage
//	stage/ + id + place    a piece of a stage; id in hex and "/", place as four hex digits
//	files/ + name          a document beside the state
//	restoring              while a restore is not finished
//
// A stage is the changes of a commit, ascending by key, cut into pieces:
//
//	1, length of the key (1 byte), key                                    a deletion
//	2, length of the key (1 byte), key, size of the value (4 bytes), value
const (
	revName     = "rev"
	fenceName   = "fence"
	pendingName = "pending"
	entryStart  = "e/"
	pieceStart  = "v/"
	stageStart  = "stage/"

	maxKey    = 64        // bytes of an entry's key
	maxInline = 64 << 10  // bytes of a value that stands in one piece beside its key
	pieceSize = 512 << 10 // of larger values, and of stages
	maxValue  = 16 << 20  // bytes of one value
	maxStage  = 64 << 20  // bytes of one commit
	idSize    = 16

	// One request has at most so many operations and bytes; etcd takes 128
	// and 1.5 MiB by default.
	maxOps   = 120
	maxBytes = 1 << 20
	opBytes  = 128 // of a request for one operation, besides key and value
)

const (
	inline byte = iota
	pieces
)

const (
	deletion byte = iota + 1
	putting
)

var errMalformed = errors.New("is malformed")

// change is what a commit does to one entry: value, or nil for its deletion.
type change struct {
	key   string
	value []byte
}

// changesOf orders the puts and deletes of a commit by key; STO-009. A put counts
// over a deletion, and a later put over an earlier one.
func changesOf(puts []store.Entry, deletes []string) ([]change, error) {
	all := make([]change, 0, len(puts)+len(deletes))
	for _, key := range deletes {
		all = append(all, change{key: key})
	}
	for _, p := range puts {
		if len(p.Value) > maxValue {
			return nil, problem.New("STO-009", "a value in etcd has at most %d bytes, got %d", maxValue, len(p.Value))
		}
		all = append(all, change{p.Key, append([]byte{}, p.Value...)}) // never nil
	}
	slices.SortStableFunc(all, func(a, b change) int { return strings.Compare(a.key, b.key) })
	kept := all[:0]
	for i, c := range all {
		if c.key == "" || len(c.key) > maxKey {
			return nil, fmt.Errorf("a key has 1 to %d bytes, got %d", maxKey, len(c.key))
		}
		if i+1 == len(all) || all[i+1].key != c.key {
			kept = append(kept, c)
		}
	}
	return kept, nil
}

// batch is a part of a commit that fits in one request.
type batch struct {
	ops   []clientv3.Op
	bytes int
}

func (b *batch) add(op clientv3.Op) {
	b.ops = append(b.ops, op)
	b.bytes += opBytes + len(op.KeyBytes()) + len(op.ValueBytes()) + len(op.RangeBytes())
}

// batches are the operations that make the changes, in as few requests as their
// limits allow.
func (c *Cluster) batches(all []change) []batch {
	done := []batch{{}}
	for _, ch := range all {
		for _, op := range c.opsOf(ch) {
			b := &done[len(done)-1]
			if size := len(op.ValueBytes()) + opBytes + 2*maxKey; len(b.ops) == maxOps || b.bytes+size > maxBytes {
				done = append(done, batch{})
				b = &done[len(done)-1]
			}
			b.add(op)
		}
	}
	return done
}

// opsOf are the operations of one change. Pieces that a log record might leave
// behind are not looked for: a log's records are never replaced.
func (c *Cluster) opsOf(ch change) []clientv3.Op {
	name := c.Key(entryStart + ch.key)
	n := 0
	var ops []clientv3.Op
	if len(ch.value) > maxInline {
		for piece := range slices.Chunk(ch.value, pieceSize) {
			ops = append(ops, clientv3.OpPut(c.pieceKey(ch.key, n), string(piece)))
			n++
		}
	}
	if !strings.HasPrefix(ch.key, store.LogPrefix) || ch.value == nil {
		ops = append(ops, clientv3.OpDelete(c.pieceKey(ch.key, n), clientv3.WithRange(c.pieceKey(ch.key, 1<<16-1))))
	}
	if ch.value == nil {
		return append(ops, clientv3.OpDelete(name))
	}
	return append(ops, clientv3.OpPut(name, string(encodeValue(ch.value))))
}

// pieceKey is the key of a piece of an entry's value.
func (c *Cluster) pieceKey(key string, place int) string {
	return c.Key(pieceStart + string(rune(len(key))) + key + string([]byte{byte(place >> 8), byte(place)}))
}

// stageKey is the key of a piece of a stage.
func (c *Cluster) stageKey(id []byte, place int) string {
	return c.Key(fmt.Sprintf("%s%s/%04x", stageStart, hex.EncodeToString(id), place))
}

// encodeValue is what stands at an entry's key.
func encodeValue(value []byte) []byte {
	if len(value) > maxInline {
		return binary.BigEndian.AppendUint32([]byte{pieces}, uint32(len(value)))
	}
	return append([]byte{inline}, value...)
}

// decodeValue returns the value at an entry's key, or the size of what its pieces
// hold.
func decodeValue(b []byte) (value []byte, size int, err error) {
	switch {
	case len(b) > 0 && len(b) <= maxInline+1 && b[0] == inline:
		return b[1:], 0, nil
	case len(b) == 5 && b[0] == pieces:
		size := binary.BigEndian.Uint32(b[1:])
		if size > maxInline && size <= maxValue {
			return nil, int(size), nil
		}
	}
	return nil, 0, errMalformed
}

// pendingCommit says where the changes of a commit stand.
type pendingCommit struct {
	id   []byte
	size int
}

func (p pendingCommit) encode() []byte {
	return binary.BigEndian.AppendUint32(slices.Clone(p.id), uint32(p.size))
}

func decodePending(b []byte) (p pendingCommit, err error) {
	if len(b) != idSize+4 {
		return p, errMalformed
	}
	size := binary.BigEndian.Uint32(b[idSize:])
	if size == 0 || size > maxStage {
		return p, errMalformed
	}
	return pendingCommit{slices.Clone(b[:idSize]), int(size)}, nil
}

// pieceCount is how many pieces so many bytes have.
func pieceCount(size int) int { return (size + pieceSize - 1) / pieceSize }

func encodeStage(all []change) []byte {
	var b []byte
	for _, c := range all {
		kind := putting
		if c.value == nil {
			kind = deletion
		}
		b = append(b, kind, byte(len(c.key)))
		b = append(b, c.key...)
		if kind == putting {
			b = binary.BigEndian.AppendUint32(b, uint32(len(c.value)))
			b = append(b, c.value...)
		}
	}
	return b
}

// decodeStage reads a stage strictly. The values are parts of b.
func decodeStage(b []byte) ([]change, error) {
	var all []change
	last := ""
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || b[1] > maxKey || len(b) < 2+int(b[1]) {
			return nil, errMalformed
		}
		kind, end := b[0], 2+int(b[1])
		c := change{key: string(b[2:end])}
		if c.key <= last {
			return nil, errMalformed
		}
		last, b = c.key, b[end:]
		switch kind {
		case deletion:
		case putting:
			if len(b) < 4 {
				return nil, errMalformed
			}
			size := binary.BigEndian.Uint32(b)
			if size > maxValue || int(size) > len(b)-4 {
				return nil, errMalformed
			}
			c.value, b = b[4:4+size:4+size], b[4+size:]
		default:
			return nil, errMalformed
		}
		all = append(all, c)
	}
	return all, nil
}
