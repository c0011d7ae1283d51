package api

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
	"log/slog"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/ratls"
)

var (
	program = bytes.Repeat([]byte{1}, 32)
	agent   = bytes.Repeat([]byte{2}, 32)
)

// stack is a real coordinator behind both APIs, on a simulated platform.
type stack struct {
	platform  *platform.Platform
	verifiers attest.Verifiers
	core      *coordinator.Coordinator
	store     *store.Store
	keeper    *recovery.Keeper
	marbles   *MarbleServer
	client    string // addresses
	mesh      string
	stored    *fetch.Store
	gates     [2]*Gate // client, mesh
	alice     *tls.Certificate

	offset atomic.Int64 // of the coordinator's clock, ns
	// endorse, if set, runs before endorsements are given out.
	endorse atomic.Pointer[func()]
}

func (s *stack) now() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }

type stackConfig struct {
	times       Times
	connections int
	owned       bool // alice is the owner
	keeps       bool // it keeps the key of its state, and can hand it over
}

func newStack(t testing.TB, c stackConfig) *stack {
	t.Helper()
	if c.connections == 0 {
		c.connections = 1000
	}
	p, err := platform.New(platform.Config{})
	if err != nil {
		t.Fatal(err)
	}
	vs, err := sim.NewVerifiers(p.Root())
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{platform: p, verifiers: attest.NewVerifiers(vs...), alice: userCertificate(t)}
	source := seal.Platform("test", "product", func(context.Context, string, []byte) ([]byte, []byte, error) {
		return bytes.Repeat([]byte{3}, 32), nil, nil
	})
	dir := t.TempDir()
	db, err := bolt.Create(context.Background(), bolt.Config{Dir: dir, Source: source, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	s.store = db
	if c.keeps {
		s.keeper = openKeeper(t, dir, source)
	}
	var owner *x509.Certificate
	if c.owned {
		if owner, err = x509.ParseCertificate(s.alice.Certificate[0]); err != nil {
			t.Fatal(err)
		}
	}
	s.core, err = coordinator.Create(context.Background(), db, coordinator.Config{
		Owner: owner, Keeper: s.keeper,
		Issuer:    p.NewInsecureIssuer(attest.SimSGX, platform.Measurement{Program: program, Agent: program}),
		Verifiers: s.verifiers, Now: s.now, Rand: rand.Reader, ServerNames: []string{"localhost", "127.0.0.1"}, Version: "test",
		Endorse: func(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
			if f := s.endorse.Load(); f != nil {
				(*f)()
			}
			return p.Endorse(ctx, e)
		}})
	if err != nil {
		t.Fatal(err)
	}
	if s.stored, err = fetch.New(fetch.Config{Verifiers: s.verifiers, Now: s.now}); err != nil {
		t.Fatal(err)
	}
	s.serve(t, c)
	t.Cleanup(func() {
		if err := s.core.Close(); err != nil {
			t.Errorf("closing the core: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return s
}

func (s *stack) serve(t testing.TB, c stackConfig) {
	t.Helper()
	s.gates = [2]*Gate{NewGate(c.connections), NewGate(c.connections)}
	config := Config{Coordinator: s.core, Gate: s.gates[0], Times: c.times, Metrics: NewMetrics("test", true), Log: slog.New(slog.DiscardHandler), Now: s.now, Endorsements: s.stored}
	web := NewClient(config)
	config.Gate = s.gates[1]
	s.marbles = NewMarble(config, nil)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l, m := listen(), listen()
	s.client, s.mesh = l.Addr().String(), m.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ServeClient(web, l, s.gates[0]); err != nil {
			t.Errorf("client API: %v", err)
		}
	})
	wg.Go(func() {
		if err := s.marbles.Serve(m); err != nil {
			t.Errorf("marble API: %v", err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.marbles.Stop(ctx)
		_ = web.Close()
		wg.Wait()
	})
}

func userCertificate(t testing.TB) *tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "user"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

// manifest returns one with marbles web and db, and alice as the operator.
func (s *stack) manifest(lease string) []byte {
	sum := func(b []byte) string { return attest.Hex(b).String() }
	user, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.alice.Certificate[0]})))
	return fmt.Appendf(nil, `{
  "version": 1, "trustDomain": "shop.example",
  "packages": {"web": {"sim": {"program": [%q], "agent": [%q]}}},
  "marbles": {"web": {"package": "web", "lease": %q, "parameters": {"env": {"KEY": "{{ hex .Secrets.key }}"}}}, "db": {"package": "web"}},
  "secrets": {"key": {"type": "symmetric", "readers": ["web"]}},
  "users": {"alice": {"certificate": %s, "roles": ["operator"]}},
  "roles": {"operator": {"actions": ["updateManifest", "manageEndorsements"]}}
}`, sum(program), sum(agent), lease, user)
}

func (s *stack) dial(t testing.TB, user *tls.Certificate) *client.Client {
	t.Helper()
	c, err := client.Dial(context.Background(), s.client, client.Options{
		Policy:      attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{program}}}},
		Verifiers:   s.verifiers,
		Certificate: user,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// set puts the first manifest in force.
func (s *stack) set(t testing.TB, lease string) {
	t.Helper()
	if _, err := s.dial(t, nil).SetManifest(context.Background(), s.manifest(lease), nil); err != nil {
		t.Fatal(err)
	}
}

// marble is a test's own marble: a connection, its calls, and its leaf.
type marble struct {
	s        *stack
	rpc      marblepb.MarbleClient
	exporter []byte
	leaf     *tls.Certificate
	measured platform.Measurement
	id       string
	role     string
}

func (s *stack) newMarble(t testing.TB, id string) *marble {
	t.Helper()
	m := &marble{s: s, id: id, role: "web", measured: platform.Measurement{Program: program, Agent: agent}}
	m.connect(t)
	return m
}

// connect opens a connection, under the leaf if there is one.
func (m *marble) connect(t testing.TB) {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
	if m.leaf != nil {
		config.Certificates = []tls.Certificate{*m.leaf}
	}
	conn, err := tls.Dial("tcp", m.s.mesh, config)
	if err != nil {
		t.Fatal(err)
	}
	if m.exporter, err = ratls.Exporter(conn.ConnectionState()); err != nil {
		t.Fatal(err)
	}
	used := false
	rpc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used {
				return nil, fmt.Errorf("the connection is gone")
			}
			used = true
			return conn, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rpc.Close() })
	m.rpc = marblepb.NewMarbleClient(rpc)
}

