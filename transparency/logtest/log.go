// Package logtest holds a log in memory and a witness, for tests of what reads
// logs and of what talks to witnesses. Neither is to be relied on: what they keep
// is gone with the process.
package logtest

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ashlar-mesh/ashlar/transparency"
)

// Log is a log in memory. Copies of it are forks of it.
type Log struct {
	signer  *transparency.Signer
	entries [][]byte
	hashes  []tlog.Hash
}

// NewLog returns an empty log whose key is made of a seed.
func NewLog(seed byte) *Log {
	key := ed25519.NewKeyFromSeed(append([]byte{seed}, make([]byte, ed25519.SeedSize-1)...))
	s, err := transparency.NewSigner(key, transparency.Origin(key.Public().(ed25519.PublicKey)))
	if err != nil {
		panic(err)
	}
	return &Log{signer: s}
}

// Fork returns a copy that shares key and entries so far.
func (l *Log) Fork() *Log {
	return &Log{signer: l.signer, entries: slices.Clone(l.entries), hashes: slices.Clone(l.hashes)}
}

// Append adds an entry.
func (l *Log) Append(entry []byte) {
	more, err := tlog.StoredHashes(int64(len(l.entries)), entry, tlog.HashReaderFunc(l.read))
	if err != nil {
		panic(err)
	}
	l.entries, l.hashes = append(l.entries, entry), append(l.hashes, more...)
}

func (l *Log) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(l.hashes)) {
			return nil, fmt.Errorf("no hash %d", x)
		}
		out[i] = l.hashes[x]
	}
	return out, nil
}

// Size is the number of entries.
func (l *Log) Size() uint64 { return uint64(len(l.entries)) }

// Entries returns the entries. They must not be changed.
func (l *Log) Entries() [][]byte { return l.entries }

// VerifierKey is the key of the log.
func (l *Log) VerifierKey() string { return l.signer.VerifierKey() }

// Signer signs for the log.
func (l *Log) Signer() *transparency.Signer { return l.signer }

// Checkpoint returns the checkpoint over the first size entries.
func (l *Log) Checkpoint(size uint64) transparency.Checkpoint {
	c := transparency.Checkpoint{Origin: l.signer.Name(), Size: size, Root: transparency.EmptyRoot()}
	if size > 0 {
		root, err := tlog.TreeHash(int64(size), tlog.HashReaderFunc(l.read))
		if err != nil {
			panic(err)
		}
		c.Root = root
	}
	return c
}

// Note returns the signed checkpoint over the first size entries.
func (l *Log) Note(size uint64) []byte {
	n, err := transparency.Sign(l.Checkpoint(size), l.signer)
	if err != nil {
		panic(err)
	}
	return n
}

// Tile returns the bytes of a tile, as a transparency.Reader fetches them.
func (l *Log) Tile(t transparency.Tile) ([]byte, error) {
	if t.End() > l.Size() {
		return nil, fmt.Errorf("no tile %s in a log of %d", t.Path(), l.Size())
	}
	if t.Level != transparency.EntryLevel {
		return tlog.ReadTileData(tlog.Tile{H: transparency.TileHeight, L: t.Level, N: int64(t.Index), W: t.Width}, tlog.HashReaderFunc(l.read))
	}
	var out []byte
	for _, e := range l.entries[t.Index*transparency.TileWidth : t.End()] {
		var err error
		if out, err = transparency.AppendEntry(out, e); err != nil {
			return nil, err
		}
	}
	return out, nil
}
