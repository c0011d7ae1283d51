package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

func TestRunsTheProgram(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	file := filepath.Join(x.dir, "secrets", "key")
	b := marbletest.Behaviour{Secrets: map[string]*marblepb.Secret{"s": {Value: []byte("top-secret")}},
		Parameters: x.parameters(map[string]string{"SECRET_FILE": file, "CODE": "7", "TOKEN": "{{ hex .Secrets.s }}"})}
	b.Parameters.Files = map[string]string{file: "{{ raw .Secrets.s }}"}
	x.coordinator.Behave(b)
	p := x.start(nil, os.Args[0], "one", "two")
	if code := p.code(t); code != 7 {
		t.Fatalf("got exit code %d, want the program's 7\n%s", code, p.stderr.String())
	}
	s, ok := x.seen()
	if !ok || s.Secret != "top-secret" || strings.Join(s.Args[1:], " ") != "one two" || s.Args[0] != os.Args[0] {
		t.Errorf("the program saw %+v", s)
	}
	env := strings.Join(s.Env, "\n")
	for _, want := range []string{"TOKEN=" + fmt.Sprintf("%x", "top-secret"), "ROLE=program", "TMPDIR=" + x.dir} {
		if !strings.Contains(env, want) {
			t.Errorf("environment lacks %s", want)
		}
	}
	for _, not := range []string{"ASHLAR_MARBLE", "ASHLAR_COORDINATOR", "LD_PRELOAD", "ROLE=marble"} {
		if strings.Contains(env, not) {
			t.Errorf("environment has %s", not)
		}
	}
	if strings.Contains(p.stderr.String(), "top-secret") || strings.Contains(p.stderr.String(), fmt.Sprintf("%x", "top-secret")) {
		t.Error("the secret was logged")
	}
	if left := x.leftovers(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestManifestArgvWins(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	b := marbletest.Behaviour{Parameters: x.parameters(map[string]string{"CODE": "0"})}
	b.Parameters.Argv = []string{"web", "--from-manifest={{ .Marble.Name }}"}
	x.coordinator.Behave(b)
	p := x.start(nil, os.Args[0], "from-host")
	if code := p.code(t); code != 0 {
		t.Fatalf("got exit code %d\n%s", code, p.stderr.String())
	}
	if s, _ := x.seen(); strings.Join(s.Args, " ") != "web --from-manifest=web" {
		t.Errorf("got arguments %q", s.Args)
	}
}

func TestTamperedProgramIsRefusedWithTheTable(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	tampered := filepath.Join(t.TempDir(), "tampered")
	if err := os.WriteFile(tampered, append(content, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	p := x.start(nil, tampered)
	if code := p.code(t); code != 3 {
		t.Errorf("got exit code %d, want 3", code)
	}
	for _, want := range []string{"ATT-012", "field", "wanted", "got", "✗", "✓", "SIMULATION", "  next ", "ashlar explain web/7f2c"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("lacks %q:\n%s", want, p.stderr.String())
		}
	}
	if _, ran := x.seen(); ran {
		t.Error("the program ran")
	}
	if left := x.leftovers(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Only a decision can be explained: what stands beside another error is the
// request's id.
func TestReportNamesDecisionsOnly(t *testing.T) {
	for instance, want := range map[string]bool{"web/7f2c": true, "3c250ec29f9f3b88": false, "": false} {
		err := problem.New("CRD-030", "no marble")
		err.Instance = instance
		var b strings.Builder
		if code := report(&b, err); code != err.Kind().ExitCode() || strings.Contains(b.String(), "ashlar explain") != want {
			t.Errorf("%q: got %d, %q; want the command %v", instance, code, b.String(), want)
		}
	}
}

func TestRefusesBeforeItConnects(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.pem")
	if err := os.WriteFile(wrong, marbletest.NewCA(t).RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		extra []string
		prog  string
		want  int
		code  string
	}{
		{"script", nil, script, 2, "MRB-003"},
		{"missing program", nil, script + "-none", 6, "MRB-002"},
		{"another root", []string{"--coordinator-root", wrong}, os.Args[0], 3, "MRB-005"},
		{"missing measured file", []string{"--measure", script + "-none"}, os.Args[0], 6, "MRB-002"},
		{"Envoy on the program's address", []string{"--envoy", "envoy", "--ip", "127.0.0.1"}, os.Args[0], 2, "MRB-001"},
		{"missing Envoy", []string{"--envoy", script + "-none"}, os.Args[0], 4, "MSH-020"},
		{"open runtime folder", []string{"--dir", "/usr"}, os.Args[0], 3, "MRB-023"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := x.start(c.extra, c.prog)
			if code := p.code(t); code != c.want || !strings.Contains(p.stderr.String(), c.code) {
				t.Errorf("got exit code %d, want %d and %s:\n%s", code, c.want, c.code, p.stderr.String())
			}
			if _, ran := x.seen(); ran {
				t.Error("the program ran")
			}
		})
	}
}

func TestRenderErrorStopsTheStart(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	b := marbletest.Behaviour{Parameters: x.parameters(map[string]string{"TOKEN": "{{ hex .Secrets.none }}"})}
	x.coordinator.Behave(b)
	p := x.start(nil, os.Args[0])
	if code := p.code(t); code != 6 || !strings.Contains(p.stderr.String(), "MRB-011") {
		t.Errorf("got exit code %d:\n%s", code, p.stderr.String())
	}
	if _, ran := x.seen(); ran {
		t.Error("the program ran")
	}
}

func TestSignalsReachTheProgram(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	x.coordinator.Behave(marbletest.Behaviour{Parameters: x.parameters(nil)})
	p := x.start(nil, os.Args[0])
	x.await("ready", p, func() bool { code, stage := x.stage(); return code == 200 && stage == "running" })
	x.await("the program", p, func() bool { _, ok := x.seen(); return ok })
	s, _ := x.seen()
	for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGTERM} {
		p.Process.Signal(sig) //nolint:errcheck // what the program saw is looked at
		x.await(sig.String(), p, func() bool { s, _ := x.seen(); return strings.Contains(strings.Join(s.Signals, ","), sig.String()) })
	}
	if code := p.code(t); code != 42 {
		t.Errorf("got exit code %d, want 42", code)
	}
	if alive(s.PID) {
		t.Error("the program lives on")
	}
}

func TestProgramKilledBySignal(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	x.coordinator.Behave(marbletest.Behaviour{Parameters: x.parameters(nil)})
	p := x.start(nil, os.Args[0])
	x.await("the program", p, func() bool { _, ok := x.seen(); return ok })
	s, _ := x.seen()
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := p.code(t); code != 128+9 {
		t.Errorf("got exit code %d, want 137", code)
	}
}

func TestProgramDiesWithItsSupervisor(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	x.coordinator.Behave(marbletest.Behaviour{Parameters: x.parameters(nil)})
	p := x.start(nil, os.Args[0])
	x.await("the program", p, func() bool { _, ok := x.seen(); return ok })
	s, _ := x.seen()
	p.Process.Kill() //nolint:errcheck // seen below
	x.await("the program's end", p, func() bool { return !alive(s.PID) || zombie(s.PID) })
}

// zombie reports whether a process has ended and nobody has asked.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestStopWhileWaiting(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{Activated: func(*marblepb.ActivateRequest) error { return problem.New("CRD-011", "none") }})
	p := x.start(nil, os.Args[0])
	x.await("waiting for the manifest", p, func() bool { code, stage := x.stage(); return code == 503 && stage == "waiting-for-manifest" })
	p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit code is looked at
	if code := p.code(t); code != 128+15 || !strings.Contains(p.stderr.String(), "MRB-024") {
		t.Errorf("got exit code %d, want 143:\n%s", code, p.stderr.String())
	}
	if left := x.leftovers(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRenewalReplacesFilesAndTellsTheProgram(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	file := filepath.Join(x.dir, "state", "leaf.pem")
	b := marbletest.Behaviour{Life: time.Minute, RenewAfter: 300 * time.Millisecond, Parameters: x.parameters(map[string]string{"SECRET_FILE": file})}
	b.Parameters.Files = map[string]string{file: "{{ pem .Marble.Certificate }}"}
	x.coordinator.Behave(b)
	p := x.start([]string{"--reload-signal", "USR1"}, os.Args[0])
	x.await("the program", p, func() bool { _, ok := x.seen(); return ok })
	first, _ := x.seen()
	x.await("the signal", p, func() bool { s, _ := x.seen(); return len(s.Signals) > 0 && s.Secret != first.Secret })
	p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit code is looked at
	if code := p.code(t); code != 42 {
		t.Errorf("got exit code %d, want 42\n%s", code, p.stderr.String())
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s stays: %v", file, err)
	}
}

func TestEnvoyIsReadyBeforeTheProgramAndGoneAfter(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	x.coordinator.Behave(marbletest.Behaviour{Parameters: x.parameters(nil)})
	dir := filepath.Join(x.dir, "state")
	p := x.start([]string{"--envoy", os.Args[0], "--dir", dir}, os.Args[0])
	envoyPID := func() int {
		b, _ := os.ReadFile(filepath.Join(dir, "envoy.pid"))
		n, _ := strconv.Atoi(string(b))
		return n
	}
	x.await("the program", p, func() bool {
		_, ok := x.seen()
		if ok && envoyPID() == 0 {
			t.Error("the program ran before Envoy was ready")
		}
		return ok
	})
	first := envoyPID()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	x.await("another Envoy", p, func() bool { n := envoyPID(); return n != first && n != 0 })
	x.await("running", p, func() bool { code, stage := x.stage(); return code == 200 && stage == "running" })
	second := envoyPID()
	p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit code is looked at
	if code := p.code(t); code != 42 {
		t.Errorf("got exit code %d, want 42\n%s", code, p.stderr.String())
	}
	if alive(second) {
		t.Error("Envoy lives on")
	}
	if _, err := os.Lstat(filepath.Join(dir, "agent.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the agent's socket stays: %v", err)
	}
}

func TestInstanceIsKeptInTheFolder(t *testing.T) {
	var ids []string
	var mu sync.Mutex
	x := newBench(t, marbletest.Behaviour{Activated: func(r *marblepb.ActivateRequest) error {
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, r.GetInstance().GetId())
		return problem.New("ATT-012", "no")
	}})
	dir := filepath.Join(x.dir, "state")
	for range 2 {
		x.start([]string{"--dir", dir}, os.Args[0]).code(t)
	}
	x.start(nil, os.Args[0]).code(t)
	x.start([]string{"--id", "00000000-0000-4000-8000-000000000001"}, os.Args[0]).code(t)
	mu.Lock()
	defer mu.Unlock()
	if len(ids) != 4 || ids[0] != ids[1] || ids[1] == ids[2] || !isUUID(ids[0]) || !isUUID(ids[2]) || ids[3] != "00000000-0000-4000-8000-000000000001" {
		t.Errorf("got ids %q", ids)
	}
	if err := os.WriteFile(filepath.Join(dir, idFile), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := x.start([]string{"--dir", dir}, os.Args[0]); p.code(t) != 3 {
		t.Errorf("garbage id: got %s", p.stderr.String())
	}
}
