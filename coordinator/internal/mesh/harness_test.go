package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/integration/envoytest"
	"github.com/ashlar-mesh/ashlar/manifest"
)

const patience = 20 * time.Second // only a failure waits this long

// fixture is a Distributor behind a TLS server, over a view that tests change.
type fixture struct {
	t       testing.TB
	ca      *envoytest.CA
	d       *Distributor
	address string

	mu     sync.Mutex // guards what follows
	view   *coordinator.View
	peers  map[string]coordinator.Peer // by serial
	events []coordinator.ProxyEvent
	told   chan struct{} // closed at each event
}

func newFixture(t testing.TB, v *coordinator.View) *fixture {
	t.Helper()
	f := &fixture{t: t, ca: envoytest.NewCA(t), view: v, peers: map[string]coordinator.Peer{}, told: make(chan struct{})}
	f.d = NewDistributor(Config{View: f.current, Identify: f.identify, Event: f.record, Now: time.Now, Debounce: time.Millisecond})
	server := f.ca.Leaf(t, "spiffe://shop.example/coordinator", time.Now().Add(time.Hour), "coordinator")
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: f.ca.Pool(),
		Certificates: []tls.Certificate{server.Certificate},
	})))
	f.d.Register(srv)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = lis.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	wg.Go(func() { _ = f.d.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		srv.Stop()
		wg.Wait()
	})
	return f
}

func (f *fixture) current(context.Context) (*coordinator.View, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view, nil
}

func (f *fixture) identify(leaf *x509.Certificate) (coordinator.Peer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.peers[leaf.SerialNumber.Text(16)]
	if !ok {
		return p, errors.New("not issued here")
	}
	return p, nil
}

func (f *fixture) record(e coordinator.ProxyEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	close(f.told)
	f.told = make(chan struct{})
}

// await waits for an event.
func (f *fixture) await(what string, match func(coordinator.ProxyEvent) bool) coordinator.ProxyEvent {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		f.mu.Lock()
		i := slices.IndexFunc(f.events, match)
		told := f.told
		var e coordinator.ProxyEvent
		if i >= 0 {
			e = f.events[i]
		}
		f.mu.Unlock()
		if i >= 0 {
			return e
		}
		select {
		case <-told:
		case <-timeout:
			f.t.Fatalf("no event: %s", what)
		}
	}
}

// change edits a copy of the view and announces it.
func (f *fixture) change(edit func(*coordinator.View)) {
	f.mu.Lock()
	v := *f.view
	v.Instances = slices.Clone(v.Instances)
	edit(&v)
	f.view = &v
	f.mu.Unlock()
	f.d.Changed()
}

// changeManifest edits one marble of a copy of the manifest.
func (f *fixture) changeManifest(marble string, edit func(*manifest.Marble)) {
	f.change(func(v *coordinator.View) {
		m := *v.Manifest
		marbles := map[string]manifest.Marble{}
		for name, x := range m.Marbles {
			x.Calls = slices.Clone(x.Calls)
			if name == marble {
				edit(&x)
			}
			marbles[name] = x
		}
		m.Marbles = marbles
		v.Manifest = &m
		v.Revision += "x"
	})
}

// leaf issues an identity to an instance.
func (f *fixture) leaf(marble, id string, life time.Duration) *envoytest.Identity {
	identity := f.ca.InstanceLeaf(f.t, "spiffe://shop.example/"+marble, id, time.Now().Add(life))
	f.mu.Lock()
	defer f.mu.Unlock()
	serial := identity.Leaf.SerialNumber.Text(16)
	f.peers[serial] = coordinator.Peer{Marble: marble, Instance: id, Serial: serial, NotAfter: identity.Leaf.NotAfter}
	return identity
}

// proxy is a simulated Envoy.
type proxy struct {
	t      testing.TB
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	got    chan *discovery.DeltaDiscoveryResponse
	err    error // why the stream ended; valid after got is closed
}

// connect opens a stream under an identity; nil for no certificate.
func (f *fixture) connect(identity *envoytest.Identity, window ...int32) *proxy {
	f.t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: f.ca.Pool(), ServerName: "coordinator"}
	if identity != nil {
		config.Certificates = []tls.Certificate{identity.Certificate}
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
	for _, w := range window {
		opts = append(opts, grpc.WithStaticStreamWindowSize(w), grpc.WithStaticConnWindowSize(w))
	}
	conn, err := grpc.NewClient(f.address, opts...)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		cancel()
		f.t.Fatal(err)
	}
	p := &proxy{t: f.t, stream: stream, got: make(chan *discovery.DeltaDiscoveryResponse, 16)}
	if len(window) == 0 { // else it never reads
		go p.receive(ctx)
	}
	f.t.Cleanup(func() {
		cancel()
		_ = conn.Close()
	})
	return p
}

func (p *proxy) receive(ctx context.Context) {
	defer close(p.got)
	for {
		resp, err := p.stream.Recv()
		if err != nil {
			p.err = err
			return
		}
		select {
		case p.got <- resp:
		case <-ctx.Done():
			p.err = ctx.Err()
			return
		}
	}
}

func (p *proxy) send(req *discovery.DeltaDiscoveryRequest) {
	p.t.Helper()
	req.Node = &core.Node{Id: "db", Cluster: "db"} // a lie, always
	_ = p.stream.Send(req)                         // a refused stream shows in next
}

func (p *proxy) subscribe(k Kind, names ...string) {
	p.t.Helper()
	p.send(&discovery.DeltaDiscoveryRequest{TypeUrl: k.TypeURL(), ResourceNamesSubscribe: names})
}

func (p *proxy) ack(resp *discovery.DeltaDiscoveryResponse) {
	p.send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce})
}

func (p *proxy) nack(resp *discovery.DeltaDiscoveryResponse, why string) {
	p.send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce, ErrorDetail: &statuspb.Status{Code: 13, Message: why}})
}

// next returns the next response, which must be of the kind.
func (p *proxy) next(k Kind) *discovery.DeltaDiscoveryResponse {
	p.t.Helper()
	select {
	case resp, ok := <-p.got:
		if !ok {
			p.t.Fatalf("wanted %ss, got the end of the stream: %v", k, p.err)
		}
		if resp.TypeUrl != k.TypeURL() {
			p.t.Fatalf("wanted %ss, got %v", k, resp)
		}
		return resp
	case <-time.After(patience):
		p.t.Fatalf("wanted %ss, got nothing", k)
	}
	return nil
}

// ended waits for the end of the stream and returns why.
func (p *proxy) ended() error {
	p.t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case _, ok := <-p.got:
			if !ok {
				return p.err
			}
		case <-timeout:
			p.t.Fatal("the stream is still open")
		}
	}
}

// quiet checks that nothing more comes: what is subscribed next is answered
// first. It uses the routes, which must not be subscribed yet.
func (p *proxy) quiet(route string) {
	p.t.Helper()
	p.subscribe(Route, route)
	p.next(Route)
}

// sync takes everything that cart gets at first.
func (p *proxy) sync(eds string) {
	p.t.Helper()
	p.subscribe(Cluster, "*")
	p.ack(p.next(Cluster))
	if eds != "" {
		p.subscribe(Endpoint, eds)
		p.ack(p.next(Endpoint))
	}
	p.subscribe(Listener, "*")
	p.ack(p.next(Listener))
}

func names(resp *discovery.DeltaDiscoveryResponse) []string {
	var out []string
	for _, r := range resp.Resources {
		out = append(out, r.Name)
	}
	return out
}
