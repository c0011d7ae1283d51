package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/daemon"
	"github.com/ashlar-mesh/ashlar/coordinator/shares"
)

const (
	clientAddr = "127.0.70.1:4433"
	meshAddr   = "127.0.70.1:2001"
	look       = 50 * time.Millisecond // how often who waits looks at the clock
)

// site is the machine room: the simulated platform, the coordinator, and who
// may change the deployment.
type site struct {
	dir   string
	envoy string // started under the clock
	clock *clock
	log   *slog.Logger

	platform  *platform.Platform
	socket    string
	policy    attest.Policy // of the coordinator
	verifiers attest.Verifiers
	users     map[string]*tls.Certificate
	keys      map[string]shares.PrivateKey // recovery keys of users

	stopPlatform context.CancelFunc
	platformDone chan struct{}

	stopCoordinator context.CancelFunc
	coordinatorDone chan error
}

func newSite(dir, envoy string, log *slog.Logger) (*site, error) {
	c, err := newClock(dir)
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir, clock: c, log: log, socket: filepath.Join(dir, "platform.sock"), users: map[string]*tls.Certificate{},
		keys: map[string]shares.PrivateKey{}}
	if s.envoy, err = c.envoy(dir, envoy); err != nil {
		return nil, err
	}
	if s.platform, err = platform.New(platform.Config{Dir: filepath.Join(dir, "platform"), Now: c.now}); err != nil {
		return nil, err
	}
	sims, err := sim.NewVerifiers(s.platform.Root())
	if err != nil {
		return nil, err
	}
	s.verifiers = attest.NewVerifiers(sims...)
	for _, name := range []string{"alice", "bob", "carol"} {
		if s.users[name], err = newUser(name, c.now()); err != nil {
			return nil, err
		}
		if s.keys[name], err = shares.NewPrivateKey(); err != nil {
			return nil, err
		}
	}
	if err := s.startPlatform(); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program, err := sim.FileDigest(self)
	if err != nil {
		return nil, err
	}
	s.policy = attest.Policy{PackageName: "coordinator", Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{program}, Agent: []attest.Hex{program}}}}
	return s, nil
}

func (s *site) startPlatform() error {
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopPlatform, s.platformDone = cancel, make(chan struct{})
	go func() {
		defer close(s.platformDone)
		if err := s.platform.Serve(ctx, l); err != nil && ctx.Err() == nil {
			s.log.Error("the platform ended", "error", err)
		}
	}()
	return nil
}

func (s *site) config() daemon.Config {
	c := daemon.Config{
		State: filepath.Join(s.dir, "state"), TEE: attest.SimSGX, SimSocket: s.socket, SimRoot: filepath.Join(s.dir, "platform", "root.pem"),
		ClientAddr: clientAddr, MeshAddr: meshAddr, MetricsAddr: "127.0.70.1:9944", Advertise: []string{"127.0.70.1"},
		Grace: time.Second, Now: s.clock.now, Log: s.log,
	}
	c.Times.Look = look
	return c
}

// startCoordinator starts the coordinator, and returns when it answers.
func (s *site) startCoordinator(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	ready := make(chan struct{})
	c := s.config()
	answers := sync.OnceFunc(func() { close(ready) }) // for the first time: that it waits for recovery, or serves
	c.Ready = func(daemon.Addresses) { answers() }
	c.Waiting = func(daemon.Addresses) { answers() }
	s.stopCoordinator, s.coordinatorDone = cancel, make(chan error, 1)
	go func() { s.coordinatorDone <- daemon.Run(ctx, c) }()
	select {
	case <-ready:
		return nil
	case err := <-s.coordinatorDone:
		s.coordinatorDone <- err
		return fmt.Errorf("the coordinator did not start: %w", err)
	}
}

// haltCoordinator ends it and waits for it.
func (s *site) haltCoordinator() error {
	s.stopCoordinator()
	return <-s.coordinatorDone
}

func (s *site) close() {
	if s.stopCoordinator != nil {
		if err := s.haltCoordinator(); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("the coordinator ended", "error", err)
		}
	}
	s.stopPlatform()
	<-s.platformDone
}

// dial verifies the coordinator, as a user or, with "", as nobody.
func (s *site) dial(ctx context.Context, user string, remembered *client.Remembered) (*client.Client, error) {
	o := s.options()
	o.Certificate, o.Remembered = s.users[user], remembered
	return client.Dial(ctx, clientAddr, o)
}

// options say what the coordinator must prove.
func (s *site) options() client.Options {
	return client.Options{Policy: s.policy, Verifiers: s.verifiers, Now: s.clock.now}
}

// as does something as a user.
func (s *site) as(ctx context.Context, user string, do func(*client.Client) error) error {
	c, err := s.dial(ctx, user, nil)
	if err != nil {
		return fmt.Errorf("dialling as %s: %w", user, err)
	}
	defer c.Close()
	return do(c)
}

// newUser makes a user's certificate.
func newUser(name string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

func certificatePEM(c *tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}
