package mesh

import (
	"net/netip"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	netrbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds on connections, the same on both sides of a hop.
const (
	handshakeTimeout = 10 * time.Second
	connectTimeout   = 5 * time.Second
	httpConnection   = 10 * time.Minute // closed gracefully then, so it can be short
	bufferLimit      = 256 << 10        // bytes buffered for one connection
	maxConnections   = 8192             // of one cluster
)

// inbound is one served port of one instance.
type inbound struct {
	c     *compiler
	hop   hop
	port  manifest.Port
	at    place
	lease time.Duration // of the serving marble
}

// name is that of the listener, the route configuration and the local cluster.
func (in inbound) name() string { return "in/" + in.hop.port }

func (in inbound) callers() []caller { return in.c.callers[in.hop] }

// life bounds a connection: it ends with the shortest lease of those who may
// be at either end.
func (in inbound) life() time.Duration {
	life := in.lease
	for _, from := range in.callers() {
		life = min(life, from.lease)
	}
	return life
}

// compile adds the listener for peers and what it leads to.
func (in inbound) compile(res *Resources) error {
	var filters []*listener.Filter
	var alpn []string
	var err error
	switch in.port.Protocol {
	case manifest.HTTP:
		alpn = []string{"h2", "http/1.1"}
		filters, err = in.httpFilters(res)
	case manifest.TCP, "":
		filters, err = in.tcpFilters(res)
	default:
		err = problem.New("MSH-011", "%s/%s: protocol %q", in.hop.marble, in.hop.port, in.port.Protocol)
	}
	if err != nil {
		return err
	}
	var peers []string
	for _, from := range in.callers() {
		peers = append(peers, in.c.spiffeID(from.marble))
	}
	socket, err := acceptTLS(peers, alpn...)
	if err != nil {
		return err
	}
	refused, err := refusedConnections()
	if err != nil {
		return err
	}
	logs, err := logRefusals(connectionLine, refused)
	if err != nil {
		return err
	}
	return res[Listener].put(in.name(), &listener.Listener{
		Name: in.name(), Address: address(in.at.peers, in.port.Port),
		TrafficDirection: core.TrafficDirection_INBOUND,
		FilterChains: []*listener.FilterChain{{
			Name: in.name(), Filters: filters, TransportSocket: socket,
			TransportSocketConnectTimeout: durationpb.New(handshakeTimeout),
		}},
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		EnableReusePort:               wrapperspb.Bool(false),
		AccessLog:                     logs,
	})
}

// tcpFilters authorises a connection once, then passes it on.
func (in inbound) tcpFilters(res *Resources) ([]*listener.Filter, error) {
	for _, from := range in.callers() {
		if from.routes != nil {
			return nil, problem.New("MSH-013", "%s limits its call of %s/%s to routes, but that is not an http port", from.marble, in.hop.marble, in.hop.port)
		}
	}
	rules, err := in.c.policies(in.callers())
	if err != nil {
		return nil, err
	}
	gate, err := filter("envoy.filters.network.rbac", &netrbac.RBAC{StatPrefix: in.name(), Rules: rules})
	if err != nil {
		return nil, err
	}
	pass, err := tcpProxy(in.name(), in.name(), in.life(), nil)
	if err != nil {
		return nil, err
	}
	return []*listener.Filter{gate, pass}, in.localCluster(res, in.name(), false)
}

// httpFilters authorises each request; the rules travel in the route
// configuration, so that a change bites on live connections.
func (in inbound) httpFilters(res *Resources) ([]*listener.Filter, error) {
	if err := in.putRoutes(res); err != nil {
		return nil, err
	}
	hcm, err := in.httpManager()
	if err != nil {
		return nil, err
	}
	if err := in.localCluster(res, in.name(), false); err != nil {
		return nil, err
	}
	return []*listener.Filter{hcm}, in.localCluster(res, in.name()+"/h2", true)
}

// localCluster is the program itself, on loopback.
func (in inbound) localCluster(res *Resources, name string, h2 bool) error {
	cl := &cluster.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(connectTimeout),
		LoadAssignment: &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{{
			LbEndpoints: []*endpoint.LbEndpoint{lbEndpoint(in.at.loopback, in.port.Port)},
		}}},
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		CircuitBreakers:               limits(),
	}
	if h2 {
		options, err := http2Upstream(0)
		if err != nil {
			return err
		}
		cl.TypedExtensionProtocolOptions = options
	}
	return res[Cluster].put(name, cl)
}

func limits() *cluster.CircuitBreakers {
	n := wrapperspb.UInt32(maxConnections)
	return &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{
		MaxConnections: n, MaxPendingRequests: n, MaxRequests: n,
	}}}
}

func lbEndpoint(ip netip.Addr, port uint16) *endpoint.LbEndpoint {
	return &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
		Endpoint: &endpoint.Endpoint{Address: address(ip, port)},
	}}
}

func address(ip netip.Addr, port uint16) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: ip.String(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func filter(name string, m validated) (*listener.Filter, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &listener.Filter{Name: name, ConfigType: &listener.Filter_TypedConfig{TypedConfig: a}}, nil
}
