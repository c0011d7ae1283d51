package recovery

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Config is what a Keeper keeps.
type Config struct {
	Files    Files    // beside the state
	SealPath string   // seal.json
	Key      seal.Key // the data key of the open state
	// Source returns the source that a mode seals by; "" is the mode that the
	// coordinator was started with. It asks nobody yet.
	Source func(mode manifest.SealMode) seal.Source
	Random io.Reader
	Now    func() time.Time
}

// Mark is what the state itself says of its recovery document. Without holders
// Digest is nil.
type Mark struct {
	Generation int        `json:"generation"`
	Digest     attest.Hex `json:"digest,omitempty"` // SHA-256 of the document's bytes
}

// Keeper keeps seal.json and recovery.json of an open state in step with its
// manifest. It is safe for concurrent use.
type Keeper struct {
	Config
	*Desk
	mu sync.Mutex // held while files change
}

// Open checks the document in the folder against what the state says of it, and
// finishes what a crash interrupted. The errors are REC-002 to REC-004. A state that
// shares have opened is checked alike: those of a document that was replaced open
// nothing, unless the next one stands beside it and the state names that.
func Open(ctx context.Context, c Config, mark Mark) (*Keeper, error) {
	k := &Keeper{Config: c}
	next, err := read(ctx, c.Files, nextFile)
	if err == nil && next != nil && mark.Digest != nil && string(digest(next)) == string(mark.Digest) {
		if err := c.Files.Rename(ctx, nextFile, File); err != nil {
			return nil, problem.Because(err, "STO-007", "finishing a change of the recovery document")
		}
	} else if err := k.discard(ctx); err != nil {
		return nil, err
	}
	d, err := Read(ctx, c.Files)
	if err != nil {
		return nil, err
	}
	if mark.Digest == nil {
		if err := k.remove(ctx, File); err != nil {
			return nil, err
		}
		d = nil
	} else if err := k.judge(d, mark); err != nil {
		return nil, err
	}
	k.Desk = NewDesk(d, c.Now)
	return k, nil
}

// judge compares the document with what the state says of it.
func (k *Keeper) judge(d *apiv1.RecoveryDocument, mark Mark) error {
	if d == nil {
		return problem.New("REC-002", "%s is missing, and the state names generation %d", File, mark.Generation)
	}
	if err := authentic(k.Key, d); err != nil {
		return err
	}
	if d.Generation != mark.Generation || string(digest(d)) != string(mark.Digest) {
		return problem.New("REC-004", "it is generation %d, and the state names generation %d", d.Generation, mark.Generation)
	}
	return nil
}

// discard removes a next document that the state never named.
func (k *Keeper) discard(ctx context.Context) error { return k.remove(ctx, nextFile) }

func (k *Keeper) remove(ctx context.Context, name string) error {
	if err := k.Files.Remove(ctx, name); err != nil {
		return problem.Because(err, "STO-007", "removing %s", name)
	}
	return nil
}

// Change is a change of the documents that a manifest asks for. It holds the
// keeper until Commit or Abort, one of which must be called.
type Change struct {
	k    *Keeper
	next *apiv1.RecoveryDocument // nil: as it was
	drop bool
	mode manifest.SealMode
	// Mark is what the state has to say once the manifest is in force.
	Mark Mark
}

// Prepare gets ready for a manifest: it makes the next document if the holders,
// their keys or certificates, or the threshold change, and stores it beside the
// one in force; and it asks the source of the manifest's mode for its key, so
// that a mode that cannot be sealed is refused before anything changed. mark is
// what the state says now. REC-032 if nothing would open the state.
func (k *Keeper) Prepare(ctx context.Context, m *manifest.Manifest, mark Mark) (*Change, error) {
	k.mu.Lock()
	c, err := k.prepare(ctx, m, mark)
	if err != nil {
		k.mu.Unlock()
	}
	return c, err
}

