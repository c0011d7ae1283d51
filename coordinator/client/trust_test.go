package client

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

func TestTrust(t *testing.T) {
	d := newDeployment(t)
	nonce := bytes.Repeat([]byte{1}, 32)
	verified := func() Verified {
		v, err := VerifyStatement(d.statement(nonce), input(d, nonce))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	dir := filepath.Join(t.TempDir(), "trust")
	if _, err := LoadTrust(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	if err := WriteTrust(dir, Verified{}); err == nil {
		t.Error("wrote trust for nothing")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want no folder before anything passed", err)
	}
	if err := WriteTrust(dir, verified()); err != nil {
		t.Fatal(err)
	}
	got, err := LoadTrust(dir)
	if err != nil || !got.Certificate.Equal(d.root) || got.Checkpoint != string(d.log.Note(4)) || got.LogKey != d.log.VerifierKey() {
		t.Fatalf("got %+v, %v, want the root and the log of 4 entries", got, err)
	}
	var s apiv1.Statement
	b, err := os.ReadFile(filepath.Join(dir, EvidenceFile))
	if err != nil || json.Unmarshal(b, &s) != nil {
		t.Fatalf("evidence cannot be read back: %v", err)
	}
	if _, err := VerifyStatement(s, input(d, nonce)); err != nil {
		t.Errorf("kept evidence judged again: %v", err)
	}
	four := d.log.Fork()
	d.log = logtest.NewLog(1)
	if err := WriteTrust(dir, verified()); problem.CodeOf(err) != "LOG-050" {
		t.Errorf("a shorter log: got %v, want LOG-050", err)
	}
	d.log = four
	d.enter(t, "start", "", nil)
	if err := WriteTrust(dir, verified()); problem.CodeOf(err) != "LOG-058" {
		t.Errorf("a longer log that nobody has followed: got %v, want LOG-058", err)
	}
	if after, _ := LoadTrust(dir); after.Checkpoint != string(d.log.Note(4)) {
		t.Errorf("got %q after a refused write, want the checkpoint over 4", after.Checkpoint)
	}
	d = newDeployment(t)
	if err := WriteTrust(dir, verified()); problem.CodeOf(err) != "CRD-104" {
		t.Errorf("got %v, want CRD-104", err)
	}
	damage(t, dir)
}

// damage checks that a damaged folder is never taken for a new one.
func damage(t *testing.T, dir string) {
	t.Helper()
	root := newDeployment(t).root
	for name, data := range map[string]string{
		TrustFile:  "{",
		BundleFile: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})),
	} {
		path := filepath.Join(dir, name)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{data, "", strings.Repeat("x", 10)} {
			if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadTrust(dir); problem.CodeOf(err) != "CRD-109" || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s = %.10q: got %v, want CRD-109 and not fs.ErrNotExist", name, bad, err)
			}
		}
		if err := os.WriteFile(path, old, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, BundleFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadTrust(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want a damaged folder", err)
	}
}
