package command

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

func noEnv(string) string { return "" }

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "bin")
	envoy := filepath.Join(t.TempDir(), "some-envoy")
	if err := os.WriteFile(envoy, []byte("first"), 0o700); err != nil {
		t.Fatal(err)
	}
	do := func() string {
		t.Helper()
		var out strings.Builder
		if err := install([]string{"--envoy", envoy, dir}, noEnv, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if out := do(); strings.Count(out, "installed") != 2 {
		t.Errorf("got %q, want both installed", out)
	}
	marble, err := os.Stat(filepath.Join(dir, "ashlar-marble"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(envoy, []byte("second"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out := do(); strings.Count(out, "installed") != 1 || strings.Count(out, "is there already") != 1 {
		t.Errorf("got %q, want Envoy replaced and ashlar-marble kept", out)
	}
	if again, err := os.Stat(filepath.Join(dir, "ashlar-marble")); err != nil || !os.SameFile(marble, again) || again.Mode() != 0o755 {
		t.Errorf("ashlar-marble was replaced, or is %v", again)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "envoy")); err != nil || string(got) != "second" {
		t.Errorf("got Envoy %q, %v", got, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("got %v, want nothing else", entries)
	}
}

// Envoy's libraries come along, so that an image without a libc will do.
func TestInstallBringsLibraries(t *testing.T) {
	beside, dir := t.TempDir(), filepath.Join(t.TempDir(), "bin")
	envoy := filepath.Join(beside, "envoy")
	if err := os.Mkdir(filepath.Join(beside, "envoy-lib"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{envoy: "envoy", filepath.Join(beside, "envoy-lib", "libc.so.6"): "libc"} {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := install([]string{"--envoy", envoy, dir}, noEnv, &out); err != nil || strings.Count(out.String(), "installed") != 3 {
		t.Fatalf("got %v, %q, want three files installed", err, out.String())
	}
	if got, err := os.ReadFile(filepath.Join(dir, "envoy-lib", "libc.so.6")); err != nil || string(got) != "libc" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := os.Mkdir(filepath.Join(beside, "envoy-lib", "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := install([]string{"--envoy", envoy, dir}, noEnv, &out); problem.CodeOf(err) != "MRB-060" {
		t.Errorf("a folder among the libraries: got %v, want MRB-060", err)
	}
}

// A link in the folder is replaced, never written through.
func TestInstallReplacesALink(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("kept"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, "ashlar-marble")); err != nil {
		t.Fatal(err)
	}
	if err := install([]string{"--envoy", "none", dir}, noEnv, new(strings.Builder)); err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(filepath.Join(dir, "ashlar-marble"))
	if got, _ := os.ReadFile(other); string(got) != "kept" || err != nil || !st.Mode().IsRegular() {
		t.Errorf("got %v, and the link's target %q", st, got)
	}
}

func TestInstallRefusals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[problem.Code][]string{
		"MRB-001": {}, "MRB-060": {"--envoy", "none", filepath.Join(file, "bin")}, "MRB-061": {"--envoy", file, t.TempDir()},
	} {
		if err := install(args, noEnv, new(strings.Builder)); problem.CodeOf(err) != want {
			t.Errorf("%q: got %v, want %s", args, err, want)
		}
	}
	if err := install([]string{"--envoi", "none", "x"}, noEnv, new(strings.Builder)); err == nil || !strings.Contains(err.Error(), "--envoy") {
		t.Errorf("got %v, want the flag that was meant", err)
	}
	t.Setenv("PATH", "")
	if err := install([]string{t.TempDir()}, noEnv, new(strings.Builder)); problem.CodeOf(err) != "MRB-061" {
		t.Errorf("got %v, want MRB-061", err)
	}
}

// A pod: an init container installs, and the program's container, of a user that
// is nobody in particular, has a volume that anybody may write to.
func TestRunsAsAnyUserOutOfAVolume(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	for _, dir := range []string{filepath.Dir(x.dir), x.dir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	volume := func(name string) string {
		dir := filepath.Join(x.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o777); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		return dir
	}
	bin, run, secrets, out := volume("bin"), volume("run"), volume("secrets"), volume("out")
	b := marbletest.Behaviour{Parameters: x.parameters(map[string]string{"SECRET_FILE": secrets + "/key"})}
	x.out = filepath.Join(out, "out.json")
	b.Parameters.Env["OUT"] = x.out
	b.Parameters.Files = map[string]string{secrets + "/key": "of the pod"}
	x.coordinator.Behave(b)
	for _, path := range []string{x.platform, x.root} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	installer := exec.Command(os.Args[0], "install", "--envoy", "none", bin)
	installer.Env = []string{"ROLE=marble"}
	if said, err := installer.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	marble := filepath.Join(bin, "ashlar-marble")
	p := &process{Cmd: exec.Command(marble, "run", "--", marble, "one"), done: make(chan struct{})}
	p.Env = []string{"ROLE=marble", "ASHLAR_MARBLE=web", "ASHLAR_COORDINATOR=" + x.coordinator.Address, "ASHLAR_COORDINATOR_ROOT=" + x.root,
		"ASHLAR_IP=127.0.77.1", "ASHLAR_ENVOY=none", "ASHLAR_TEE=sim:sgx", "ASHLAR_SIM_SOCKET=" + x.platform, "ASHLAR_DIR=" + run, "ASHLAR_READY_ADDR=0.0.0.0:" + port}
	p.Stderr = &p.stderr
	if os.Geteuid() == 0 {
		p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.done); p.Wait() }() //nolint:errcheck // the exit code is looked at
	t.Cleanup(func() { p.Process.Kill(); <-p.done })
	x.await("the program runs and is ready", p, func() bool {
		resp, err := http.Get("http://127.0.0.1:" + port + "/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		_, runs := x.seen()
		return runs && resp.StatusCode == 200
	})
	if s, ok := x.seen(); !ok || s.Secret != "of the pod" {
		t.Errorf("the program saw %+v", s)
	}
	p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit code says it
	if code := p.code(t); code != 42 {
		t.Errorf("got exit code %d, want the program's 42\n%s", code, p.stderr.String())
	}
	if left, _ := os.ReadDir(secrets); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
