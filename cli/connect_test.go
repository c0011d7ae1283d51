package cli

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestUpgraded(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		hint bool
	}{
		"other software": {problem.New("CRD-100", "sim.program: wanted a, got b (ATT-012)"), true},
		"out of date":    {problem.New("CRD-100", "tcb.status: wanted UpToDate, got OutOfDate (ATT-014)"), false},
		"unreachable":    {problem.New("CRD-105", "127.0.0.1:4433"), false},
	} {
		t.Run(name, func(t *testing.T) {
			next := problem.From(upgraded(c.err, "shop.example:4433")).Next
			if got := strings.Contains(next, "upgraded on purpose: ashlar verify shop.example:4433"); got != c.hint {
				t.Errorf("got %q, want the hint: %t", next, c.hint)
			}
		})
	}
}

// A coordinator may take over while a command connects: it tries again, and says in
// the end what it met.
func TestConnectionsThatAreCutAreTriedAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var came atomic.Int32
	end := answer(t, l, func(net.Conn) { came.Add(1) })
	policy := filepath.Join(t.TempDir(), "policy.json")
	text := `{"tee": "sgx", "package": {"sgx": {"uniqueID": ["0000000000000000000000000000000000000000000000000000000000000000"]}}}`
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, code := run(t, "verify", l.Addr().String(), "--policy", policy, "--trust", t.TempDir(), "--timeout", "1s")
	end()
	if code != 4 || !strings.Contains(errs, "CRD-105") {
		t.Errorf("got exit %d and %s, want 4 and CRD-105", code, errs)
	}
	if came.Load() < 2 {
		t.Errorf("got %d connections, want it tried again", came.Load())
	}
}
