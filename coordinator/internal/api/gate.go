package api

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/caller"
)

// Gate bounds the connections of one port, in all and for each remote address.
// Over a bound, the connection that has been idle longest is closed: of all, or
// of that address. Where none is idle, the new one is. A connection is idle from
// its arrival until its first request, and between requests.
type Gate struct {
	max, perAddress int

	mu      sync.Mutex // guards what follows
	conns   map[string]*gated
	hosts   map[netip.Addr]*host
	idle    list.List // of *gated, longest idle first
	refused uint64
	evicted uint64
	closed  bool
}

// host is one remote address with connections.
type host struct {
	open int
	idle list.List // of *gated, longest idle first
}

// NewGate returns a gate for max connections, and three quarters of them from
// one address (an IPv6 address counts by its /64).
func NewGate(max int) *Gate {
	return &Gate{max: max, perAddress: max - max/4, conns: map[string]*gated{}, hosts: map[netip.Addr]*host{}}
}

// Counts returns how many connections are open, were refused, and were closed
// while idle to make room.
func (g *Gate) Counts() (open int, refused, evicted uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns), g.refused, g.evicted
}

// drainGrace is how long a stopping server waits for the first request of
// connections that have not shown yet what they want: it may be on its way.
const drainGrace = 300 * time.Millisecond

// Drain lets nobody in any more and, unless the server has stopped by then,
// closes connections that stay silent for the grace: a server that stops
// gracefully would wait for them. Others are the server's to end.
func (g *Gate) Drain(stopped <-chan struct{}) {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	select {
	case <-stopped:
		return
	case <-time.After(drainGrace):
	}
	g.mu.Lock()
	var silent []*gated
	for e := g.idle.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*gated); !c.spoke {
			silent = append(silent, c)
		}
	}
	g.mu.Unlock()
	for _, c := range silent {
		_ = c.Close() // the peer is not waited for
	}
}

// Listen returns l behind the gate.
func (g *Gate) Listen(l net.Listener) net.Listener { return &gatedListener{Listener: l, gate: g} }

type gatedListener struct {
	net.Listener
	gate *Gate
}

// Accept returns the next connection that the gate lets in.
func (l *gatedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if in := l.gate.admit(c); in != nil {
			return in, nil
		}
	}
}

// gated is a connection that the gate counts.
type gated struct {
	net.Conn
	gate *Gate
	name string // remote address and port
	host netip.Addr
	once sync.Once

	// served is the PKIX DER of the key that this connection was served with.
	served atomic.Pointer[[]byte]

	// Guarded by gate.mu:
	spoke    bool          // has made a request
	requests int           // running
	place    *list.Element // in gate.idle; nil while requests run
	among    *list.Element // in its host's idle; nil while requests run
}

func (g *Gate) admit(c net.Conn) net.Conn {
	in := &gated{Conn: c, gate: g, name: c.RemoteAddr().String(), host: caller.Of(c.RemoteAddr())}
	g.mu.Lock()
	victim, full := g.room(in.host)
	if victim != nil {
		g.drop(victim)
		g.evicted++
	}
	if full {
		g.refused++
	} else {
		g.conns[in.name] = in
		h := g.hosts[in.host]
		if h == nil {
			h = &host{}
			g.hosts[in.host] = h
		}
		h.open++
		g.rest(in)
	}
	g.mu.Unlock()
	if victim != nil {
		abort(victim.Conn)
	}
	if full {
		abort(c)
		return nil
	}
	return in
}

// room finds which connection gives way to a new one from an address; none
// does if there is room. full says that there is none. The caller holds g.mu.
func (g *Gate) room(from netip.Addr) (victim *gated, full bool) {
	if g.closed {
		return nil, true
	}
	idle := &g.idle
	if h := g.hosts[from]; h != nil && h.open >= g.perAddress {
		idle = &h.idle
	} else if len(g.conns) < g.max {
		return nil, false
	}
	front := idle.Front()
	if front == nil {
		return nil, true
	}
	return front.Value.(*gated), false
}

// rest counts c as idle from now on, wake as busy. The caller holds g.mu.
func (g *Gate) rest(c *gated) {
	if c.place == nil {
		c.place = g.idle.PushBack(c)
		c.among = g.hosts[c.host].idle.PushBack(c)
	}
}

func (g *Gate) wake(c *gated) {
	if c.place != nil {
		g.idle.Remove(c.place)
		g.hosts[c.host].idle.Remove(c.among)
		c.place, c.among = nil, nil
	}
}

// abort closes at once: without lingering, the descriptor and the kernel's
// buffers are free when it returns.
func abort(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0) // best effort: closing follows either way
	}
	_ = c.Close() // the peer is not waited for
}

// drop forgets a connection. The caller holds g.mu.
func (g *Gate) drop(c *gated) {
	if g.conns[c.name] != c {
		return
	}
	delete(g.conns, c.name)
	g.wake(c)
	h := g.hosts[c.host]
	if h.open--; h.open == 0 {
		delete(g.hosts, c.host)
	}
}

// Close closes the connection and gives its place free.
func (c *gated) Close() error {
	c.once.Do(func() {
		c.gate.mu.Lock()
		defer c.gate.mu.Unlock()
		c.gate.drop(c)
	})
	return c.Conn.Close()
}

// count changes the number of requests that are running on c.
func (c *gated) count(change func(int) int) {
	g := c.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns[c.name] != c {
		return
	}
	c.requests = change(c.requests)
	c.spoke = true
	if c.requests > 0 {
		g.wake(c)
	} else {
		g.rest(c)
	}
}

// find returns the connection from a remote address, or nil.
func (g *Gate) find(remote string) *gated {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns[remote]
}
