package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/ratls"
)

const (
	maxRequest     = 5 << 18 // bytes of a message from a marble: evidence, its event log and devices (attest.Max…)
	maxActivations = 128     // activations judged at once; more wait
	refusalRate    = 5       // refusals logged a second
	refusalBurst   = 50
	// window is what a peer may send ahead, in bytes: HTTP/2's own, so that a
	// connection begins without exchanging another, and never grows.
	window = 64<<10 - 1
)

// MarbleServer is the mesh port: the marble API, and what else is registered.
type MarbleServer struct {
	marblepb.UnimplementedMarbleServer
	c           *coordinator.Coordinator
	gate        *Gate
	log         *slog.Logger
	metrics     *Metrics
	now         func() time.Time
	times       Times
	statements  *rate
	decisions   decisions
	activations chan struct{}
	secrets     secretLimits

	grpc     *grpc.Server
	stopping chan struct{} // closed by Stop: sessions end
	stop     sync.Once
	running  sync.WaitGroup // goroutines of sessions

	mu       sync.Mutex                 // guards sessions
	sessions map[coordinator.Peer]*live // newest of each instance, by marble and instance alone
}

// NewMarble returns the server; register, if not nil, adds further services.
func NewMarble(c Config, register func(grpc.ServiceRegistrar)) *MarbleServer {
	s := &MarbleServer{c: c.Coordinator, gate: c.Gate, log: c.Log, metrics: c.Metrics, now: c.Now, times: c.Times.orDefault(),
		statements:  newRate(statementRate, statementBurst, c.Now),
		decisions:   newDecisions(c),
		activations: make(chan struct{}, maxActivations), stopping: make(chan struct{}),
		sessions: map[coordinator.Peer]*live{}, secrets: newSecretLimits(c)}
	c.Coordinator.WatchSecrets(s.refreshSecrets)
	s.grpc = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(servingConfig(c.Coordinator, c.Now, []string{"h2"}, tls.VerifyClientCertIfGiven))),
		grpc.ConnectionTimeout(s.times.Handshake),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(marblepb.MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(16<<10),
		grpc.ReadBufferSize(0), // TLS has decrypted a whole record: a second buffer saves no system call
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: s.times.Idle, MaxConnectionAge: 24 * time.Hour,
			MaxConnectionAgeGrace: s.times.Request, Time: 30 * time.Second, Timeout: 15 * time.Second}),
		grpc.StatsHandler(inFlight{s.gate}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	marblepb.RegisterMarbleServer(s.grpc, s)
	if register != nil {
		register(s.grpc)
	}
	return s
}

// Serve serves l until Stop.
func (s *MarbleServer) Serve(l net.Listener) error { return s.grpc.Serve(s.gate.Listen(l)) }

// Stop takes no new connections, ends every session with CRD-003, lets running
// calls finish until ctx ends, and then cuts them. Other services' streams must
// be ended by whoever registered them.
func (s *MarbleServer) Stop(ctx context.Context) {
	s.stop.Do(func() { close(s.stopping) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	s.gate.Drain(done)
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
	s.running.Wait()
}

// inFlight tells the gate which connections have running calls.
type inFlight struct{ gate *Gate }

func (h inFlight) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (h inFlight) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	if g := h.gate.find(info.RemoteAddr.String()); g != nil {
		return context.WithValue(ctx, connKey{}, g)
	}
	return ctx
}

func (h inFlight) HandleConn(context.Context, stats.ConnStats) {}

func (h inFlight) HandleRPC(ctx context.Context, s stats.RPCStats) {
	g, ok := ctx.Value(connKey{}).(*gated)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.Begin:
		g.count(func(n int) int { return n + 1 })
	case *stats.End:
		g.count(func(n int) int { return n - 1 })
	}
}

// unary gives every call an id and a deadline, contains panics, and codes
// errors.
func (s *MarbleServer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (resp any, err error) {
	id := newID()
	ctx, cancel := context.WithTimeout(ctx, s.times.Request)
	defer cancel()
	defer s.contain(id, info.FullMethod, &err)
	resp, err = h(ctx, req)
	return resp, err
}

func (s *MarbleServer) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	defer s.contain(newID(), info.FullMethod, &err)
	return h(srv, ss)
}

