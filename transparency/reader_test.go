package transparency_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

func filled(n int) *logtest.Log {
	l := logtest.NewLog(1)
	for i := range n {
		l.Append(fmt.Appendf(nil, "entry %d", i))
	}
	return l
}

// sizes meet each shape of a tree: one tile, full ones, two levels, three.
var sizes = []uint64{1, 2, 3, 255, 256, 257, 511, 700, 1024}

func TestReader(t *testing.T) {
	l := filled(1024)
	for _, size := range sizes {
		at := l.Checkpoint(size)
		r := transparency.NewReader(at, l.Tile)
		for _, older := range append([]uint64{0}, sizes...) {
			if older > size {
				if err := r.Begins(l.Checkpoint(older)); problem.CodeOf(err) != "LOG-050" {
					t.Errorf("%d after %d: got %v, want LOG-050", size, older, err)
				}
				continue
			}
			if err := r.Begins(l.Checkpoint(older)); err != nil {
				t.Errorf("%d after %d: %v", size, older, err)
			}
			p, err := r.Consistency(older)
			if err == nil {
				err = transparency.VerifyConsistency(l.Checkpoint(older), at, p)
			}
			if err != nil {
				t.Errorf("proof from %d to %d: %v", older, size, err)
			}
		}
		for _, from := range []uint64{0, size / 2, size} {
			subtrees, err := r.Subtrees(from)
			if err != nil {
				t.Fatal(err)
			}
			g, err := transparency.NewGrowth(from, subtrees)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range l.Entries()[from:size] {
				if err := g.Add(transparency.LeafHash(e)); err != nil {
					t.Fatal(err)
				}
			}
			if root, err := g.Root(); root != at.Root || err != nil || g.Size() != size {
				t.Errorf("grown from %d to %d: got another root, %v", from, g.Size(), err)
			}
		}
		for _, i := range []uint64{0, size / 2, size - 1} {
			leaf, p, err := r.Inclusion(i)
			if err == nil {
				err = transparency.VerifyInclusion(i, leaf, p, at)
			}
			if err != nil || leaf != transparency.LeafHash(l.Entries()[i]) {
				t.Errorf("inclusion of %d in %d: %v", i, size, err)
			}
			got, err := r.Entries(i)
			if err != nil || len(got) == 0 || !bytes.Equal(got[0], l.Entries()[i]) {
				t.Errorf("entry %d of %d: got %q, %v", i, size, got, err)
			}
		}
		if got, err := r.Entries(size); len(got) != 0 || err != nil {
			t.Errorf("entries after the end: got %d, %v, want none", len(got), err)
		}
	}
}

// TestReaderTrustsNoTile changes each tile that a reading takes: the reading
// fails, and never returns the changed bytes.
func TestReaderTrustsNoTile(t *testing.T) {
	l := filled(700)
	at := l.Checkpoint(700)
	read := func(fetch func(transparency.Tile) ([]byte, error)) error {
		r := transparency.NewReader(at, fetch)
		if err := r.Begins(l.Checkpoint(300)); err != nil {
			return err
		}
		_, err := r.Entries(301)
		return err
	}
	var taken []transparency.Tile
	if err := read(func(x transparency.Tile) ([]byte, error) {
		taken = append(taken, x)
		return l.Tile(x)
	}); err != nil {
		t.Fatal(err)
	}
	if len(taken) < 4 {
		t.Fatalf("only %d tiles were taken", len(taken))
	}
	for _, bad := range taken {
		for _, change := range []func([]byte) []byte{
			func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
			func(b []byte) []byte { b[3] ^= 1; return b },
			func(b []byte) []byte { return b[:len(b)-1] },
			func(b []byte) []byte { return append(b, 0) },
			func([]byte) []byte { return nil },
		} {
			err := read(func(x transparency.Tile) ([]byte, error) {
				b, err := l.Tile(x)
				if x == bad {
					b = change(bytes.Clone(b))
				}
				return b, err
			})
			if code := problem.CodeOf(err); code != "LOG-055" && code != "LOG-056" && code != "LOG-008" {
				t.Errorf("%s changed: got %v, want LOG-055, LOG-056 or LOG-008", bad.Path(), err)
			}
		}
	}
	lost := problem.New("CRD-105", "gone")
	if err := read(func(transparency.Tile) ([]byte, error) { return nil, lost }); !errors.Is(err, lost) {
		t.Errorf("got %v, want the error of the fetch", err)
	}
}

func TestReaderSeesForks(t *testing.T) {
	l := filled(600)
	fork := l.Fork()
	seen := l.Checkpoint(600)
	fork.Append([]byte("other 600"))
	l.Append([]byte("entry 600"))
	longer := transparency.NewReader(fork.Checkpoint(601), fork.Tile)
	if err := longer.Begins(seen); err != nil {
		t.Errorf("before the fork: %v", err)
	}
	for _, seen := range []transparency.Checkpoint{l.Checkpoint(601), {Origin: "other", Size: 600, Root: seen.Root}} {
		if err := longer.Begins(seen); problem.CodeOf(err) != "LOG-051" {
			t.Errorf("after the fork: got %v, want LOG-051", err)
		}
	}
	for range 10 {
		fork.Append([]byte("more"))
	}
	if err := transparency.NewReader(fork.Checkpoint(611), fork.Tile).Begins(l.Checkpoint(601)); problem.CodeOf(err) != "LOG-051" {
		t.Errorf("longer fork: got %v, want LOG-051", err)
	}
}

func TestGrowthOfNothing(t *testing.T) {
	g, err := transparency.NewGrowth(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := g.Root(); root != transparency.EmptyRoot() || err != nil {
		t.Errorf("got %x, %v, want the root of nothing", root, err)
	}
	if _, err := transparency.NewGrowth(3, make([][32]byte, 1)); problem.CodeOf(err) != "LOG-006" {
		t.Errorf("one subtree for 3 entries: got %v, want LOG-006", err)
	}
}

func TestReaderOfAbsurdSizes(t *testing.T) {
	for _, size := range []uint64{0, 1 << 41, 1 << 62} {
		r := transparency.NewReader(transparency.Checkpoint{Origin: "x", Size: size, Root: transparency.EmptyRoot()},
			func(transparency.Tile) ([]byte, error) { return make([]byte, 8192), nil })
		_, err1 := r.Root(5)
		_, err2 := r.Consistency(5)
		_, _, err3 := r.Inclusion(5)
		for _, err := range []error{err1, err2, err3} {
			if problem.CodeOf(err) != "LOG-055" {
				t.Errorf("size %d: got %v, want LOG-055", size, err)
			}
		}
	}
}