func (k *Keeper) prepare(ctx context.Context, m *manifest.Manifest, mark Mark) (*Change, error) {
	c := &Change{k: k, Mark: mark, mode: m.Seal}
	source := k.Source(m.Seal)
	if source.Name() == seal.None && m.Recovery == nil {
		return nil, problem.New("REC-032", "seal is none, and recovery names nobody")
	}
	if source.Name() != seal.None {
		if _, _, err := source.Key(ctx, nil); err != nil {
			return nil, err
		}
	}
	all, err := holdersOf(m)
	if err != nil {
		return nil, err
	}
	threshold := 0
	if m.Recovery != nil {
		threshold = m.Recovery.Threshold
	}
	old := k.Document()
	if fits(old, all, threshold) {
		return c, nil
	}
	c.Mark = Mark{Generation: mark.Generation + 1}
	if len(all) == 0 {
		c.drop = true
		return c, nil
	}
	if c.next, err = newDocument(k.Random, k.Key, all, threshold, c.Mark.Generation); err != nil {
		return nil, err
	}
	c.Mark.Digest = digest(c.next)
	if err := k.Files.Write(ctx, nextFile, append(encode(c.next), '\n')); err != nil {
		return nil, problem.Because(err, "STO-007", "storing the recovery document")
	}
	return c, nil
}

// Abort forgets a change whose manifest was not put in force.
func (c *Change) Abort() {
	if c == nil {
		return
	}
	defer c.k.mu.Unlock()
	_ = c.k.discard(context.Background()) // what stays is removed at the next start
}

// Commit follows a manifest that is in force: the next document takes its place,
// then the key is sealed by the manifest's mode. It returns the document that is
// new, or nil. An error leaves a state that opens as before; Reseal tries again.
func (c *Change) Commit(ctx context.Context) (*apiv1.RecoveryDocument, error) {
	k := c.k
	defer k.mu.Unlock()
	switch {
	case c.next != nil:
		if err := k.Files.Rename(ctx, nextFile, File); err != nil {
			return nil, problem.Because(err, "STO-007", "replacing the recovery document")
		}
		k.Replace(c.next)
	case c.drop:
		k.Replace(nil)
	}
	_, err := seal.Rewrap(ctx, k.SealPath, k.Key, k.Source(c.mode), k.Random)
	if err == nil && c.drop {
		// Last: until the key is sealed, the shares are what opens the state.
		err = k.remove(ctx, File)
	}
	return c.next, err
}

// Reseal seals the key by the newest key of a mode's source, if it is not yet.
func (k *Keeper) Reseal(ctx context.Context, mode manifest.SealMode) (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return seal.Rewrap(ctx, k.SealPath, k.Key, k.Source(mode), k.Random)
}

// Backup writes seal.json, recovery.json and a snapshot of the state as they are
// at one moment. Changes do not wait for w, however slow it is.
func (k *Keeper) Backup(ctx context.Context, s *store.Store, w *backup.Writer) error {
	k.mu.Lock()
	taken := sync.OnceFunc(k.mu.Unlock)
	defer taken()
	err := s.Snapshot(ctx, func(size int64, write func(io.Writer) error) error {
		files := map[string][]byte{}
		sealed, err := os.ReadFile(k.SealPath)
		if err != nil {
			return problem.Because(err, "STO-007", "reading %s", filepath.Base(k.SealPath))
		}
		files[filepath.Base(k.SealPath)] = sealed
		document, err := k.Files.Read(ctx, File)
		switch {
		case err == nil:
			files[File] = document
		case !errors.Is(err, fs.ErrNotExist):
			return problem.Because(err, "STO-007", "reading %s", File)
		}
		taken()
		for _, name := range slices.Backward(slices.Sorted(maps.Keys(files))) { // seal.json first
			b := files[name]
			if err := w.Add(name, int64(len(b)), func(out io.Writer) error { _, err := out.Write(b); return err }); err != nil {
				return err
			}
		}
		return w.Add("state.db", size, write)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

// Opens reports whether an outcome is the key of this state.
func (k *Keeper) Opens(o *Outcome) bool { return o.Key.Valid() && o.Key.ID() == k.Key.ID() }
