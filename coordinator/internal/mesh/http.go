package mesh

import (
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const rbacFilter = "envoy.filters.http.rbac"

// Bounds on HTTP, the same on both sides of a hop.
const (
	headerKiB      = 60
	headerCount    = 100
	headersTimeout = 10 * time.Second
	streamIdle     = 5 * time.Minute
	h2Streams      = 256
	h2StreamWindow = 256 << 10
	h2ConnWindow   = 1 << 20
)

// manager is a connection manager with the limits and normalisations of every
// hop. Paths are brought to one form before they are compared, so that no
// spelling leads around a route.
func manager(name string, life time.Duration) *hcm.HttpConnectionManager {
	return &hcm.HttpConnectionManager{
		CodecType:  hcm.HttpConnectionManager_AUTO,
		StatPrefix: name,
		CommonHttpProtocolOptions: &core.HttpProtocolOptions{
			MaxConnectionDuration:        durationpb.New(life),
			MaxHeadersCount:              wrapperspb.UInt32(headerCount),
			HeadersWithUnderscoresAction: core.HttpProtocolOptions_DROP_HEADER,
		},
		Http1SafeMaxConnectionDuration: true,
		Http2ProtocolOptions:           http2Options(),
		MaxRequestHeadersKb:            wrapperspb.UInt32(headerKiB),
		RequestHeadersTimeout:          durationpb.New(headersTimeout),
		StreamIdleTimeout:              durationpb.New(streamIdle),
		NormalizePath:                  wrapperspb.Bool(true),
		MergeSlashes:                   true,
		PathWithEscapedSlashesAction:   hcm.HttpConnectionManager_REJECT_REQUEST,
		StripTrailingHostDot:           true,
		ServerHeaderTransformation:     hcm.HttpConnectionManager_PASS_THROUGH,
		UseRemoteAddress:               wrapperspb.Bool(true),
		SkipXffAppend:                  true,
	}
}

func http2Options() *core.Http2ProtocolOptions {
	return &core.Http2ProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(h2Streams),
		InitialStreamWindowSize:     wrapperspb.UInt32(h2StreamWindow),
		InitialConnectionWindowSize: wrapperspb.UInt32(h2ConnWindow),
	}
}

// http2Upstream makes a cluster speak HTTP/2. A life that is not 0 is that of
// connections to another machine, which may vanish without a word.
func http2Upstream(life time.Duration) (map[string]*anypb.Any, error) {
	h2 := http2Options()
	if life > 0 {
		h2.ConnectionKeepalive = &core.KeepaliveSettings{Interval: durationpb.New(15 * time.Second), Timeout: durationpb.New(5 * time.Second)}
	}
	options := &upstream.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstream.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstream.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstream.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: h2,
				},
			},
		},
	}
	if life > 0 {
		options.CommonHttpProtocolOptions = &core.HttpProtocolOptions{MaxConnectionDuration: durationpb.New(life)}
	}
	a, err := pack(options)
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": a}, err
}

// httpManager is the connection manager for peers: it tells the program who
// called, in a header that no caller can set, and denies what the route
// configuration does not allow.
func (in inbound) httpManager() (*listener.Filter, error) {
	m := manager(in.name(), min(in.life(), httpConnection))
	m.ForwardClientCertDetails = hcm.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcm.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	m.PreserveExternalRequestId = true
	m.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{
		RouteConfigName: in.name(), ConfigSource: overADS(),
	}}
	gate, err := httpFilter(rbacFilter, &httprbac.RBAC{Rules: &rbac.RBAC{Action: rbac.RBAC_ALLOW}})
	if err != nil {
		return nil, err
	}
	route, err := routerFilter()
	if err != nil {
		return nil, err
	}
	m.HttpFilters = []*hcm.HttpFilter{gate, route}
	if m.AccessLog, err = logRefusals(requestLine, withStatus(403)); err != nil {
		return nil, err
	}
	return filter("envoy.filters.network.http_connection_manager", m)
}

// putRoutes adds the route configuration with the rules of who may call what.
func (in inbound) putRoutes(res *Resources) error {
	rules, err := in.c.policies(in.callers())
	if err != nil {
		return err
	}
	gate, err := pack(&httprbac.RBACPerRoute{Rbac: &httprbac.RBAC{Rules: rules}})
	if err != nil {
		return err
	}
	grpc := everyRequest(in.name()+"/h2", nil)
	grpc.Match.Grpc = &route.RouteMatch_GrpcRouteMatchOptions{}
	return res[Route].put(in.name(), &route.RouteConfiguration{
		Name: in.name(),
		VirtualHosts: []*route.VirtualHost{{
			Name: in.name(), Domains: []string{"*"},
			Routes:               []*route.Route{grpc, everyRequest(in.name(), nil)},
			TypedPerFilterConfig: map[string]*anypb.Any{rbacFilter: gate},
		}},
	})
}

// everyRequest leads to one cluster. There is no overall timeout: how long a
// request may take is the programs' affair, only idle streams end.
func everyRequest(to string, retry *route.RetryPolicy) *route.Route {
	return &route.Route{
		Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
		Action: &route.Route_Route{Route: &route.RouteAction{
			ClusterSpecifier: &route.RouteAction_Cluster{Cluster: to},
			Timeout:          durationpb.New(0),
			RetryPolicy:      retry,
		}},
	}
}

func routerFilter() (*hcm.HttpFilter, error) {
	return httpFilter("envoy.filters.http.router", &router.Router{SuppressEnvoyHeaders: true})
}

func httpFilter(name string, m validated) (*hcm.HttpFilter, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &hcm.HttpFilter{Name: name, ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: a}}, nil
}

func overADS() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
}

// clientManager is the connection manager for the program's own calls. Only
// attempts that never reached the callee are made again.
func clientManager(name string, logs []*accesslog.AccessLog) (*listener.Filter, error) {
	m := manager(name, httpConnection)
	m.CommonHttpProtocolOptions.MaxConnectionDuration = nil
	m.HttpProtocolOptions = &core.Http1ProtocolOptions{AcceptHttp_10: true, DefaultHostForHttp_10: "localhost"}
	m.AccessLog = logs
	m.LocalReplyConfig = nobodyThere(name)
	retry := &route.RetryPolicy{
		RetryOn:    "connect-failure,refused-stream,reset-before-request",
		NumRetries: wrapperspb.UInt32(2),
	}
	m.RouteSpecifier = &hcm.HttpConnectionManager_RouteConfig{RouteConfig: &route.RouteConfiguration{
		Name: name,
		VirtualHosts: []*route.VirtualHost{{
			Name: name, Domains: []string{"*"}, Routes: []*route.Route{everyRequest(name, retry)},
		}},
	}}
	route, err := routerFilter()
	if err != nil {
		return nil, err
	}
	m.HttpFilters = []*hcm.HttpFilter{route}
	return filter("envoy.filters.network.http_connection_manager", m)
}
