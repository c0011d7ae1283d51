package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// The test binary plays ashlar-marble, the program that it wraps, and Envoy.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 3 && os.Args[3] == "--disable-hot-restart":
		playEnvoy(filepath.Dir(os.Args[2]))
	case os.Getenv("ROLE") == "marble":
		os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr))
	case os.Getenv("ROLE") == "program":
		playProgram()
	default:
		os.Exit(m.Run())
	}
}

// seen is what the program found when it ran.
type seen struct {
	PID     int
	Args    []string
	Env     []string
	Secret  string
	Signals []string
}

func playProgram() {
	s := seen{PID: os.Getpid(), Args: os.Args, Env: os.Environ()}
	if path := os.Getenv("SECRET_FILE"); path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			os.Exit(90)
		}
		s.Secret = string(b)
	}
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1)
	write := func() {
		b, _ := json.Marshal(s)
		if os.WriteFile(os.Getenv("OUT")+".new", b, 0o600) != nil || os.Rename(os.Getenv("OUT")+".new", os.Getenv("OUT")) != nil {
			os.Exit(91)
		}
	}
	write()
	if code := os.Getenv("CODE"); code != "" {
		n, _ := strconv.Atoi(code)
		os.Exit(n)
	}
	for sig := range c {
		s.Signals = append(s.Signals, sig.String())
		if b, err := os.ReadFile(os.Getenv("SECRET_FILE")); err == nil {
			s.Secret = string(b)
		}
		write()
		if sig == syscall.SIGTERM {
			os.Exit(42)
		}
	}
}

// playEnvoy gets its certificate from the agent and is ready then.
func playEnvoy(dir string) {
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "agent.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		os.Exit(92)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := secret.NewSecretDiscoveryServiceClient(conn).FetchSecrets(ctx, &discovery.DiscoveryRequest{ResourceNames: []string{"default"}})
	if err != nil || len(resp.GetResources()) != 1 {
		os.Exit(93)
	}
	if os.WriteFile(filepath.Join(dir, "envoy.pid"), []byte(strconv.Itoa(os.Getpid())), 0o600) != nil {
		os.Exit(94)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	if err != nil {
		os.Exit(95)
	}
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "LIVE\n") })) //nolint:errcheck // until killed
}

// bench is a machine with a platform and a coordinator.
type bench struct {
	t           *testing.T
	dir         string
	coordinator *marbletest.Coordinator
	platform    string
	root        string
	out         string
	ready       string
}

func newBench(t *testing.T, b marbletest.Behaviour) *bench {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := platform.New(platform.Config{})
	if err != nil {
		t.Fatal(err)
	}
	x := &bench{t: t, dir: dir, platform: filepath.Join(dir, "platform.sock"), root: filepath.Join(dir, "root.pem"),
		out: filepath.Join(dir, "out.json"), ready: filepath.Join(dir, "ready.sock")}
	l, err := net.Listen("unix", x.platform)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { defer close(served); p.Serve(ctx, l) }() //nolint:errcheck // ends by cancel
	t.Cleanup(func() { cancel(); <-served })
	if b.Activated == nil {
		b.Activated = judge(t, p, os.Args[0])
	}
	x.coordinator = marbletest.Start(t, b)
	if err := os.WriteFile(x.root, x.coordinator.CA.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return x
}

// judge accepts evidence for one program alone, as a coordinator would.
func judge(t *testing.T, p *platform.Platform, path string) func(*marblepb.ActivateRequest) error {
	t.Helper()
	digest, err := sim.FileDigest(path)
	if err != nil {
		t.Fatal(err)
	}
	verifiers, err := sim.NewVerifiers(p.Root())
	if err != nil {
		t.Fatal(err)
	}
	policy := attest.Policy{PackageName: "web", Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{digest}}}}
	return func(r *marblepb.ActivateRequest) error {
		e := attest.Evidence{TEE: attest.TEE(r.GetEvidence().GetTee()), Raw: r.GetEvidence().GetRaw()}
		en, err := p.Endorsements(e.TEE)
		if err != nil {
			return err
		}
		v := attest.Judge(attest.NewVerifiers(verifiers...), e, attest.Bind(r.GetEvidence().GetClaimsBuffer()), en, policy, time.Now())
		if v.OK() {
			return nil
		}
		code, text := v.Reason()
		refusal := problem.New(problem.Code(code), "%s", text)
		refusal.Verdict, _ = json.Marshal(v)
		refusal.Instance = "web/7f2c"
		return refusal
	}
}

// process is ashlar-marble as a process of its own.
type process struct {
	*exec.Cmd
	stderr buffer
	done   chan struct{}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (x *bench) start(extra []string, command ...string) *process {
	x.t.Helper()
	args := []string{"run", "--marble", "web", "--coordinator", x.coordinator.Address, "--coordinator-root", x.root,
		"--tee", "sim:sgx", "--sim-socket", x.platform, "--ip", "127.0.77.1", "--envoy", "none", "--ready-addr", x.ready}
	args = append(append(append(args, extra...), "--"), command...)
	p := &process{Cmd: exec.Command(os.Args[0], args...), done: make(chan struct{})}
	p.Env = []string{"ROLE=marble", "TMPDIR=" + x.dir, "PATH=" + os.Getenv("PATH"), "LD_PRELOAD=", "ASHLAR_NOTE=x"}
	p.Stderr, p.Stdout = &p.stderr, &p.stderr
	if err := p.Start(); err != nil {
		x.t.Fatal(err)
	}
	go func() { defer close(p.done); p.Wait() }() //nolint:errcheck // the exit code is looked at
	x.t.Cleanup(func() { p.Process.Kill(); <-p.done })
	return p
}

func (p *process) code(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.Process.Kill() //nolint:errcheck // the test has failed
		t.Fatalf("did not end:\n%s", p.stderr.String())
	}
	return p.ProcessState.ExitCode()
}

// parameters have the test binary play the program.
func (x *bench) parameters(env map[string]string) *marblepb.Parameters {
	all := map[string]string{"ROLE": "program", "OUT": x.out}
	for k, v := range env {
		all[k] = v
	}
	return &marblepb.Parameters{Env: all}
}

func (x *bench) seen() (seen, bool) {
	var s seen
	b, err := os.ReadFile(x.out)
	return s, err == nil && json.Unmarshal(b, &s) == nil
}

func (x *bench) await(what string, p *process, ok func() bool) {
	x.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	x.t.Fatalf("did not happen: %s\n%s", what, p.stderr.String())
}

// stage asks the probe.
func (x *bench) stage() (status int, name string) {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", x.ready)
	}}}
	resp, err := client.Get("http://marble/ready")
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	var s struct{ Stage string }
	json.NewDecoder(resp.Body).Decode(&s) //nolint:errcheck // an empty stage says it
	return resp.StatusCode, s.Stage
}

// leftovers names what lies in the machine's folder besides what the test put
// there.
func (x *bench) leftovers() []string {
	var left []string
	entries, _ := os.ReadDir(x.dir)
	for _, e := range entries {
		switch e.Name() {
		case "platform.sock", "root.pem", "out.json", "state":
		default:
			left = append(left, e.Name())
		}
	}
	return left
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

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
	for _, not := range []string{"ASHLAR_", "LD_PRELOAD", "ROLE=marble"} {
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
	for _, want := range []string{"ATT-012", "field", "wanted", "got", "✗", "✓", "SIMULATION", "next:", "ashlar explain web/7f2c"} {
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
	t.Log(p.stderr.String())
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
		{"open runtime folder", []string{"--dir", "/tmp"}, os.Args[0], 3, "MRB-023"},
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
