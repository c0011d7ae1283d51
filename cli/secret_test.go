package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestNoValueOnATerminal checks that a value is shown on a terminal only if that
// was asked for.
func TestNoValueOnATerminal(t *testing.T) {
	for args, want := range map[string]problem.Code{"get token": "CLI-060", "get token --reveal": "CLI-008", "get token --out f": "CLI-008"} {
		a := &app{in: strings.NewReader(""), trust: t.TempDir(), p: &term.Printer{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, Now: time.Now, TTY: true}}
		c := a.secretCmd()
		c.SetArgs(strings.Fields(args))
		c.SilenceErrors, c.SilenceUsage = true, true
		if err := c.ExecuteContext(t.Context()); problem.CodeOf(err) != want {
			t.Errorf("%s: got %v, want %s", args, err, want)
		}
	}
}

func TestSecretVersion(t *testing.T) {
	for want, s := range map[string]apiv1.Secret{
		"-": {Type: "symmetric"}, "3": {Version: 3, Present: true}, "3, 2": {Version: 3, Previous: 2, Present: true}, "3, destroyed": {Version: 3},
	} {
		if got := secretVersion(s); got != want {
			t.Errorf("%+v: got %q, want %q", s, got, want)
		}
	}
}
