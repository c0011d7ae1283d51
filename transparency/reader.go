package transparency

import (
	"github.com/transparency-dev/merkle/compact"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	maxKeptTiles = 1024    // that a Reader keeps: 8 MiB of hashes
	maxRead      = 1 << 40 // entries of a log that it reads
)

// Reader reads a log through its tiles (c2sp.org/tlog-tiles). Whatever it
// returns was checked against its checkpoint; who serves the tiles need not be
// trusted. It is not safe for concurrent use.
//
// LOG-055 is a tile that does not belong to the checkpoint. An error of fetch is
// returned as it is if it has a code.
type Reader struct {
	at     Checkpoint
	fetch  func(Tile) ([]byte, error)
	kept   map[tlog.Tile][]byte // were checked
	hashes tlog.HashReader
}

// NewReader returns a reader of the log that at names. fetch gets the bytes of a
// tile: 32 for each hash, or entries as ParseEntries reads them.
func NewReader(at Checkpoint, fetch func(Tile) ([]byte, error)) *Reader {
	r := &Reader{at: at, fetch: fetch, kept: map[tlog.Tile][]byte{}}
	r.hashes = tlog.TileHashReader(tlog.Tree{N: int64(at.Size), Hash: at.Root}, tileSource{r})
	return r
}

// Checkpoint returns the checkpoint that everything is checked against.
func (r *Reader) Checkpoint() Checkpoint { return r.at }

// Root returns the root of the log's first size entries.
func (r *Reader) Root(size uint64) ([32]byte, error) {
	switch {
	case size > r.at.Size || r.at.Size > maxRead:
		return [32]byte{}, problem.New("LOG-055", "asked for the first %d entries of a log of %d", size, r.at.Size)
	case size == r.at.Size:
		return r.at.Root, nil
	case size == 0:
		return EmptyRoot(), nil
	}
	h, err := tlog.TreeHash(int64(size), r.hashes)
	return h, r.refused(err)
}

// Begins demands that the log begins with the one that older names. LOG-050 is a
// log that is shorter now, LOG-051 another one, which may have the same size.
func (r *Reader) Begins(older Checkpoint) error {
	if older.Size > r.at.Size {
		return problem.New("LOG-050", "it has %d entries, and %d were seen before", r.at.Size, older.Size)
	}
	root, err := r.Root(older.Size)
	if err != nil {
		return err
	}
	if root != older.Root || older.Origin != r.at.Origin {
		return problem.New("LOG-051", "the root over its first %d entries is %s, and %s was seen before", older.Size, short(root), short(older.Root))
	}
	return nil
}

func short(h [32]byte) string { return attest.Hex(h[:8]).String() }

// Leaves returns the leaf hashes of the entries from first up to but not end, at
// most those of one tile.
func (r *Reader) Leaves(first, end uint64) ([][32]byte, error) {
	if end = min(end, r.at.Size, (first/TileWidth+1)*TileWidth); first >= end {
		return nil, nil
	}
	if r.at.Size > maxRead {
		return nil, problem.New("LOG-055", "the log says that it has %d entries", r.at.Size)
	}
	indexes := make([]int64, 0, end-first)
	for i := first; i < end; i++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, int64(i)))
	}
	found, err := r.hashes.ReadHashes(indexes)
	if err != nil {
		return nil, r.refused(err)
	}
	leaves := make([][32]byte, len(found))
	for i, h := range found {
		leaves[i] = h
	}
	return leaves, nil
}

// Entries returns entry first and those after it in its tile. LOG-056 names an
// entry that is not the one in the tree.
func (r *Reader) Entries(first uint64) ([][]byte, error) {
	if first >= r.at.Size {
		return nil, nil
	}
	tile := TileAt(0, first, r.at.Size)
	tile.Level = EntryLevel
	leaves, err := r.Leaves(tile.Index*TileWidth, r.at.Size)
	if err != nil {
		return nil, err
	}
	bundle, err := r.fetch(tile)
	if err != nil {
		return nil, r.refused(err)
	}
	entries, err := ParseEntries(bundle, tile.Width)
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		if LeafHash(e) != leaves[i] {
			return nil, problem.New("LOG-056", "entry %d was served with the hash %s, in the log it has %s", tile.Index*TileWidth+uint64(i), short(LeafHash(e)), short(leaves[i]))
		}
	}
	return entries[first-tile.Index*TileWidth:], nil
}

// Inclusion returns the leaf hash of the entry at index and the proof that it
// stands there (RFC 6962 section 2.1.1).
func (r *Reader) Inclusion(index uint64) ([32]byte, Proof, error) {
	leaves, err := r.Leaves(index, index+1)
	if err != nil {
		return [32]byte{}, nil, err
	}
	if len(leaves) == 0 {
		return [32]byte{}, nil, problem.New("LOG-055", "asked for entry %d of a log of %d", index, r.at.Size)
	}
	path, err := tlog.ProveRecord(int64(r.at.Size), int64(index), r.hashes)
	return leaves[0], proofOf(path), r.refused(err)
}

// Consistency returns the proof that the log begins with its first size entries
// (RFC 6962 section 2.1.2). It is empty for size 0.
func (r *Reader) Consistency(size uint64) (Proof, error) {
	if size == 0 || size == r.at.Size {
		return nil, nil
	}
	if size > r.at.Size || r.at.Size > maxRead {
		return nil, problem.New("LOG-055", "asked for the first %d entries of a log of %d", size, r.at.Size)
	}
	path, err := tlog.ProveTree(int64(r.at.Size), int64(size), r.hashes)
	return proofOf(path), r.refused(err)
}

func proofOf[P ~[]tlog.Hash](path P) Proof {
	p := make(Proof, len(path))
	for i, h := range path {
		p[i] = attest.Hex(h[:])
	}
	return p
}

// refused gives an error without a code, which is one of the tree's, its own.
func (r *Reader) refused(err error) error {
	if err == nil || problem.CodeOf(err) != "" {
		return err
	}
	return problem.Because(err, "LOG-055", "log of %d entries", r.at.Size)
}

// tileSource is the tlog.TileReader of a Reader.
type tileSource struct{ r *Reader }

func (tileSource) Height() int { return TileHeight }

func (s tileSource) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		if data[i] = s.r.kept[t]; data[i] != nil {
			continue
		}
		var err error
		if data[i], err = s.r.fetch(Tile{Level: t.L, Index: uint64(t.N), Width: t.W}); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// SaveTiles keeps tiles that were checked.
func (s tileSource) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	if len(s.r.kept)+len(tiles) > maxKeptTiles {
		clear(s.r.kept)
	}
	for i, t := range tiles {
		s.r.kept[t] = data[i]
	}
}

// Subtrees returns the roots of the perfect subtrees that the first size entries
// consist of, the largest first: one for each bit that is set in size. Root gives
// the same as all of them together.
func (r *Reader) Subtrees(size uint64) ([][32]byte, error) {
	if size > r.at.Size || r.at.Size > maxRead {
		return nil, problem.New("LOG-055", "asked for the first %d entries of a log of %d", size, r.at.Size)
	}
	ids := compact.RangeNodes(0, size, nil)
	if len(ids) == 0 {
		return nil, nil
	}
	indexes := make([]int64, len(ids))
	for i, id := range ids {
		indexes[i] = tlog.StoredHashIndex(int(id.Level), int64(id.Index))
	}
	found, err := r.hashes.ReadHashes(indexes)
	if err != nil {
		return nil, r.refused(err)
	}
	roots := make([][32]byte, len(found))
	for i, h := range found {
		roots[i] = h
	}
	return roots, nil
}
