package mesh

import (
	"net/netip"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func (h hop) outboundName() string { return "out/" + h.marble + "/" + h.port }

// outboundTo adds what one call needs: a listener on the caller's loopback, and
// the cluster that leads to the callee and to nobody else.
func (c *compiler) outboundTo(from string, call manifest.Call, at place, res *Resources) error {
	h := hop{call.Marble, call.Port}
	callee, err := c.marble(call.Marble)
	if err != nil {
		return err
	}
	port, ok := callee.Serves[call.Port]
	if !ok {
		return problem.New("MSH-010", "marble %q serves no port %q", call.Marble, call.Port)
	}
	name := h.outboundName()
	if res[Cluster][name], err = c.sharedCluster(edge{from, h}, port); err != nil {
		return err
	}
	on := call.Listen
	if on == 0 {
		on = port.Port
	}
	if _, dup := res[Listener][name]; dup {
		return problem.New("MSH-011", "%q is defined twice", name)
	}
	res[Listener][name], err = c.sharedListener(h, port, netip.AddrPortFrom(at.loopback, on))
	return err
}

// door is where callers of a hop find it on their loopback.
type door struct {
	hop hop
	at  netip.AddrPort
}

// sharedListener takes the program's own calls; the same for all callers that
// have it at the same place.
func (c *compiler) sharedListener(h hop, port manifest.Port, at netip.AddrPort) (*discovery.Resource, error) {
	if r, ok := c.doors[door{h, at}]; ok {
		return r, nil
	}
	name := h.outboundName()
	logs, err := logRefusals(callLine, flagged("UF", "UH", "URX", "NC", "NR"))
	if err != nil {
		return nil, err
	}
	var chain *listener.Filter
	if port.Protocol == manifest.HTTP {
		chain, err = clientManager(name, logs)
	} else {
		chain, err = tcpProxy(name, name, c.life(h), logs)
	}
	if err != nil {
		return nil, err
	}
	r, err := newResource(name, &listener.Listener{
		Name: name, Address: address(at.Addr(), at.Port()),
		TrafficDirection:              core.TrafficDirection_OUTBOUND,
		FilterChains:                  []*listener.FilterChain{{Name: name + c.generation(h.marble), Filters: []*listener.Filter{chain}}},
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		EnableReusePort:               wrapperspb.Bool(false),
	})
	c.doors[door{h, at}] = r
	return r, err
}

// life bounds the connections of a hop, as inbound.life does on the other side.
func (c *compiler) life(h hop) time.Duration {
	callee := c.view.Manifest.Marbles[h.marble]
	return inbound{c: c, hop: h, lease: leaseOf(callee)}.life()
}

func (c *compiler) sharedCluster(e edge, port manifest.Port) (*discovery.Resource, error) {
	if r, ok := c.clusters[e]; ok {
		return r, nil
	}
	cl, err := c.outboundCluster(e, port)
	if err != nil {
		return nil, err
	}
	r, err := newResource(e.to.outboundName(), cl)
	c.clusters[e] = r
	return r, err
}

// outboundCluster accepts exactly the callee's identity as the server. Hosts
// are set aside only for failures of the connection, never for what a program
// answers.
func (c *compiler) outboundCluster(e edge, port manifest.Port) (*cluster.Cluster, error) {
	h := e.to
	cl := &cluster.Cluster{
		Name:                 h.outboundName(),
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: overADS()},
		ConnectTimeout:       durationpb.New(connectTimeout),
		LbPolicy:             cluster.Cluster_LEAST_REQUEST,
		CircuitBreakers:      limits(),
		OutlierDetection: &cluster.OutlierDetection{
			SplitExternalLocalOriginErrors:         true,
			ConsecutiveLocalOriginFailure:          wrapperspb.UInt32(3),
			EnforcingConsecutiveLocalOriginFailure: wrapperspb.UInt32(100),
			EnforcingConsecutive_5Xx:               wrapperspb.UInt32(0),
			EnforcingConsecutiveGatewayFailure:     wrapperspb.UInt32(0),
			EnforcingSuccessRate:                   wrapperspb.UInt32(0),
			EnforcingLocalOriginSuccessRate:        wrapperspb.UInt32(0),
			Interval:                               durationpb.New(time.Second),
			BaseEjectionTime:                       durationpb.New(2 * time.Second),
			MaxEjectionTime:                        durationpb.New(10 * time.Second),
			MaxEjectionPercent:                     wrapperspb.UInt32(50),
		},
		UpstreamConnectionOptions: &cluster.UpstreamConnectionOptions{TcpKeepalive: &core.TcpKeepalive{
			KeepaliveTime: wrapperspb.UInt32(30), KeepaliveInterval: wrapperspb.UInt32(5), KeepaliveProbes: wrapperspb.UInt32(3),
		}},
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
	}
	var alpn []string
	var err error
	if port.Protocol == manifest.HTTP {
		alpn = []string{"h2"}
		if cl.TypedExtensionProtocolOptions, err = http2Upstream(min(c.life(h), httpConnection)); err != nil {
			return nil, err
		}
	}
	cl.TransportSocket, err = dialTLS(c.spiffeID(h.marble), c.callerName(e.from), alpn...)
	return cl, err
}

// sharedEndpoints lists where the callee's instances listen for peers.
func (c *compiler) sharedEndpoints(h hop) (*discovery.Resource, error) {
	if r, ok := c.endpoints[h]; ok {
		return r, nil
	}
	port := c.view.Manifest.Marbles[h.marble].Serves[h.port]
	cla := &endpoint.ClusterLoadAssignment{ClusterName: h.outboundName()}
	if addrs := c.addresses[h.marble]; len(addrs) > 0 {
		cla.Endpoints = []*endpoint.LocalityLbEndpoints{{LbEndpoints: lbEndpoints(addrs, port.Port)}}
	}
	r, err := newResource(h.outboundName(), cla)
	c.endpoints[h] = r
	return r, err
}

func lbEndpoints(addrs []netip.Addr, port uint16) []*endpoint.LbEndpoint {
	out := make([]*endpoint.LbEndpoint, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, lbEndpoint(a, port))
	}
	return out
}

// endpointsFor returns the endpoints of an instance: none if it is barred.
func (c *compiler) endpointsFor(in coordinator.ViewInstance) (Group, error) {
	if c.out(in) {
		return Group{}, nil
	}
	return c.endpointsOf(in.Marble)
}

// endpointsOf returns the endpoints that a marble's calls lead to; the same
// group for all of its instances.
func (c *compiler) endpointsOf(marble string) (Group, error) {
	if g, ok := c.groups[marble]; ok {
		return g, nil
	}
	m, err := c.marble(marble)
	if err != nil {
		return nil, err
	}
	g := Group{}
	for _, call := range m.Calls {
		if c.shut(call.Marble) {
			continue
		}
		h := hop{call.Marble, call.Port}
		if g[h.outboundName()], err = c.sharedEndpoints(h); err != nil {
			return nil, err
		}
	}
	c.groups[marble] = g
	return g, nil
}

// tcpProxy passes a connection on to a cluster, for at most life.
func tcpProxy(name, to string, life time.Duration, logs []*accesslog.AccessLog) (*listener.Filter, error) {
	return filter("envoy.filters.network.tcp_proxy", &tcp.TcpProxy{
		StatPrefix:                      name,
		ClusterSpecifier:                &tcp.TcpProxy_Cluster{Cluster: to},
		MaxDownstreamConnectionDuration: durationpb.New(life),
		MaxConnectAttempts:              wrapperspb.UInt32(3),
		AccessLog:                       logs,
	})
}
