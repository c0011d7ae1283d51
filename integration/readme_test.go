package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	tourBlock  = regexp.MustCompile("(?ms)^```sh tour\n(.*?)^```")
	exportLine = regexp.MustCompile("(?m)^export .*\n")
)

// TestReadmeTour runs the README's tour line by line beside a fresh dev up.
func TestReadmeTour(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := tourBlock.FindAllSubmatch(readme, -1)
	if len(blocks) < 5 {
		t.Fatalf("the README has %d blocks of the tour", len(blocks))
	}
	bin, envoy := binaries(t)
	o := newOperator(t)
	if bin, err = filepath.Abs(bin); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "build", "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"build/bin": bin, "build/tools/envoy": envoy} {
		if err := os.Symlink(target, filepath.Join(o.Dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	o.Env = append(o.Env, "PATH="+filepath.Join(o.Dir, "build", "bin")+":"+os.Getenv("PATH"))
	up := o.devUp()
	want := []string{"Verified. Wrote .ashlar/bundle.pem", "plaintext is refused", "4 lose it", "revision 2 is in force", "was refused", "plumb bob", "down"}
	exports := "" // the reader's terminal remembers them
	for i, b := range blocks {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", exports+string(b[1]))
		cmd.Dir, cmd.Env = o.Dir, o.Env
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("block %d of the tour: %v\n%s\n%s", i+1, err, b[1], out)
		}
		exports += strings.Join(exportLine.FindAllString(string(b[1]), -1), "")
		for len(want) > 0 && strings.Contains(string(out), want[0]) {
			want = want[1:]
		}
	}
	if len(want) > 0 {
		t.Errorf("the tour never said %q", want)
	}
	o.ended(up)
}
