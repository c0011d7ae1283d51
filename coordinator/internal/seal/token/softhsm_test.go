//go:build cgo

package token

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// module is SoftHSM's; a machine without it fails these tests: .ci/run installs it.
const module = "/usr/lib/softhsm/libsofthsm2.so"

// hsm is a token of SoftHSM in a folder of the test's own.
type hsm struct {
	t    *testing.T
	dir  string
	spec Spec
}

func newHSM(t *testing.T) *hsm {
	t.Helper()
	h := &hsm{t: t, dir: t.TempDir()}
	conf := filepath.Join(h.dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(h.dir, "tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	h.spec = Spec{Module: module, Token: "ashlar", Key: "state", PINFile: filepath.Join(h.dir, "pin")}
	if err := os.WriteFile(h.spec.PINFile, []byte("4711-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.format("ashlar")
	return h
}

// format makes a new, empty token.
func (h *hsm) format(label string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Join(h.dir, "tokens"), 0o700); err != nil {
		h.t.Fatal(err)
	}
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "8150-officer", "--pin", "4711-secret").CombinedOutput()
	if err != nil {
		h.t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
}

func (h *hsm) remove() {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.dir, "tokens")); err != nil {
		h.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "tokens"), 0o700); err != nil {
		h.t.Fatal(err)
	}
}

// opens tries to open a sealed file.
func (h *hsm) opens(path string) (seal.Key, error) {
	return seal.Open(h.t.Context(), path, New(h.spec))
}

func TestTokenSealsAndOpens(t *testing.T) {
	h := newHSM(t)
	path := filepath.Join(h.dir, "seal.json")
	if _, err := seal.Create(t.Context(), path, New(h.spec), rand.Reader); problem.CodeOf(err) != "REC-044" {
		t.Errorf("before the key was made: got %v, want REC-044", err)
	}
	if err := MakeKey(h.spec); err != nil {
		t.Fatal(err)
	}
	if err := MakeKey(h.spec); err != nil {
		t.Errorf("making it again: %v, want nothing to change", err)
	}
	made, err := seal.Create(t.Context(), path, New(h.spec), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.opens(path)
	if err != nil || got.ID() != made.ID() {
		t.Fatalf("got %v", err)
	}
	text, err := os.ReadFile(path)
	if err != nil || bytes.Contains(text, []byte("4711")) {
		t.Errorf("the file shows the PIN, %v", err)
	}
	h.neverExtractable()

	h.spec.Key = "other"
	if _, err := h.opens(path); problem.CodeOf(err) != "STO-015" {
		t.Errorf("another key's name: got %v, want STO-015", err)
	}
	h.spec.Key = "state"
	moved := filepath.Join(h.dir, "aside")
	if err := os.Rename(filepath.Join(h.dir, "tokens"), moved); err != nil { // gone while the process runs
		t.Fatal(err)
	}
	h.remove()
	if _, err := h.opens(path); problem.CodeOf(err) != "REC-042" {
		t.Errorf("without the token: got %v, want REC-042", err)
	}
	h.format("ashlar")
	if _, err := h.opens(path); problem.CodeOf(err) != "REC-044" {
		t.Errorf("a new token of the name: got %v, want REC-044", err)
	}
	if err := MakeKey(h.spec); err != nil {
		t.Fatal(err)
	}
	if _, err := h.opens(path); problem.CodeOf(err) != "REC-044" {
		t.Errorf("another key of the name: got %v, want REC-044", err)
	}
	h.format("ashlar")
	if _, err := h.opens(path); problem.CodeOf(err) != "REC-042" {
		t.Errorf("two tokens of the name: got %v, want REC-042", err)
	}
	h.remove()
	if err := os.RemoveAll(filepath.Join(h.dir, "tokens")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(moved, filepath.Join(h.dir, "tokens")); err != nil {
		t.Fatal(err)
	}
	if got, err := h.opens(path); err != nil || got.ID() != made.ID() {
		t.Errorf("with the token back: got %v", err)
	}
}

// neverExtractable asks the token for the key's value.
func (h *hsm) neverExtractable() {
	h.t.Helper()
	err := with(h.spec, "4711-secret", func(p *pkcs11.Ctx, session pkcs11.SessionHandle) error {
		key, err := object(p, session, h.spec)
		if err != nil {
			return err
		}
		if v, err := p.GetAttributeValue(session, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)}); err == nil {
			h.t.Errorf("the token gave the key: %d bytes", len(v[0].Value))
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func TestPINIsTriedOnce(t *testing.T) {
	h := newHSM(t)
	if err := MakeKey(h.spec); err != nil {
		t.Fatal(err)
	}
	wrong := h.spec
	wrong.PINFile, wrong.PINEnv = "", "ASHLAR_TEST_PIN"
	if _, _, err := New(wrong).Key(t.Context(), nil); problem.CodeOf(err) != "REC-043" {
		t.Errorf("no PIN: got %v, want REC-043", err)
	}
	t.Setenv("ASHLAR_TEST_PIN", "1234-wrong")
	source := New(wrong)
	for range 3 {
		if _, _, err := source.Key(t.Context(), nil); problem.CodeOf(err) != "REC-043" {
			t.Errorf("wrong PIN: got %v, want REC-043", err)
		}
	}
	t.Setenv("ASHLAR_TEST_PIN", "4711-secret")
	if _, _, err := source.Key(t.Context(), nil); problem.CodeOf(err) != "REC-043" {
		t.Errorf("after a wrong PIN: got %v, want that it is not tried again", err)
	}
	if _, _, err := New(wrong).Key(t.Context(), nil); err != nil {
		t.Errorf("at the next start, with the right one: %v", err)
	}
	gone := h.spec
	gone.Module = filepath.Join(h.dir, "missing.so")
	if _, _, err := New(gone).Key(t.Context(), nil); problem.CodeOf(err) != "REC-041" {
		t.Errorf("no module: got %v, want REC-041", err)
	}
	short, _, err := New(h.spec).Key(t.Context(), []byte("short"))
	if problem.CodeOf(err) != "REC-045" || short.Valid() {
		t.Errorf("nothing to decrypt: got %v, want REC-045", err)
	}
}
