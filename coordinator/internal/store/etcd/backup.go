package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// restoringName is there while a restore is not finished.
	restoringName = "restoring"

	scratch = ".backup-" // folders of backups that are being made

	// One commit of a restore fits in one request, unless a value does not.
	restoreEntries = maxOps/2 - 4
	restoreBytes   = maxBytes / 2

	maxFiles = 2*maxFile + 1<<10 // bytes of all documents that a restore brings
)

// Snapshot implements store.Snapshotter: a file of the embedded engine with the
// entries of one view. It stands in a private folder below Scratch meanwhile; all
// in it is sealed.
func (e *engine) Snapshot(ctx context.Context, each func(size int64, write func(io.Writer) error) error) error {
	if err := e.settle(ctx); err != nil {
		return err
	}
	dir, err := e.folder()
	if err != nil {
		return problem.Because(err, "STO-007", "making a folder for the backup")
	}
	defer e.remove(dir)
	path := filepath.Join(dir, bolt.StateFile)
	for try := 1; ; try++ {
		v, err := e.newest(ctx)
		if err != nil {
			return err
		}
		err = bolt.Export(ctx, path, func(put func(store.Entry) error) error { return e.scan(ctx, v, "", "\xff", pageSize, put) })
		if err == nil {
			break
		}
		if !errors.Is(err, errMoved) || try == readTries {
			return e.coded(err, "writing the backup's file")
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return problem.Because(err, "STO-007", "reading the backup's file")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return problem.Because(err, "STO-007", "reading the backup's file")
	}
	return each(info.Size(), func(w io.Writer) error {
		_, err := io.Copy(store.Until(ctx, w), f)
		return err
	})
}

// folder makes a folder for a backup, and removes those that a process left that
// was killed.
func (c *Cluster) folder() (string, error) {
	c.backups.Lock()
	defer c.backups.Unlock()
	if c.Scratch != "" {
		left, err := filepath.Glob(filepath.Join(c.Scratch, scratch+"*"))
		if err != nil {
			return "", err
		}
		for _, dir := range left {
			if !slices.Contains(c.folders, dir) {
				_ = os.RemoveAll(dir) // the next backup tries again
			}
		}
	}
	dir, err := os.MkdirTemp(c.Scratch, scratch)
	if err == nil {
		c.folders = append(c.folders, dir)
	}
	return dir, err
}

func (c *Cluster) remove(dir string) {
	c.backups.Lock()
	defer c.backups.Unlock()
	_ = os.RemoveAll(dir) // the next backup tries again
	c.folders = slices.DeleteFunc(c.folders, func(d string) bool { return d == dir })
}

// Restore puts a state under a prefix that has none: the entries that all calls
// put with, and the documents beside it. The state's head comes last, with the
// documents: what an interrupted restore leaves does not open (STO-035), and the
// next restore begins by removing it. STO-022 if there is a state.
func (c *Cluster) Restore(ctx context.Context, files map[string][]byte, all func(put func(store.Entry) error) error) error {
	e := &engine{Cluster: c}
	rev, err := e.claim(ctx)
	if err != nil {
		return err
	}
	var puts, last []store.Entry
	size := 0
	flush := func() (err error) {
		if len(puts) > 0 {
			rev, err = e.Commit(ctx, rev, puts, nil)
		}
		puts, size = nil, 0
		return err
	}
	err = all(func(in store.Entry) error {
		in.Value = slices.Clone(in.Value)
		if in.Key == store.FormatKey || in.Key == store.HeadKey {
			last = append(last, in)
			return nil
		}
		if len(puts) == restoreEntries || size+len(in.Value) > restoreBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		puts, size = append(puts, in), size+len(in.Value)
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = e.conclude(ctx, rev, last, files)
	}
	if errors.Is(err, store.ErrConflict) {
		return problem.Because(err, "STO-022", "restoring into %s: somebody else is", c.location)
	}
	return err
}

// Vacant is STO-022 where there is a state: nothing is to be restored there.
func (c *Cluster) Vacant(ctx context.Context) error {
	v, err := c.look(ctx)
	if err != nil {
		return err
	}
	return c.vacant(v)
}

func (c *Cluster) vacant(v *view) error {
	if v.rev != 0 && v.restoring == 0 {
		return problem.New("STO-022", "%s holds a state", c.location).WithNext("restore under a prefix that is empty: an existing state is never written over")
	}
	return nil
}

// claim begins a restore, in place of one that was interrupted.
func (e *engine) claim(ctx context.Context) (store.Rev, error) {
	v, err := e.look(ctx)
	if err != nil {
		return 0, err
	}
	if err := e.vacant(v); err != nil {
		return 0, err
	}
	e.fence = v.fence
	id := string(newID())
	ops := []clientv3.Op{clientv3.OpPut(e.Key(revName), id), clientv3.OpPut(e.Key(restoringName), id), clientv3.OpDelete(e.Key(pendingName))}
	for _, start := range []string{entryStart, pieceStart, stageStart, filesStart} {
		ops = append(ops, clientv3.OpDelete(e.Key(start), clientv3.WithPrefix()))
	}
	resp, err := e.insist(ctx, []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(e.Key(revName)), "=", int64(v.rev)),
		clientv3.Compare(clientv3.ModRevision(e.Key(restoringName)), "=", v.restoring),
	}, ops, e.lookOps())
	if err != nil {
		return 0, e.coded(err, "beginning the restore")
	}
	if resp.Succeeded {
		return store.Rev(resp.Header.GetRevision()), nil
	}
	if v, err = e.viewOf(resp); err != nil {
		return 0, err
	}
	if v.value != id { // else the answer was lost
		return 0, problem.New("STO-022", "somebody else makes a state in %s", e.location)
	}
	return v.rev, nil
}

// conclude makes what was restored a state.
func (e *engine) conclude(ctx context.Context, rev store.Rev, last []store.Entry, files map[string][]byte) error {
	all, err := changesOf(last, nil)
	if err != nil {
		return err
	}
	if len(all) != 2 {
		return problem.New("STO-006", "the state to be restored has no head, or no format")
	}
	d := decision{id: newID(), expected: rev}
	d.ops = []clientv3.Op{clientv3.OpPut(e.Key(revName), string(d.id)), clientv3.OpDelete(e.Key(restoringName))}
	for _, ch := range all {
		d.ops = append(d.ops, e.opsOf(ch)...)
	}
	size := 0
	for name, data := range files {
		d.ops = append(d.ops, clientv3.OpPut(e.Key(filesStart+name), string(data)))
		size += len(data)
	}
	if size > maxFiles {
		return problem.New("STO-009", "the documents beside the state have %d bytes", size)
	}
	if _, err := e.decide(ctx, d); err != nil {
		return fmt.Errorf("concluding the restore: %w", err)
	}
	return nil
}
