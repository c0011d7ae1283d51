package mesh

import (
	"net/netip"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
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

// callers are those who may call now.
func (in inbound) callers() []caller {
	var may []caller
	for _, from := range in.c.callers[in.hop] {
		if !in.c.shut(from.marble) {
			may = append(may, from)
		}
	}
	return may
}

// life bounds a connection: it ends with the shortest lease of those who may
// be at either end. Barred ones count: nobody's connections end for them.
func (in inbound) life() time.Duration {
	life := in.lease
	for _, from := range in.c.callers[in.hop] {
		life = min(life, from.lease)
	}
	return life
}

// compile adds the listener for peers and what it leads to.
func (in inbound) compile(res *Resources) error {
	var chains []*listener.FilterChain
	var err error
	switch in.port.Protocol {
	case manifest.HTTP:
		chains, err = in.httpChains(res)
	case manifest.TCP, "":
		chains, err = in.tcpChains(res)
	default:
		err = problem.New("MSH-011", "%s/%s: protocol %q", in.hop.marble, in.hop.port, in.port.Protocol)
	}
	if err != nil {
		return err
	}
	inspect, err := inspectTLS()
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
		ListenerFilters:  []*listener.ListenerFilter{inspect}, ListenerFiltersTimeout: durationpb.New(handshakeTimeout),
		FilterChains:                  chains,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		EnableReusePort:               wrapperspb.Bool(false),
		AccessLog:                     logs,
	})
}

// tcpChains authorise a connection once, then pass it on.
func (in inbound) tcpChains(res *Resources) ([]*listener.FilterChain, error) {
	for _, from := range in.callers() {
		if from.routes != nil {
			return nil, problem.New("MSH-013", "%s limits its call of %s/%s to routes, but that is not an http port", from.marble, in.hop.marble, in.hop.port)
		}
	}
	if err := in.localCluster(res, in.name(), false); err != nil {
		return nil, err
	}
	pass, err := tcpProxy(in.name(), in.name(), in.life(), nil)
	if err != nil {
		return nil, err
	}
	return in.chains(nil, func(callers []caller) ([]*listener.Filter, error) {
		gate, err := in.gate(callers)
		return []*listener.Filter{gate, pass}, err
	})
}

// httpChains authorise each request; the rules travel in the route
// configuration, so that a change bites with the next request of a live
// connection, before its filter chain has ended.
func (in inbound) httpChains(res *Resources) ([]*listener.FilterChain, error) {
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
	if err := in.localCluster(res, in.name()+"/h2", true); err != nil {
		return nil, err
	}
	return in.chains([]string{"h2", "http/1.1"}, func(callers []caller) ([]*listener.Filter, error) {
		if !in.c.anyBarred(callers) {
			return []*listener.Filter{hcm}, nil
		}
		gate, err := in.gate(callers)
		return []*listener.Filter{gate, hcm}, err
	})
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
