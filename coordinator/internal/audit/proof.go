package audit

import (
	"context"
	"sync"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// MaxProof is how many records a proof may span: their leaf hashes have 4 MiB.
const MaxProof = 1 << 17

// leaves are the hashes of the newest records, so that a proof does not read
// them all again. They are filled like index, by reading up to the log's end.
type leaves struct {
	mu     sync.Mutex // guards all fields
	next   uint64     // first record whose hash is not here
	hashes [][32]byte // of the records before next, at most 2 × MaxProof between two trims
}

// Proof leads from record seq to the checkpoint over size records: the record
// as it is stored, and the leaf hashes of those after it, 32 bytes each.
// CRD-125 if there is no such record or checkpoint, or the two are further apart
// than MaxProof.
func (l *Log) Proof(ctx context.Context, seq, size uint64) (record, after []byte, err error) {
	if seq >= size || size-seq > MaxProof {
		return nil, nil, problem.New("CRD-125", "record %d is not one of the last %d before checkpoint %d", seq, MaxProof, size)
	}
	stored, err := records.Read(ctx, l.store, seq, 1)
	if err != nil {
		return nil, nil, err
	}
	after, err = l.leaves.between(ctx, l, seq+1, size)
	if err != nil {
		return nil, nil, err
	}
	if len(stored) != 1 {
		return nil, nil, problem.New("CRD-125", "the log has no record %d", seq)
	}
	return stored[0].Data, after, nil
}

// between returns the hashes of the records from first up to but not end.
func (x *leaves) between(ctx context.Context, l *Log, first, end uint64) ([]byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.catchUp(ctx, l); err != nil {
		return nil, err
	}
	oldest := x.next - uint64(len(x.hashes))
	if first < oldest || end > x.next {
		return nil, problem.New("CRD-125", "the hashes of records %d to %d are not at hand, those of %d to %d are", first, end, oldest, x.next)
	}
	out := make([]byte, 0, 32*(end-first))
	for _, h := range x.hashes[first-oldest : end-oldest] {
		out = append(out, h[:]...)
	}
	return out, nil
}

// catchUp takes in what was appended since the last proof.
func (x *leaves) catchUp(ctx context.Context, l *Log) error {
	end, err := l.current(ctx)
	if err != nil {
		return err
	}
	if end.Size-x.next > MaxProof {
		x.hashes, x.next = nil, end.Size-MaxProof
	}
	for x.next < end.Size {
		if err := ctx.Err(); err != nil {
			return err
		}
		stored, err := records.Read(ctx, l.store, x.next, int(min(page, end.Size-x.next)))
		if err != nil {
			return err
		}
		for _, s := range stored {
			x.hashes = append(x.hashes, LeafHash(s.Data))
			x.next++
		}
	}
	if len(x.hashes) >= 2*MaxProof {
		x.hashes = append([][32]byte(nil), x.hashes[len(x.hashes)-MaxProof:]...)
	}
	return nil
}
