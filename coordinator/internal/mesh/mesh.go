// Package mesh turns the manifest's edges into Envoy's configuration and hands
// it out.
//
// It owns two things. Compiling is pure: the same View gives the same resources,
// the same bytes and the same versions. The Distributor serves them over delta
// ADS, to each proxy only what its own certificate entitles it to.
//
// It refuses: to hand out anything by node.id, to serve secrets (keys live in
// the marble's agent alone), to serve state-of-the-world xDS, and to send a set
// of resources that does not hang together. It is the only importer of
// go-control-plane in the coordinator.
package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Kind is one of the four resource types that a proxy may subscribe to, in the
// order in which they are sent.
type Kind int

// The kinds, in sending order.
const (
	Cluster Kind = iota
	Endpoint
	Listener
	Route
	kinds // how many there are
)

var kindNames = [kinds]string{"cluster", "endpoint", "listener", "route"}

var kindURLs = [kinds]string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType}

// String returns the name used in coordinator.ProxyEvent.
func (k Kind) String() string { return kindNames[k] }

// TypeURL returns the xDS type URL.
func (k Kind) TypeURL() string { return kindURLs[k] }

func kindOf(typeURL string) (Kind, bool) {
	for k, u := range kindURLs {
		if u == typeURL {
			return Kind(k), true
		}
	}
	return 0, false
}

// Group is the resources of one kind, by name. It is never changed once made,
// and is shared between the proxies that see the same.
type Group map[string]*discovery.Resource

// Names returns the names in order.
func (g Group) Names() []string { return slices.Sorted(maps.Keys(g)) }

// Resources is everything that one proxy gets. Each resource carries its bytes
// and, as version, 24 hex digits of their SHA-256.
type Resources [kinds]Group

// pack validates m and marshals it deterministically.
func pack(m validated) (*anypb.Any, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("invalid %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("marshalling %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return a, nil
}

type validated interface {
	proto.Message
	Validate() error
}

// newResource packs m, with the hash of its bytes as version.
func newResource(name string, m validated) (*discovery.Resource, error) {
	a, err := pack(m)
	if err != nil {
		return nil, problem.Because(err, "MSH-011", "compiling %q", name)
	}
	sum := sha256.Sum256(a.Value)
	return &discovery.Resource{Name: name, Version: hex.EncodeToString(sum[:12]), Resource: a}, nil
}

// put packs m into g under a name that is not taken yet.
func (g Group) put(name string, m validated) error {
	if _, dup := g[name]; dup {
		return problem.New("MSH-011", "%q is defined twice", name)
	}
	r, err := newResource(name, m)
	if err != nil {
		return err
	}
	g[name] = r
	return nil
}
