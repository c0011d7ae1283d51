package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// operator is somebody at a shell: a working directory with a trust folder, and
// the built command.
type operator struct {
	t   *testing.T
	bin string
	dir string
	env []string
}

// outcome is what one command printed and ended with.
type outcome struct {
	stdout, stderr string
	code           int
}

func newOperator(t *testing.T) *operator {
	bin, envoy := binaries(t)
	abs, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	return &operator{t: t, bin: filepath.Join(abs, "ashlar"), dir: t.TempDir(), env: append(os.Environ(), "ASHLAR_ENVOY="+envoy)}
}

func (o *operator) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, o.bin, args...)
	cmd.Dir, cmd.Env = o.dir, o.env
	return cmd
}

// run runs a command line to its end.
func (o *operator) run(args ...string) outcome {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 30*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := o.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		o.t.Fatalf("ashlar %s: %v", strings.Join(args, " "), err)
	}
	got := outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if strings.Contains(got.stdout+got.stderr, "\x1b") {
		o.t.Errorf("ashlar %s: an escape code in a pipe", strings.Join(args, " "))
	}
	return got
}

// must runs a command line that has to end with a code.
func (o *operator) must(code int, args ...string) outcome {
	o.t.Helper()
	got := o.run(args...)
	if got.code != code {
		o.t.Fatalf("ashlar %s: got exit %d, want %d\n%s%s", strings.Join(args, " "), got.code, code, got.stdout, got.stderr)
	}
	return got
}

// folded is where a long line was broken.
var folded = regexp.MustCompile(`\n(SIMULATION )? +`)

// wants checks that a text has parts, wherever its lines were folded.
func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	flat := folded.ReplaceAllString(text, " ")
	for _, p := range parts {
		if !strings.Contains(flat, p) {
			t.Errorf("got %q, want %q in it", text, p)
		}
	}
}

// document runs a command with -o json, and with -o yaml to see that it has one.
func document[T any](o *operator, args ...string) T {
	o.t.Helper()
	var v T
	got := o.must(0, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(got.stdout), &v); err != nil {
		o.t.Fatalf("ashlar %s -o json: %v\n%s", strings.Join(args, " "), err, got.stdout)
	}
	if y := o.must(0, append(args, "-o", "yaml")...); strings.HasPrefix(y.stdout, "{") || y.stdout == "" {
		o.t.Errorf("ashlar %s -o yaml: got %.80q", strings.Join(args, " "), y.stdout)
	}
	return v
}

// edit writes the manifest in force, changed, to a file.
func (o *operator) edit(name string, change func(doc map[string]any)) string {
	o.t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(o.must(0, "manifest", "get").stdout), &doc); err != nil {
		o.t.Fatal(err)
	}
	change(doc)
	raw, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		o.t.Fatal(err)
	}
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, append(raw, '\n'), 0o600); err != nil {
		o.t.Fatal(err)
	}
	return path
}

// gatewayRoutes replaces what gateway may ask of web.
func gatewayRoutes(routes ...string) func(map[string]any) {
	return func(doc map[string]any) {
		gateway := doc["marbles"].(map[string]any)["gateway"].(map[string]any)
		gateway["calls"].([]any)[0].(map[string]any)["routes"] = routes
	}
}

func TestCommands(t *testing.T) {
	d := up(t, nil)
	o := newOperator(t)
	t.Run("verify", func(t *testing.T) { o.verifies(t, d) })
	t.Run("look", func(t *testing.T) { o.looks(t) })
	t.Run("explain", func(t *testing.T) { o.explains(t, d) })
	t.Run("plan", func(t *testing.T) { o.plans(t, d) })
	t.Run("floor", func(t *testing.T) { o.floors(t, d) })
	t.Run("set", func(t *testing.T) { o.sets(t, d) })
	t.Run("race", func(t *testing.T) { o.races(t, d) })
}

