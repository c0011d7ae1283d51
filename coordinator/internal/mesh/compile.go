package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// compiler holds what instances of one manifest share. It is not safe for
// concurrent use; what it returns is never changed again.
type compiler struct {
	view      *coordinator.View
	callers   map[hop][]caller             // who may call a served port, ordered by marble; barred ones too
	barred    map[string][]string          // instances by marble, ordered; everyInstance first
	clusters  map[edge]*discovery.Resource // shared by all instances of a caller
	endpoints map[hop]*discovery.Resource  // likewise
	doors     map[door]*discovery.Resource // by where callers find a port
	groups    map[string]Group             // endpoints by calling marble
	addresses map[string][]netip.Addr      // of a marble's instances that take requests, ordered
	checked   map[string]error             // by marble and loopback address: no other part of an instance matters
}

// hop names a served port.
type hop struct{ marble, port string }

// edge is a call of a hop.
type edge struct {
	from string
	to   hop
}

// caller is a marble that may call a hop.
type caller struct {
	marble string
	routes []string // nil allows all
	lease  time.Duration
}

func newCompiler(v *coordinator.View) *compiler {
	c := &compiler{
		view: v, callers: map[hop][]caller{}, addresses: map[string][]netip.Addr{},
		clusters: map[edge]*discovery.Resource{}, barred: barredOf(v), endpoints: map[hop]*discovery.Resource{}, groups: map[string]Group{},
		doors: map[door]*discovery.Resource{}, checked: map[string]error{},
	}
	if v.Manifest == nil {
		return c
	}
	for name, m := range v.Manifest.Marbles {
		for _, call := range m.Calls {
			h := hop{call.Marble, call.Port}
			c.callers[h] = append(c.callers[h], caller{name, call.Routes, leaseOf(m)})
		}
	}
	for h := range c.callers {
		slices.SortStableFunc(c.callers[h], func(a, b caller) int { return cmp.Compare(a.marble, b.marble) })
	}
	for _, in := range v.Instances {
		if a, err := peerAddress(in); err == nil && !in.Drained && !c.out(in) {
			c.addresses[in.Marble] = append(c.addresses[in.Marble], a)
		}
	}
	for m := range c.addresses {
		slices.SortFunc(c.addresses[m], netip.Addr.Compare)
		c.addresses[m] = slices.Compact(c.addresses[m])
	}
	return c
}

// leaseOf returns how long a marble's leaf lives: no connection outlives it.
func leaseOf(m manifest.Marble) time.Duration {
	if m.Lease <= 0 {
		return time.Hour
	}
	return time.Duration(m.Lease)
}

// spiffeID returns the identity of a marble.
func (c *compiler) spiffeID(marble string) string {
	return "spiffe://" + c.view.TrustDomain + "/" + marble
}

// marble returns the manifest's entry.
func (c *compiler) marble(name string) (manifest.Marble, error) {
	if c.view.Manifest != nil {
		if m, ok := c.view.Manifest.Marbles[name]; ok {
			return m, nil
		}
	}
	return manifest.Marble{}, problem.New("MSH-010", "the manifest has no marble %q", name)
}

// instance compiles everything that in gets, and checks that it hangs together. It
// fails with MSH-010 to MSH-013 where that cannot be expressed; nothing is ever
// left out in silence.
func (c *compiler) instance(in coordinator.ViewInstance) (*Resources, error) {
	res, err := c.fixed(in)
	if err != nil {
		return nil, err
	}
	if res[Endpoint], err = c.endpointsFor(in); err != nil {
		return nil, err
	}
	key := in.Marble + " " + in.Loopback
	verdict, known := c.checked[key]
	if !known {
		verdict = check(res)
		c.checked[key] = verdict
	}
	if verdict != nil {
		return nil, verdict
	}
	return res, nil
}

// fixed compiles what depends on the manifest and the instance's own addresses
// only: all but the endpoints.
func (c *compiler) fixed(in coordinator.ViewInstance) (*Resources, error) {
	m, err := c.marble(in.Marble)
	if err != nil {
		return nil, err
	}
	at, err := placeOf(in, m)
	if err != nil {
		return nil, err
	}
	res := &Resources{Cluster: Group{}, Listener: Group{}, Route: Group{}}
	if c.out(in) {
		return res, nil
	}
	for _, name := range slices.Sorted(maps.Keys(m.Serves)) {
		in := inbound{c: c, hop: hop{in.Marble, name}, port: m.Serves[name], at: at, lease: leaseOf(m)}
		if err := in.compile(res); err != nil {
			return nil, err
		}
	}
	for _, call := range m.Calls {
		if name, taken := servedOn(m, call.Listen); taken {
			return nil, problem.New("MSH-011", "%s: the call of %s/%s listens on %d, where the program serves %q", in.Marble, call.Marble, call.Port, call.Listen, name)
		}
		if c.shut(call.Marble) {
			continue
		}
		if err := c.outboundTo(in.Marble, call, at, res); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// servedOn finds the port of m's own program with that number.
func servedOn(m manifest.Marble, number uint16) (string, bool) {
	for _, name := range slices.Sorted(maps.Keys(m.Serves)) {
		if m.Serves[name].Port == number {
			return name, true
		}
	}
	return "", false
}

// place is where an instance listens.
type place struct {
	peers    netip.Addr // its Envoy, for attested peers
	loopback netip.Addr // its program, and its Envoy for that program
}

// placeOf checks what an instance says of its addresses. A loopback address
// that is none would open an unauthenticated port to the network.
func placeOf(in coordinator.ViewInstance, m manifest.Marble) (place, error) {
	peers, err := peerAddress(in)
	if err != nil {
		return place{}, err
	}
	lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if in.Loopback != "" {
		if lo, err = netip.ParseAddr(in.Loopback); err != nil || !lo.IsLoopback() || lo.Zone() != "" {
			return place{}, problem.New("MSH-012", "%s/%s: wanted a loopback address for the program, got %q", in.Marble, in.ID, in.Loopback)
		}
	}
	if lo == peers && len(m.Serves) > 0 {
		return place{}, problem.New("MSH-012", "%s/%s: its program and its proxy both want %s", in.Marble, in.ID, lo)
	}
	return place{peers, lo}, nil
}

func peerAddress(in coordinator.ViewInstance) (netip.Addr, error) {
	a, err := netip.ParseAddr(in.Address)
	if err != nil || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
		return netip.Addr{}, problem.New("MSH-012", "%s/%s: wanted the IP address of its proxy, got %q", in.Marble, in.ID, in.Address)
	}
	return a.Unmap(), nil
}
