package command

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
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
	"github.com/ashlar-mesh/ashlar/internal/transcript"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// The test binary plays ashlar-marble, the program that it wraps, and Envoy.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 3 && os.Args[3] == "--disable-hot-restart":
		playEnvoy(filepath.Dir(os.Args[2]))
	case os.Getenv("VOLUME") != "":
		mountVolume(os.Getenv("VOLUME"))
	case os.Getenv("ROLE") == "marble":
		playMachine(os.Getenv("MACHINE"))
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
	environ     []string // of ashlar-marble, besides what it needs
	namespaces  *syscall.SysProcAttr
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
	stderr transcript.Buffer
	done   chan struct{}
}

func (x *bench) start(extra []string, command ...string) *process {
	x.t.Helper()
	return x.hardware("", append([]string{"--tee", "sim:sgx", "--sim-socket", x.platform}, extra...), command...)
}

// hardware starts ashlar-marble on one of machines.
func (x *bench) hardware(machine string, extra []string, command ...string) *process {
	x.t.Helper()
	args := []string{"run", "--marble", "web", "--coordinator", x.coordinator.Address, "--coordinator-root", x.root,
		"--ip", "127.0.77.1", "--envoy", "none", "--ready-addr", x.ready}
	args = append(append(append(args, extra...), "--"), command...)
	p := &process{Cmd: exec.Command(os.Args[0], args...), done: make(chan struct{})}
	p.Env = []string{"ROLE=marble", "MACHINE=" + machine, "TMPDIR=" + x.dir, "PATH=" + os.Getenv("PATH"), "LD_PRELOAD=", "ASHLAR_NOTE=x"}
	p.Env = append(p.Env, x.environ...)
	p.SysProcAttr = x.namespaces
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
	case <-time.After(time.Minute):
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
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
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