// verifies: the wrong policy writes nothing, the right one a bundle that curl
// takes.
func (o *operator) verifies(t *testing.T, d *deployment) {
	o.t = t
	policy, err := os.ReadFile(d.PolicyFile())
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(policy, &doc); err != nil {
		t.Fatal(err)
	}
	doc["package"].(map[string]any)["sim"].(map[string]any)["program"] = []string{strings.Repeat("00", 32)}
	policy, err = json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(o.dir, "wrong.json")
	if err := os.WriteFile(wrong, policy, 0o600); err != nil {
		t.Fatal(err)
	}
	got := o.must(3, "verify", d.Client, "--policy", wrong)
	wants(t, got.stdout, "sim.program", "00000000…", "✗", "ATT-012")
	if _, err := os.Stat(filepath.Join(o.dir, ".ashlar")); !os.IsNotExist(err) {
		t.Errorf("a refused coordinator left files: %v", err)
	}
	o.must(3, "status")

	o.must(0, "verify", d.Client, "--policy", d.PolicyFile(), "--dry-run")
	if _, err := os.Stat(filepath.Join(o.dir, ".ashlar")); !os.IsNotExist(err) {
		t.Errorf("a dry run left files: %v", err)
	}
	got = o.must(0, "verify", d.Client, "--policy", d.PolicyFile(), "--manifest", d.ManifestFile())
	wants(t, got.stdout, "byte for byte", "Verified. Wrote .ashlar/bundle.pem")
	everyLineIsSimulation(t, got.stdout)
	got = o.must(3, "verify", "--manifest", strings.Repeat("ab", 32))
	wants(t, got.stderr, "CRD-102")

	curl := exec.CommandContext(t.Context(), "curl", "-sS", "--max-time", "5", "--cacert", ".ashlar/bundle.pem", "https://localhost:4433/v1/status")
	curl.Dir = o.dir
	body, err := curl.CombinedOutput()
	if err != nil || !strings.Contains(string(body), `"state":"serving"`) {
		t.Errorf("curl with the bundle: got %s, %v", body, err)
	}
}

func everyLineIsSimulation(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "SIMULATION ") {
			t.Errorf("got line %q without SIMULATION", line)
		}
	}
}

// looks: what shows the deployment, as text, tables and documents.
func (o *operator) looks(t *testing.T) {
	o.t = t
	status := document[apiv1.Status](o, "status")
	if status.State != "serving" || status.Marbles != 5 || !status.Simulation {
		t.Errorf("got %+v, want five marbles serving in simulation", status)
	}
	everyLineIsSimulation(t, o.must(0, "status").stdout)
	list := document[[]apiv1.Marble](o, "marble", "list")
	rows := strings.Count(o.must(0, "marble", "list").stdout, "\n")
	if len(list) != 5 || rows != len(list)+1 {
		t.Errorf("got %d marbles in JSON and %d lines in text, want the same rows and a header", len(list), rows)
	}
	wants(t, o.must(0, "marble", "list", "-o", "wide").stdout, "PACKAGE", "127.0.77.12", "connected")
	web := document[apiv1.Marble](o, "marble", "show", "web")
	if len(web.Instances) != 1 || web.Instances[0].SPIFFEID != "spiffe://shop.example/web" {
		t.Errorf("got %+v, want one instance of web", web)
	}
	wants(t, o.must(0, "marble", "show", "web").stdout, "spiffe://shop.example/web", "listener applied")
	wants(t, o.must(1, "marble", "show", "wbe").stderr, `did you mean "web"`, "CRD-030")
	wants(t, o.must(0, "cert", "inspect", "127.0.0.1:4433").stdout, "CN=Ashlar coordinator", "localhost")
	wants(t, o.must(0, "cert", "inspect", webInbound).stdout, "spiffe://shop.example/web", "sim:tdx evidence", "leaf hash")
	wants(t, o.must(0, "check").stdout, "evidence meets the policy", "0 failed")
	document[map[string]any](o, "check")
	document[[]any](o, "cert", "inspect", webInbound)
	for _, args := range [][]string{{"status"}, {"marble", "list"}, {"marble", "show", "web"}, {"check"}, {"verify"}, {"cert", "inspect", webInbound}} {
		o.fits80(args...)
	}
}

// fits80 runs a command on a terminal of 80 columns.
func (o *operator) fits80(args ...string) {
	o.t.Helper()
	script, err := exec.LookPath("script")
	if err != nil {
		o.t.Skip("script(1) is not here: no terminal to try")
	}
	cmd := exec.CommandContext(o.t.Context(), script, "-qec", o.bin+" "+strings.Join(args, " ")+" 2>/dev/null", "/dev/null")
	cmd.Dir, cmd.Env = o.dir, append(o.env, "NO_COLOR=1")
	out, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("ashlar %s on a terminal: %v\n%s", strings.Join(args, " "), err, out)
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimRight(line, "\r\n"); len([]rune(line)) > 80 || strings.Contains(line, "\x1b") {
			o.t.Errorf("ashlar %s: a line of %d columns, or an escape code under NO_COLOR: %q", strings.Join(args, " "), len([]rune(line)), line)
		}
	}
}

