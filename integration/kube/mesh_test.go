//go:build linux

package kube

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
	"github.com/ashlar-mesh/ashlar/integration/kube/node"
)

// mesh is a release that was installed by the ashlar command, on machines with
// the simulated TEE.
type mesh struct {
	t     *testing.T
	c     *cluster.Cluster
	nodes *node.Nodes
	ns    string // of the release
	dir   string // policy, manifest, the operator's key, what verify wrote
	bin   string

	images map[string]node.Image // what the names of images stand for
}

// simDir is where pods find the platform of the simulated TEE.
const simDir = "/run/ashlar/sim"

// newMesh starts the machines; nothing is installed yet.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	c := controlPlane(t)
	bin, envoy := os.Getenv("ASHLAR_BIN"), os.Getenv("ASHLAR_ENVOY")
	if bin == "" || envoy == "" {
		need(t, "ASHLAR_BIN and ASHLAR_ENVOY are not set: run make kubetest")
	}
	m := &mesh{t: t, c: c, ns: c.Namespace(t, nil), dir: t.TempDir(), bin: bin, images: images(t, bin, envoy)}
	m.platform()
	m.nodes = machines(t, m.images, node.Machine{Name: "one"}, node.Machine{Name: "two"})
	t.Cleanup(func() {
		if t.Failed() {
			m.tell()
		}
	})
	m.write("policy.json", m.policyOf(m.digest(filepath.Join(bin, "ashlar-coordinator"))))
	m.operator("alice")
	return m
}

// images is what the names of images stand for.
func images(t *testing.T, bin, envoy string) map[string]node.Image {
	t.Helper()
	program := func(name string) node.Image {
		return node.Image{Files: map[string]string{"/opt/ashlar/" + name: filepath.Join(bin, name)}, Env: []string{"PATH=/opt/ashlar:/usr/bin:/bin"},
			Entrypoint: []string{name}, User: 65532}
	}
	marble := program("ashlar-marble")
	marble.Files["/opt/ashlar/envoy"] = envoyProgram(t, envoy)
	sample, err := filepath.Abs("../../samples/shop")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]node.Image{
		"ashlar-coordinator:test": program("ashlar-coordinator"),
		"ashlar-injector:test":    program("ashlar-injector"),
		"ashlar-marble:test":      marble,
		"shop-gateway":            {Files: map[string]string{"/app/gateway": filepath.Join(bin, "shop-gateway")}},
		"shop-gateway:tampered":   {Files: map[string]string{"/app/gateway": "/usr/bin/sleep"}},
		"shop-web":                {Files: map[string]string{"/app/web.py": filepath.Join(sample, "web/web.py")}},
		"shop-cart":               {Files: map[string]string{"/app/cart.mjs": filepath.Join(sample, "cart/cart.mjs")}},
		"shop-catalog":            {Files: map[string]string{"/app/catalog": filepath.Join(sample, "catalog")}},
		"tools":                   {},
	}
}

// envoyProgram is Envoy itself: the package from PyPI has a script before it, which
// needs Python and its folder.
func envoyProgram(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := filepath.Glob(filepath.Join(filepath.Dir(path), "../lib/python3*/site-packages/envoy/_bin/envoy")); err == nil && len(found) == 1 {
		return found[0]
	}
	return path
}

// platform starts the simulated TEE of the machines.
func (m *mesh) platform() {
	m.t.Helper()
	if err := os.MkdirAll(simDir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	var out bytes.Buffer
	// Pods of any user reach the socket.
	cmd := exec.Command("/bin/sh", "-c", `umask 0; exec "$0" dev platform --dir "$1" --socket "$1/platform.sock"`, filepath.Join(m.bin, "ashlar"), simDir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if m.t.Failed() {
			m.t.Logf("platform: %s", out.String())
		}
		_ = os.RemoveAll(simDir)
	})
	drive.Eventually(m.t, patience, func() string {
		if _, err := os.Stat(simDir + "/platform.sock"); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (m *mesh) file(name string) string { return filepath.Join(m.dir, name) }

func (m *mesh) write(name string, document any) {
	m.t.Helper()
	b, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.file(name), b, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// digest measures a program as the platform does.
func (m *mesh) digest(path string) attest.Hex {
	m.t.Helper()
	d, err := sim.FileDigest(path)
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

// policyOf takes a coordinator of one of these measurements.
func (m *mesh) policyOf(program ...attest.Hex) any {
	root, err := os.ReadFile(simDir + "/root.pem")
	if err != nil {
		m.t.Fatal(err)
	}
	return map[string]any{"tee": "sim", "simulationRoot": string(root), "package": map[string]any{"sim": map[string]any{"program": program, "agent": program}}}
}

// operator makes a user's certificate and key.
func (m *mesh) operator(name string) {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		m.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(m.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
}

// run calls the ashlar command and returns its exit code and all it printed.
func (m *mesh) run(args ...string) (int, string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.t.Context()), 5*time.Minute) // it is called at the end too
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(m.bin, "ashlar"), args...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.c.Kubeconfig(), "ASHLAR_CERT=alice.pem", "ASHLAR_KEY=alice.key", "HOME="+m.dir)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// ashlar calls the ashlar command, which must succeed.
func (m *mesh) ashlar(args ...string) string {
	m.t.Helper()
	code, out := m.run(args...)
	if code != 0 {
		m.t.Fatalf("ashlar %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	m.t.Logf("ashlar %s\n%s", strings.Join(args, " "), out)
	return out
}

// install installs the release.
func (m *mesh) install(args ...string) string {
	m.t.Helper()
	return m.ashlar(append([]string{"install", "-n", m.ns, "--policy", "policy.json", "--set", "image.tag=test",
		"--set", "coordinator.profile=sim", "--set", "tee.defaults.sim:sgx=sim"}, args...)...)
}

// address is where the client API answers, from here.
func (m *mesh) address() string { return serviceIP(m.t, m.c.Client, m.ns, "ashlar") + ":4433" }

// tell shows the end of what each pod of the release and of the services logged.
func (m *mesh) tell() {
	for _, dir := range m.nodes.LogDirs() {
		files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			m.t.Logf("%s:\n%s", strings.TrimPrefix(f, filepath.Dir(filepath.Dir(dir))+"/"), b[max(0, len(b)-2500):])
		}
	}
}
