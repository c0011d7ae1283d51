package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/durable"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// only checks that nothing but the named files is left in dir.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(names) {
		t.Fatalf("got %v, want %v", entries, names)
	}
	for i, e := range entries {
		if e.Name() != names[i] {
			t.Errorf("got %s, want %s", e.Name(), names[i])
		}
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, text := range []string{"first", "", "a longer third"} {
		if err := durable.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
		only(t, dir, "f")
	}
	info, err := os.Stat(path)
	want := fs.FileMode(0o640)
	if runtime.GOOS == "windows" { // which knows read-only alone
		want = 0o666
	}
	if err != nil || info.Mode().Perm() != want {
		t.Errorf("got mode %v, %v; want %v", info.Mode(), err, want)
	}
}

func TestWriteFileFailures(t *testing.T) {
	dir := t.TempDir()
	if err := durable.WriteFile(filepath.Join(dir, "no", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: got %v, want fs.ErrNotExist", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "d"), nil, 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	only(t, dir, "d")
}

func TestCreateFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := durable.CreateFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.CreateFile(path, []byte("other"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	if got := read(t, path); got != "mine" {
		t.Errorf("got %q, want mine", got)
	}
	only(t, dir, "f")
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := durable.Rename(from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to rename: got %v, want fs.ErrNotExist", err)
	}
	for path, text := range map[string]string{from: "new", to: "old"} {
		if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	if got := read(t, to); got != "new" {
		t.Errorf("got %q, want new", got)
	}
	only(t, dir, "b")
	if err := durable.Rename(to, filepath.Join(t.TempDir(), "b")); err == nil {
		t.Error("renamed across directories")
	}
}
