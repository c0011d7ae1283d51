package mesh

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/integration/envoytest"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Every proxy here claims to be db by its node id, and gets its own.
func TestConfigurationIsChosenByCertificate(t *testing.T) {
	f := newFixture(t, shopView())
	for _, tc := range []struct {
		marble, id string
		want       []string
	}{
		{"web", "w1", []string{"in/http", "in/http/h2", "out/cart/http"}},
		{"cart", "c2", []string{"in/http", "in/http/h2", "out/db/sql"}},
		{"db", "d1", []string{"in/sql"}},
	} {
		t.Run(tc.marble, func(t *testing.T) {
			p := f.connect(f.leaf(tc.marble, tc.id, time.Hour))
			p.subscribe(Cluster, "*")
			if d := cmp.Diff(tc.want, names(p.next(Cluster))); d != "" {
				t.Errorf("clusters (-want +got):\n%s", d)
			}
		})
	}
}

// Naming what is another's does not give it.
func TestNamesOfOthersAreNotServed(t *testing.T) {
	f := newFixture(t, shopView())
	p := f.connect(f.leaf("web", "w1", time.Hour))
	p.subscribe(Endpoint, "out/db/sql")
	resp := p.next(Endpoint)
	if len(resp.Resources) != 0 || len(resp.RemovedResources) != 1 {
		t.Errorf("got %v, want out/db/sql reported as not there", resp)
	}
}

func TestStreamsThatAreRefused(t *testing.T) {
	f := newFixture(t, shopView())
	ask := func(identity *envoytest.Identity, typeURL string) error {
		p := f.connect(identity)
		p.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{"*"}})
		return p.ended()
	}
	twoNames := f.leaf("cart", "c1", time.Hour)
	f.mu.Lock()
	p := f.peers[twoNames.Leaf.SerialNumber.Text(16)]
	p.Marble, p.Instance = "web", "w1" // the record says web, the certificate cart
	f.peers[twoNames.Leaf.SerialNumber.Text(16)] = p
	f.mu.Unlock()
	web := f.leaf("web", "w1", time.Hour)
	for _, tc := range []struct {
		name     string
		identity *envoytest.Identity
		typeURL  string
		code     codes.Code
		want     string
	}{
		{"no certificate", nil, resource.ClusterType, codes.PermissionDenied, "MSH-001"},
		{"certificate not issued by us", f.ca.Leaf(t, "spiffe://shop.example/web", time.Now().Add(time.Hour)), resource.ClusterType, codes.PermissionDenied, "MSH-001"},
		{"certificate of another name", twoNames, resource.ClusterType, codes.PermissionDenied, "MSH-001"},
		{"instance without a lease", f.leaf("web", "gone", time.Hour), resource.ClusterType, codes.PermissionDenied, "MSH-002"},
		{"secrets", web, resource.SecretType, codes.PermissionDenied, "MSH-003"},
		{"another type", web, resource.RuntimeType, codes.InvalidArgument, "MSH-004"},
		{"no type", web, "", codes.InvalidArgument, "MSH-004"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := ask(tc.identity, tc.typeURL); status.Code(err) != tc.code || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s with %s", err, tc.code, tc.want)
			}
		})
	}
}

func TestStateOfTheWorldIsRefused(t *testing.T) {
	f := newFixture(t, shopView())
	conn, err := grpc.NewClient(f.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: f.ca.Pool(), ServerName: "coordinator", Certificates: []tls.Certificate{f.leaf("web", "w1", time.Hour).Certificate},
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "MSH-004") {
		t.Errorf("got %v, want InvalidArgument with MSH-004", err)
	}
}

func TestStreamEndsWithTheLease(t *testing.T) {
	t.Parallel()
	t.Run("leaf expires", func(t *testing.T) {
		f := newFixture(t, shopView())
		p := f.connect(f.leaf("web", "w1", 1500*time.Millisecond))
		p.sync("out/cart/http")
		if err := p.ended(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "MSH-005") {
			t.Errorf("got %v, want PermissionDenied with MSH-005", err)
		}
	})
	t.Run("instance is gone", func(t *testing.T) {
		f := newFixture(t, shopView())
		p := f.connect(f.leaf("web", "w1", time.Hour))
		p.sync("out/cart/http")
		f.change(func(v *coordinator.View) { v.Instances = v.Instances[:4] })
		if err := p.ended(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "MSH-005") {
			t.Errorf("got %v, want PermissionDenied with MSH-005", err)
		}
		f.await("disconnected", func(e coordinator.ProxyEvent) bool { return e.Connected != nil && !*e.Connected })
	})
}

