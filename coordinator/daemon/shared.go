package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// unfinished is the end of the name of a sealed key until the state that it is of
// is known to exist.
const unfinished = ".new"

// sealPath is where the data key is, sealed for this platform.
func (s *settings) sealPath() string { return filepath.Join(s.State, bolt.SealFile) }

// initShared makes the state of several coordinators: the key first, sealed beside
// its name, then the state, which one of several wins, then the key's name. What a
// crash in between leaves, the next attempt or the next start finishes.
func (s *settings) initShared(ctx context.Context, config coordinator.Config) error {
	cluster, err := etcd.Dial(ctx, s.shared)
	if err != nil {
		return err
	}
	defer cluster.Close()
	there, err := s.lookShared(ctx, cluster)
	switch {
	case err != nil:
		return err
	case there == bolt.Present || there == bolt.Incomplete:
		return problem.New("STO-001", "%s or %s holds one", s.shared, s.State)
	}
	db, err := s.resumeShared(ctx, cluster)
	if err == nil && db == nil {
		db, err = s.createShared(ctx, cluster)
	}
	if err != nil {
		return err
	}
	core, err := coordinator.Create(ctx, db, config)
	if err == nil {
		err = core.Close()
	}
	if err = errors.Join(err, db.Close()); err != nil && problem.CodeOf(err) != "STO-001" {
		return err
	}
	return s.nameKey()
}

// lookShared says what there is: a state in the cluster is Present; one that this
// replica began to make, or nothing but that beginning, is Unfinished.
func (s *settings) lookShared(ctx context.Context, cluster *etcd.Cluster) (bolt.Presence, error) {
	var have [2]bool
	for i, path := range []string{s.sealPath(), s.sealPath() + unfinished} {
		_, err := os.Lstat(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return bolt.Absent, problem.Because(err, "STO-007", "looking into %s", s.State)
		}
		have[i] = err == nil
	}
	rev, err := cluster.Revision(ctx)
	switch {
	case err != nil:
		return bolt.Absent, err
	case rev != 0 && have[1]:
		return bolt.Unfinished, nil
	case rev != 0:
		return bolt.Present, nil
	case have[0]:
		return bolt.Incomplete, nil
	case have[1]:
		return bolt.Unfinished, nil
	}
	return bolt.Absent, nil
}

// resumeShared opens the state that an interrupted init of this replica made; nil
// if it made none.
func (s *settings) resumeShared(ctx context.Context, cluster *etcd.Cluster) (*store.Store, error) {
	key, err := seal.Open(ctx, s.sealPath()+unfinished, s.sources()...)
	if err != nil {
		rev, lost := cluster.Revision(ctx)
		if lost == nil && rev != 0 { // its only key may stand here
			lost = problem.Because(err, "STO-001", "%s holds one, and a key that was begun here does not open", s.shared)
		}
		if lost != nil {
			return nil, lost
		}
		return nil, nil // it made nothing
	}
	db, err := store.Open(ctx, store.Config{Engine: cluster.Engine(), Key: key, Random: rand.Reader})
	switch problem.CodeOf(err) {
	case "STO-004": // another one was faster
		return nil, problem.New("STO-001", "%s holds one", s.shared)
	case "STO-012":
		return nil, nil
	}
	return db, err
}

func (s *settings) createShared(ctx context.Context, cluster *etcd.Cluster) (*store.Store, error) {
	path := s.sealPath() + unfinished
	key, err := seal.Create(ctx, path, s.source(""), rand.Reader)
	if err != nil {
		return nil, err
	}
	db, err := store.Create(ctx, store.Config{Engine: cluster.Engine(), Key: key, Random: rand.Reader})
	if errors.Is(err, store.ErrConflict) {
		err = problem.New("STO-001", "another replica was faster to make one in %s", s.shared)
	}
	if problem.CodeOf(err) == "STO-001" {
		_ = os.Remove(path) // a key of nothing
	}
	return db, err
}

// nameKey gives the sealed key of a state that exists its name.
func (s *settings) nameKey() error {
	if err := durable.Rename(s.sealPath()+unfinished, s.sealPath()); err != nil {
		return problem.Because(err, "STO-007", "naming %s", s.sealPath())
	}
	return nil
}

// within is an engine whose calls end with a context of its own, too.
type within struct {
	store.Engine
	ctx context.Context
}

func (w within) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(w.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// Load implements store.Engine.
func (w within) Load(ctx context.Context, each func(store.Entry) error) (store.Rev, error) {
	ctx, done := w.bound(ctx)
	defer done()
	return w.Engine.Load(ctx, each)
}

// Commit implements store.Engine.
func (w within) Commit(ctx context.Context, expected store.Rev, puts []store.Entry, deletes []string) (store.Rev, error) {
	ctx, done := w.bound(ctx)
	defer done()
	return w.Engine.Commit(ctx, expected, puts, deletes)
}

// Range implements store.Engine.
func (w within) Range(ctx context.Context, from, to string, limit int) ([]store.Entry, error) {
	ctx, done := w.bound(ctx)
	defer done()
	return w.Engine.Range(ctx, from, to, limit)
}

// Snapshot implements store.Snapshotter, where the engine does.
func (w within) Snapshot(ctx context.Context, each func(int64, func(io.Writer) error) error) error {
	s, ok := w.Engine.(store.Snapshotter)
	if !ok {
		return problem.New("STO-024", "an engine of type %T", w.Engine)
	}
	ctx, done := w.bound(ctx)
	defer done()
	return s.Snapshot(ctx, each)
}

// openShared opens the shared state for a tenure.
func (l *life) openShared(ctx context.Context, t *tenure) (*openedState, error) {
	observe := func(took time.Duration, err error) {
		l.commits(took, err)
		if errors.Is(err, store.ErrConflict) || problem.CodeOf(err) == "STO-018" {
			t.end("another replica writes")
		}
	}
	o := &openedState{files: l.cluster.Files()}
	var err error
	if o.store, err = store.Open(ctx, store.Config{Engine: within{l.cluster.Engine(), t.engine}, Key: l.key, Random: rand.Reader, Observe: observe}); err != nil {
		return nil, err
	}
	if err := l.claim(ctx, o); err != nil {
		return nil, errors.Join(err, o.store.Close())
	}
	return o, nil
}

// claim makes an open state this replica's to change, if it is not an older one than
// it has seen, and opens what stands beside it.
func (l *life) claim(ctx context.Context, o *openedState) error {
	st, err := coordinator.Inspect(ctx, o.store)
	if err == nil {
		err = l.follows(ctx, o.store, st)
	}
	if err == nil {
		err = coordinator.Claim(ctx, o.store)
	}
	if err != nil {
		return err
	}
	return l.keep(ctx, o, l.key)
}

// readShared opens the shared state to be read.
func (l *life) readShared(ctx context.Context, key seal.Key) (_ *openedState, err error) {
	o := &openedState{}
	o.store, err = store.Open(ctx, store.Config{Engine: l.cluster.Engine(), Key: key, Random: rand.Reader})
	return o, err
}

// inspect reads and verifies the whole shared state, and has use look at it.
func (l *life) inspect(ctx context.Context, key seal.Key, use func(*store.Store, *coordinator.Standing) error) error {
	o, err := l.readShared(ctx, key)
	if err != nil {
		return err
	}
	st, err := coordinator.Inspect(ctx, o.store)
	if err == nil {
		err = use(o.store, st)
	}
	return errors.Join(err, o.store.Close())
}
