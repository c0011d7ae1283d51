package audit

import (
	"context"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// Inclusion returns the proof that record seq is in the log of the given size:
// RFC 6962 section 2.1.1. LOG-010 if the log has no such prefix or record.
func (l *Log) Inclusion(ctx context.Context, seq, size uint64) (transparency.Proof, error) {
	return l.prove(ctx, size, func() (proof.Nodes, error) { return proof.Inclusion(seq, size) })
}

// Consistency returns the proof that the log of size newer begins with that of
// size older: RFC 6962 section 2.1.2. LOG-010 if there are no such prefixes.
func (l *Log) Consistency(ctx context.Context, older, newer uint64) (transparency.Proof, error) {
	return l.prove(ctx, newer, func() (proof.Nodes, error) { return proof.Consistency(older, newer) })
}

func (l *Log) prove(ctx context.Context, size uint64, plan func() (proof.Nodes, error)) (transparency.Proof, error) {
	x := &l.tree
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.reach(ctx, l, size); err != nil {
		return nil, err
	}
	nodes, err := plan()
	if err != nil {
		return nil, problem.Because(err, "LOG-010", "a log of %d entries", size)
	}
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		if hashes[i], err = x.node(ctx, l.store, id); err != nil {
			return nil, err
		}
	}
	if hashes, err = nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren); err != nil {
		return nil, problem.Because(err, "LOG-010", "a log of %d entries", size)
	}
	p := make(transparency.Proof, len(hashes))
	for i, h := range hashes {
		p[i] = h
	}
	return p, nil
}

// reach takes in the log as far as size. LOG-010 if it is shorter.
func (x *tree) reach(ctx context.Context, l *Log, size uint64) error {
	if x.whole == nil || x.whole.End() < size {
		if err := x.catchUp(ctx, l); err != nil {
			return err
		}
	}
	if have := x.whole.End(); size > have {
		return problem.New("LOG-010", "it has %d entries, asked for is one of %d", have, size)
	}
	return nil
}

// At returns the checkpoint over the first size records. LOG-010 if there are
// fewer.
func (l *Log) At(ctx context.Context, size uint64) (Checkpoint, error) {
	x := &l.tree
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.reach(ctx, l, size); err != nil {
		return Checkpoint{}, err
	}
	r, err := x.rangeTo(ctx, l.store, size)
	if err != nil {
		return Checkpoint{}, err
	}
	return checkpointOf(r)
}

// Tile returns the bytes of a tile of hashes or entries, as c2sp.org/tlog-tiles
// wants them. LOG-007 if the log does not reach to its end.
func (l *Log) Tile(ctx context.Context, t transparency.Tile) ([]byte, error) {
	if t.Level == transparency.EntryLevel {
		return l.entries(ctx, t)
	}
	x := &l.tree
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.reach(ctx, l, t.End()); err != nil {
		return nil, problem.Because(err, "LOG-007", "%s", t.Path())
	}
	hashes, err := x.hashes(ctx, l.store, t.Level, t.Index*transparency.TileWidth, uint64(t.Width))
	if err != nil {
		return nil, err
	}
	return flat(hashes), nil
}

func (l *Log) entries(ctx context.Context, t transparency.Tile) ([]byte, error) {
	found, err := records.Read(ctx, l.store, t.Index*transparency.TileWidth, t.Width)
	if err != nil {
		return nil, err
	}
	if len(found) != t.Width {
		return nil, problem.New("LOG-007", "%s: the log ends before", t.Path())
	}
	var bundle []byte
	for _, stored := range found {
		public, err := l.public(ctx, stored)
		if err != nil {
			return nil, err
		}
		if bundle, err = transparency.AppendEntry(bundle, public); err != nil {
			return nil, err
		}
	}
	return bundle, nil
}
