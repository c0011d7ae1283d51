package integration

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// TestSecretCommands supplies, looks at and rotates secrets of a running shop as
// an operator does.
func TestSecretCommands(t *testing.T) {
	d := up(t, func(doc map[string]any) {
		maps.Copy(doc["secrets"].(map[string]any), map[string]any{
			"token":  map[string]any{"type": "opaque", "readers": []string{"web"}, "rotation": map[string]any{"overlap": "10m"}},
			"signer": map[string]any{"type": "ecdsa", "operations": []string{"sign"}, "readers": []string{"web"}},
			"shared": map[string]any{"type": "symmetric", "readers": []string{"web"}},
		})
		web := doc["marbles"].(map[string]any)["web"].(map[string]any)
		web["parameters"].(map[string]any)["env"].(map[string]string)["SHARED"] = "{{ hex .Secrets.shared }}"
		doc["roles"].(map[string]any)["operator"] = map[string]any{"actions": []string{"updateManifest", "writeSecret:token", "rotateSecret:*", "readSecret:token", "readSecret:signer"}}
	})
	o := newOperator(t)
	o.Must(0, "verify", "127.0.0.1:4433", "--policy", d.PolicyFile())
	user := []string{"--cert", d.CertFile(), "--key", d.KeyFile()}
	as := func(args ...string) []string { return append(args, user...) }
	file := filepath.Join(o.Dir, "token.txt")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	if got := o.Must(0, as("secret", "list")...); !strings.Contains(got.Stdout, "token was not supplied yet") {
		t.Errorf("got %s", got.Stdout)
	}
	if got := o.Must(0, as("status")[0]); !strings.Contains(got.Stdout, "secret token") {
		t.Errorf("status does not name the missing secret: %s", got.Stdout)
	}
	drive.Wants(t, o.Must(0, as("secret", "set", "token", "--file", file)...).Stdout, "secret token has version 1")
	if got := o.Must(0, as("secret", "get", "token")...); got.Stdout != "hunter2\n" {
		t.Errorf("got %q", got.Stdout)
	}
	if got := o.Must(7, as("secret", "set", "token", "--file", file, "--follows", "0")...); !strings.Contains(got.Stderr, "SEC-011") {
		t.Errorf("got %s", got.Stderr)
	}
	if v := drive.Document[apiv1.SecretVersion](o.Shell, as("secret", "set", "token", "--file", file)...); v.Version != 2 || v.OverlapEnds.Before(time.Now()) {
		t.Errorf("got %+v", v)
	}
	v := drive.Document[struct {
		Version uint64 `json:"version"`
		Value   []byte `json:"value"`
	}](o.Shell, as("secret", "get", "token")...)
	if v.Version < 2 || string(v.Value) != "hunter2\n" {
		t.Errorf("got version %d", v.Version)
	}
	if r := drive.Document[apiv1.RotatedSecret](o.Shell, as("secret", "rotate", "shared")...); r.Version < 2 || r.Values != 1 {
		t.Errorf("got %+v", r)
	}
	list := drive.Document[apiv1.Secrets](o.Shell, as("secret", "list")...)
	versions := map[string]uint64{}
	for _, s := range list.Secrets {
		versions[s.Name] = s.Version
	}
	if versions["token"] < 3 || versions["shared"] < 3 || versions["signer"] != 0 {
		t.Errorf("got %v", versions)
	}
	out := filepath.Join(o.Dir, "out.txt")
	o.Must(0, as("secret", "get", "token", "--out", out)...)
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v: only its owner may read it", out, info, err)
	}
	for code, args := range map[string][]string{
		"SEC-010": {"secret", "get", "shared"}, "SEC-004": {"secret", "get", "signer"}, "SEC-001": {"secret", "rotate", "nothing"},
		"SEC-014": {"secret", "rotate", "token"}, "SEC-017": {"secret", "rotate", "signer"},
	} {
		if got := o.Run(as(args...)...); got.Code == 0 || !strings.Contains(got.Stderr, code) {
			t.Errorf("%v: got exit %d and %s, want %s", args, got.Code, got.Stderr, code)
		}
	}
	if got := o.Run("secret", "list"); got.Code == 0 || !strings.Contains(got.Stderr, "CRD-015") {
		t.Errorf("nobody: got exit %d, %s", got.Code, got.Stderr)
	}
	for _, file := range []string{"coordinator.log", "web.log"} {
		b, err := os.ReadFile(filepath.Join(d.LogDir(), file))
		if err == nil && strings.Contains(string(b), "hunter2") {
			t.Errorf("%s holds the value", file)
		}
	}
}
