// Package marbletest is a coordinator for tests of marbles: a real server of the
// marble API on loopback with its own CA, which checks what evidence is bound to
// and can be told to misbehave at any step. It judges no evidence and protects
// nothing.
package marbletest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// TrustDomain is that of every identity made here.
const TrustDomain = "test.example"

// Behaviour is what a coordinator does otherwise than it should. A nil hook
// does the right thing. Hooks run on the server's goroutines.
type Behaviour struct {
	Life       time.Duration // of a lease; 1 h if zero
	RenewAfter time.Duration // half of Life if zero
	Secrets    map[string]*marblepb.Secret
	Parameters *marblepb.Parameters
	Serves     []uint32

	Challenge func(ctx context.Context) error
	// Lease changes a lease before it is sent.
	Lease func(*marblepb.Lease)
	// Activated runs when evidence was found to be bound; an error refuses.
	Activated func(*marblepb.ActivateRequest) error
	// Renewed is the same for a renewal.
	Renewed func(*marblepb.Renewal) error
	// Fetch, Use and Deposit answer calls about secrets; without, they fail.
	Fetch   func(*marblepb.FetchRequest) (*marblepb.FetchResponse, error)
	Use     func(*marblepb.UseRequest) (*marblepb.UseResponse, error)
	Deposit func(*marblepb.DepositRequest) (*marblepb.DepositResponse, error)
	// Session replaces the whole session.
	Session func(marblepb.Marble_SessionServer) error
}

// Coordinator is a running server.
type Coordinator struct {
	marblepb.UnimplementedMarbleServer
	t       testing.TB
	Address string // host:port
	CA      *CA

	serving  tls.Certificate
	server   *grpc.Server
	register []func(grpc.ServiceRegistrar)
	requests chan *marblepb.SessionRequest

	mu          sync.Mutex // guards what follows
	behaviour   Behaviour
	nonces      map[string]bool
	activations int
	renewals    int
	sessions    map[*session]struct{}
}

type session struct {
	out chan *marblepb.SessionResponse
}

// Start serves until the test ends, the marble API and what is registered
// besides.
func Start(t testing.TB, b Behaviour, register ...func(grpc.ServiceRegistrar)) *Coordinator {
	t.Helper()
	ca := NewCA(t)
	c := &Coordinator{t: t, CA: ca, behaviour: b, nonces: map[string]bool{}, sessions: map[*session]struct{}{},
		requests: make(chan *marblepb.SessionRequest, 1024), serving: ca.Serving(t), register: register}
	c.listen("127.0.0.1:0")
	t.Cleanup(c.Stop)
	return c
}

func (c *Coordinator) listen(address string) {
	c.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Address = l.Addr().String()
	pool := x509.NewCertPool()
	pool.AddCert(c.CA.Root)
	server := grpc.NewServer(grpc.MaxSendMsgSize(64<<20), grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return &c.serving, nil
		}})))
	marblepb.RegisterMarbleServer(server, c)
	for _, register := range c.register {
		register(server)
	}
	c.server = server
	go server.Serve(l) //nolint:errcheck // ends by Stop
}

// Stop cuts every connection and stops listening.
func (c *Coordinator) Stop() { c.server.Stop() }

// Restart listens again on the same address.
func (c *Coordinator) Restart() { c.listen(c.Address) }

// Behave replaces the behaviour.
func (c *Coordinator) Behave(b Behaviour) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behaviour = b
}

// Serve replaces the serving certificate for new connections.
func (c *Coordinator) Serve(cert tls.Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = cert
}

func (c *Coordinator) current() Behaviour {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.behaviour
}

// Counts returns how many activations and renewals were granted.
func (c *Coordinator) Counts() (activations, renewals int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.activations, c.renewals
}

// Requests are the session messages that came, newest last; beyond 1024 unread
// ones they are dropped.
func (c *Coordinator) Requests() <-chan *marblepb.SessionRequest { return c.requests }

// Push sends a message to every open session and returns to how many.
func (c *Coordinator) Push(m *marblepb.SessionResponse) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.sessions {
		s.out <- m
	}
	return len(c.sessions)
}

// Nonce makes a nonce that counts once.
func (c *Coordinator) Nonce() []byte {
	n := make([]byte, binding.NonceSize)
	rand.Read(n) //nolint:errcheck // never fails
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nonces[string(n)] = true
	return n
}

// Challenge implements marblepb.MarbleServer.
func (c *Coordinator) Challenge(ctx context.Context, _ *marblepb.ChallengeRequest) (*marblepb.ChallengeResponse, error) {
	if hook := c.current().Challenge; hook != nil {
		if err := hook(ctx); err != nil {
			return nil, marblepb.Status(err)
		}
	}
	return &marblepb.ChallengeResponse{Nonce: c.Nonce()}, nil
}

