package audit_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestProofLeadsToTheCheckpoint recomputes checkpoints from proofs, as
// docs/wire.md says, and not with the package's own code.
func TestProofLeadsToTheCheckpoint(t *testing.T) {
	l, s := newLog(t)
	var checkpoints []audit.Checkpoint
	var entries []audit.Entry
	for i := range 7 {
		entries = append(entries, appendAll(t, l, s, decision(i))...)
		checkpoints = append(checkpoints, verify(t, l))
	}
	for size := 1; size <= 7; size++ {
		for seq := range size {
			record, after, err := l.Proof(t.Context(), uint64(seq), uint64(size))
			if err != nil {
				t.Fatalf("record %d, size %d: %v", seq, size, err)
			}
			leaf := sha256.Sum256(append([]byte{0}, record...))
			if !bytes.Equal(leaf[:], entries[seq].Hash) || len(after) != 32*(size-seq-1) {
				t.Fatalf("record %d, size %d: got leaf %x and %d bytes after it", seq, size, leaf, len(after))
			}
			head := []byte(entries[seq].Previous)
			for hashes := append(leaf[:], after...); len(hashes) > 0; hashes = hashes[32:] {
				next := sha256.Sum256(bytes.Join([][]byte{[]byte("ashlar audit chain v1\x00"), head, hashes[:32]}, nil))
				head = next[:]
			}
			if want := checkpoints[size-1].Hash; !bytes.Equal(head, want[:]) {
				t.Errorf("record %d, size %d: got %x, want %x", seq, size, head, want)
			}
		}
	}
	for _, c := range [][2]uint64{{7, 8}, {0, 8}, {3, 3}, {4, 3}, {0, 0}, {0, audit.MaxProof + 1}, {0, 1<<64 - 1}} {
		if _, _, err := l.Proof(t.Context(), c[0], c[1]); problem.CodeOf(err) != "CRD-125" {
			t.Errorf("record %d, size %d: got %v, want CRD-125", c[0], c[1], err)
		}
	}
}
