package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// Of the tree, the sealed head keeps the compact range: the roots of the perfect
// subtrees that the log consists of, one for each bit that is set in its size.
// That is all that an Append needs. Proofs need the hashes between: full tiles
// of the two lowest levels are kept in logs of their own, which Keep extends,
// and all that is above and after them is in memory.
var (
	ranges = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	kept   = [...]store.Log{store.NewLog("audit tiles 0"), store.NewLog("audit tiles 1")}
)

const tileLevels = 64 / transparency.TileHeight

// rangeOf returns the compact range of the log as tx sees it.
func rangeOf(tx *store.Tx) (*compact.Range, error) {
	sealed := records.Checkpoint(tx)
	hashes := make([][]byte, 0, len(sealed)/sha256.Size)
	for ; len(sealed) >= sha256.Size; sealed = sealed[sha256.Size:] {
		hashes = append(hashes, sealed[:sha256.Size:sha256.Size])
	}
	r, err := ranges.NewRange(0, records.Len(tx), hashes)
	if err != nil {
		return nil, problem.Because(err, "STO-016", "the tree over %d records", records.Len(tx))
	}
	return r, nil
}

func checkpointOf(r *compact.Range) (Checkpoint, error) {
	c := Checkpoint{Size: r.End(), Root: transparency.EmptyRoot()}
	if c.Size == 0 {
		return c, nil
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		return c, fmt.Errorf("computing the log's root: %w", err)
	}
	c.Root = [32]byte(root)
	return c, nil
}

// tree has what was read of the log for proofs and tiles. Like index it is
// filled by reading the log up to its end, so an Update that fails leaves
// nothing in it.
type tree struct {
	mu     sync.Mutex     // guards all fields
	whole  *compact.Range // over everything that was taken in; nil before the first use
	levels [tileLevels]tileLevel
}

// tileLevel is one level of tiles. The tail begins where the stored tiles end.
type tileLevel struct {
	stored uint64 // full tiles in the store
	tail   [][32]byte
}

// hashes returns n hashes of a tile level from place first on. They lie in one tile.
func (x *tree) hashes(ctx context.Context, s *store.Store, level int, first, n uint64) ([][32]byte, error) {
	v := &x.levels[level]
	begin := v.stored * transparency.TileWidth
	if first >= begin {
		first -= begin
		if first+n > uint64(len(v.tail)) {
			return nil, problem.New("LOG-007", "the log has %d entries", x.whole.End())
		}
		return v.tail[first : first+n : first+n], nil
	}
	tile, err := x.stored(ctx, s, level, first/transparency.TileWidth)
	if err != nil {
		return nil, err
	}
	first %= transparency.TileWidth
	return tile[first : first+n], nil
}

// stored reads a full tile.
func (x *tree) stored(ctx context.Context, s *store.Store, level int, index uint64) ([][32]byte, error) {
	found, err := kept[level].Read(ctx, s, index, 1)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 || len(found[0].Data) != transparency.TileWidth*sha256.Size {
		return nil, problem.New("STO-016", "tile %d of level %d is not whole", index, level)
	}
	hashes := make([][32]byte, transparency.TileWidth)
	for i := range hashes {
		copy(hashes[i][:], found[0].Data[i*sha256.Size:])
	}
	return hashes, nil
}

// node returns the root of the perfect subtree id.
func (x *tree) node(ctx context.Context, s *store.Store, id compact.NodeID) ([]byte, error) {
	level, height := int(id.Level)/transparency.TileHeight, id.Level%transparency.TileHeight
	hashes, err := x.hashes(ctx, s, level, id.Index<<height, 1<<height)
	if err != nil {
		return nil, err
	}
	root := fold(hashes)
	return root[:], nil
}

// fold returns the root over a power of two of hashes.
func fold(hashes [][32]byte) [32]byte {
	if len(hashes) == 1 {
		return hashes[0]
	}
	left, right := fold(hashes[:len(hashes)/2]), fold(hashes[len(hashes)/2:])
	return [32]byte(rfc6962.DefaultHasher.HashChildren(left[:], right[:]))
}

