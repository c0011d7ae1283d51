package backup

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func made(t testing.TB, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, time.Unix(1795350896, 0))
	for _, name := range files {
		content := "content of " + name
		if err := w.Add(name, int64(len(content)), func(w io.Writer) error { _, err := io.WriteString(w, content); return err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestRestore(t *testing.T) {
	good := made(t, names...)
	dir := filepath.Join(t.TempDir(), "new", "state")
	s, err := Restore(bytes.NewReader(good), dir, "mark")
	if err != nil || len(s.Files) != 3 || s.Time.Unix() != 1795350896 {
		t.Fatalf("got %+v, %v", s, err)
	}
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "content of "+name {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, MarkFile)); err != nil || string(b) != "mark\n" {
		t.Errorf("the mark: got %q, %v", b, err)
	}
	if _, err := Restore(bytes.NewReader(good), dir, "mark"); problem.CodeOf(err) != "STO-022" {
		t.Errorf("over a state: got %v, want STO-022", err)
	}
	empty := t.TempDir()
	if _, err := Restore(bytes.NewReader(made(t, "seal.json", "state.db")), empty, "mark"); err != nil {
		t.Errorf("into an empty folder: %v", err)
	}
}

// TestDamage cuts and changes a backup at every place.
func TestDamage(t *testing.T) {
	good := made(t, names...)
	parent := t.TempDir()
	refused := func(what string, at int, b []byte) {
		t.Helper()
		if _, err := Restore(bytes.NewReader(b), filepath.Join(parent, "state"), "mark"); problem.CodeOf(err) != "STO-023" {
			t.Errorf("%s at %d: got %v, want STO-023", what, at, err)
		}
	}
	for i := range good {
		refused("cut", i, good[:i])
		changed := bytes.Clone(good)
		changed[i] ^= 1
		refused("changed", i, changed)
	}
	refused("longer", len(good), append(bytes.Clone(good), 'x'))
	for _, files := range [][]string{{"seal.json"}, {"state.db"}, {}, {"state.db", "seal.json"}, {"seal.json", "seal.json", "state.db"}, {"../x", "seal.json", "state.db"}} {
		refused(strings.Join(files, ","), 0, made(t, files...))
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("refused restores left %v, %v", left, err)
	}
}

func TestAnnouncedSize(t *testing.T) {
	w := NewWriter(io.Discard, time.Now())
	if err := w.Add("state.db", 3, func(w io.Writer) error { _, err := io.WriteString(w, "four"); return err }); err == nil {
		t.Error("a file of another size than announced was taken")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(made(f, names...))
	f.Add([]byte(firstLine + `{"size":0,"sha256":"","end":true}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Verify(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(s.Files) < 2 || s.Time.IsZero() {
			t.Errorf("%q passed as %+v", b, s)
		}
	})
}
