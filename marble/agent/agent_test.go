package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// source is a Source that tests change.
type source struct {
	mu      sync.Mutex
	id      Identity
	changed chan struct{}
}

func newSource() *source { return &source{id: named("one"), changed: make(chan struct{})} }

func named(version string) Identity {
	return Identity{SPIFFEID: "spiffe://test.example/web", TrustDomain: "test.example",
		ChainPEM: []byte("chain " + version), KeyPEM: []byte("key " + version), BundlePEM: []byte("bundle")}
}

func (s *source) Identity() (Identity, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id, s.changed
}

func (s *source) set(id Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id = id
	close(s.changed)
	s.changed = make(chan struct{})
}

// ads is a coordinator's discovery service with a hook for each stream.
type ads struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	hook func(discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error
}

func (a *ads) DeltaAggregatedResources(s discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return a.hook(s)
}

type setup struct {
	source   *source
	conn     *grpc.ClientConn // Envoy's
	agent    *Agent
	socket   string
	refusals chan Refusal
	dials    chan struct{} // one for each attempt to reach the coordinator
	fail     func() error  // of the next attempts; guarded by mu
	mu       sync.Mutex
}

func (s *setup) setFail(f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// start runs an agent before a coordinator with a discovery hook.
func start(t *testing.T, hook func(discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error) *setup {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "coordinator.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(server, &ads{hook: hook})
	go server.Serve(l) //nolint:errcheck // ends by Stop
	t.Cleanup(server.Stop)
	s := &setup{source: newSource(), socket: filepath.Join(dir, "agent.sock"), refusals: make(chan Refusal, 8), dials: make(chan struct{}, 1024)}
	upstream := func(context.Context) (*grpc.ClientConn, func(), error) {
		s.dials <- struct{}{}
		s.mu.Lock()
		fail := s.fail
		s.mu.Unlock()
		if fail != nil {
			return nil, nil, fail()
		}
		conn, err := dial(l.Addr().String())
		return conn, func() { conn.Close() }, err
	}
	s.agent, err = Start(Config{Socket: s.socket, Source: s.source, Upstream: upstream, Log: slog.New(slog.DiscardHandler),
		Refused: func(r Refusal) { s.refusals <- r }, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.agent.Close)
	if s.conn, err = dial(s.socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	return s
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func silent(s discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	<-s.Context().Done()
	return nil
}

func decode(t *testing.T, a *anypb.Any) *tls.Secret {
	t.Helper()
	s := new(tls.Secret)
	if err := a.UnmarshalTo(s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFetchNames(t *testing.T) {
	s := start(t, silent)
	client := secret.NewSecretDiscoveryServiceClient(s.conn)
	for _, c := range []struct{ name, want string }{
		{"default", "chain one|key one"},
		{"spiffe://test.example/web", "chain one|key one"},
		{"ROOTCA", "bundle"},
		{"spiffe://test.example", "bundle"},
		{"ALL", "test.example:bundle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := client.FetchSecrets(t.Context(), &discovery.DiscoveryRequest{TypeUrl: SecretType, ResourceNames: []string{c.name}})
			if err != nil {
				t.Fatal(err)
			}
			got := decode(t, resp.GetResources()[0])
			if got.GetName() != c.name || render(t, got) != c.want {
				t.Errorf("got %q: %q, want %q", got.GetName(), render(t, got), c.want)
			}
			if err := got.ValidateAll(); err != nil {
				t.Errorf("Envoy would refuse it: %v", err)
			}
		})
	}
	for _, name := range []string{"spiffe://test.example/cart", "spiffe://other.example", "kubernetes://x", "", "DEFAULT", strings.Repeat("x", 5000)} {
		_, err := client.FetchSecrets(t.Context(), &discovery.DiscoveryRequest{TypeUrl: SecretType, ResourceNames: []string{name}})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "MRB-018") {
			t.Errorf("name %.30q: got %v, want MRB-018", name, err)
		}
	}
	if _, err := client.FetchSecrets(t.Context(), &discovery.DiscoveryRequest{TypeUrl: "type.googleapis.com/x"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another type: got %v", err)
	}
	if _, err := client.FetchSecrets(t.Context(), &discovery.DiscoveryRequest{ResourceNames: make([]string, maxNames+1)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many names: got %v", err)
	}
}

// render writes what a secret holds.
func render(t *testing.T, s *tls.Secret) string {
	t.Helper()
	if c := s.GetTlsCertificate(); c != nil {
		return string(c.GetCertificateChain().GetInlineBytes()) + "|" + string(c.GetPrivateKey().GetInlineBytes())
	}
	v := s.GetValidationContext()
	if custom := v.GetCustomValidatorConfig(); custom != nil {
		config := new(tls.SPIFFECertValidatorConfig)
		if err := custom.GetTypedConfig().UnmarshalTo(config); err != nil {
			t.Fatal(err)
		}
		d := config.GetTrustDomains()[0]
		return d.GetName() + ":" + string(d.GetTrustBundle().GetInlineBytes())
	}
	return string(v.GetTrustedCa().GetInlineBytes())
}

func TestStreamSecrets(t *testing.T) {
	s := start(t, silent)
	stream, err := secret.NewSecretDiscoveryServiceClient(s.conn).StreamSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *discovery.DiscoveryRequest) {
		t.Helper()
		r.TypeUrl = SecretType
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	send(&discovery.DiscoveryRequest{ResourceNames: []string{"default"}})
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	send(&discovery.DiscoveryRequest{ResourceNames: []string{"default"}, ResponseNonce: first.GetNonce(), VersionInfo: first.GetVersionInfo()}) // ACK
	s.source.set(named("two"))
	second, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if got := render(t, decode(t, second.GetResources()[0])); got != "chain two|key two" {
		t.Errorf("after renewal: got %q", got)
	}
	if first.GetVersionInfo() == second.GetVersionInfo() || first.GetNonce() == second.GetNonce() {
		t.Error("version or nonce did not change")
	}
	// A NACK is recorded and not answered; a stale request is not answered; more
	// names are.
	send(&discovery.DiscoveryRequest{ResourceNames: []string{"default"}, ResponseNonce: second.GetNonce(), ErrorDetail: status.New(codes.Internal, "bad pair").Proto()})
	if r := <-s.refusals; r.Message != "bad pair" || r.TypeURL != SecretType {
		t.Errorf("got refusal %+v", r)
	}
	send(&discovery.DiscoveryRequest{ResourceNames: []string{"ALL"}, ResponseNonce: first.GetNonce()})
	send(&discovery.DiscoveryRequest{ResourceNames: []string{"default", "ROOTCA"}, ResponseNonce: second.GetNonce()})
	third, err := stream.Recv()
	if err != nil || len(third.GetResources()) != 2 {
		t.Fatalf("got %d resources, %v, want 2", len(third.GetResources()), err)
	}
	send(&discovery.DiscoveryRequest{ResourceNames: []string{"spiffe://test.example/cart"}, ResponseNonce: third.GetNonce()})
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a name that is not owned: got %v, want the stream to end", err)
	}
}

func TestDeltaSecrets(t *testing.T) {
	s := start(t, silent)
	client := secret.NewSecretDiscoveryServiceClient(s.conn)
	stream, err := client.DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	recv := func() map[string]string {
		t.Helper()
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, res := range r.GetResources() {
			got[res.GetName()] = render(t, decode(t, res.GetResource()))
		}
		return got
	}
	send := func(r *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		r.TypeUrl = SecretType
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}})
	if got := recv(); len(got) != 2 || got["default"] != "chain one|key one" || got["ROOTCA"] != "bundle" {
		t.Errorf("got %v", got)
	}
	send(&discovery.DeltaDiscoveryRequest{ResponseNonce: "1"}) // ACK
	send(&discovery.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{"ROOTCA"}})
	send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"ALL"}})
	if got := recv(); len(got) != 1 || got["ALL"] != "test.example:bundle" {
		t.Errorf("got %v", got)
	}
	s.source.set(named("two"))
	if got := recv(); len(got) != 2 || got["default"] != "chain two|key two" {
		t.Errorf("after renewal: got %v", got)
	}
	// A stream that comes again with what it has gets only what is new.
	id, _ := s.source.Identity()
	if stream, err = client.DeltaSecrets(t.Context()); err != nil {
		t.Fatal(err)
	}
	send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}, InitialResourceVersions: map[string]string{"default": id.version(), "ROOTCA": "old"}})
	if got := recv(); len(got) != 1 || got["ROOTCA"] != "bundle" {
		t.Errorf("reconnected: got %v, want ROOTCA alone", got)
	}
	send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"spiffe://test.example/cart"}})
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a name that is not owned: got %v, want the stream to end", err)
	}
}

func TestSocketIsPrivateAndRemoved(t *testing.T) {
	s := start(t, silent)
	st, err := os.Stat(s.socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", st.Mode(), err)
	}
	s.agent.Close()
	if _, err := os.Lstat(s.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after Close: %v, want none", err)
	}
}

func TestStartRefusesPaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"relative": "agent.sock", "long": "/" + strings.Repeat("x", maxSocketPath), "a file": file, "no folder": dir + "/none/agent.sock",
	} {
		if _, err := Start(Config{Socket: path}); problem.CodeOf(err) != "MRB-023" {
			t.Errorf("%s: got %v, want MRB-023", name, err)
		}
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	checked := &sameUser{Listener: l, uid: os.Geteuid() + 1, log: slog.New(slog.DiscardHandler)}
	accepted := make(chan error, 1)
	go func() { _, err := checked.Accept(); accepted <- err }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a process of another user was not cut off")
	}
	l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want it never accepted", err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	go net.Dial("tcp", tcp.Addr().String()) //nolint:errcheck // the listener's end is what counts
	if conn, err = tcp.Accept(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := peer(conn); err == nil {
		t.Error("a connection without credentials has some")
	}
}