// bound checks that the evidence is for this key, nonce and TLS session.
func (c *Coordinator) bound(ctx context.Context, purpose binding.Purpose, e *marblepb.Evidence, key, nonce []byte) error {
	c.mu.Lock()
	known := c.nonces[string(nonce)]
	delete(c.nonces, string(nonce))
	c.mu.Unlock()
	if !known {
		return problem.New("ATT-072", "the nonce is unknown or was used")
	}
	p, _ := peer.FromContext(ctx)
	exporter, err := ratls.Exporter(p.AuthInfo.(credentials.TLSInfo).State)
	if err != nil {
		return err
	}
	got, err := binding.Parse(e.GetClaimsBuffer())
	if err != nil {
		return problem.Because(err, "ATT-011", "claims buffer")
	}
	var devices []attest.Device
	for _, d := range e.GetDevices() {
		devices = append(devices, attest.Device{Name: d.GetName(), TEE: attest.TEE(d.GetTee()), Raw: d.GetRaw()})
	}
	want := binding.Claims{Purpose: purpose, PublicKey: binding.KeyHash(key), Nonce: nonce, Exporter: exporter, Devices: binding.Devices(devices)}
	for _, s := range binding.Expect(want, got) {
		if !s.OK {
			return problem.New(problem.Code(s.Code), "%s: wanted %s, got %s", s.Field, s.Want, s.Got)
		}
	}
	b := attest.Bind(e.GetClaimsBuffer())
	if !bytes.Contains(e.GetRaw(), b[:]) {
		return problem.New("ATT-011", "the evidence binds another buffer")
	}
	return nil
}

// Grant makes a lease for a key.
func (c *Coordinator) Grant(marble string, key []byte) (*marblepb.Lease, error) {
	b := c.current()
	life := b.Life
	if life == 0 {
		life = time.Hour
	}
	renew := b.RenewAfter
	if renew == 0 {
		renew = life / 2
	}
	now := time.Now()
	// The leaf ends in whole seconds; the lease may end earlier.
	leaf, err := c.CA.Leaf(marble, key, now.Add(life+time.Second))
	if err != nil {
		return nil, err
	}
	l := &marblepb.Lease{Certificates: [][]byte{leaf.Raw, c.CA.Mesh.Raw}, Bundle: [][]byte{c.CA.Root.Raw}, Revision: "aa", SpiffeId: leaf.URIs[0].String(),
		RenewAfterUnixMs: now.Add(renew).UnixMilli(), NotAfterUnixMs: now.Add(life).UnixMilli(), Secrets: b.Secrets}
	if b.Lease != nil {
		b.Lease(l)
	}
	return l, nil
}

// Activate implements marblepb.MarbleServer.
func (c *Coordinator) Activate(ctx context.Context, r *marblepb.ActivateRequest) (*marblepb.ActivateResponse, error) {
	if err := c.bound(ctx, binding.Activate, r.GetEvidence(), r.GetPublicKey(), r.GetNonce()); err != nil {
		return nil, marblepb.Status(err)
	}
	b := c.current()
	if b.Activated != nil {
		if err := b.Activated(r); err != nil {
			return nil, marblepb.Status(err)
		}
	}
	lease, err := c.Grant(r.GetInstance().GetMarble(), r.GetPublicKey())
	if err != nil {
		return nil, marblepb.Status(err)
	}
	c.mu.Lock()
	c.activations++
	c.mu.Unlock()
	return &marblepb.ActivateResponse{Lease: lease, Parameters: b.Parameters, Serves: b.Serves, Decision: r.GetInstance().GetMarble() + "/7f2c"}, nil
}

// Session implements marblepb.MarbleServer.
func (c *Coordinator) Session(stream marblepb.Marble_SessionServer) error {
	p, _ := peer.FromContext(stream.Context())
	certs := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates
	if len(certs) == 0 {
		return marblepb.Status(problem.New("CRD-118", "no leaf"))
	}
	if hook := c.current().Session; hook != nil {
		return hook(stream)
	}
	s := &session{out: make(chan *marblepb.SessionResponse, 16)}
	c.mu.Lock()
	c.sessions[s] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.sessions, s)
		c.mu.Unlock()
	}()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		for {
			select {
			case m := <-s.out:
				if stream.Send(m) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	marble := certs[0].Subject.CommonName
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil
		}
		select {
		case c.requests <- m:
		default:
		}
		if r := m.GetRenewal(); r != nil {
			s.out <- c.renew(stream.Context(), marble, r)
		}
	}
}

func (c *Coordinator) renew(ctx context.Context, marble string, r *marblepb.Renewal) *marblepb.SessionResponse {
	err := c.bound(ctx, binding.Renew, r.GetEvidence(), r.GetPublicKey(), r.GetNonce())
	if hook := c.current().Renewed; err == nil && hook != nil {
		err = hook(r)
	}
	var lease *marblepb.Lease
	if err == nil {
		lease, err = c.Grant(marble, r.GetPublicKey())
	}
	if err != nil {
		return &marblepb.SessionResponse{Message: &marblepb.SessionResponse_Refusal{Refusal: marblepb.NewRefusal(problem.From(err))}}
	}
	c.mu.Lock()
	c.renewals++
	c.mu.Unlock()
	return &marblepb.SessionResponse{Message: &marblepb.SessionResponse_Lease{Lease: lease}}
}

// Issuer makes pretended evidence, which ends with what it binds.
type Issuer struct {
	Fault func() error // nil: none
}

// TEE implements attest.Issuer.
func (*Issuer) TEE() attest.TEE { return attest.SimSGX }

// Issue implements attest.Issuer.
func (i *Issuer) Issue(_ context.Context, b attest.Binding) (attest.Evidence, error) {
	if i.Fault != nil {
		if err := i.Fault(); err != nil {
			return attest.Evidence{}, err
		}
	}
	return attest.Evidence{TEE: attest.SimSGX, Raw: append([]byte("evidence of nothing "), b[:]...)}, nil
}
