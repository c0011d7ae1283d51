//go:build linux

package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
)

const patience = drive.Patience

// sites counts them: each has loopback addresses of its own.
var sites atomic.Uint32

// site is where one deployment lives: its etcd, its machines and replicas, and
// what its users see of them.
type site struct {
	t        *testing.T
	tools    tools
	dir      string
	block    string // of addresses, "127.A.B."
	etcd     *etcdtest.Cluster
	machines []*machine
	replicas []*replica
	service  *service
	shell    *drive.Shell

	known      []attest.Hex       // programs that users take for the coordinator
	remembered *client.Remembered // by the client of this process
}

// newSite starts etcd and as many machines as there are names. The first one's
// platform plays the vendor's service for all. Tests of sites run side by side: most
// of their time they wait for leases to end.
func newSite(t *testing.T, machines ...string) *site {
	t.Helper()
	t.Parallel()
	n := sites.Add(1)
	s := &site{t: t, tools: installed(t), block: fmt.Sprintf("127.%d.%d.", 64+os.Getpid()%128, n)}
	var err error
	if s.dir, err = os.MkdirTemp("", "cluster-"); err != nil { // a socket's path has to be short
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	for _, dir := range []string{"logs", "shell"} {
		if err := os.Mkdir(s.file(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.known = []attest.Hex{s.digest(s.tools.coordinator)}
	s.etcd = etcdtest.Start(t, 3)
	for _, name := range machines {
		s.machines = append(s.machines, s.machine(name))
	}
	s.service = newService(t)
	s.service.listen(s.client(), s.service.clients)
	s.service.listen(s.mesh(), s.service.marbles)
	s.shell = &drive.Shell{T: t, Program: s.tools.ashlar, Dir: s.file("shell"), Env: append(os.Environ(), "ASHLAR_ADDRESS="+s.client())}
	return s
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

// address is one of the site's loopback addresses.
func (s *site) address(n int) string { return fmt.Sprint(s.block, n) }

// client and mesh are the addresses of the Service over all replicas.
func (s *site) client() string { return s.address(1) + ":4433" }
func (s *site) mesh() string   { return s.address(1) + ":2001" }

// end removes everything, after a failure only what holds no logs.
func (s *site) end() {
	if !s.t.Failed() {
		_ = os.RemoveAll(s.dir)
		return
	}
	logs, _ := filepath.Glob(s.file("logs/*.log"))
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err == nil {
			s.t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-3000):])
		}
	}
	s.t.Logf("kept in %s", s.dir)
}

// machine is a simulated machine.
type machine struct {
	name, dir, socket string
	tee               *platform.Platform // the same machine, in this process
}

// machine starts a simulated machine; all are of the first one's vendor.
func (s *site) machine(name string) *machine {
	s.t.Helper()
	m := &machine{name: name, dir: s.file(name), socket: s.file(name + ".sock")}
	command := []string{s.tools.ashlar, "dev", "platform", "--dir", m.dir, "--socket", m.socket}
	if len(s.machines) == 0 {
		command = append(command, "--pccs", "127.0.0.1:0", "--pccs-file", s.file("pccs.url"))
	} else {
		command = append(command, "--vendor", s.machines[0].dir)
	}
	spawn(s.t, s.file("logs"), "machine-"+name, command)
	drive.Eventually(s.t, patience, func() string {
		if _, err := (sim.Client{Socket: m.socket}).Root(s.t.Context()); err != nil {
			return err.Error()
		}
		return ""
	})
	var err error
	if m.tee, err = platform.New(platform.Config{Dir: m.dir}); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// misbehave has a machine do something wrong from now on; {} ends it.
func (m *machine) misbehave(t *testing.T, order string) {
	t.Helper()
	file := filepath.Join(m.dir, "misbehaviour.json")
	err := os.WriteFile(file+".new", []byte(order), 0o600)
	if err == nil {
		err = os.Rename(file+".new", file) // nobody reads half of it
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) simRoot() string { return filepath.Join(s.machines[0].dir, "root.pem") }

// pccs is the address of the vendor's service.
func (s *site) pccs() string {
	s.t.Helper()
	b, err := os.ReadFile(s.file("pccs.url"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// digest measures a program.
func (s *site) digest(program string) attest.Hex {
	s.t.Helper()
	d, err := sim.FileDigest(program)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// user makes the certificate of somebody in the manifest, once, and returns its
// PEM; the key lies beside it.
func (s *site) user(name string) (certificate string) {
	s.t.Helper()
	path := s.file(name + ".pem")
	if b, err := os.ReadFile(path); err == nil {
		return string(b)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, content := range map[string][]byte{path: cert, s.file(name + ".key"): pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return string(cert)
}

// as are flags that say who asks.
func (s *site) as(name string) []string {
	s.user(name)
	return []string{"--cert", s.file(name + ".pem"), "--key", s.file(name + ".key")}
}

// policy is what users and marbles demand of the coordinator.
func (s *site) policy() attest.Policy {
	return attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: s.known, Agent: s.known}}}
}

// dial verifies the coordinator behind the Service, as alice, and holds it to all
// that was seen of it before.
func (s *site) dial(ctx context.Context) (*client.Client, error) {
	s.user("alice")
	cert, err := tls.LoadX509KeyPair(s.file("alice.pem"), s.file("alice.key"))
	if err != nil {
		return nil, err
	}
	o := client.Options{Policy: s.policy(), Timeout: 8 * time.Second, Verifiers: hardware.Verifiers(), Certificate: &cert, Remembered: s.remembered}
	if err := sim.AddVerifiers(o.Verifiers, s.machines[0].tee.Root()); err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, s.client(), o)
	if err == nil {
		seen := c.Verified().Remembered()
		s.remembered = &seen
	}
	return c, err
}

// connect is dial, again and again until somebody answers.
func (s *site) connect() *client.Client {
	s.t.Helper()
	var c *client.Client
	drive.Eventually(s.t, patience, func() string {
		var err error
		if c, err = s.dial(s.t.Context()); err != nil {
			return err.Error()
		}
		return ""
	})
	s.t.Cleanup(c.Close)
	return c
}

// issuer vouches for the probe's program.
func (m *machine) issuer() attest.Issuer {
	return m.tee.NewInsecureIssuer(attest.SimSGX, platform.Measurement{Program: probeDigest, Agent: probeDigest})
}
