package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestMain runs the program itself in a child process of a test.
func TestMain(m *testing.M) {
	if n := os.Getenv("TEST_DESCRIPTORS"); n != "" {
		limit, err := strconv.ParseUint(n, 10, 64)
		if err != nil {
			panic(err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			panic(err)
		}
	}
	if os.Getenv("TEST_RUN_MAIN") != "" {
		os.Exit(Main(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// machine is a simulated platform that serves on a socket.
type machine struct {
	*platform.Platform
	dir       string
	verifiers attest.Verifiers
	self      attest.Hex // SHA-256 of this test's program, which the coordinator is
}

func newMachine(t testing.TB) *machine { return machineOf(t, platform.Config{}) }

// newMachines makes machines of one vendor: one root verifies them all.
func newMachines(t testing.TB, n int) []*machine {
	t.Helper()
	var all []*machine
	vendor := ""
	for range n {
		c := platform.Config{Dir: filepath.Join(t.TempDir(), "platform"), Vendor: vendor}
		all = append(all, machineOf(t, c))
		if vendor == "" {
			vendor = c.Dir
		}
	}
	return all
}

func machineOf(t testing.TB, c platform.Config) *machine {
	t.Helper()
	p, err := platform.New(c)
	if err != nil {
		t.Fatal(err)
	}
	// A socket's path is short; the test's own folder may not be.
	dir, err := os.MkdirTemp("", "ashlar")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "platform.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Serve(ctx, l); err != nil {
			t.Errorf("platform: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), p.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	vs, err := sim.NewVerifiers(p.Root())
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	self, err := sim.FileDigest(exe)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{Platform: p, dir: dir, verifiers: attest.NewVerifiers(vs...), self: self}
}

func (m *machine) config() Config {
	return Config{State: filepath.Join(m.dir, "state"), TEE: attest.SimSGX, SimSocket: filepath.Join(m.dir, "platform.sock"),
		SimRoot: filepath.Join(m.dir, "root.pem"), ClientAddr: "127.0.0.1:0", MeshAddr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0"}
}

func (m *machine) flags(command string, more ...string) []string {
	c := m.config()
	return append([]string{command, "--state", c.State, "--tee", string(c.TEE), "--sim-socket", c.SimSocket, "--sim-root", c.SimRoot}, more...)
}

func (m *machine) dial(addr, from string, user *tls.Certificate) (*client.Client, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	return client.Dial(context.Background(), addr, client.Options{Verifiers: m.verifiers, Certificate: user, DialContext: d.DialContext,
		Policy: attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{m.self}}}}})
}

// run runs a coordinator in this process until the returned function is called.
func run(t testing.TB, c Config) (Addresses, func() error) {
	t.Helper()
	ready, ended := make(chan Addresses, 1), make(chan error, 1)
	c.Ready = func(a Addresses) { ready <- a }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- Run(ctx, c) }()
	select {
	case a := <-ready:
		return a, func() error {
			cancel()
			return <-ended
		}
	case err := <-ended:
		cancel()
		t.Fatal(err)
		return Addresses{}, nil
	}
}

func user(t testing.TB) *tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "alice"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

func manifestOf(alice *tls.Certificate, lease string) []byte {
	cert, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: alice.Certificate[0]})))
	return fmt.Appendf(nil, `{"version": 1, "trustDomain": "shop.example",
  "packages": {"web": {"sim": {"program": ["%064d"], "agent": ["%064d"]}}},
  "marbles": {"web": {"package": "web", "lease": %q}},
  "users": {"alice": {"certificate": %s, "roles": ["operator"]}}, "roles": {"operator": {"actions": ["updateManifest"]}}}`, 1, 2, lease, cert)
}

