package client

import (
	"bytes"
	"encoding/hex"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

const (
	// DefaultEntries is how many entries a client reads at most to come from the
	// log that it remembers to the one of today: some 25 MB.
	DefaultEntries = 1 << 16
	// MaxEntries is the most that Options.Entries may ask for.
	MaxEntries = 1 << 22
)

// History is what the log showed when a statement was held against it.
type History struct {
	// Since is the number of entries that were known before: those of the
	// remembered checkpoint, with which the log begins; or where nothing was
	// remembered, those up to the one that accepted the manifest.
	Since uint64 `json:"since"`
	Size  uint64 `json:"size"` // of the attested checkpoint
	// Remembered says that Since is of a checkpoint that was remembered.
	Remembered bool `json:"remembered"`
	// Read says that the entries between were read: the last of them that set a
	// manifest set the one in force.
	Read bool `json:"read"`
	// Revisions were put in force by the entries between; the last one is the
	// manifest in force.
	Revisions []transparency.Revision `json:"revisions"`
	Kinds     map[string]int          `json:"kinds"` // entries between, by kind
	// Witnessed are the co-signatures that a client's policy counts, over a
	// checkpoint of WitnessedSize entries with which the log agrees.
	Witnessed     []transparency.Cosignature `json:"witnessed,omitempty"`
	WitnessedSize uint64                     `json:"witnessedSize,omitempty"`
}

// known is where a reading of the log begins: after a number of entries, with
// the revision that was in force then.
type known struct {
	size uint64
	rev  transparency.Revision
}

// knownOf reads what somebody remembers.
func knownOf(old Remembered, was transparency.Checkpoint) known {
	k := known{size: was.Size}
	if old.Revision > 0 {
		k.rev = transparency.Revision{Number: old.Revision, Digest: old.Manifest.String()}
	}
	return k
}

// follow reads the entries of the log after those that are known, and demands
// that the manifest in force is the one that they set last, and that the
// revisions between follow one another. LOG-053 is another manifest in force,
// LOG-054 revisions that do not follow, LOG-057 more entries than limit.
func follow(r *transparency.Reader, k known, v Verified, limit uint64) (*History, error) {
	size := r.Checkpoint().Size
	if size-k.size > limit {
		return nil, problem.New("LOG-057", "%d entries were added to the log, and %d are read at most", size-k.size, limit)
	}
	h := &History{Since: k.size, Size: size, Read: true, Revisions: []transparency.Revision{}, Kinds: map[string]int{}}
	chain := transparency.ChainAfter(k.rev)
	for at := k.size; at < size; {
		entries, err := r.Entries(at)
		if err != nil {
			return nil, err
		}
		for _, raw := range entries {
			e, err := transparency.ParseEntry(raw)
			if err == nil && e.Seq != at {
				err = problem.New("LOG-056", "entry %d says that it is entry %d", at, e.Seq)
			}
			if err != nil {
				return nil, err
			}
			h.Kinds[e.Kind]++
			rev, err := chain.Next(e)
			if err != nil {
				return nil, err
			}
			if rev != nil {
				h.Revisions = append(h.Revisions, *rev)
			}
			at++
		}
	}
	last, _ := chain.Last()
	if digest, err := hex.DecodeString(last.Digest); err != nil || last.Number != v.Statement.Revision || !bytes.Equal(digest, v.Statement.Manifest) {
		return nil, problem.New("LOG-053", "the log set revision %d last, %s, and in force is revision %d, %s", last.Number, orNone(attest.Hex(digest)), v.Statement.Revision, orNone(v.Statement.Manifest))
	}
	return h, nil
}

// Witnessing is what a client demands of the witnesses of a log. The zero
// Witnessing demands nothing.
type Witnessing struct {
	Keys []transparency.WitnessKey
	// AtLeast is how many of them must have co-signed one checkpoint.
	AtLeast int
	// Within is how old their word may be; DefaultWitnessed if zero.
	Within time.Duration
}

// DefaultWitnessed is how old a co-signature may be where a client does not say.
const DefaultWitnessed = 24 * time.Hour

// fresh returns the co-signatures that count now.
func (w Witnessing) fresh(co []transparency.Cosignature, now time.Time) []transparency.Cosignature {
	var fresh []transparency.Cosignature
	for _, c := range co {
		if now.Sub(c.Time) <= w.within() && c.Time.Sub(now) <= maxAhead {
			fresh = append(fresh, c)
		}
	}
	return fresh
}

func (w Witnessing) within() time.Duration {
	if w.Within > 0 {
		return w.Within
	}
	return DefaultWitnessed
}

// Check counts co-signatures of the witnesses over one checkpoint, as
// transparency.OpenCosigned returns them. LOG-082 is too few.
func (w Witnessing) Check(co []transparency.Cosignature, now time.Time) error {
	if n := len(w.fresh(co, now)); n < w.AtLeast {
		return problem.New("LOG-082", "%d of %d witnesses have co-signed it in the last %s, and %d are wanted", n, len(w.Keys), w.within(), w.AtLeast)
	}
	return nil
}

// check is Check, and notes in h what counts.
func (w Witnessing) check(h *History, co []transparency.Cosignature, size uint64, now time.Time) error {
	h.Witnessed, h.WitnessedSize = w.fresh(co, now), size
	return w.Check(co, now)
}
