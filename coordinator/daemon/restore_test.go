package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestBackupAndRestore(t *testing.T) {
	m := newMachine(t)
	alice, bob := newMember(t, "alice"), newMember(t, "bob")
	addr, stop, set := deployed(t, m, m.config(), "", 1, alice, bob)
	cl, err := m.dial(addr.Client, "", alice.cert)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var file bytes.Buffer
	if err := cl.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	s, err := backup.Verify(bytes.NewReader(file.Bytes()))
	if err != nil || len(s.Files) != 3 {
		t.Fatalf("got %+v, %v, want three files", s, err)
	}
	for _, plain := range []string{"shop.example", "BEGIN EC PRIVATE", "\"manifest\""} {
		// The recovery document names its holders, and is no secret; the rest is sealed.
		if bytes.Contains(file.Bytes()[file.Len()-int(s.Files[2].Size)-100:], []byte(plain)) {
			t.Errorf("the sealed state shows %q", plain)
		}
	}
	nobody, err := m.dial(addr.Client, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := nobody.Backup(t.Context(), new(bytes.Buffer)); problem.CodeOf(err) != "CRD-015" {
		t.Errorf("nobody: got %v, want CRD-015", err)
	}
	nobody.Close()
	if _, err := cl.SetManifest(t.Context(), recoverable(t, "", "2h", 1, alice, bob), set.Digest, risks...); err != nil {
		t.Fatal(err)
	}
	kindsLogged(t, cl, map[string]int{"backup": 1, "restored": 0})
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	path := filepath.Join(m.dir, "state.backup")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if code := Main([]string{"restore", "--from", path, "--state", m.config().State}, func(string) string { return "" }, &out, &out); code == 0 || !strings.Contains(out.String(), "STO-022") {
		t.Errorf("over the state: got %d %s, want STO-022", code, out.String())
	}
	c := m.config()
	c.State = filepath.Join(m.dir, "restored")
	if code := Main([]string{"restore", "--from", path, "--state", c.State}, func(string) string { return "" }, &out, &out); code != 0 {
		t.Fatal(out.String())
	}
	for start := range 2 { // one epoch, however often it starts
		addr, stop := run(t, c)
		cl, err := m.dial(addr.Client, "", alice.cert)
		if err != nil {
			t.Fatal(err)
		}
		v := cl.Verified()
		if v.Epoch.Number != 2 || v.Epoch.Cause != "restore" || v.Statement.Revision != 1 {
			t.Errorf("start %d: got epoch %+v at revision %d, want the second at revision 1", start, v.Epoch, v.Statement.Revision)
		}
		kindsLogged(t, cl, map[string]int{"restored": 1})
		cl.Close()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(c.State, backup.MarkFile)); err == nil {
		t.Error("the mark of the restore is still there")
	}
	// On another machine, the holders open it.
	other := newMachine(t)
	c.State = filepath.Join(m.dir, "elsewhere")
	if err := Restore(path, c.State, &out); err != nil {
		t.Fatal(err)
	}
	there := other.config()
	there.State = c.State
	waiting, ready, stop := waits(t, there)
	if p, err := give(t, other.session(t, waiting.Client, apiv1.PurposeRecover), bob); err != nil || !p.Done {
		t.Fatalf("got %+v, %v", p, err)
	}
	again, err := other.dial(ready().Client, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if e := again.Verified().Epoch; e.Number != 3 || e.Cause != "recovery" {
		t.Errorf("got epoch %+v, want the third: restored, then recovered", e)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