// An instance that is in the View but not in the last push is served as soon as
// it asks.
func TestNewInstanceNeedsNoAnnouncement(t *testing.T) {
	f := newFixture(t, shopView())
	f.connect(f.leaf("web", "w1", time.Hour)).sync("out/cart/http")
	f.mu.Lock()
	v := *f.view
	v.Instances = append(v.Instances[:5:5], coordinator.ViewInstance{Marble: "web", ID: "w2", Address: "127.0.77.21"})
	f.view = &v
	f.mu.Unlock()
	f.connect(f.leaf("web", "w2", time.Hour)).sync("out/cart/http")
}

func TestChangedEndpointIsAllThatIsSent(t *testing.T) {
	f := newFixture(t, shopView())
	p := f.connect(f.leaf("web", "w1", time.Hour))
	p.sync("out/cart/http")
	f.change(func(v *coordinator.View) { v.Instances[1].Address = "127.0.77.99" })
	resp := p.next(Endpoint)
	if s := string(resp.Resources[0].Resource.Value); !strings.Contains(s, "127.0.77.99") {
		t.Errorf("got %q, want the new address", s)
	}
	p.ack(resp)
	f.change(func(*coordinator.View) {})
	p.quiet("in/http")
}

// A proxy does not use a changed cluster before it has its endpoints again.
func TestEndpointsFollowAChangedCluster(t *testing.T) {
	f := newFixture(t, shopView())
	p := f.connect(f.leaf("cart", "c1", time.Hour))
	p.sync("out/db/sql")
	f.change(func(v *coordinator.View) { v.TrustDomain, v.Revision = "other.example", "bb" })
	resp := p.next(Cluster)
	if d := cmp.Diff([]string{"out/db/sql"}, names(resp)); d != "" {
		t.Errorf("clusters (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"out/db/sql"}, names(p.next(Endpoint))); d != "" {
		t.Errorf("endpoints (-want +got):\n%s", d)
	}
}

func versions(v *coordinator.View, t *testing.T, marble, id string) [kinds]map[string]string {
	var out [kinds]map[string]string
	for k, g := range mustCompile(t, v, marble, id) {
		out[k] = map[string]string{}
		for name, r := range g {
			out[k][name] = r.Version
		}
	}
	return out
}

func TestReconnect(t *testing.T) {
	open := func(f *fixture, had [kinds]map[string]string) *proxy {
		p := f.connect(f.leaf("cart", "c1", time.Hour))
		for _, s := range []struct {
			kind Kind
			name string
		}{{Cluster, "*"}, {Endpoint, "out/db/sql"}, {Listener, "*"}} {
			p.send(&discovery.DeltaDiscoveryRequest{TypeUrl: s.kind.TypeURL(), ResourceNamesSubscribe: []string{s.name}, InitialResourceVersions: had[s.kind]})
		}
		return p
	}
	t.Run("with everything", func(t *testing.T) {
		f := newFixture(t, shopView())
		open(f, versions(shopView(), t, "cart", "c1")).quiet("in/http")
	})
	t.Run("cluster changed meanwhile", func(t *testing.T) {
		f := newFixture(t, shopView())
		had := versions(shopView(), t, "cart", "c1")
		had[Cluster]["out/db/sql"] = "older"
		p := open(f, had)
		if d := cmp.Diff([]string{"out/db/sql"}, names(p.next(Cluster))); d != "" {
			t.Errorf("clusters (-want +got):\n%s", d)
		}
		if d := cmp.Diff([]string{"out/db/sql"}, names(p.next(Endpoint))); d != "" {
			t.Errorf("endpoints, unchanged but forced (-want +got):\n%s", d)
		}
	})
	t.Run("listener removed meanwhile", func(t *testing.T) {
		f := newFixture(t, shopView())
		had := versions(shopView(), t, "cart", "c1")
		had[Listener]["out/old/sql"], had[Cluster]["out/old/sql"] = "v", "v"
		p := open(f, had)
		resp := p.next(Listener)
		if d := cmp.Diff([]string{"out/old/sql"}, resp.RemovedResources); d != "" {
			t.Errorf("removed listeners (-want +got):\n%s", d)
		}
		p.ack(resp)
		if d := cmp.Diff([]string{"out/old/sql"}, p.next(Cluster).RemovedResources); d != "" {
			t.Errorf("removed clusters (-want +got):\n%s", d)
		}
	})
}

// What a removed edge leaves goes last: the cluster only after the listener that
// leads to it.
func TestRemovedEdge(t *testing.T) {
	f := newFixture(t, shopView())
	p := f.connect(f.leaf("cart", "c1", time.Hour))
	p.sync("out/db/sql")
	f.changeManifest("cart", func(m *manifest.Marble) { m.Calls = nil })
	resp := p.next(Listener)
	if d := cmp.Diff([]string{"out/db/sql"}, resp.RemovedResources); d != "" {
		t.Fatalf("removed listeners (-want +got):\n%s", d)
	}
	p.ack(resp)
	if d := cmp.Diff([]string{"out/db/sql"}, p.next(Cluster).RemovedResources); d != "" {
		t.Errorf("removed clusters (-want +got):\n%s", d)
	}
}

func TestRefusalIsRecordedAndNotRepeated(t *testing.T) {
	f := newFixture(t, shopView())
	p := f.connect(f.leaf("db", "d1", time.Hour))
	p.subscribe(Cluster, "*")
	p.ack(p.next(Cluster))
	p.subscribe(Listener, "*")
	p.nack(p.next(Listener), "cannot bind '127.0.77.3:5432': Address already in use")
	e := f.await("refused", func(e coordinator.ProxyEvent) bool { return e.State == "refused" })
	want := coordinator.ProxyEvent{Type: "listener", State: "refused", Error: "cannot bind '127.0.77.3:5432': Address already in use", Names: []string{"in/sql"}, Revision: "aa"}
	e.Peer, want.Peer = coordinator.Peer{Marble: e.Peer.Marble, Instance: e.Peer.Instance}, coordinator.Peer{Marble: "db", Instance: "d1"}
	if d := cmp.Diff(want, e); d != "" {
		t.Errorf("event (-want +got):\n%s", d)
	}
	f.change(func(*coordinator.View) {})
	p.send(&discovery.DeltaDiscoveryRequest{TypeUrl: Endpoint.TypeURL(), ResourceNamesSubscribe: []string{"nothing"}})
	p.next(Endpoint) // and no listener before it
}

// A revision that changes nothing for a proxy is one that it has, and it is said
// once; one that it refuses a part of, or has not answered to, is not.
func TestUnchangedRevisionIsReported(t *testing.T) {
	f := newFixture(t, shopView())
	p := f.connect(f.leaf("cart", "c1", time.Hour))
	p.sync("out/db/sql")
	said := func(revision string) (n int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, e := range f.events {
			if e.Peer.Instance == "c1" && e.Type == "" && e.Connected == nil && e.Revision == revision {
				n++
			}
		}
		return n
	}
	f.change(func(v *coordinator.View) { v.Revision = "bb" })
	f.await("unchanged", func(e coordinator.ProxyEvent) bool {
		return e.Peer.Instance == "c1" && e.Type == "" && e.Revision == "bb"
	})
	f.change(func(v *coordinator.View) { v.Instances[3].Address = "127.0.77.33" }) // another's
	if n := said("bb"); n != 1 {
		t.Errorf("said %d times that bb changes nothing, want once", n)
	}
	f.changeManifest("cart", func(m *manifest.Marble) { m.Calls = nil })
	p.ack(p.next(Listener))
	p.next(Cluster)
	if n := said("bbx"); n != 0 {
		t.Errorf("said %d times that a revision changes nothing that takes a call away", n)
	}
}

// A marble that neither serves nor calls must not wait for ever.
func TestNothingIsAnAnswer(t *testing.T) {
	v := shopView()
	v.Manifest.Marbles["idle"] = manifest.Marble{}
	v.Instances = append(v.Instances, coordinator.ViewInstance{Marble: "idle", ID: "i1", Address: "127.0.77.5"})
	f := newFixture(t, v)
	p := f.connect(f.leaf("idle", "i1", time.Hour))
	for _, k := range []Kind{Cluster, Listener} {
		p.subscribe(k, "*")
		if resp := p.next(k); len(resp.Resources) != 0 {
			t.Errorf("got %v, want nothing", resp)
		}
	}
}

// What cannot be compiled is withheld: the proxy keeps what it has, others are
// served, and it is said once.
func TestWithheld(t *testing.T) {
	f := newFixture(t, shopView())
	p := f.connect(f.leaf("cart", "c1", time.Hour))
	p.sync("out/db/sql")
	db := f.connect(f.leaf("db", "d1", time.Hour))
	db.sync("")
	f.changeManifest("cart", func(m *manifest.Marble) { m.Calls = append(m.Calls, manifest.Call{Marble: "nobody", Port: "x"}) })
	e := f.await("withheld", func(e coordinator.ProxyEvent) bool { return e.State == "withheld" && e.Peer.Instance == "c1" })
	if !strings.Contains(e.Error, "MSH-010") || !strings.Contains(e.Error, "nobody") {
		t.Errorf("got %q, want MSH-010 about nobody", e.Error)
	}
	f.change(func(v *coordinator.View) { v.Instances[3].Address = "127.0.77.33" })
	db.next(Listener)
	p.quiet("in/http")
	f.mu.Lock()
	defer f.mu.Unlock()
	said := 0
	for _, e := range f.events {
		if e.State == "withheld" && e.Peer.Instance == "c1" {
			said++
		}
	}
	if said != 1 {
		t.Errorf("said %d times, want once", said)
	}
}

// An agent opens its next stream before it closes the last: the instance is
// connected all the while.
func TestConnectedIsSaidOfTheInstance(t *testing.T) {
	t.Parallel()
	f := newFixture(t, shopView())
	first := f.connect(f.leaf("db", "d1", 2*time.Second))
	first.sync("")
	second := f.connect(f.leaf("db", "d1", 4*time.Second))
	second.sync("")
	if err := first.ended(); !strings.Contains(err.Error(), "MSH-005") {
		t.Errorf("got %v, want MSH-005", err)
	}
	second.quiet("nothing")
	said := func() (out []bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, e := range f.events {
			if e.Connected != nil {
				out = append(out, *e.Connected)
			}
		}
		return out
	}
	if d := cmp.Diff([]bool{true}, said()); d != "" {
		t.Errorf("while one is open (-want +got):\n%s", d)
	}
	if err := second.ended(); err == nil {
		t.Error("got no error")
	}
	f.await("disconnected", func(e coordinator.ProxyEvent) bool { return e.Connected != nil && !*e.Connected })
	if d := cmp.Diff([]bool{true, false}, said()); d != "" {
		t.Errorf("in the end (-want +got):\n%s", d)
	}
}

// An instance that reports a bad address is told nothing, and that is said.
func TestWithheldFromTheStart(t *testing.T) {
	v := shopView()
	v.Instances[1].Loopback = "10.0.0.1"
	f := newFixture(t, v)
	p := f.connect(f.leaf("cart", "c1", time.Hour))
	p.subscribe(Cluster, "*")
	p.subscribe(Listener, "*")
	e := f.await("withheld", func(e coordinator.ProxyEvent) bool { return e.State == "withheld" })
	if !strings.Contains(e.Error, "MSH-012") || e.Peer.Serial == "" {
		t.Errorf("got %+v, want MSH-012 and the leaf's serial", e)
	}
	f.change(func(v *coordinator.View) { v.Instances[1].Loopback = "" })
	p.next(Cluster)
	p.next(Listener)
}

func TestStreamsOfOneInstanceAreLimited(t *testing.T) {
	f := newFixture(t, shopView())
	leaf := f.leaf("db", "d1", time.Hour)
	for range maxStreams {
		f.connect(leaf).sync("")
	}
	p := f.connect(leaf)
	if err := p.ended(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "MSH-006") {
		t.Errorf("got %v, want ResourceExhausted with MSH-006", err)
	}
}

// One that never reads, over and over given more than its window holds, does not
// hold up the others.
func TestStuckProxyDelaysNobody(t *testing.T) {
	v := shopView()
	for i := range 1000 {
		v.Instances = append(v.Instances, coordinator.ViewInstance{Marble: "cart", ID: fmt.Sprintf("x%d", i), Address: fmt.Sprintf("127.1.%d.%d", i/250, i%250+1)})
	}
	f := newFixture(t, v)
	stuck := f.connect(f.leaf("web", "w1", time.Hour), 64<<10)
	stuck.subscribe(Cluster, "*")
	stuck.subscribe(Listener, "*")
	stuck.subscribe(Endpoint, "out/cart/http")
	f.change(func(v *coordinator.View) {
		v.Instances = append(v.Instances, coordinator.ViewInstance{Marble: "web", ID: "w2", Address: "127.0.77.21"})
	})
	p := f.connect(f.leaf("web", "w2", time.Hour))
	p.sync("out/cart/http")
	for i := range 20 {
		f.change(func(v *coordinator.View) { v.Instances[1].Address = fmt.Sprintf("127.2.0.%d", i+1) })
		p.ack(p.next(Endpoint))
	}
}