// explains: an accepted decision, and a refused one by the beginning of its id.
func (o *operator) explains(t *testing.T, d *deployment) {
	o.t = t
	accepted := document[apiv1.Marble](o, "marble", "show", "web").Instances[0].Decision
	wants(t, o.must(0, "explain", accepted).stdout, "was accepted", "sim.program", "audit record")
	code, said, err := d.RunTampered(t.Context())
	if err != nil || code != 3 {
		t.Fatalf("got exit %d, %v; want the tampered gateway refused\n%s", code, err, said)
	}
	refusal := document[apiv1.Marble](o, "marble", "show", "gateway").LastRefusal
	if refusal == nil {
		t.Fatal("gateway shows no refusal")
	}
	for _, id := range []string{refusal.ID, refusal.ID[:len("gateway/")+4]} {
		got := o.must(0, "explain", id, "--cert", d.CertFile(), "--key", d.KeyFile())
		wants(t, got.stdout, refusal.ID, "was refused", "ATT-012", "sim.program", "✗", "nearest package: gateway")
		got = o.must(0, "explain", id)
		wants(t, got.stdout+got.stderr, refusal.ID, "was refused", "ATT-012", "sim.program", "✗", "not shown", "--cert")
	}
	if v := document[apiv1.Decision](o, "explain", refusal.ID); v.Accepted || v.Verdict.OK() {
		t.Errorf("got an accepted decision %s, want refused", v.ID)
	}
	wants(t, o.must(0, "status").stdout, "ashlar explain "+refusal.ID)
	o.fits80("explain", refusal.ID)
	o.fits80("status")
	o.must(1, "explain", "gateway/ffffffff")
}

// sets: who may, what it costs, what it changes.
func (o *operator) sets(t *testing.T, d *deployment) {
	o.t = t
	user := []string{"--cert", d.CertFile(), "--key", d.KeyFile()}
	admin := o.edit("admin.json", gatewayRoutes("GET /page", "GET /admin"))
	wants(t, o.must(0, "manifest", "diff", admin).stdout, `+ marbles.gateway.calls["web:http"].routes`, "effects")
	o.must(20, "manifest", "diff", admin, "--exit-code")
	wants(t, o.must(2, "manifest", "set", admin).stderr, "CLI-006", "--yes")
	wants(t, o.must(5, "manifest", "set", admin, "--yes").stderr, "CRD-015")
	o.must(0, append([]string{"manifest", "set", admin, "--dry-run"}, user...)...)
	if s := document[apiv1.Status](o, "status"); s.Revision != 1 {
		t.Fatalf("got revision %d after a dry run, want 1", s.Revision)
	}
	wants(t, o.must(0, append([]string{"manifest", "set", admin, "--yes"}, user...)...).stdout, "revision 2 is in force")
	wants(t, o.must(0, append([]string{"manifest", "set", admin, "--yes"}, user...)...).stdout, "in force already")
	eventually(t, 10*time.Second, func() string {
		if status, body, err := get(t.Context(), shopURL+"/admin"); err != nil || status != 200 {
			return "the new route is not open: " + body
		}
		return ""
	})

	drop := o.edit("drop.json", func(doc map[string]any) {
		doc["secrets"] = map[string]any{}
		doc["marbles"].(map[string]any)["cart"].(map[string]any)["parameters"].(map[string]any)["files"] = map[string]any{}
	})
	wants(t, o.must(2, append([]string{"manifest", "set", drop, "--yes"}, user...)...).stderr, "--accept=drop-secrets")
	wants(t, o.must(2, append([]string{"manifest", "set", drop, "--yes", "--accept=drop-secret"}, user...)...).stderr, "did you mean --accept=drop-secrets?")
	wants(t, o.must(0, append([]string{"manifest", "set", drop, "--yes", "--accept=drop-secrets"}, user...)...).stdout, "revision 3 is in force")
}

