package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// operator is somebody at a shell: a working directory with a trust folder, and
// the built command.
type operator struct{ *drive.Shell }

func newOperator(t *testing.T) *operator {
	bin, envoy := binaries(t)
	abs, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	return &operator{&drive.Shell{T: t, Program: filepath.Join(abs, "ashlar"), Dir: t.TempDir(), Env: append(os.Environ(), "ASHLAR_ENVOY="+envoy)}}
}

// edit writes the manifest in force, changed, to a file.
func (o *operator) edit(name string, change func(doc map[string]any)) string {
	o.T.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(o.Must(0, "manifest", "get").Stdout), &doc); err != nil {
		o.T.Fatal(err)
	}
	change(doc)
	raw, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		o.T.Fatal(err)
	}
	path := filepath.Join(o.Dir, name)
	if err := os.WriteFile(path, append(raw, '\n'), 0o600); err != nil {
		o.T.Fatal(err)
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
	d.awaitSettled(d.client())
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
	o.T = t
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
	wrong := filepath.Join(o.Dir, "wrong.json")
	if err := os.WriteFile(wrong, policy, 0o600); err != nil {
		t.Fatal(err)
	}
	got := o.Must(3, "verify", d.Client, "--policy", wrong)
	drive.Wants(t, got.Stdout, "sim.program", "00000000…", "✗", "ATT-012")
	if _, err := os.Stat(filepath.Join(o.Dir, ".ashlar")); !os.IsNotExist(err) {
		t.Errorf("a refused coordinator left files: %v", err)
	}
	o.Must(3, "status")

	o.Must(0, "verify", d.Client, "--policy", d.PolicyFile(), "--dry-run")
	if _, err := os.Stat(filepath.Join(o.Dir, ".ashlar")); !os.IsNotExist(err) {
		t.Errorf("a dry run left files: %v", err)
	}
	got = o.Must(0, "verify", d.Client, "--policy", d.PolicyFile(), "--manifest", d.ManifestFile())
	drive.Wants(t, got.Stdout, "byte for byte", "Verified. Wrote .ashlar/bundle.pem")
	everyLineIsSimulation(t, got.Stdout)
	got = o.Must(3, "verify", "--manifest", strings.Repeat("ab", 32))
	drive.Wants(t, got.Stderr, "CRD-102")

	curl := exec.CommandContext(t.Context(), "curl", "-sS", "--max-time", "60", "--cacert", ".ashlar/bundle.pem", "https://localhost:4433/v1/status")
	curl.Dir = o.Dir
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
	o.T = t
	status := drive.Document[apiv1.Status](o.Shell, "status")
	if status.State != "serving" || status.Marbles != 5 || !status.Simulation {
		t.Errorf("got %+v, want five marbles serving in simulation", status)
	}
	everyLineIsSimulation(t, o.Must(0, "status").Stdout)
	list := drive.Document[[]apiv1.Marble](o.Shell, "marble", "list")
	rows := strings.Count(o.Must(0, "marble", "list").Stdout, "\n")
	if len(list) != 5 || rows != len(list)+1 {
		t.Errorf("got %d marbles in JSON and %d lines in text, want the same rows and a header", len(list), rows)
	}
	drive.Wants(t, o.Must(0, "marble", "list", "-o", "wide").Stdout, "PACKAGE", "127.0.77.12", "connected")
	web := drive.Document[apiv1.Marble](o.Shell, "marble", "show", "web")
	if len(web.Instances) != 1 || web.Instances[0].SPIFFEID != "spiffe://shop.example/web" {
		t.Errorf("got %+v, want one instance of web", web)
	}
	drive.Wants(t, o.Must(0, "marble", "show", "web").Stdout, "spiffe://shop.example/web", "listener applied")
	drive.Wants(t, o.Must(1, "marble", "show", "wbe").Stderr, `did you mean "web"`, "CRD-030")
	drive.Wants(t, o.Must(0, "cert", "inspect", "127.0.0.1:4433").Stdout, "CN=Ashlar coordinator", "localhost")
	drive.Wants(t, o.Must(0, "cert", "inspect", webInbound).Stdout, "spiffe://shop.example/web", "sim:tdx evidence", "leaf hash")
	drive.Wants(t, o.Must(0, "check").Stdout, "evidence meets the policy", "0 failed")
	drive.Document[map[string]any](o.Shell, "check")
	drive.Document[[]any](o.Shell, "cert", "inspect", webInbound)
	for _, args := range [][]string{{"status"}, {"marble", "list"}, {"marble", "show", "web"}, {"check"}, {"verify"}, {"cert", "inspect", webInbound}} {
		o.fits80(args...)
	}
}