// catchUp takes in what was appended since the last call, and checks that it
// gives the tree that the head seals. Callers hold mu.
func (x *tree) catchUp(ctx context.Context, l *Log) error {
	var want *compact.Range
	err := l.store.View(ctx, func(tx *store.Tx) (err error) {
		want, err = rangeOf(tx)
		return err
	})
	if err != nil {
		return err
	}
	if x.whole == nil {
		if err := x.load(ctx, l.store); err != nil {
			*x = tree{}
			return err
		}
	}
	for size := x.whole.End(); size < want.End(); size = x.whole.End() {
		if err := ctx.Err(); err != nil {
			return err
		}
		read, err := records.Read(ctx, l.store, size, int(min(page, want.End()-size)))
		if err != nil {
			return err
		}
		for _, stored := range read {
			public, err := l.public(ctx, stored)
			if err != nil {
				return err
			}
			leaf := transparency.LeafHash(public)
			if err := x.whole.Append(leaf[:], nil); err != nil {
				return fmt.Errorf("extending the log's tree: %w", err)
			}
			x.push(0, leaf)
		}
	}
	if x.whole.End() == want.End() && !x.whole.Equal(want) {
		x.levels, x.whole = [tileLevels]tileLevel{}, nil
		return problem.New("STO-016", "the records do not give the tree of %d that the head seals", want.End())
	}
	return nil
}

// push adds a hash to a level, and the root of each full tile to the next.
func (x *tree) push(level int, h [32]byte) {
	v := &x.levels[level]
	v.tail = append(v.tail, h)
	if n := len(v.tail); n%transparency.TileWidth == 0 {
		x.push(level+1, fold(v.tail[n-transparency.TileWidth:]))
	}
}

// load begins with the stored tiles.
func (x *tree) load(ctx context.Context, s *store.Store) error {
	err := s.View(ctx, func(tx *store.Tx) error {
		for level, log := range kept {
			x.levels[level].stored = log.Len(tx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for level := len(kept) - 1; level >= 0; level-- {
		var next uint64 // first tile whose root the level above does not have in the store
		if level+1 < len(kept) {
			next = x.levels[level+1].stored * transparency.TileWidth
		}
		for ; next < x.levels[level].stored; next++ {
			tile, err := x.stored(ctx, s, level, next)
			if err != nil {
				return err
			}
			x.push(level+1, fold(tile))
		}
	}
	size := x.levels[0].stored * transparency.TileWidth
	x.whole, err = x.rangeTo(ctx, s, size)
	return err
}

// rangeTo returns the compact range over the first size entries.
func (x *tree) rangeTo(ctx context.Context, s *store.Store, size uint64) (*compact.Range, error) {
	ids := compact.RangeNodes(0, size, nil)
	hashes := make([][]byte, len(ids))
	for i, id := range ids {
		var err error
		if hashes[i], err = x.node(ctx, s, id); err != nil {
			return nil, err
		}
	}
	r, err := ranges.NewRange(0, size, hashes)
	if err != nil {
		return nil, fmt.Errorf("putting the log's tree together: %w", err)
	}
	return r, nil
}

// Keep writes the tiles that have become full into the store. Call it every
// minute: what it has not kept is read again after a restart, and stays in memory.
func (l *Log) Keep(ctx context.Context) error {
	x := &l.tree
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.catchUp(ctx, l); err != nil {
		return err
	}
	var full [len(kept)]int
	any := false
	for level := range kept {
		full[level] = len(x.levels[level].tail) / transparency.TileWidth
		any = any || full[level] > 0
	}
	if !any {
		return nil
	}
	err := l.store.Update(ctx, func(tx *store.Tx) error {
		for level, log := range kept {
			v := x.levels[level]
			if n := log.Len(tx); n != v.stored {
				return problem.New("STO-018", "wanted %d tiles of level %d, found %d", v.stored, level, n)
			}
			for i := range full[level] {
				if _, err := log.Append(tx, flat(v.tail[i*transparency.TileWidth:(i+1)*transparency.TileWidth])); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		x.levels, x.whole = [tileLevels]tileLevel{}, nil // the outcome may be unknown: read anew
		return fmt.Errorf("keeping tiles of the log: %w", err)
	}
	for level, n := range full {
		v := &x.levels[level]
		v.stored += uint64(n)
		v.tail = append([][32]byte(nil), v.tail[n*transparency.TileWidth:]...)
	}
	return nil
}

func flat(hashes [][32]byte) []byte {
	var b bytes.Buffer
	for _, h := range hashes {
		b.Write(h[:])
	}
	return b.Bytes()
}
