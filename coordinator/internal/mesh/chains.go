package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	netrbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ashlar-mesh/ashlar/coordinator"
)

// maxChains bounds the callers of a port that get a filter chain of their own;
// those beyond, in the order of their names, share one.
const maxChains = 64

// callerName is the server name (SNI) under which a marble's proxy asks for its
// own filter chain. It is readable by anybody on the network, so it is a hash.
func (c *compiler) callerName(marble string) string {
	sum := sha256.Sum256([]byte(c.spiffeID(marble)))
	return hex.EncodeToString(sum[:8]) + ".ashlar"
}

// chains returns the filter chains of a port: one for each caller, and one for
// whoever asks for none of these. Envoy ends the connections of the chains that
// changed and leaves others alone, so who loses a right loses its connections
// too, those over which a request or a stream is running included, and nobody
// else does. Which chain a peer asks for gives it nothing: each accepts the
// identities of its callers alone.
func (in inbound) chains(alpn []string, filters func([]caller) ([]*listener.Filter, error)) ([]*listener.FilterChain, error) {
	callers := in.callers()
	var all []*listener.FilterChain
	for _, from := range callers[:min(len(callers), maxChains)] {
		chain, err := in.chain(in.name()+"/"+from.marble, []caller{from}, alpn, filters)
		if err != nil {
			return nil, err
		}
		chain.FilterChainMatch = &listener.FilterChainMatch{ServerNames: []string{in.c.callerName(from.marble)}}
		all = append(all, chain)
	}
	rest, err := in.chain(in.name(), callers, alpn, filters)
	return append(all, rest), err
}

func (in inbound) chain(name string, callers []caller, alpn []string, filters func([]caller) ([]*listener.Filter, error)) (*listener.FilterChain, error) {
	var peers []string
	for _, from := range callers {
		peers = append(peers, in.c.spiffeID(from.marble))
	}
	socket, err := acceptTLS(peers, alpn...)
	if err != nil {
		return nil, err
	}
	chain := &listener.FilterChain{Name: name, TransportSocket: socket, TransportSocketConnectTimeout: durationpb.New(handshakeTimeout)}
	chain.Filters, err = filters(callers)
	return chain, err
}

// anyBarred reports whether callers have barred instances.
func (c *compiler) anyBarred(callers []caller) bool {
	return slices.ContainsFunc(callers, func(from caller) bool { return len(c.barred[from.marble]) > 0 })
}

// gate lets the connections of callers through, but not of their barred
// instances.
func (in inbound) gate(callers []caller) (*listener.Filter, error) {
	var whole []caller
	for _, from := range callers {
		whole = append(whole, caller{marble: from.marble})
	}
	rules, err := in.c.policies(whole)
	if err != nil {
		return nil, err
	}
	return filter("envoy.filters.network.rbac", &netrbac.RBAC{StatPrefix: in.name(), Rules: rules})
}

// inspectTLS reads the server name that a peer asks for.
func inspectTLS() (*listener.ListenerFilter, error) {
	a, err := pack(&tlsinspector.TlsInspector{})
	if err != nil {
		return nil, err
	}
	return &listener.ListenerFilter{Name: "envoy.filters.listener.tls_inspector", ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: a}}, nil
}

// everyInstance stands for all instances of a marble among those barred.
const everyInstance = ""

// barredOf returns the barred instances by marble.
func barredOf(v *coordinator.View) map[string][]string {
	all := map[string][]string{}
	for _, b := range v.Barred {
		all[b.Marble] = append(all[b.Marble], b.Instance)
	}
	return all
}

// shut reports whether a marble is barred with all of its instances.
func (c *compiler) shut(marble string) bool {
	ids := c.barred[marble]
	return len(ids) > 0 && ids[0] == everyInstance // ordered
}

// out reports whether an instance is barred.
func (c *compiler) out(in coordinator.ViewInstance) bool {
	for _, id := range c.barred[in.Marble] {
		if id == in.ID || id == everyInstance {
			return true
		}
	}
	return false
}

// generation names which instances of a marble are barred: a chain with another
// one in its name is another chain, so that connections that lead to an instance
// end when it is barred. It is empty where none is.
func (c *compiler) generation(marble string) string {
	ids := c.barred[marble]
	if len(ids) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join(ids, "\x00")))
	return "~" + hex.EncodeToString(sum[:4])
}