func (m *marble) instance() *marblepb.Instance {
	return &marblepb.Instance{Marble: m.role, Id: m.id, Address: "127.0.0.1"}
}

// vouch makes a key and evidence for it.
func (m *marble) vouch(t testing.TB, purpose binding.Purpose, nonce []byte) (*ecdsa.PrivateKey, []byte, *marblepb.Evidence) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	buffer := binding.Claims{Purpose: purpose, PublicKey: binding.KeyHash(spki), Nonce: nonce, Exporter: m.exporter}.Encode()
	e, err := m.s.platform.NewInsecureIssuer(attest.SimSGX, m.measured).Issue(context.Background(), attest.Bind(buffer))
	if err != nil {
		t.Fatal(err)
	}
	return k, spki, &marblepb.Evidence{Tee: string(e.TEE), Raw: e.Raw, ClaimsBuffer: buffer}
}

// activate takes the first lease and reconnects under it.
func (m *marble) activate(t testing.TB) (*marblepb.ActivateResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ch, err := m.rpc.Challenge(ctx, &marblepb.ChallengeRequest{})
	if err != nil {
		return nil, err
	}
	k, spki, evidence := m.vouch(t, binding.Activate, ch.GetNonce())
	resp, err := m.rpc.Activate(ctx, &marblepb.ActivateRequest{Instance: m.instance(), Evidence: evidence, PublicKey: spki, Nonce: ch.GetNonce()})
	if err != nil {
		return nil, err
	}
	m.leaf = &tls.Certificate{Certificate: resp.GetLease().GetCertificates(), PrivateKey: k}
	m.connect(t)
	return resp, nil
}

func anyProgram() attest.Policy {
	return attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{program}}}}
}

func mustJSON(t testing.TB, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}
