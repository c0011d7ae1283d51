package transparency

import (
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Growth computes the roots of a log while entries are added to it.
type Growth struct{ tree *compact.Range }

var ranges = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// NewGrowth begins with a log of size entries, which consists of subtrees, as
// Reader.Subtrees returns them; with none for an empty log. LOG-006 is another
// number of them.
func NewGrowth(size uint64, subtrees [][32]byte) (*Growth, error) {
	hashes := make([][]byte, len(subtrees))
	for i, h := range subtrees {
		hashes[i] = h[:]
	}
	tree, err := ranges.NewRange(0, size, hashes)
	if err != nil {
		return nil, problem.Because(err, "LOG-006", "%d subtrees for %d entries", len(subtrees), size)
	}
	return &Growth{tree}, nil
}

// Add adds the leaf hash of the next entry.
func (g *Growth) Add(leaf [32]byte) error {
	if err := g.tree.Append(leaf[:], nil); err != nil {
		return fmt.Errorf("adding an entry to a tree: %w", err)
	}
	return nil
}

// Size is the number of entries.
func (g *Growth) Size() uint64 { return g.tree.End() }

// Root is the root over them.
func (g *Growth) Root() ([32]byte, error) {
	if g.tree.End() == 0 {
		return EmptyRoot(), nil
	}
	root, err := g.tree.GetRootHash(nil)
	if err != nil {
		return [32]byte{}, fmt.Errorf("computing the root of a tree: %w", err)
	}
	return [32]byte(root), nil
}
