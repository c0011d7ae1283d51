package bolt_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

type record struct {
	Text string `json:"text"`
}

var records = store.NewTable[record]("records")

// source gives the key that seed stands for.
func source(seed string) seal.Source {
	return seal.Platform("test", "product", func(context.Context, string, []byte) ([]byte, []byte, error) {
		if seed == "" {
			return nil, nil, errors.New("no platform")
		}
		return []byte((seed + "0123456789abcdef")[:16]), nil, nil
	})
}

func create(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := bolt.Create(t.Context(), bolt.Config{Dir: dir, Source: source("a"), Random: rand.Reader})
	if err != nil {
		t.Fatalf("creating: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := bolt.Open(t.Context(), bolt.Config{Dir: dir, Source: source("a")})
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s *store.Store, key, text string) {
	t.Helper()
	err := s.Update(t.Context(), func(tx *store.Tx) error { return records.Put(tx, key, record{text}) })
	if err != nil {
		t.Fatalf("putting %s: %v", key, err)
	}
}

func get(t testing.TB, s *store.Store, key string) string {
	t.Helper()
	var text string
	err := s.View(t.Context(), func(tx *store.Tx) error {
		r, ok := records.Get(tx, key)
		if !ok {
			return fmt.Errorf("no %s", key)
		}
		text = r.Text
		return nil
	})
	if err != nil {
		t.Fatalf("getting %s: %v", key, err)
	}
	return text
}

func TestStateSurvivesReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := create(t, dir)
	for i := range 100 {
		put(t, s, fmt.Sprintf("k%d", i), fmt.Sprintf("v%d", i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	for i := range 100 {
		if got, want := get(t, s, fmt.Sprintf("k%d", i)), fmt.Sprintf("v%d", i); got != want {
			t.Errorf("k%d: got %q, want %q", i, got, want)
		}
	}
}

func TestOpenRefusals(t *testing.T) {
	state := func(dir string) string { return filepath.Join(dir, bolt.StateFile) }
	sealed := func(dir string) string { return filepath.Join(dir, bolt.SealFile) }
	for _, c := range []struct {
		name   string
		want   problem.Code
		seed   string
		change func(t *testing.T, dir string)
	}{
		{"unchanged", "", "a", func(*testing.T, string) {}},
		{"other sealing key", "STO-015", "b", func(*testing.T, string) {}},
		{"no sealing key", "STO-013", "", func(*testing.T, string) {}},
		{"nothing there", "STO-002", "a", func(t *testing.T, dir string) { remove(t, state(dir), sealed(dir)) }},
		{"database gone", "STO-002", "a", func(t *testing.T, dir string) { remove(t, state(dir)) }},
		{"seal gone", "STO-002", "a", func(t *testing.T, dir string) { remove(t, sealed(dir)) }},
		{"creation cut short", "STO-012", "a", func(t *testing.T, dir string) {
			remove(t, sealed(dir))
			rename(t, state(dir), state(dir)+".new")
		}},
		{"creation not quite finished", "", "a", func(t *testing.T, dir string) { rename(t, sealed(dir), sealed(dir)+".new") }},
		{"empty database", "STO-005", "a", func(t *testing.T, dir string) { write(t, state(dir), nil) }},
		{"database cut short", "STO-005", "a", func(t *testing.T, dir string) {
			if err := os.Truncate(state(dir), 8192); err != nil {
				t.Fatal(err)
			}
		}},
		{"foreign database", "STO-003", "a", func(t *testing.T, dir string) { write(t, state(dir), make([]byte, 100_000)) }},
		{"seal of another state", "STO-004", "a", func(t *testing.T, dir string) {
			other := filepath.Join(t.TempDir(), "other")
			create(t, other).Close()
			rename(t, sealed(other), sealed(dir))
		}},
		{"seal cut short", "STO-014", "a", func(t *testing.T, dir string) { write(t, sealed(dir), []byte(`{"version":1`)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			s := create(t, dir)
			put(t, s, "k", "v")
			s.Close()
			c.change(t, dir)
			s, err := bolt.Open(t.Context(), bolt.Config{Dir: dir, Source: source(c.seed)})
			if got := problem.CodeOf(err); got != c.want || (err == nil) != (c.want == "") {
				t.Fatalf("got %v, want code %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "runtime error") {
				t.Errorf("got %q, want words for people", err)
			}
			if err == nil {
				if got := get(t, s, "k"); got != "v" {
					t.Errorf("got %q, want v", got)
				}
				s.Close()
			}
		})
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	create(t, dir)
	_, err := bolt.Open(t.Context(), bolt.Config{Dir: dir, Source: source("a")})
	if got := problem.CodeOf(err); got != "STO-008" {
		t.Fatalf("got %v, want STO-008", err)
	}
	_, err = bolt.Create(t.Context(), bolt.Config{Dir: dir, Source: source("a")})
	if got := problem.CodeOf(err); got != "STO-001" {
		t.Fatalf("got %v, want STO-001", err)
	}
}

func TestCreateStartsOverAfterAnInterruption(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, bolt.StateFile+".new"), []byte("half a page"))
	write(t, filepath.Join(dir, bolt.SealFile+".new"), []byte("{}"))
	s := create(t, dir)
	put(t, s, "k", "v")
	s.Close()
	if got := get(t, open(t, dir), "k"); got != "v" {
		t.Errorf("got %q, want v", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("got %v, %v; want the two files", entries, err)
	}
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStateWithoutBlobs opens a state of the first version, which had none.
func TestStateWithoutBlobs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := create(t, dir)
	load(t, s, 3)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, bolt.StateFile), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("ashlar-blob-v1")) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	var sum [32]byte
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		var err error
		sum, err = storetest.Large.Put(tx, "first", []byte("blob"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := storetest.Large.Read(t.Context(), s, "first", sum); err != nil || string(got) != "blob" {
		t.Errorf("got %q and %v, want the blob", got, err)
	}
}
