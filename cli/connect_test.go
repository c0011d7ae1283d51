package cli

import (
	"strings"
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