// contain turns a panic into an error, and an error into a coded status. An
// error that is a status already is left alone: registered services make their
// own.
func (s *MarbleServer) contain(id, method string, err *error) {
	if p := recover(); p != nil {
		s.metrics.panics.Inc()
		s.log.Error("call panicked", "request", id, "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = problem.New("CRD-001", "the coordinator's log has the cause under request %s", id)
	}
	if *err == nil {
		return
	}
	var made interface{ GRPCStatus() *status.Status }
	if errors.As(*err, &made) {
		return
	}
	*err = marblepb.Status(public(*err, id, s.log))
}

// connection returns the gate's view of the call's connection and its TLS
// state.
func connection(ctx context.Context) (*gated, tls.ConnectionState, error) {
	g, _ := ctx.Value(connKey{}).(*gated)
	p, ok := peer.FromContext(ctx)
	if g == nil || !ok {
		return nil, tls.ConnectionState{}, problem.New("CRD-119", "the call came over no connection")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, tls.ConnectionState{}, problem.New("CRD-119", "the call came without TLS")
	}
	return g, info.State, nil
}

// session returns the transport session of a call.
func session(ctx context.Context) (coordinator.Session, *gated, error) {
	g, state, err := connection(ctx)
	if err != nil {
		return coordinator.Session{}, nil, err
	}
	exporter, err := ratls.Exporter(state)
	if err != nil {
		return coordinator.Session{}, nil, err
	}
	return coordinator.Session{Exporter: exporter, Remote: g.name}, g, nil
}

// Challenge implements marblepb.MarbleServer.
func (s *MarbleServer) Challenge(ctx context.Context, req *marblepb.ChallengeRequest) (*marblepb.ChallengeResponse, error) {
	sess, g, err := session(ctx)
	if err != nil {
		return nil, err
	}
	out := &marblepb.ChallengeResponse{}
	if n := len(req.GetNonce()); n != 0 {
		if n != apiv1.NonceSize {
			return nil, problem.New("CRD-119", "nonce: wanted %d bytes, got %d", apiv1.NonceSize, n)
		}
		if ok, _ := s.statements.take(g.host); !ok {
			return nil, problem.New("CRD-115", "too many statements were asked for from this address")
		}
		served := g.served.Load()
		if served == nil {
			return nil, problem.New("CRD-119", "the call came without TLS")
		}
		statement, err := s.c.Attest(ctx, req.GetNonce(), *served)
		if err != nil {
			return nil, err
		}
		if out.Statement, err = json.Marshal(statement); err != nil {
			return nil, err
		}
	}
	out.Nonce, err = s.challenge(ctx, sess)
	return out, err
}

// challenge returns the nonce that fits who asks: on a connection under a live
// leaf one for its renewal, on any other one for an activation.
func (s *MarbleServer) challenge(ctx context.Context, sess coordinator.Session) ([]byte, error) {
	_, state, err := connection(ctx)
	if err != nil {
		return nil, err
	}
	if len(state.VerifiedChains) > 0 {
		if p, err := s.c.Identify(state.PeerCertificates[0]); err == nil {
			return s.c.NewDemand(ctx, p, sess)
		}
	}
	return s.c.Challenge(ctx, sess)
}

// Activate implements marblepb.MarbleServer.
func (s *MarbleServer) Activate(ctx context.Context, req *marblepb.ActivateRequest) (resp *marblepb.ActivateResponse, err error) {
	started := time.Now()
	defer func() {
		s.decided("activation", req.GetInstance().GetMarble()+"/"+req.GetInstance().GetId(), err)
		s.metrics.decision("activate", req.GetEvidence().GetTee(), err, time.Since(started))
	}()
	select {
	case s.activations <- struct{}{}:
		defer func() { <-s.activations }()
	case <-ctx.Done():
		return nil, problem.New("CRD-115", "%d activations are being judged", cap(s.activations))
	case <-s.stopping:
		return nil, problem.New("CRD-003", "no activation is begun any more")
	}
	sess, _, err := session(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetInstance() == nil || req.GetEvidence() == nil {
		return nil, problem.New("CRD-119", "activation without instance or evidence")
	}
	a, err := s.c.Activate(ctx, coordinator.ActivateRequest{Session: sess, Instance: instance(req.GetInstance()),
		Evidence:     evidence(req.GetEvidence()),
		ClaimsBuffer: req.GetEvidence().GetClaimsBuffer(), PublicKey: req.GetPublicKey(), Nonce: req.GetNonce()})
	if err != nil {
		return nil, err
	}
	out := &marblepb.ActivateResponse{Lease: lease(a.Lease), Parameters: parameters(a.Parameters), Decision: a.Decision}
	for _, port := range a.Serves {
		out.Serves = append(out.Serves, uint32(port))
	}
	return out, nil
}

// decided logs the outcome of a decision about a marble.
func (s *MarbleServer) decided(purpose, who string, err error) {
	s.decisions.log(purpose, slog.String("marble", text(who)), err)
}

// decisions logs what was decided. Refusals cost a stranger nothing, so only some
// of a flood are logged; all are counted, and kept by the core.
type decisions struct {
	to       *slog.Logger
	refusals *rate
}

func newDecisions(c Config) decisions {
	return decisions{to: c.Log, refusals: newRate(refusalRate, refusalBurst, c.Now)}
}

func (d decisions) log(purpose string, who slog.Attr, err error) {
	if err == nil {
		d.to.Info(purpose+" accepted", who)
		return
	}
	e := new(problem.Error)
	if !errors.As(err, &e) {
		return // no refusal but a failure, which the edge logs
	}
	if ok, _ := d.refusals.take(netip.Addr{}); ok {
		d.to.Warn(purpose+" refused", who, "code", string(e.Code), "detail", text(e.Detail), "decision", e.Instance)
	}
}

func evidence(e *marblepb.Evidence) attest.Evidence {
	out := attest.Evidence{TEE: attest.TEE(e.GetTee()), Raw: e.GetRaw(), EventLog: e.GetEventLog()}
	for _, d := range e.GetDevices() {
		out.Devices = append(out.Devices, attest.Device{Name: d.GetName(), TEE: attest.TEE(d.GetTee()), Raw: d.GetRaw()})
	}
	return out
}

func instance(i *marblepb.Instance) coordinator.InstanceInfo {
	return coordinator.InstanceInfo{Marble: i.GetMarble(), ID: i.GetId(), Address: i.GetAddress(), Loopback: i.GetLoopback()}
}

func lease(l coordinator.Lease) *marblepb.Lease {
	out := &marblepb.Lease{Certificates: l.Certificates, Bundle: l.Bundle, RenewAfterUnixMs: l.RenewAfter.UnixMilli(),
		DegradeAtUnixMs: l.DegradeAt.UnixMilli(), DrainAtUnixMs: l.DrainAt.UnixMilli(), CutAtUnixMs: l.NotAfter.UnixMilli(),
		NotAfterUnixMs: l.NotAfter.UnixMilli(), Revision: l.Revision, SpiffeId: l.SPIFFEID, Secrets: make(map[string]*marblepb.Secret, len(l.Secrets))}
	for name, v := range l.Secrets {
		out.Secrets[name] = secret(v)
	}
	return out
}

// pushes is a lease for a marble that runs, with its parameters.
func pushes(l coordinator.Lease) *marblepb.SessionResponse {
	out := lease(l)
	if l.Parameters != nil {
		out.Parameters = parameters(*l.Parameters)
	}
	return &marblepb.SessionResponse{Message: &marblepb.SessionResponse_Lease{Lease: out}}
}

func parameters(p manifest.Parameters) *marblepb.Parameters {
	return &marblepb.Parameters{Argv: p.Argv, Env: p.Env, Files: p.Files,
		Reload:       &marblepb.Reload{Signal: p.Reload.Signal, Command: p.Reload.Command},
		ReferenceEnv: names(p.References.Env), ReferenceFiles: names(p.References.Files)}
}

// names are the secrets that may stand in each place.
func names(places map[string][]string) map[string]*marblepb.Names {
	all := make(map[string]*marblepb.Names, len(places))
	for place, secrets := range places {
		all[place] = &marblepb.Names{Names: secrets}
	}
	return all
}
