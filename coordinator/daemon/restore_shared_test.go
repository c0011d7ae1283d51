package daemon

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// backupOf writes the files of a folder into a backup.
func backupOf(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.backup")
	var out bytes.Buffer
	w := backup.NewWriter(&out, time.Now())
	for _, name := range []string{bolt.SealFile, bolt.StateFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(name, int64(len(b)), func(w io.Writer) error { _, err := w.Write(b); return err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestClusterRestore moves a state into etcd: from its folder, and from a backup.
func TestClusterRestore(t *testing.T) {
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	m := newMachine(t)
	c := m.config()
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	file := backupOf(t, c.State)
	damaged := filepath.Join(t.TempDir(), "damaged")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(damaged, b, 0o600); err != nil {
		t.Fatal(err)
	}
	restore := func(from, prefix, state string) error {
		var out strings.Builder
		code := Main([]string{"restore", "--from", from, "--store", server.Location(prefix), "--state", state}, func(string) string { return "" }, &out, &out)
		if code == 0 {
			return nil
		}
		for _, c := range []problem.Code{"STO-002", "STO-022", "STO-023", "STO-030"} {
			if strings.Contains(out.String(), string(c)) {
				return problem.New(c, "%s", out.String())
			}
		}
		return problem.New("CRD-001", "%s", out.String())
	}
	replica := func() string { return filepath.Join(t.TempDir(), "replica") }
	used := replica()
	if err := os.MkdirAll(filepath.Join(used, "more"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name, from, prefix, state string
		want                      problem.Code
	}{
		{"damaged", damaged, "a", replica(), "STO-023"},
		{"a folder without a state", t.TempDir(), "a", replica(), "STO-002"},
		{"a folder in use", c.State, "a", used, "STO-022"},
		{"its own folder", c.State, "a", c.State, "STO-022"},
		{"from the folder", c.State, "a", replica(), ""},
		{"over the state", file, "a", replica(), "STO-022"},
		{"from the backup", file, "b", replica(), ""},
	} {
		if err := restore(s.from, s.prefix, s.state); problem.CodeOf(err) != s.want {
			t.Errorf("%s: got %v, want %q", s.name, err, s.want)
		}
		sealed, err := os.ReadFile(filepath.Join(s.state, bolt.SealFile))
		if s.want == "" && (err != nil || !bytes.Contains(b, sealed)) {
			t.Errorf("%s: seal.json: %v", s.name, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(used), ".restore-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	held := 0
	if err := bolt.Entries(t.Context(), filepath.Join(c.State, bolt.StateFile), func(store.Entry) error { held++; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"a", "b"} {
		l, err := etcd.ParseLocation(server.Location(prefix))
		if err != nil {
			t.Fatal(err)
		}
		cluster, err := etcd.Dial(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		defer cluster.Close()
		found, err := cluster.Engine().Range(t.Context(), "\x00", "\xff", 1000)
		if err != nil || len(found) != held {
			t.Errorf("%s: got %d entries, %v, want %d", prefix, len(found), err, held)
		}
		if mark, err := cluster.Files().Read(t.Context(), backup.MarkFile); err != nil || len(mark) != 33 {
			t.Errorf("%s: the mark: got %q, %v", prefix, mark, err)
		}
	}
}
