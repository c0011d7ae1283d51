package mesh

import (
	"fmt"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// check reads a finished set as a proxy will, and refuses one in which anything
// refers to something that is not there, or two listeners share a socket.
func check(res *Resources) error {
	c := checker{res: res, sockets: map[string]string{}}
	for _, name := range res[Listener].Names() {
		c.listener(name)
	}
	for _, name := range res[Route].Names() {
		rc := new(route.RouteConfiguration)
		if c.unpack(Route, name, rc) {
			c.routes(name, rc)
		}
	}
	for _, name := range res[Cluster].Names() {
		c.cluster(name)
	}
	if c.err != nil {
		return problem.Because(c.err, "MSH-011", "checking what was compiled")
	}
	return nil
}

type checker struct {
	res     *Resources
	sockets map[string]string // address to listener
	err     error             // the first thing wrong
}

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *checker) unpack(k Kind, name string, into validated) bool {
	if err := c.res[k][name].GetResource().UnmarshalTo(into); err != nil {
		c.fail("%s %q: %w", k, name, err)
		return false
	}
	if err := into.Validate(); err != nil {
		c.fail("%s %q: %w", k, name, err)
		return false
	}
	return true
}

func (c *checker) wants(k Kind, name, by string) {
	if _, ok := c.res[k][name]; !ok {
		c.fail("%s refers to %s %q, which is not there", by, k, name)
	}
}

func (c *checker) listener(name string) {
	l := new(listener.Listener)
	if !c.unpack(Listener, name, l) {
		return
	}
	at := l.GetAddress().GetSocketAddress()
	socket := fmt.Sprintf("%s port %d", at.GetAddress(), at.GetPortValue())
	if other, taken := c.sockets[socket]; taken {
		c.fail("listeners %q and %q both want %s", other, name, socket)
	}
	c.sockets[socket] = name
	for _, chain := range l.GetFilterChains() {
		for _, f := range chain.GetFilters() {
			m, err := f.GetTypedConfig().UnmarshalNew()
			if err != nil {
				c.fail("listener %q: %w", name, err)
				return
			}
			switch m := m.(type) {
			case *tcp.TcpProxy:
				c.wants(Cluster, m.GetCluster(), "listener "+name)
			case *hcm.HttpConnectionManager:
				if rds := m.GetRds(); rds != nil {
					c.wants(Route, rds.GetRouteConfigName(), "listener "+name)
				}
				c.routes(name, m.GetRouteConfig())
			}
		}
	}
}

func (c *checker) routes(by string, rc *route.RouteConfiguration) {
	for _, vh := range rc.GetVirtualHosts() {
		for _, r := range vh.GetRoutes() {
			c.wants(Cluster, r.GetRoute().GetCluster(), "route "+by)
		}
	}
}

func (c *checker) cluster(name string) {
	cl := new(cluster.Cluster)
	if !c.unpack(Cluster, name, cl) {
		return
	}
	if cl.GetType() == cluster.Cluster_EDS {
		c.wants(Endpoint, name, "cluster "+name)
	}
}