func TestStateOutlivesARestart(t *testing.T) {
	m, ctx := newMachine(t), context.Background()
	if err := Run(ctx, m.config()); problem.CodeOf(err) != "STO-002" {
		t.Fatalf("run without state: got %v, want STO-002", err)
	}
	if err := Init(ctx, m.config()); err != nil {
		t.Fatal(err)
	}
	if err := Init(ctx, m.config()); problem.CodeOf(err) != "STO-001" {
		t.Errorf("second init: got %v, want STO-001", err)
	}
	addr, stop := run(t, m.config())
	alice := user(t)
	c, err := m.dial(addr.Client, "", alice)
	if err != nil {
		t.Fatal(err)
	}
	set, err := c.SetManifest(ctx, manifestOf(alice, "1h"), nil)
	if err != nil || !set.OpenFirstSet {
		t.Fatalf("got %+v, %v, want an open first set", set, err)
	}
	trust := filepath.Join(m.dir, "trust")
	if err := client.WriteTrust(trust, c.Verified()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := stop(); err != nil {
		t.Fatalf("stopping: %v", err)
	}
	addr, stop = run(t, m.config())
	if c, err = m.visit(trust, addr.Client, alice); err != nil {
		t.Fatalf("the restarted coordinator is not the remembered one: %v", err)
	}
	defer c.Close()
	got, err := c.Manifest(ctx)
	if err != nil || !bytes.Equal(got.Digest, set.Digest) {
		t.Errorf("got %s, %v, want %s", got.Digest, err, set.Digest)
	}
	if _, err := c.SetManifest(ctx, manifestOf(alice, "2h"), set.Digest); err != nil {
		t.Errorf("setting the next manifest: %v", err)
	}
	if err := stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func TestOwnerAloneSetsTheFirstManifest(t *testing.T) {
	m, ctx := newMachine(t), context.Background()
	owner, c := user(t), m.config()
	c.Owner = filepath.Join(m.dir, "owner.pem")
	if err := os.WriteFile(c.Owner, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: owner.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Init(ctx, c); err != nil {
		t.Fatal(err)
	}
	addr, stop := run(t, c)
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	for name, who := range map[string]*tls.Certificate{"nobody": nil, "stranger": user(t)} {
		cl, err := m.dial(addr.Client, "", who)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cl.SetManifest(ctx, manifestOf(owner, "1h"), nil); problem.CodeOf(err) != "CRD-017" {
			t.Errorf("%s: got %v, want CRD-017", name, err)
		}
		cl.Close()
	}
	cl, err := m.dial(addr.Client, "", owner)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if r, err := cl.SetManifest(ctx, manifestOf(owner, "1h"), nil); err != nil || r.OpenFirstSet {
		t.Errorf("owner: got %+v, %v, want a set that was not open", r, err)
	}
}

func TestOperations(t *testing.T) {
	m := newMachine(t)
	var log bytes.Buffer
	c := m.config()
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	if err := Init(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	addr, stop := run(t, c)
	for path, want := range map[string]string{
		"/metrics":  `ashlar_build_info{simulation="true"`,
		"/metrics?": `ashlar_store_commit_seconds_count{result="durable"}`,
		"/livez":    `"stage":"waiting for a manifest"`,
		"/readyz":   `"ready":true`,
	} {
		resp, err := http.Get("http://" + addr.Metrics + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: got %d %.200s, %v, want %s", path, resp.StatusCode, body, err, want)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ready", "waiting for a manifest", "anybody who reaches", "SIMULATION"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, log.String())
		}
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "SIMULATION") {
			t.Errorf("a line does not say SIMULATION: %s", line)
		}
	}
}

func TestConfigurationNamesTheField(t *testing.T) {
	m := newMachine(t)
	for flag, edit := range map[string]func(*Config){
		"state":        func(c *Config) { c.State = "" },
		"tee":          func(c *Config) { c.TEE = "sev" },
		"sim-socket":   func(c *Config) { c.SimSocket = "" },
		"sim-root":     func(c *Config) { c.SimRoot = "" },
		"seal":         func(c *Config) { c.Seal = "none" },
		"owner":        func(c *Config) { c.Owner = filepath.Join(m.dir, "missing.pem") },
		"client-addr":  func(c *Config) { c.ClientAddr = "4433" },
		"mesh-addr":    func(c *Config) { c.MeshAddr = "x" },
		"metrics-addr": func(c *Config) { c.MetricsAddr = "x" },
		"advertise":    func(c *Config) { c.Advertise = []string{"*.example"} },
		"store":        func(c *Config) { c.Store = "bbolt:///state" },
		"replica":      func(c *Config) { c.Replica = "one" },
		"reach":        func(c *Config) { c.Reach = "one.example" },
	} {
		t.Run(flag, func(t *testing.T) {
			c := m.config()
			edit(&c)
			err := Run(context.Background(), c)
			want := problem.Code("CRD-130")
			if flag == "store" {
				want = "STO-030"
			}
			if problem.CodeOf(err) != want || !strings.Contains(err.Error(), "--"+flag) {
				t.Errorf("got %v, want %s about --%s", err, want, flag)
			}
		})
	}
}

// Several coordinators have to find one another.
func TestReplicasNameThemselves(t *testing.T) {
	m := newMachine(t)
	shared := func(c *Config) {
		c.Store, c.ClientAddr, c.MeshAddr, c.Reach, c.Replica = "etcd://127.0.0.1:1/x?tls=off", ":0", ":0", "one.example", "one"
	}
	for name, c := range map[string]struct {
		flag string
		edit func(*Config)
	}{
		"nothing is known of its address": {"reach", func(c *Config) { c.Reach = "" }},
		"two addresses":                   {"reach", func(c *Config) { c.Reach, c.ClientAddr, c.MeshAddr = "", "127.0.0.1:0", "127.0.0.2:0" }},
		"a port":                          {"reach", func(c *Config) { c.Reach = "one.example:4433" }},
		"a path":                          {"reach", func(c *Config) { c.Reach = "one/two" }},
		"a dot":                           {"replica", func(c *Config) { c.Replica = "one.two" }},
		"a dash at the end":               {"replica", func(c *Config) { c.Replica = "one-" }},
		"too long":                        {"replica", func(c *Config) { c.Replica = strings.Repeat("a", 64) }},
	} {
		o := m.config()
		shared(&o)
		c.edit(&o)
		if err := Run(t.Context(), o); problem.CodeOf(err) != "CRD-130" || !strings.Contains(err.Error(), "--"+c.flag) {
			t.Errorf("%s: got %v, want CRD-130 about --%s", name, err, c.flag)
		}
	}
	o := m.config()
	o.Store = "etcd://127.0.0.1:1/x?tls=off"
	s, err := o.check()
	if err != nil || s.Reach != "127.0.0.1" || s.Replica == "" {
		t.Errorf("got --reach %q and --replica %q, %v, want those of the listening address and of the host", s.Reach, s.Replica, err)
	}
}

func TestPortInUse(t *testing.T) {
	m, c := newMachine(t), Config{}
	c = m.config()
	if err := Init(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c.MeshAddr = l.Addr().String()
	if err := Run(context.Background(), c); problem.CodeOf(err) != "CRD-134" || !strings.Contains(err.Error(), "--mesh-addr") {
		t.Errorf("got %v, want CRD-134 about --mesh-addr", err)
	}
	// Nothing is left locked.
	c.MeshAddr = "127.0.0.1:0"
	_, stop := run(t, c)
	if err := stop(); err != nil {
		t.Error(err)
	}
}
