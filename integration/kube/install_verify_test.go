//go:build linux

package kube

import (
	"os"
	"strings"
	"testing"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestReleasesAreVerified has a coordinator that runs: what an installation, an
// upgrade, a rollback and a new installation do with it and with its state.
func TestReleasesAreVerified(t *testing.T) {
	m := newMesh(t)
	m.write("other.json", map[string]any{"tee": "sim", "simulationRoot": string(read(t, simDir+"/root.pem")),
		"package": map[string]any{"sim": map[string]any{"program": []string{strings.Repeat("ab", 32)}}}})
	values := []string{"-n", m.ns, "--set", "image.tag=test", "--set", "coordinator.profile=sim", "--set", "tee.defaults.sim:sgx=sim", "--set", "injector.enabled=false"}
	refused := func(words ...string) {
		t.Helper()
		code, out := m.run(words...)
		for _, want := range []string{"SIMULATION", "KUB-011", "stays", "ashlar uninstall --namespace " + m.ns} {
			if code != 3 || !strings.Contains(out, want) {
				t.Fatalf("ashlar %s: got exit %d, want 3 and %q\n%s", strings.Join(words, " "), code, want, out)
			}
		}
	}

	refused(append([]string{"install", "--policy", "other.json"}, values...)...)
	if _, err := os.Stat(m.file(".ashlar")); err == nil {
		t.Error("a coordinator that was refused has left a trust directory")
	}
	m.says("Verified", "upgrade", "-n", m.ns, "--policy", "policy.json", "--yes")
	root := read(t, m.file(".ashlar/bundle.pem"))
	same := func(what string) {
		t.Helper()
		if now := read(t, m.file(".ashlar/bundle.pem")); string(now) != string(root) {
			t.Errorf("after %s the deployment has another root: its state did not survive", what)
		}
	}

	m.says("Verified", "upgrade", "-n", m.ns, "--set", "coordinator.logFormat=text", "--address", m.address(), "--yes")
	same("an upgrade")
	code, out := m.run("upgrade", "-n", m.ns, "--policy", "other.json", "--set", "coordinator.logFormat=json", "--atomic", "--yes")
	if code != 3 || !strings.Contains(out, "is as revision 3 was") {
		t.Fatalf("got exit %d, want 3 and the revision before back\n%s", code, out)
	}
	set, err := m.c.Client.AppsV1().StatefulSets(m.ns).Get(t.Context(), "ashlar-coordinator", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if args := strings.Join(set.Spec.Template.Spec.Containers[0].Args, " "); !strings.Contains(args, "--log-format=text") {
		t.Errorf("after going back the coordinator runs with %q, want what it had before", args)
	}
	m.says("Verified", "rollback", "2", "-n", m.ns, "--yes")
	same("two rollbacks")

	m.says("kept", "uninstall", "-n", m.ns, "--yes")
	m.says("its state is used", append([]string{"install", "--policy", "policy.json"}, values...)...)
	same("an installation on the state that was kept")
	m.says("deleted", "uninstall", "-n", m.ns, "--delete-state", "ashlar", "--yes")
}

// says calls the ashlar command, which must succeed and say something.
func (m *mesh) says(want string, words ...string) {
	m.t.Helper()
	if out := m.ashlar(words...); !strings.Contains(out, want) {
		m.t.Errorf("ashlar %s says\n%s\nwant %q in it", strings.Join(words, " "), out, want)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
