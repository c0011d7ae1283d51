package envoy_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/integration/envoytest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/envoy"
)

func TestRequiredBootstrap(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   envoy.Bootstrap
		ok   bool
	}{
		{"without admin", envoy.Bootstrap{NodeID: "web/1", AgentSocket: "/run/agent.sock"}, true},
		{"with admin", envoy.Bootstrap{NodeID: `a"},{"b`, AgentSocket: "/run/a b.sock", AdminSocket: "/run/admin.sock"}, true},
		{"no agent", envoy.Bootstrap{}, false},
		{"relative", envoy.Bootstrap{AgentSocket: "agent.sock"}, false},
		{"relative admin", envoy.Bootstrap{AgentSocket: "/a", AdminSocket: "b"}, false},
		{"too long", envoy.Bootstrap{AgentSocket: "/" + strings.Repeat("a", 107)}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := envoy.RequiredBootstrap(tc.in)
			if (err == nil) != tc.ok {
				t.Fatalf("got %v, want ok %v", err, tc.ok)
			}
			if !tc.ok {
				return
			}
			var doc struct {
				Node struct{ ID string }
			}
			if err := json.Unmarshal(b, &doc); err != nil {
				t.Fatal(err)
			}
			if doc.Node.ID != tc.in.NodeID {
				t.Errorf("got node %q, want %q", doc.Node.ID, tc.in.NodeID)
			}
			if got := strings.Contains(string(b), `"admin"`); got != (tc.in.AdminSocket != "") {
				t.Errorf("got admin %v", got)
			}
		})
	}
}

func TestBootstrapIsValidForEnvoy(t *testing.T) {
	binary := envoytest.Binary(t)
	path := filepath.Join(t.TempDir(), "envoy.json")
	b, err := envoy.RequiredBootstrap(envoy.Bootstrap{NodeID: "web", AgentSocket: "/run/agent.sock", AdminSocket: "/run/admin.sock"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := envoy.Validate(t.Context(), binary, path); err != nil {
		t.Error(err)
	}
}

func TestStartRefusesWhatCannotRun(t *testing.T) {
	for name, config := range map[string]envoy.Config{
		"no binary":     {Binary: "/nowhere/envoy", AgentSocket: "/run/agent.sock"},
		"not a program": {Binary: "/etc/passwd", AgentSocket: "/run/agent.sock"},
		"no agent":      {Binary: "/bin/true"},
	} {
		t.Run(name, func(t *testing.T) {
			config.Dir = t.TempDir()
			if _, err := envoy.Start(t.Context(), config); problem.CodeOf(err) != "MSH-020" {
				t.Errorf("got %v, want MSH-020", err)
			}
		})
	}
}

// start runs a shell script as if it were Envoy.
func start(t *testing.T, script string) (*envoy.Proxy, string) {
	t.Helper()
	dir := envoytest.Dir(t)
	binary := filepath.Join(dir, "fake")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho $$ >> pids\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := envoy.Start(context.Background(), envoy.Config{Binary: binary, Dir: dir, AgentSocket: "/run/agent.sock"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p, filepath.Join(dir, "pids")
}

// pids waits until n processes have been started, and returns them.
func pids(t *testing.T, path string, n int) []int {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		b, _ := os.ReadFile(path)
		if lines := strings.Fields(string(b)); len(lines) >= n {
			var out []int
			for _, l := range lines {
				pid, err := strconv.Atoi(l)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, pid)
			}
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want %d processes", b, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func gone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

func TestDiesAndIsStartedAgain(t *testing.T) {
	p, path := start(t, "exec sleep 1000")
	first := pids(t, path, 1)[0]
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := pids(t, path, 2)[1]
	if p.Restarts() != 1 || !gone(first) {
		t.Errorf("got %d restarts, first gone %v; want 1, true", p.Restarts(), gone(first))
	}
	p.Stop()
	p.Wait()
	if !gone(second) {
		t.Errorf("process %d is left behind", second)
	}
}

func TestGivesUpOneThatNeverComesUp(t *testing.T) {
	p, path := start(t, "exit 7")
	err := p.Ready(t.Context())
	if problem.CodeOf(err) != "MSH-021" || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("got %v, want MSH-021 with exit status 7", err)
	}
	p.Wait()
	if got := len(pids(t, path, 1)); got != 4 {
		t.Errorf("was started %d times, want 4", got)
	}
}

func TestStopEndsOneThatWillNot(t *testing.T) {
	if testing.Short() {
		t.Skip("waits out the grace")
	}
	p, path := start(t, "trap '' TERM\nwhile :; do sleep 0.05; done")
	pid := pids(t, path, 1)[0]
	p.Stop()
	if !gone(pid) {
		t.Errorf("process %d is left behind", pid)
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	p, _ := start(t, "exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	if err := p.Ready(ctx); problem.CodeOf(err) != "MSH-021" {
		t.Errorf("got %v, want MSH-021", err)
	}
	p.Stop()
	if err := p.Ready(t.Context()); problem.CodeOf(err) != "MSH-021" {
		t.Errorf("after Stop: got %v, want MSH-021", err)
	}
}

// Without an agent Envoy must run, but never claim to be ready.
func TestNotReadyWithoutConfiguration(t *testing.T) {
	dir := envoytest.Dir(t)
	p, err := envoy.Start(t.Context(), envoy.Config{Binary: envoytest.Binary(t), Dir: dir, AgentSocket: filepath.Join(dir, "agent.sock"), NodeID: "web"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		said, err := p.Get(t.Context(), "/ready")
		if strings.Contains(string(said), "PRE_INITIALIZING") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, %v; want PRE_INITIALIZING", said, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = p.Ready(ctx)
	if problem.CodeOf(err) != "MSH-021" || !strings.Contains(err.Error(), "PRE_INITIALIZING") {
		t.Errorf("got %v, want MSH-021 with PRE_INITIALIZING", err)
	}
	if _, err := p.Get(t.Context(), "/config_dump"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("config_dump: got %v, want 403", err)
	}
	info, err := os.Stat(filepath.Join(dir, "admin.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin socket: got %v, %v; want mode 0600", info, err)
	}
}
