package etcd

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// after is the first key behind all that start with a prefix of one byte.
func after(prefix string) string { return string(prefix[0] + 1) }

// engine implements store.Engine and store.Snapshotter.
type engine struct {
	*Cluster

	mu sync.Mutex // guards all fields below
	// loaded is what Load read, until the first Commit: Range reads the same
	// state then, although others may write. nil: Range reads the newest.
	loaded *view
	fence  int64      // ModRevision of the fence as far as it is known
	doubt  *store.Rev // what a commit of unknown outcome expected; nil: none
}

// Engine returns an engine of the store on the cluster. Its Close does not close
// the Cluster. An engine that only loads and ranges never writes. Until its first
// commit it reads one state, that of its last Load, whatever others write; where
// etcd has forgotten that, it is STO-036.
func (c *Cluster) Engine() store.Engine { return &engine{Cluster: c} }

// Close implements store.Engine.
func (e *engine) Close() error { return nil }

// Load implements store.Engine. All pages are of one state.
func (e *engine) Load(ctx context.Context, each func(store.Entry) error) (store.Rev, error) {
	if err := e.settle(ctx); err != nil {
		return 0, err
	}
	for try := 1; ; try++ {
		v, err := e.newest(ctx)
		if err != nil {
			return 0, err
		}
		n := 0
		take := func(in store.Entry) error {
			if n++; n > maxEntries {
				return problem.New("STO-009", "the state holds more than %d entries", maxEntries)
			}
			return each(in)
		}
		err = e.load(ctx, v, take)
		if errors.Is(err, errMoved) && n == 0 && try < readTries {
			continue
		}
		if err != nil {
			return 0, e.coded(err, "loading the state")
		}
		e.mu.Lock()
		e.loaded, e.fence = v, v.fence
		e.mu.Unlock()
		return v.rev, nil
	}
}

// load reads all entries but those of logs and blobs.
func (e *engine) load(ctx context.Context, v *view, each func(store.Entry) error) error {
	for _, part := range [][2]string{{"", store.BlobPrefix}, {after(store.BlobPrefix), store.LogPrefix}, {after(store.LogPrefix), "\xff"}} {
		if err := e.scan(ctx, v, part[0], part[1], pageSize, each); err != nil {
			return err
		}
	}
	return nil
}

// Range implements store.Engine.
func (e *engine) Range(ctx context.Context, from, to string, limit int) ([]store.Entry, error) {
	if err := e.settle(ctx); err != nil {
		return nil, err
	}
	if from >= to || limit <= 0 {
		return nil, ctx.Err()
	}
	for try := 1; ; try++ {
		v, pinned, err := e.readable(ctx)
		if err != nil {
			return nil, err
		}
		var found []store.Entry
		err = e.scan(ctx, v, from, to, limit, func(in store.Entry) error {
			found = append(found, store.Entry{Key: in.Key, Value: slices.Clone(in.Value)})
			if len(found) == limit {
				return errStop
			}
			return nil
		})
		if errors.Is(err, errMoved) && !pinned && try < readTries {
			continue
		}
		if err != nil && !errors.Is(err, errStop) {
			return nil, e.coded(err, "reading the state")
		}
		return found, nil
	}
}

// readable is a copy of the view that Range reads now. pinned is that it is the
// one that was loaded.
func (e *engine) readable(ctx context.Context) (v *view, pinned bool, err error) {
	e.mu.Lock()
	loaded := e.loaded
	e.mu.Unlock()
	if loaded == nil {
		v, err = e.newest(ctx)
		return v, false, err
	}
	own := *loaded
	return &own, true, nil
}

// release has Range read the newest state from now on.
func (e *engine) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loaded = nil
}
