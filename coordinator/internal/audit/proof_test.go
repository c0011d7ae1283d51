package audit_test

import (
	"crypto/rand"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// reference is the same log as an independent implementation keeps it.
type reference struct{ hashes []tlog.Hash }

func (r *reference) ReadHashes(at []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(at))
	for i, n := range at {
		found[i] = r.hashes[n]
	}
	return found, nil
}

func (r *reference) add(t *testing.T, n int, entry []byte) {
	t.Helper()
	more, err := tlog.StoredHashes(int64(n), entry, r)
	if err != nil {
		t.Fatal(err)
	}
	r.hashes = append(r.hashes, more...)
}

func (r *reference) root(t *testing.T, n uint64) [32]byte {
	t.Helper()
	if n == 0 {
		return transparency.EmptyRoot()
	}
	h, err := tlog.TreeHash(int64(n), r)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// grow appends n records in Updates of 500.
func grow(t *testing.T, l *audit.Log, s *store.Store, ref *reference, n int) {
	t.Helper()
	from := size(t, l)
	for left := n; left > 0; left -= min(left, 500) {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			for range min(left, 500) {
				e, err := l.Append(tx, audit.Record{Time: noon, Kind: audit.Start, Subject: fmt.Sprint(from)})
				if err != nil {
					return err
				}
				ref.add(t, int(from), e.Public)
				from++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func size(t *testing.T, l *audit.Log) uint64 {
	t.Helper()
	c, err := l.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c.Size
}

// TestProofs holds roots and proofs of many sizes against another
// implementation, while tiles are kept and not kept, and after a restart.
func TestProofs(t *testing.T) {
	l, s := newLog(t)
	ref := &reference{}
	prove := func() {
		t.Helper()
		size := size(t, l)
		sizes := []uint64{size, size - 1, size/2 + 1, size / 3, 1}
		for _, n := range sizes {
			c, err := l.At(t.Context(), n)
			if err != nil || c.Root != ref.root(t, n) {
				t.Fatalf("at %d: got %x, %v, want %x", n, c.Root, err, ref.root(t, n))
			}
			newer := transparency.Checkpoint{Size: n, Root: c.Root}
			for _, m := range append(sizes, 0) {
				if m > n {
					continue
				}
				p, err := l.Consistency(t.Context(), m, n)
				if err == nil {
					err = transparency.VerifyConsistency(transparency.Checkpoint{Size: m, Root: ref.root(t, m)}, newer, p)
				}
				if err != nil {
					t.Errorf("from %d to %d: %v", m, n, err)
				}
				if m == n {
					continue
				}
				p, err = l.Inclusion(t.Context(), m, n)
				leaf, _ := ref.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(m))})
				if err == nil {
					err = transparency.VerifyInclusion(m, leaf[0], p, newer)
				}
				if err != nil {
					t.Errorf("record %d in %d: %v", m, n, err)
				}
				leaf[0][0] ^= 1
				if err := transparency.VerifyInclusion(m, leaf[0], p, newer); problem.CodeOf(err) != "LOG-004" {
					t.Errorf("another record %d in %d: got %v, want LOG-004", m, n, err)
				}
			}
		}
	}
	for step, n := range []int{1, 6, 248, 1, 1, 255, 300, 2000, 63_000, 1000} {
		grow(t, l, s, ref, n)
		prove()
		if step%2 == 1 {
			if err := l.Keep(t.Context()); err != nil {
				t.Fatal(err)
			}
			prove()
		}
		if step%3 == 2 {
			l = audit.New(s, rand.Reader)
			prove()
		}
	}
	last := size(t, l)
	for _, c := range [][2]uint64{{last, last}, {0, last + 1}, {5, 3}, {0, 0}, {0, 1<<64 - 1}} {
		if _, err := l.Inclusion(t.Context(), c[0], c[1]); problem.CodeOf(err) != "LOG-010" {
			t.Errorf("record %d of %d: got %v, want LOG-010", c[0], c[1], err)
		}
	}
	if c := verify(t, l); c.Size != last || c.Root != ref.root(t, last) {
		t.Errorf("got %d records with root %x, want %d with %x", c.Size, c.Root, last, ref.root(t, last))
	}
	if _, err := l.Consistency(t.Context(), 5, 4); problem.CodeOf(err) != "LOG-010" {
		t.Errorf("from 5 to 4: got %v, want LOG-010", err)
	}
}

// tiles reads the log's tiles for an independent implementation.
type tiles struct {
	t *testing.T
	l *audit.Log
}

func (tiles) Height() int                     { return transparency.TileHeight }
func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (r tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(want))
	for i, w := range want {
		var err error
		if data[i], err = r.l.Tile(r.t.Context(), transparency.Tile{Level: w.L, Index: uint64(w.N), Width: w.W}); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func TestTiles(t *testing.T) {
	l, s := newLog(t)
	ref := &reference{}
	grow(t, l, s, ref, 70_000)
	for kept := range 2 {
		hashes := tlog.TileHashReader(tlog.Tree{N: 70_000, Hash: ref.root(t, 70_000)}, tiles{t, l})
		for _, n := range []int64{0, 255, 256, 65_535, 65_536, 69_887, 69_999} {
			got, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, n)})
			if err != nil {
				t.Fatalf("record %d: %v", n, err)
			}
			at := transparency.TileAt(transparency.EntryLevel, uint64(n), 70_000)
			bundle, err := l.Tile(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			entries, err := transparency.ParseEntries(bundle, at.Width)
			if err != nil {
				t.Fatal(err)
			}
			if leaf := transparency.LeafHash(entries[n%256]); leaf != got[0] {
				t.Errorf("record %d: the tile has %s, the tree %s", n, attest.Hex(leaf[:]), got[0])
			}
		}
		// The widths of the example in the specification, and what is beyond.
		for _, w := range []transparency.Tile{{Level: 0, Index: 272, Width: 256}, {Level: 0, Index: 273, Width: 112}, {Level: 1, Width: 256}, {Level: 1, Index: 1, Width: 17}, {Level: 2, Width: 1}, {Level: -1, Index: 273, Width: 112}} {
			if b, err := l.Tile(t.Context(), w); err != nil || w.Level >= 0 && len(b) != 32*w.Width {
				t.Errorf("kept %d, tile %s: got %d bytes, %v", kept, w.Path(), len(b), err)
			}
			w.Width++
			if w.Width > 256 {
				continue
			}
			if _, err := l.Tile(t.Context(), w); problem.CodeOf(err) != "LOG-007" {
				t.Errorf("tile %s: got %v, want LOG-007", w.Path(), err)
			}
		}
		for _, w := range []transparency.Tile{{Level: 7, Index: 1<<54 - 1, Width: 256}, {Level: 3, Width: 1}, {Level: 0, Index: 274, Width: 1}} {
			if _, err := l.Tile(t.Context(), w); problem.CodeOf(err) != "LOG-007" {
				t.Errorf("tile %s: got %v, want LOG-007", w.Path(), err)
			}
		}
		if err := l.Keep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
