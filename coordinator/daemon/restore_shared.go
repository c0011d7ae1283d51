package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// RestoreShared puts a state into etcd where there is none yet, and its seal.json
// into the folder of this replica: that of a backup's file, or that in a folder
// which no coordinator runs on. The next start there begins a new epoch. When it
// is interrupted nothing opens, and it can be done again. The errors are those of
// Restore, STO-002, STO-008 and those of etcd.
func RestoreShared(ctx context.Context, from, location, state string, stdout io.Writer) error {
	l, err := etcd.ParseLocation(location)
	if err != nil {
		return err
	}
	source, of := from, "the folder "+from
	if info, err := os.Stat(from); err != nil {
		return problem.Because(err, "STO-007", "reading the backup")
	} else if !info.IsDir() {
		var remove func()
		if source, of, remove, err = unpack(from, state); err != nil {
			return err
		}
		defer remove()
	}
	if presence, err := bolt.Look(source); err != nil {
		return err
	} else if presence != bolt.Present {
		return problem.New("STO-002", "the state in %s is %s", source, presence)
	}
	cluster, err := etcd.Dial(ctx, l)
	if err != nil {
		return err
	}
	defer cluster.Close()
	if err := cluster.Vacant(ctx); err != nil {
		return err
	}
	files, err := recovery.Documents(ctx, recovery.Folder(source))
	if err != nil {
		return err
	}
	files[backup.MarkFile] = []byte(newMark() + "\n")
	if err := placeSeal(source, state); err != nil {
		return err
	}
	if err := cluster.Restore(ctx, files, func(put func(store.Entry) error) error {
		return bolt.Entries(ctx, filepath.Join(source, bolt.StateFile), put)
	}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "Put the state of %s into %s. Whatever happened since is not in it.\nnext: ashlar-coordinator run --store with the same place: a new epoch begins, which everybody sees who verifies it\n", of, l)
	return err
}

// unpack puts a backup's files into a folder of their own beside state.
func unpack(from, state string) (source, of string, remove func(), err error) {
	f, err := os.Open(from)
	if err != nil {
		return "", "", nil, problem.Because(err, "STO-007", "reading the backup")
	}
	defer f.Close()
	parent := filepath.Dir(filepath.Clean(state))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", "", nil, problem.Because(err, "STO-007", "creating %s", parent)
	}
	temp, err := os.MkdirTemp(parent, ".restore-")
	if err != nil {
		return "", "", nil, problem.Because(err, "STO-007", "creating a folder beside %s", state)
	}
	remove = func() { _ = os.RemoveAll(temp) } // nothing of it counts
	source = filepath.Join(temp, "state")
	s, err := backup.Restore(f, source, newMark())
	if err != nil {
		remove()
		return "", "", nil, err
	}
	return source, s.Time.Format(time.RFC3339), remove, nil
}

// placeSeal gives the folder of this replica the sealed key of the state that is in
// source; STO-022 if anything else is there.
func placeSeal(source, state string) error {
	sealed, err := os.ReadFile(filepath.Join(source, bolt.SealFile))
	if err != nil {
		return problem.Because(err, "STO-007", "reading the sealed key").WithNext("start a coordinator on %s once, and stop it", source)
	}
	path := filepath.Join(state, bolt.SealFile)
	there, err := os.ReadDir(state)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return problem.Because(err, "STO-007", "looking into %s", state)
	}
	if old, err := os.ReadFile(path); len(there) == 1 && err == nil && bytes.Equal(old, sealed) {
		return nil // an interrupted restore put it there
	}
	if len(there) > 0 {
		return problem.New("STO-022", "%s is not empty", state)
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return problem.Because(err, "STO-007", "creating %s", state)
	}
	if err := durable.CreateFile(path, sealed, 0o600); err != nil {
		return problem.Because(err, "STO-007", "writing %s", path)
	}
	return nil
}
