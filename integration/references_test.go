package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// TestReferences has a program get a secret whose place holds a reference, as an
// operator sets it up, and has the host try to get it elsewhere.
func TestReferences(t *testing.T) {
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "db", "password")
	bin, _ := binaries(t)
	places := map[string]any{"env": map[string]any{"DB_PASSWORD": []string{"dbPassword"}}, "files": map[string]any{file: []string{"dbPassword"}}}
	d := bare(t, func(doc map[string]any) {
		doc["packages"].(map[string]any)["job"] = map[string]any{"sim": map[string]any{"program": digests(t, shell), "agent": digests(t, filepath.Join(bin, "ashlar-marble"))}}
		doc["marbles"].(map[string]any)["job"] = map[string]any{"package": "job", "parameters": map[string]any{"references": places}}
		doc["secrets"].(map[string]any)["dbPassword"] = map[string]any{"type": "opaque", "readers": []string{"job"}}
		doc["roles"].(map[string]any)["operator"] = map[string]any{"actions": []string{"updateManifest", "writeSecret:*"}}
	})
	if _, err := d.SetManifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := newOperator(t)
	o.Must(0, "verify", "127.0.0.1:4433", "--policy", d.PolicyFile())
	value := filepath.Join(o.Dir, "value")
	if err := os.WriteFile(value, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Must(0, "secret", "set", "dbPassword", "--file", value, "--cert", d.CertFile(), "--key", d.KeyFile())

	ref := o.Must(0, "secret", "ref", "dbPassword", "--as", "hex", "--path", file)
	drive.Wants(t, ref.Stderr, "marbles.job.parameters lists the place already")
	folder := filepath.Join(o.Dir, "references")
	if err := os.MkdirAll(filepath.Dir(filepath.Join(folder, file)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, file), []byte(ref.Stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	variable := "DB_PASSWORD=" + strings.TrimSpace(o.Must(0, "secret", "ref", "dbPassword").Stdout)

	run := func(environ ...string) (stdout, stderr string, code int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "ashlar-marble"), "run", "--references", folder, "--",
			shell, "-c", `echo "$DB_PASSWORD $(cat `+file+`) $LEAK"`)
		cmd.Env = append(slices.Clone(environ), "PATH="+os.Getenv("PATH"), "ASHLAR_MARBLE=job", "ASHLAR_COORDINATOR="+dev.DefaultMesh,
			"ASHLAR_COORDINATOR_POLICY="+d.PolicyFile(), "ASHLAR_TEE="+string(attest.SimSGX), "ASHLAR_SIM_SOCKET="+d.PlatformSocket(),
			"ASHLAR_IP=127.0.77.90", "ASHLAR_ENVOY=none")
		var out, log strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &log
		_ = cmd.Run() // the exit code is looked at
		return out.String(), log.String(), cmd.ProcessState.ExitCode()
	}
	stdout, stderr, code := run(variable)
	if code != 0 || strings.TrimSpace(stdout) != "hunter2 68756e74657232" {
		t.Errorf("got exit code %d, %q, want the secret in both places\n%s", code, stdout, stderr)
	}
	for _, environ := range [][]string{{variable, "LEAK=sealed:ashlar:v1:dbPassword"}, {"DB_PASSWORD=chosen"}, {}} {
		stdout, log, code := run(environ...)
		if code != 3 || stdout != "" || !strings.Contains(log, "MRB-064") && !strings.Contains(log, "MRB-065") {
			t.Errorf("%q: got exit code %d, %q, want it refused before the program starts\n%s", environ, code, stdout, log)
		}
		stderr += log
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file stays")
	}
	logs, err := os.ReadFile(filepath.Join(d.LogDir(), "coordinator.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"hunter2", "68756e74657232"} {
		if strings.Contains(stderr+string(logs), form) {
			t.Errorf("a log holds the secret as %s", form)
		}
	}
}

func digests(t *testing.T, path string) []attest.Hex {
	t.Helper()
	digest, err := sim.FileDigest(path)
	if err != nil {
		t.Fatal(err)
	}
	return []attest.Hex{digest}
}