// races: two operators at their terminals compare with the same manifest, are
// asked, and say yes. Exactly one gets exit 7 and the other's digest.
func (o *operator) races(t *testing.T, d *deployment) {
	o.t = t
	files := []string{o.edit("a.json", gatewayRoutes("GET /page", "GET /a")), o.edit("b.json", gatewayRoutes("GET /page", "GET /b"))}
	var asked []*atTerminal
	for _, f := range files {
		asked = append(asked, o.terminal("manifest", "set", f, "--cert", d.CertFile(), "--key", d.KeyFile()))
	}
	for _, a := range asked {
		a.await("[y/N]")
	}
	codes := map[int]int{}
	for i, a := range asked {
		code := a.answer("y\n")
		codes[code]++
		if code == 7 {
			raw, err := os.ReadFile(files[1-i])
			if err != nil {
				t.Fatal(err)
			}
			wants(t, a.out.String(), "CRD-013", manifest.DigestOf(raw).String()[:8])
		}
	}
	if codes[0] != 1 || codes[7] != 1 {
		t.Errorf("got exit codes %v, want one 0 and one 7\n%s\n%s", codes, asked[0].out.String(), asked[1].out.String())
	}
	no := o.terminal("manifest", "set", o.edit("c.json", gatewayRoutes("GET /page", "GET /c")), "--cert", d.CertFile(), "--key", d.KeyFile())
	no.await("[y/N]")
	if code := no.answer("n\n"); code != 3 {
		t.Errorf("got exit %d after no, want 3\n%s", code, no.out.String())
	}
}

// TestDevUp runs dev up as its user does, twice in one folder, and looks for
// what it leaves behind.
func TestDevUp(t *testing.T) {
	o := newOperator(t)
	first := o.devUp()
	got := o.must(7, "dev", "up")
	wants(t, got.stderr, "CLI-012", "ashlar dev down")
	o.must(0, "verify", "127.0.0.1:4433", "--policy", ".ashlar/dev/policy.json")
	edited := o.edit("new.json", gatewayRoutes("GET /page", "GET /admin"))
	o.must(0, "manifest", "set", edited, "--yes", "--cert", ".ashlar/dev/alice.pem", "--key", ".ashlar/dev/alice.key")
	wants(t, o.must(0, "dev", "logs", "coordinator").stdout, "level=INFO")
	wants(t, o.must(2, "dev", "logs", "wbe").stderr, "did you mean ashlar dev logs web?")
	wants(t, o.must(0, "dev", "down").stdout, "down")
	o.ended(first)
	o.must(1, "dev", "down")

	second := o.devUp()
	if s := document[apiv1.Status](o, "status"); s.Revision != 2 || s.Instances != 4 {
		t.Errorf("got revision %d with %d instances, want the state of the first run: revision 2, four instances", s.Revision, s.Instances)
	}
	if status, body, err := get(t.Context(), shopURL+"/admin"); err != nil || status != 200 {
		t.Errorf("got %d %s, %v; want the route that the first run's operator opened", status, body, err)
	}
	if err := syscall.Kill(-second.Process.Pid, syscall.SIGINT); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	o.ended(second)
}

// devUp starts dev up in a process group of its own and waits until it says
// that it is up.
func (o *operator) devUp() *exec.Cmd {
	o.t.Helper()
	cmd := o.command(context.Background(), "dev", "up")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(o.dir, "up.log"))
	if err != nil {
		o.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			_ = cmd.Wait()
		}
	})
	eventually(o.t, 40*time.Second, func() string {
		b, err := os.ReadFile(log.Name())
		if err != nil || !bytes.Contains(b, []byte("up. Ctrl-C ends it.")) {
			return "dev up has said: " + string(b)
		}
		return ""
	})
	return cmd
}

// ended waits for dev up and checks that no process and no file outside of its
// folder is left.
func (o *operator) ended(cmd *exec.Cmd) {
	o.t.Helper()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			o.t.Errorf("dev up ended with %v, want exit 0", err)
		}
	case <-time.After(30 * time.Second):
		o.t.Fatal("dev up still runs after 30 s")
	}
	for _, left := range processesIn(o.t, o.dir) {
		o.t.Errorf("left behind: %s", left)
	}
	for _, name := range []string{"dev.pid", "platform.sock", "cart.key"} {
		if _, err := os.Stat(filepath.Join(o.dir, ".ashlar", "dev", name)); !os.IsNotExist(err) {
			o.t.Errorf("left behind: %s (%v)", name, err)
		}
	}
}

// processesIn returns the command lines that name a folder.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if line := strings.ReplaceAll(string(b), "\x00", " "); err == nil && strings.Contains(line, dir) {
			found = append(found, line)
		}
	}
	return found
}
