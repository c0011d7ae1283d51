package client

import (
	"crypto/sha256"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// maxLeaves is how many entries of the log a bundle has the hashes of: 512 KiB.
const maxLeaves = 1 << 14

// BundleLog are the hashes of the log's newest entries. A reader who remembers a
// checkpoint over First entries or more sees by them whether it is the same log.
type BundleLog struct {
	First    uint64 `json:"first"`              // number of entries before them, a multiple of 256
	Subtrees []byte `json:"subtrees,omitempty"` // roots of what those consist of (transparency.Reader.Subtrees), 32 bytes each
	Leaves   []byte `json:"leaves,omitempty"`   // leaf hashes of the entries from First on, 32 bytes each, at most 512 KiB
}

// BundleWitnessed is a checkpoint that witnesses have co-signed.
type BundleWitnessed struct {
	Checkpoint string             `json:"checkpoint"` // the signed note with the co-signatures
	Proof      transparency.Proof `json:"proof"`      // of consistency, from it to the checkpoint in the evidence
}

// bundleLog collects the hashes for a bundle of what the client verified.
func (c *Client) bundleLog(r *transparency.Reader) (*BundleLog, error) {
	size := r.Checkpoint().Size
	var b BundleLog
	if size > maxLeaves {
		b.First = (size - maxLeaves + transparency.TileWidth - 1) / transparency.TileWidth * transparency.TileWidth
	}
	subtrees, err := r.Subtrees(b.First)
	if err != nil {
		return nil, err
	}
	b.Subtrees = joinHashes(subtrees)
	for at := b.First; at < size; {
		leaves, err := r.Leaves(at, size)
		if err != nil {
			return nil, err
		}
		b.Leaves = append(b.Leaves, joinHashes(leaves)...)
		at += uint64(len(leaves))
	}
	return &b, nil
}

// bundleWitnessed fetches what witnesses have co-signed, nil if nothing.
func bundleWitnessed(get getter, r *transparency.Reader, vkey string) (*BundleWitnessed, error) {
	signed, err := get.witnessed()
	if problem.CodeOf(err) == "LOG-015" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	at, err := transparency.Open(signed, vkey)
	if err != nil || at.Size > r.Checkpoint().Size { // newer than what is attested: of no use here
		return nil, err
	}
	p, err := r.Consistency(at.Size)
	return &BundleWitnessed{Checkpoint: string(signed), Proof: p}, err
}

func joinHashes(hashes [][32]byte) []byte {
	b := make([]byte, 0, len(hashes)*sha256.Size)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

func splitHashes(b []byte) [][32]byte {
	hashes := make([][32]byte, 0, len(b)/sha256.Size)
	for ; len(b) >= sha256.Size; b = b[sha256.Size:] {
		hashes = append(hashes, [32]byte(b))
	}
	return hashes
}

// check compares sizes with the limits.
func (b BundleLog) check() error {
	if len(b.Subtrees)%sha256.Size != 0 || len(b.Subtrees) > 64*sha256.Size || len(b.Leaves)%sha256.Size != 0 || len(b.Leaves) > maxLeaves*sha256.Size {
		return problem.New("CRD-121", "its log has %d bytes of subtrees and %d of leaves", len(b.Subtrees), len(b.Leaves))
	}
	return nil
}

// compare demands that the hashes give the attested checkpoint, and that the log
// is the one that was seen before. shown is false where the bundle does not reach
// back, or forward, to what was seen. LOG-051 is another log, LOG-055 hashes of
// another checkpoint.
func (b BundleLog) compare(now transparency.Checkpoint, was *transparency.Checkpoint) (shown bool, err error) {
	g, err := transparency.NewGrowth(b.First, splitHashes(b.Subtrees))
	if err != nil {
		return false, err
	}
	leaves := splitHashes(b.Leaves)
	if b.First+uint64(len(leaves)) != now.Size {
		return false, problem.New("LOG-055", "its hashes are of %d entries, the checkpoint is over %d", b.First+uint64(len(leaves)), now.Size)
	}
	var then [32]byte
	for i := 0; ; i++ {
		if was != nil && g.Size() == was.Size {
			if then, err = g.Root(); err != nil {
				return false, err
			}
			shown = true
		}
		if i == len(leaves) {
			break
		}
		if err := g.Add(leaves[i]); err != nil {
			return false, err
		}
	}
	root, err := g.Root()
	switch {
	case err != nil:
		return false, err
	case root != now.Root:
		return false, problem.New("LOG-055", "its hashes give another root than the checkpoint over %d entries", now.Size)
	case shown && then != was.Root:
		return true, problem.New("LOG-051", "the root over its first %d entries is %s, and %s was seen before", was.Size, short(then[:]), short(was.Root[:]))
	}
	return shown, nil
}

// logged holds the bundle's log against what the reader remembers and demands of
// witnesses, and notes each check.
func (c checks) logged(b Bundle, v *Verified, in BundleInput) {
	now := v.Checkpoint
	var was *transparency.Checkpoint
	if in.Remembered != nil {
		old, err := in.Remembered.open()
		if err == nil && in.Remembered.LogKey != b.Statement.LogKey {
			err = problem.New("LOG-052", "its log is signed by %s, and %s was seen before", now.Origin, old.Origin)
		}
		c.add("LOG-052", "remembered.logKey", in.Remembered.LogKey, "the same", err)
		if err != nil {
			return
		}
		was = &old
	}
	shown, err := false, error(nil)
	if b.Log != nil {
		shown, err = b.Log.compare(now, was)
		if !shown || err == nil {
			c.add("LOG-055", "log.hashes", "the root of the checkpoint", "holds", err)
		}
	}
	if was != nil && (shown || err == nil) {
		if err == nil {
			err = sameSize(now, *was)
		}
		c.add("LOG-051", "remembered.log", "the log that was seen before", sameLog(shown, now.Size, was.Size), err)
	}
	if in.Witnessing.AtLeast > 0 {
		h := &History{Size: now.Size}
		c.add("LOG-082", "log.witnesses", "co-signatures as the policy wants", "hold", b.checkWitnesses(h, now, in))
		v.History = h
	}
}

// sameLog says how far a comparison of logs went.
func sameLog(shown bool, now, was uint64) string {
	switch {
	case shown:
		return "the same"
	case was > now:
		return "an older state of it, or a fork: the bundle cannot show which"
	}
	return "not shown: the bundle does not reach back so far"
}

func sameSize(now, was transparency.Checkpoint) error {
	if now.Size == was.Size && now.Root != was.Root {
		return problem.New("LOG-051", "the root of its log of %d entries is %s, and %s was seen before: the two have forked", now.Size, short(now.Root[:]), short(was.Root[:]))
	}
	return nil
}

// checkWitnesses counts the co-signatures that the bundle holds.
func (b Bundle) checkWitnesses(h *History, now transparency.Checkpoint, in BundleInput) error {
	if b.Witnessed == nil {
		return problem.New("LOG-082", "the bundle holds no co-signed checkpoint, and the word of %d witnesses is wanted", in.Witnessing.AtLeast)
	}
	at, co, err := transparency.OpenCosigned([]byte(b.Witnessed.Checkpoint), b.Statement.LogKey, in.Witnessing.Keys)
	if err != nil {
		return err
	}
	if err := transparency.VerifyConsistency(at, now, b.Witnessed.Proof); err != nil {
		return err
	}
	return in.Witnessing.check(h, co, at.Size, in.At)
}
