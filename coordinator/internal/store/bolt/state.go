package bolt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The files of a state directory.
const (
	StateFile = "state.db"
	SealFile  = "seal.json"

	unfinished = ".new"
)

// Config says where a state is and where its key comes from.
type Config struct {
	Dir    string      // Create makes it (mode 0700) if it is absent
	Source seal.Source // wraps and unwraps the data key
	// Unlock gives Open the data key of the state with that seal.json, in place
	// of Source; nil asks Source.
	Unlock     func(ctx context.Context, sealPath string) (seal.Key, error)
	MaxValue   int                        // as in store.Config
	MaxRecords int                        // as in store.Config
	Random     io.Reader                  // as in store.Config
	Observe    func(time.Duration, error) // as in store.Config
}

// Presence is what a directory holds, by the names of its files.
type Presence int

// The presences.
const (
	Absent     Presence = iota // neither file: a state may be created
	Unfinished                 // a creation was interrupted: it may be created again
	Present                    // both files, or a creation that Open can finish
	Incomplete                 // one file of the two is gone: neither Create nor Open will do
)

// String returns the presence in words.
func (p Presence) String() string {
	return [...]string{"absent", "unfinished", "present", "incomplete"}[p]
}

// Look says what dir holds. It opens nothing; whether the files are good is
// for Open to find out.
func Look(dir string) (Presence, error) {
	var have [4]bool
	for i, name := range []string{StateFile, SealFile, StateFile + unfinished, SealFile + unfinished} {
		_, err := os.Lstat(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Absent, problem.Because(err, "STO-007", "looking into %s", dir)
		}
		have[i] = err == nil
	}
	state, sealed, newState, newSealed := have[0], have[1], have[2], have[3]
	switch {
	case state && (sealed || newSealed):
		return Present, nil
	case state || sealed:
		return Incomplete, nil
	case newState || newSealed:
		return Unfinished, nil
	}
	return Absent, nil
}

// Create makes a new state in a directory that has none, with a random data
// key. The errors are STO-001 (there is one, or a part of one), STO-007 (I/O),
// STO-008 (another process is creating it) and those of seal.Create.
func Create(ctx context.Context, c Config) (*store.Store, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, problem.Because(err, "STO-007", "creating %s", c.Dir)
	}
	if err := refuseExisting(c.Dir); err != nil {
		return nil, err
	}
	path := filepath.Join(c.Dir, StateFile)
	engine, err := openFile(path+unfinished, true)
	if err != nil {
		return nil, err
	}
	// With the lock held: was another process faster?
	if err := refuseExisting(c.Dir); err != nil {
		engine.Close()
		return nil, err
	}
	random := c.Random
	if random == nil {
		random = rand.Reader
	}
	sealPath := filepath.Join(c.Dir, SealFile)
	key, err := seal.Create(ctx, sealPath+unfinished, c.Source, random)
	if err != nil {
		engine.Close()
		return nil, err
	}
	s, err := store.Create(ctx, c.storeConfig(engine, key))
	if err != nil {
		return nil, err
	}
	for _, p := range []string{path, sealPath} {
		if err := durable.Rename(p+unfinished, p); err != nil {
			return nil, errors.Join(problem.Because(err, "STO-007", "naming %s", p), s.Close())
		}
	}
	return s, nil
}

// Open opens the state in a directory, finishing an interrupted Create if all
// of it was written. The errors are STO-002 (no state), STO-012 (a creation was
// interrupted), STO-008 (in use), those of seal.Open and those of store.Open.
func Open(ctx context.Context, c Config) (*store.Store, error) {
	presence, err := Look(c.Dir)
	if err != nil {
		return nil, err
	}
	sealPath := filepath.Join(c.Dir, SealFile)
	switch presence {
	case Absent:
		return nil, problem.New("STO-002", "%s has neither %s nor %s", c.Dir, StateFile, SealFile)
	case Unfinished:
		return nil, problem.New("STO-012", "%s has only files that end in %s", c.Dir, unfinished)
	case Incomplete:
		return nil, problem.New("STO-002", "%s has one of %s and %s, but not the other", c.Dir, StateFile, SealFile).
			WithNext("put the missing file back from the same backup; a new state would forget this deployment")
	}
	engine, err := openFile(filepath.Join(c.Dir, StateFile), false)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(sealPath); errors.Is(err, fs.ErrNotExist) {
		if err := durable.Rename(sealPath+unfinished, sealPath); err != nil {
			engine.Close()
			return nil, problem.Because(err, "STO-007", "finishing the creation")
		}
	}
	unlock := c.Unlock
	if unlock == nil {
		unlock = func(ctx context.Context, path string) (seal.Key, error) { return seal.Open(ctx, path, c.Source) }
	}
	key, err := unlock(ctx, sealPath)
	if err != nil {
		engine.Close()
		return nil, err
	}
	return store.Open(ctx, c.storeConfig(engine, key))
}

func (c Config) storeConfig(e store.Engine, key seal.Key) store.Config {
	return store.Config{Engine: e, Key: key, MaxValue: c.MaxValue, MaxRecords: c.MaxRecords, Random: c.Random, Observe: c.Observe}
}

func refuseExisting(dir string) error {
	presence, err := Look(dir)
	if err != nil {
		return err
	}
	if presence == Present || presence == Incomplete {
		return problem.New("STO-001", "%s holds %s or %s", dir, StateFile, SealFile)
	}
	return nil
}

// claim locks a file that is about to become a new state and empties it: what
// an interrupted Create left is worth nothing. bbolt locks it again, which
// changes nothing.
func claim(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return problem.Because(err, "STO-008", "%s is being created by another process", f.Name())
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("emptying %s: %w", f.Name(), err)
	}
	return nil
}