// fits80 runs a command on a terminal of 80 columns.
func (o *operator) fits80(args ...string) {
	o.T.Helper()
	script, err := exec.LookPath("script")
	if err != nil {
		o.T.Skip("script(1) is not here: no terminal to try")
	}
	cmd := exec.CommandContext(o.T.Context(), script, "-qec", o.Program+" "+strings.Join(args, " ")+" 2>/dev/null", "/dev/null")
	cmd.Dir, cmd.Env = o.Dir, append(o.Env, "NO_COLOR=1")
	out, err := cmd.Output()
	if err != nil {
		o.T.Fatalf("ashlar %s on a terminal: %v\n%s", strings.Join(args, " "), err, out)
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimRight(line, "\r\n"); len([]rune(line)) > 80 || strings.Contains(line, "\x1b") {
			o.T.Errorf("ashlar %s: a line of %d columns, or an escape code under NO_COLOR: %q", strings.Join(args, " "), len([]rune(line)), line)
		}
	}
}

// explains: an accepted decision, and a refused one by the beginning of its id.
func (o *operator) explains(t *testing.T, d *deployment) {
	o.T = t
	accepted := drive.Document[apiv1.Marble](o.Shell, "marble", "show", "web").Instances[0].Decision
	drive.Wants(t, o.Must(0, "explain", accepted).Stdout, "was accepted", "sim.program", "audit record")
	code, said, err := d.RunTampered(t.Context())
	if err != nil || code != 3 {
		t.Fatalf("got exit %d, %v; want the tampered gateway refused\n%s", code, err, said)
	}
	refusal := drive.Document[apiv1.Marble](o.Shell, "marble", "show", "gateway").LastRefusal
	if refusal == nil {
		t.Fatal("gateway shows no refusal")
	}
	for _, id := range []string{refusal.ID, refusal.ID[:len("gateway/")+4]} {
		got := o.Must(0, "explain", id, "--cert", d.CertFile(), "--key", d.KeyFile())
		drive.Wants(t, got.Stdout, refusal.ID, "was refused", "ATT-012", "sim.program", "✗", "nearest package: gateway")
		got = o.Must(0, "explain", id)
		drive.Wants(t, got.Stdout+got.Stderr, refusal.ID, "was refused", "ATT-012", "sim.program", "✗", "not shown", "--cert")
	}
	if v := drive.Document[apiv1.Decision](o.Shell, "explain", refusal.ID); v.Accepted || v.Verdict.OK() {
		t.Errorf("got an accepted decision %s, want refused", v.ID)
	}
	drive.Wants(t, o.Must(0, "status").Stdout, "ashlar explain "+refusal.ID)
	o.fits80("explain", refusal.ID)
	o.fits80("status")
	o.Must(1, "explain", "gateway/ffffffff")
}

