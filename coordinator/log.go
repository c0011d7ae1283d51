package coordinator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// newLogKey returns the seed of a log's key.
func newLogKey(rand io.Reader) ([]byte, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("making the log's key: %w", err)
	}
	return seed, nil
}

// logSigner reads the log's key. The log is called after it, so its name is
// fixed when the coordinator is created.
func logSigner(tx *store.Tx) (*transparency.Signer, error) {
	k, ok := keys.Get(tx, keyLog)
	if !ok || len(k.State) != ed25519.SeedSize {
		return nil, problem.New("STO-012", "the store holds no key of the log")
	}
	key := ed25519.NewKeyFromSeed(k.State)
	return transparency.NewSigner(key, transparency.Origin(key.Public().(ed25519.PublicKey)))
}

// LogKey returns the verifier key of the log (c2sp.org/signed-note).
func (c *Coordinator) LogKey() string { return c.signer.VerifierKey() }

// sign returns a checkpoint as a signed note.
func (c *Coordinator) sign(at audit.Checkpoint) ([]byte, error) {
	return transparency.Sign(transparency.Checkpoint{Origin: c.signer.Name(), Size: at.Size, Root: at.Root}, c.signer)
}

// shown is a checkpoint as documents have it that are not signed.
func shown(at audit.Checkpoint) apiv1.Checkpoint {
	return apiv1.Checkpoint{Size: at.Size, Hash: at.Root[:]}
}

// LatestCheckpoint returns the newest checkpoint of the log as a signed note,
// with the co-signatures of the witnesses that have signed this very one.
func (c *Coordinator) LatestCheckpoint(ctx context.Context) ([]byte, error) {
	var at audit.Checkpoint
	var co cosignedRecord
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		co, _ = cosignatures.Get(tx, keyCurrent)
		at, err = c.log.Checkpoint(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	signed, err := c.sign(at)
	if err == nil && co.Size == at.Size && bytes.Equal(co.Root, at.Root[:]) {
		signed = append(signed, strings.Join(co.Lines, "")...)
	}
	return signed, err
}

// WitnessedCheckpoint returns the newest checkpoint that a witness has
// co-signed, with all co-signatures. LOG-015 if there is none.
func (c *Coordinator) WitnessedCheckpoint(ctx context.Context) ([]byte, error) {
	var co cosignedRecord
	err := c.store.View(ctx, func(tx *store.Tx) error {
		co, _ = cosignatures.Get(tx, keyCurrent)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(co.Lines) == 0 {
		return nil, problem.New("LOG-015", "no witness has co-signed a checkpoint yet")
	}
	signed, err := c.sign(audit.Checkpoint{Size: co.Size, Root: [32]byte(co.Root)})
	return append(signed, strings.Join(co.Lines, "")...), err
}

// Consistency returns the proof that the log of newer entries begins with that
// of older. LOG-010 if the log is shorter.
func (c *Coordinator) Consistency(ctx context.Context, older, newer uint64) (transparency.Proof, error) {
	return c.log.Consistency(ctx, older, newer)
}

// Tile returns the bytes of a tile of the log; LOG-007 if it has none.
func (c *Coordinator) Tile(ctx context.Context, t transparency.Tile) ([]byte, error) {
	return c.log.Tile(ctx, t)
}

// cosignedRecord is the newest checkpoint that a witness has co-signed.
type cosignedRecord struct {
	Size  uint64     `json:"size"`
	Root  attest.Hex `json:"root"`
	Lines []string   `json:"lines"` // of the signed note, each with its newline
}

// cosignatures has one record, under "current".
var cosignatures = store.NewTable[cosignedRecord]("cosignatures")

// AddCosignature takes a checkpoint of this log with signatures of witnesses of
// the manifest in force, and keeps them with those of other witnesses. It keeps
// those of the newest checkpoint alone; an older one changes nothing. LOG-001 to
// LOG-003 is no checkpoint of this log, LOG-014 one that the log never had,
// LOG-015 one that no witness of the manifest has signed.
func (c *Coordinator) AddCosignature(ctx context.Context, signed []byte) error {
	done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	var vkeys []string
	if rev := c.current.Load(); rev.m != nil {
		for _, w := range rev.m.Witnesses {
			vkeys = append(vkeys, w.Key)
		}
	}
	witnesses, err := transparency.ParseWitnessKeys(vkeys)
	if err != nil {
		return err
	}
	at, by, err := transparency.OpenCosigned(signed, c.LogKey(), witnesses)
	if err != nil {
		return err
	}
	own, err := c.log.At(ctx, at.Size)
	if err != nil {
		return err
	}
	if own.Root != at.Root {
		return problem.New("LOG-014", "its root over %d entries is %s, this log's is %s", at.Size, attest.Hex(at.Root[:]), attest.Hex(own.Root[:]))
	}
	if len(by) == 0 {
		return problem.New("LOG-015", "none of the manifest's %d witnesses has signed the checkpoint over %d entries", len(witnesses), at.Size)
	}
	return c.update(ctx, func(tx *store.Tx) error {
		old, _ := cosignatures.Get(tx, keyCurrent)
		if old.Size > at.Size {
			return nil
		}
		next := cosignedRecord{Size: at.Size, Root: at.Root[:]}
		if old.Size == at.Size {
			next.Lines = slices.Clone(old.Lines)
		}
		for _, co := range by {
			next.add(co)
		}
		return cosignatures.Put(tx, keyCurrent, next)
	})
}

// add puts a co-signature in, in place of an older one by the same key.
func (r *cosignedRecord) add(co transparency.Cosignature) {
	_, signature, _ := strings.Cut(co.Line, "— "+co.Witness+" ")
	key := strings.TrimSuffix(co.Line, signature) + signature[:5] // five characters hold most of the key's id
	r.Lines = slices.DeleteFunc(r.Lines, func(line string) bool { return strings.HasPrefix(line, key) })
	r.Lines = append(r.Lines, co.Line)
}
