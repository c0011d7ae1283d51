package program_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/program"
)

// TestMain lets the test binary play the wrapped program.
func TestMain(m *testing.M) {
	switch os.Getenv("PLAY") {
	case "":
		os.Exit(m.Run())
	case "exit":
		var code int
		fmt.Sscan(os.Args[1], &code)
		os.Exit(code)
	case "args":
		out := strings.Join(os.Args, "|") + "\n" + strings.Join(os.Environ(), "|")
		if err := os.WriteFile(os.Getenv("OUT"), []byte(out), 0o600); err != nil {
			os.Exit(1)
		}
	case "descriptors":
		open, _ := os.ReadDir("/proc/self/fd")
		var found []string
		for _, e := range open {
			if at, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
				found = append(found, e.Name()+"="+at)
			}
		}
		os.WriteFile(os.Getenv("OUT"), []byte(strings.Join(found, "\n")), 0o600)
	case "signals":
		c := make(chan os.Signal, 8)
		signal.Notify(c, unix.SIGHUP, unix.SIGUSR1, unix.SIGTERM)
		os.WriteFile(os.Getenv("OUT"), nil, 0o600)
		var got []string
		for sig := range c {
			got = append(got, sig.String())
			if sig == unix.SIGTERM {
				os.WriteFile(os.Getenv("OUT"), []byte(strings.Join(got, ",")), 0o600)
				os.Exit(42)
			}
		}
	case "deaf":
		signal.Ignore(unix.SIGTERM)
		os.WriteFile(os.Getenv("OUT"), nil, 0o600)
		time.Sleep(time.Minute)
	case "orphan":
		orphan := exec.Command("/proc/self/exe")
		orphan.Env = []string{"PLAY=deaf", "OUT=" + os.Getenv("OUT") + ".orphan"}
		orphan.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		if orphan.Start() != nil {
			os.Exit(1)
		}
		os.WriteFile(os.Getenv("OUT"), []byte(fmt.Sprint(orphan.Process.Pid)), 0o600)
	}
}

func open(t *testing.T) *program.Program {
	t.Helper()
	p, err := program.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func waitForFile(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s did not appear", path)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"script": "#!/bin/sh\n", "short": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, code string }{
		{"missing", filepath.Join(dir, "none"), "MRB-002"},
		{"folder", dir, "MRB-002"},
		{"not executable", filepath.Join(dir, "plain"), "MRB-002"},
		{"one byte", filepath.Join(dir, "short"), "MRB-002"},
		{"script", filepath.Join(dir, "script"), "MRB-003"},
		{"empty name", "", "MRB-002"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := program.Open(c.path)
			if err == nil {
				p.Close()
			}
			if got := string(problem.CodeOf(err)); got != c.code {
				t.Errorf("got %v, want code %s", err, c.code)
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	for _, want := range []int{0, 1, 7, 255} {
		proc, err := open(t).Start(program.Spec{Argv: []string{"prog", fmt.Sprint(want)}, Env: []string{"PLAY=exit"}})
		if err != nil {
			t.Fatal(err)
		}
		<-proc.Done()
		if got := proc.ExitCode(); got != want {
			t.Errorf("got exit code %d, want %d", got, want)
		}
	}
}

func TestArgvAndEnvironmentAreExact(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	env := []string{"PLAY=args", "OUT=" + out}
	proc, err := open(t).Start(program.Spec{Argv: []string{"other-name", "a b", ""}, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	<-proc.Done()
	got, _ := os.ReadFile(out)
	want := "other-name|a b|\n" + strings.Join(env, "|")
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestProgramGetsNoDescriptors checks that the program has nothing of its
// supervisor's but standard input, output and error: no socket of the agent, no
// connection to the coordinator, no rendered file, not even its own. What the
// supervisor itself inherited it passes on.
func TestProgramGetsNoDescriptors(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	secret, err := os.CreateTemp(t.TempDir(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	out := filepath.Join(t.TempDir(), "out")
	p, err := program.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	process, err := p.Start(program.Spec{Env: []string{"PLAY=descriptors", "OUT=" + out}})
	if err != nil {
		t.Fatal(err)
	}
	<-process.Done()
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(got), "\n") {
		n, at, _ := strings.Cut(line, "=")
		if !strings.Contains("012", n) && strings.HasPrefix(at, "socket:") || at == secret.Name() || at == self {
			t.Errorf("the program has descriptor %s", line)
		}
	}
}

func TestFileMovedAwayStillRuns(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "prog")
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := program.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := os.WriteFile(path+".new", []byte("another program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	proc, err := p.Start(program.Spec{Argv: []string{path, "9"}, Env: []string{"PLAY=exit"}})
	if err != nil {
		t.Fatal(err)
	}
	<-proc.Done()
	if got := proc.ExitCode(); got != 9 {
		t.Errorf("got exit code %d, want 9: the opened file must run, not the one now at its path", got)
	}
}

func TestSignals(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	proc, err := open(t).Start(program.Spec{Env: []string{"PLAY=signals", "OUT=" + out}})
	if err != nil {
		t.Fatal(err)
	}
	waitForFile(t, out)
	signals := make(chan os.Signal)
	go func() {
		signals <- unix.SIGHUP
		time.Sleep(20 * time.Millisecond) // standard signals do not queue in order
		signals <- unix.SIGUSR1
		time.Sleep(20 * time.Millisecond)
		signals <- unix.SIGTERM
	}()
	proc.Forward(signals, 0)
	if got := proc.ExitCode(); got != 42 {
		t.Errorf("got exit code %d, want 42", got)
	}
	if got, _ := os.ReadFile(out); string(got) != "hangup,user defined signal 1,terminated" {
		t.Errorf("got signals %q", got)
	}
}

func TestKilledProgram(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	proc, err := open(t).Start(program.Spec{Env: []string{"PLAY=deaf", "OUT=" + out}})
	if err != nil {
		t.Fatal(err)
	}
	waitForFile(t, out)
	proc.Terminate(time.Millisecond)
	if got := proc.ExitCode(); got != 128+9 {
		t.Errorf("got exit code %d, want 137", got)
	}
	proc.Signal(unix.SIGTERM) // must not reach a stranger with the same pid
}

func TestOrphansAreKilled(t *testing.T) {
	if err := program.Subreaper(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	proc, err := open(t).Start(program.Spec{Env: []string{"PLAY=orphan", "OUT=" + out}})
	if err != nil {
		t.Fatal(err)
	}
	<-proc.Done()
	waitForFile(t, out+".orphan")
	var pid int
	text, _ := os.ReadFile(out)
	fmt.Sscan(string(text), &pid)
	if err := unix.Kill(pid, 0); err != nil {
		t.Fatalf("orphan %d is not there: %v", pid, err)
	}
	proc.KillGroup()
	program.KillOrphans(func(int) bool { return false })
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("orphan %d still lives: %v", pid, err)
	}
}

func TestReapCollectsOrphans(t *testing.T) {
	if err := program.Subreaper(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	proc, err := open(t).Start(program.Spec{Env: []string{"PLAY=orphan", "OUT=" + out}})
	if err != nil {
		t.Fatal(err)
	}
	<-proc.Done()
	waitForFile(t, out+".orphan")
	var pid int
	text, _ := os.ReadFile(out)
	fmt.Sscan(string(text), &pid)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { program.Reap(ctx, 5*time.Millisecond); close(done) }()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for unix.Kill(pid, 0) == nil && time.Now().Before(deadline) {
		time.Sleep(2 * time.Millisecond)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("orphan %d was not collected", pid)
	}
	cancel()
	<-done
}
