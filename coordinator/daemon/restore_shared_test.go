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

// beside connects to where a state is, as the host may.
func beside(t testing.TB, location string) *etcd.Cluster {
	t.Helper()
	l, err := etcd.ParseLocation(location)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := etcd.Dial(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Close() })
	return cluster
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
		cluster := beside(t, server.Location(prefix))
		found, err := cluster.Engine().Range(t.Context(), "\x00", "\xff", 1000)
		if err != nil || len(found) != held {
			t.Errorf("%s: got %d entries, %v, want %d", prefix, len(found), err, held)
		}
		if mark, err := cluster.Files().Read(t.Context(), backup.MarkFile); err != nil || len(mark) != 33 {
			t.Errorf("%s: the mark: got %q, %v", prefix, mark, err)
		}
	}
}

// TestClusterBackup takes a backup of a shared state, and puts it into a folder and
// under another prefix: both open, with their holders, in a new epoch.
func TestClusterBackup(t *testing.T) {
	c, alice, bob := newCrew(t, 1), newMember(t, "alice"), newMember(t, "bob")
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	first := c.run(0)
	first.until("waiting for a manifest", "")
	digest := c.set(first, alice.cert, nil, recoverable(t, "", "1h", 1, alice, bob))
	var file bytes.Buffer
	if err := c.serves(first, alice.cert).Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	if s, err := backup.Verify(bytes.NewReader(file.Bytes())); err != nil || len(s.Files) != 3 {
		t.Fatalf("got %+v, %v, want three files", s, err)
	}
	if left, err := filepath.Glob(filepath.Join(first.config.State, ".backup-*")); err != nil || len(left) > 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
	first.stop()
	path := filepath.Join(t.TempDir(), "state.backup")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	verified := func(where, addr string) {
		t.Helper()
		cl, err := c.machines[0].dial(addr, "", alice.cert)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if e := cl.Verified().Epoch; e.Number != 2 || e.Cause != "restore" {
			t.Errorf("%s: got epoch %+v, want the second", where, e)
		}
		if m, err := cl.Manifest(t.Context()); err != nil || !bytes.Equal(m.Digest, digest) {
			t.Errorf("%s: got manifest %s, %v, want %s", where, m.Digest, err, digest)
		}
		r, err := cl.Recovery(t.Context())
		if err != nil || r.Document == nil || len(r.Document.Holders) != 2 {
			t.Errorf("%s: got %+v, %v, want both holders", where, r.Document, err)
		}
	}
	embedded := c.machines[0].config()
	embedded.State = filepath.Join(t.TempDir(), "embedded")
	if err := Restore(path, embedded.State, io.Discard); err != nil {
		t.Fatal(err)
	}
	addr, stop := run(t, embedded)
	verified("the folder", addr.Client)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "moved")
	if err := RestoreShared(t.Context(), path, c.etcd.Location("moved"), state, io.Discard); err != nil {
		t.Fatal(err)
	}
	for range 2 { // one epoch, however often it starts
		moved := c.run(0, func(o *Config) { o.Store, o.State = c.etcd.Location("moved"), state })
		moved.until("serving", "")
		verified("the other prefix", moved.Client)
		moved.stop()
	}
}