// sets: who may, what it costs, what it changes.
func (o *operator) sets(t *testing.T, d *deployment) {
	o.T = t
	user := []string{"--cert", d.CertFile(), "--key", d.KeyFile()}
	admin := o.edit("admin.json", gatewayRoutes("GET /page", "GET /admin"))
	drive.Wants(t, o.Must(0, "manifest", "diff", admin).Stdout, `+ marbles.gateway.calls["web:http"].routes`, "effects")
	o.Must(20, "manifest", "diff", admin, "--exit-code")
	drive.Wants(t, o.Must(2, "manifest", "set", admin).Stderr, "CLI-006", "--yes")
	drive.Wants(t, o.Must(5, "manifest", "set", admin, "--yes").Stderr, "CRD-015")
	o.Must(0, append([]string{"manifest", "set", admin, "--dry-run"}, user...)...)
	if s := drive.Document[apiv1.Status](o.Shell, "status"); s.Revision != 1 {
		t.Fatalf("got revision %d after a dry run, want 1", s.Revision)
	}
	drive.Wants(t, o.Must(0, append([]string{"manifest", "set", admin, "--yes"}, user...)...).Stdout, "revision 2 is in force")
	drive.Wants(t, o.Must(0, append([]string{"manifest", "set", admin, "--yes"}, user...)...).Stdout, "in force already")
	drive.Eventually(t, patience, func() string {
		if status, body, err := get(t.Context(), shopURL+"/admin"); err != nil || status != 200 {
			return "the new route is not open: " + body
		}
		return ""
	})

	drop := o.edit("drop.json", func(doc map[string]any) {
		doc["secrets"] = map[string]any{}
		doc["marbles"].(map[string]any)["cart"].(map[string]any)["parameters"].(map[string]any)["files"] = map[string]any{}
	})
	drive.Wants(t, o.Must(2, append([]string{"manifest", "set", drop, "--yes"}, user...)...).Stderr, "--accept=drop-secrets")
	drive.Wants(t, o.Must(2, append([]string{"manifest", "set", drop, "--yes", "--accept=drop-secret"}, user...)...).Stderr, "did you mean --accept=drop-secrets?")
	drive.Wants(t, o.Must(0, append([]string{"manifest", "set", drop, "--yes", "--accept=drop-secrets"}, user...)...).Stdout, "revision 3 is in force")
}

// races: two operators at their terminals compare with the same manifest, are
// asked, and say yes. Exactly one gets exit 7 and the other's digest.
func (o *operator) races(t *testing.T, d *deployment) {
	o.T = t
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
			drive.Wants(t, a.out.String(), "CRD-013", manifest.DigestOf(raw).String()[:8])
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
	got := o.Must(7, "dev", "up")
	drive.Wants(t, got.Stderr, "CLI-012", "ashlar dev down")
	o.Must(0, "verify", "127.0.0.1:4433", "--policy", ".ashlar/dev/policy.json")
	edited := o.edit("new.json", gatewayRoutes("GET /page", "GET /admin"))
	o.Must(0, "manifest", "set", edited, "--yes", "--cert", ".ashlar/dev/alice.pem", "--key", ".ashlar/dev/alice.key")
	drive.Wants(t, o.Must(0, "dev", "logs", "coordinator").Stdout, "level=INFO")
	drive.Wants(t, o.Must(2, "dev", "logs", "wbe").Stderr, "did you mean ashlar dev logs web?")
	drive.Wants(t, o.Must(0, "dev", "down").Stdout, "down")
	o.ended(first)
	o.Must(1, "dev", "down")

	second := o.devUp()
	if s := drive.Document[apiv1.Status](o.Shell, "status"); s.Revision != 2 || s.Instances != 4 {
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
	o.T.Helper()
	cmd := o.Command(context.Background(), "dev", "up")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(o.Dir, "up.log"))
	if err != nil {
		o.T.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		o.T.Fatal(err)
	}
	o.T.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			_ = cmd.Wait()
		}
	})
	drive.Eventually(o.T, patience, func() string {
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
	o.T.Helper()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			o.T.Errorf("dev up ended with %v, want exit 0", err)
		}
	case <-time.After(patience):
		o.T.Fatalf("dev up still runs after %s", patience)
	}
	for _, left := range processesIn(o.T, o.Dir) {
		o.T.Errorf("left behind: %s", left)
	}
	for _, name := range []string{"dev.pid", "platform.sock", "cart.key"} {
		if _, err := os.Stat(filepath.Join(o.Dir, ".ashlar", "dev", name)); !os.IsNotExist(err) {
			o.T.Errorf("left behind: %s (%v)", name, err)
		}
	}
}

// processesIn returns the command lines that name a folder.
func processesIn(t testing.TB, dir string) []string {
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
