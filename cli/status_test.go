package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

func TestRunningCountsWhoIsConnected(t *testing.T) {
	for name, c := range map[string]struct {
		stages []string
		want   int
	}{
		"none":             {nil, 0},
		"one runs":         {[]string{"running"}, 1},
		"degraded runs":    {[]string{"degraded"}, 1},
		"not reported yet": {[]string{""}, 1},
		"gone":             {[]string{"disconnected"}, 0},
		"one of two":       {[]string{"disconnected", "running"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := apiv1.Marble{}
			for _, s := range c.stages {
				m.Instances = append(m.Instances, apiv1.Instance{Stage: s})
			}
			if got := running(m); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestStatusListsReplicas(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	all := []apiv1.Replica{
		{Name: "m1", Role: apiv1.ReplicaActive, TEE: "sgx", Version: "1.2.0", Since: at.Add(-2 * time.Minute)},
		{Name: "m2", Role: apiv1.ReplicaStandby, TEE: "sgx", Version: "1.2.0", Since: at.Add(-time.Minute)},
		{Name: "m3", Role: apiv1.ReplicaJoining, Since: at.Add(-time.Minute), Reason: "nobody was admitted\x1b[2J"},
	}
	for name, c := range map[string]struct {
		replicas []apiv1.Replica
		want     []string // in order
	}{
		"one alone": {nil, nil},
		"three": {all, []string{"COORDINATOR", "ROLE", "SINCE", "TEE", "VERSION", "NOTE",
			"m1", "active", "2026-11-20T11:58:00Z", "sgx", "1.2.0", "m2", "standby", "m3", "joining", "-", "! nobody was admitted"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{p: &term.Printer{Out: &out, Err: &out, Now: func() time.Time { return at }}}
			a.replicaTable(c.replicas)
			rest := out.String()
			if len(c.want) == 0 && rest != "" || strings.Contains(rest, "\x1b") {
				t.Errorf("got %q, want nothing else than %q", rest, c.want)
			}
			for _, cell := range c.want {
				_, after, found := strings.Cut(rest, cell)
				if !found {
					t.Fatalf("got\n%s\nwant %q in it, in this order", out.String(), cell)
				}
				rest = after
			}
		})
	}
}
