package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// filled makes a state with records, a log and a large blob.
func filled(t testing.TB, e store.Engine) *storetest.Model {
	t.Helper()
	s, model := storetest.Create(t, e), storetest.NewModel()
	for i := range 5 {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			for n := range 30 {
				key := fmt.Sprint(i, "/", n)
				if err := storetest.Values.Put(tx, key, storetest.Value{Text: key}); err != nil {
					return err
				}
				model.Values[key] = key
			}
			if _, err := storetest.Large.Put(tx, fmt.Sprint(i), sized(i, 700<<10)); err != nil {
				return err
			}
			_, err := storetest.Events.Append(tx, fmt.Append(nil, i))
			model.Events = append(model.Events, fmt.Sprint(i))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return model
}

// snapshot writes the snapshot of an engine into a new file.
func snapshot(t testing.TB, e store.Engine) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), bolt.StateFile)
	err := e.(store.Snapshotter).Snapshot(t.Context(), func(size int64, write func(io.Writer) error) error {
		var out bytes.Buffer
		if err := write(&out); err != nil {
			return err
		}
		if int64(out.Len()) != size {
			t.Errorf("got %d bytes, %d were announced", out.Len(), size)
		}
		return os.WriteFile(path, out.Bytes(), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func entriesOf(t testing.TB, path string) map[string][]byte {
	t.Helper()
	held := map[string][]byte{}
	if err := bolt.Entries(t.Context(), path, func(in store.Entry) error { held[in.Key] = bytes.Clone(in.Value); return nil }); err != nil {
		t.Fatal(err)
	}
	return held
}

func putAll(path string) func(func(store.Entry) error) error {
	return func(put func(store.Entry) error) error { return bolt.Entries(context.Background(), path, put) }
}

func TestClusterBackupAndRestore(t *testing.T) {
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	c, to := dial(t, server), dial(t, server)
	c.Scratch = t.TempDir()
	if err := os.MkdirAll(filepath.Join(c.Scratch, scratch+"1", "left"), 0o700); err != nil {
		t.Fatal(err)
	}
	model := filled(t, c.Engine())
	path := snapshot(t, c.Engine())
	held, _ := all(t, c.Engine())
	same(t, "the backup", entriesOf(t, path), held)
	if left, err := os.ReadDir(c.Scratch); err != nil || len(left) != 0 {
		t.Errorf("left of backups: %v, %v", left, err)
	}
	files := map[string][]byte{"restored": []byte("mark\n")}
	if err := to.Restore(t.Context(), files, putAll(path)); err != nil {
		t.Fatal(err)
	}
	model.Check(t, storetest.Open(t, to.Engine()))
	same(t, "the restored state", entriesOf(t, snapshot(t, to.Engine())), held)
	if b, err := to.Files().Read(t.Context(), "restored"); err != nil || string(b) != "mark\n" {
		t.Errorf("the mark: got %q, %v", b, err)
	}
	for _, name := range []string{restoringName, stageStart, pendingName} {
		if left := keys(t, to, name); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
	if err := to.Restore(t.Context(), files, putAll(path)); problem.CodeOf(err) != "STO-022" {
		t.Errorf("over a state: got %v, want STO-022", err)
	}
	model.Check(t, storetest.Open(t, to.Engine()))
}

// TestClusterInterruptedRestore stops a restore after each entry: nothing opens,
// nothing is created over it, and the next one succeeds.
func TestClusterInterruptedRestore(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1, "--unsafe-no-fsync"))
	source := storetest.NewDisk()
	model := filled(t, source.Engine())
	held, _ := all(t, source.Engine())
	stopped := errors.New("stopped")
	for at := 0; at <= len(held); at += 7 {
		n := 0
		err := c.Restore(t.Context(), map[string][]byte{"restored": {1}}, func(put func(store.Entry) error) error {
			for _, key := range []string{store.HeadKey, store.FormatKey} { // first, as a hostile file could have them
				if err := put(store.Entry{Key: key, Value: held[key]}); err != nil {
					return err
				}
			}
			for key, value := range held {
				if n++; n > at {
					return stopped
				}
				if err := put(store.Entry{Key: key, Value: value}); err != nil {
					return err
				}
			}
			return stopped
		})
		if !errors.Is(err, stopped) {
			t.Fatalf("at %d: got %v", at, err)
		}
		if _, err := store.Open(t.Context(), store.Config{Engine: c.Engine(), Key: storetest.Key(t)}); problem.CodeOf(err) != "STO-035" {
			t.Fatalf("at %d: opening: got %v, want STO-035", at, err)
		}
		if _, err := store.ReadHead(t.Context(), c.Engine(), storetest.Key(t)); problem.CodeOf(err) != "STO-035" {
			t.Fatalf("at %d: reading the head: got %v, want STO-035", at, err)
		}
		if _, err := store.Create(t.Context(), store.Config{Engine: c.Engine(), Key: storetest.Key(t)}); err == nil {
			t.Fatalf("at %d: a state was created over it", at)
		}
	}
	put := func(put func(store.Entry) error) error {
		for key, value := range held {
			if err := put(store.Entry{Key: key, Value: value}); err != nil {
				return err
			}
		}
		return nil
	}
	headless := maps.Clone(held)
	delete(headless, store.HeadKey)
	if err := c.Restore(t.Context(), nil, func(put func(store.Entry) error) error {
		for key, value := range headless {
			if err := put(store.Entry{Key: key, Value: value}); err != nil {
				return err
			}
		}
		return nil
	}); problem.CodeOf(err) != "STO-006" {
		t.Errorf("without a head: got %v, want STO-006", err)
	}
	// A second restore takes the place of the first.
	var inner error
	if err := c.Restore(t.Context(), nil, func(p func(store.Entry) error) error {
		inner = c.Restore(t.Context(), nil, put)
		return put(p)
	}); problem.CodeOf(err) != "STO-022" || inner != nil {
		t.Errorf("got %v and %v, want STO-022 and success", err, inner)
	}
	model.Check(t, storetest.Open(t, c.Engine()))
}
