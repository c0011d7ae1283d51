//go:build !js

package transparency_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestDocumentedScript runs the script of docs/wire.md, which shares no code with
// this package, over exports that are whole and damaged.
func TestDocumentedScript(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is needed to run the script of docs/wire.md")
	}
	script := filepath.Join(t.TempDir(), "check.py")
	if err := os.WriteFile(script, []byte(block(t, "python")), 0o600); err != nil {
		t.Fatal(err)
	}
	l, privates := decisions(t, 300)
	whole := export(t, l, privates)
	_, vector := filesVector(t)
	for _, c := range []struct {
		name string
		file []byte
		ok   bool
	}{
		{"the vector", vector, true},
		{"whole", whole, true},
		{"altered", bytes.Replace(whole, []byte(`web/0000002a`), []byte(`web/0000002c`), 1), false},
		{"private part altered", bytes.Replace(whole, []byte(`let in`), []byte(`let on`), 1), false},
		{"dropped", joined(append(lines(whole)[:7:7], lines(whole)[8:]...)), false},
	} {
		name := filepath.Join(t.TempDir(), "log.jsonl")
		if err := os.WriteFile(name, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), python, script, name).CombinedOutput()
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v, %s, want ok %t", c.name, err, out, c.ok)
		}
	}
}
