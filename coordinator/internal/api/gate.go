package api

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Gate bounds the connections of one port, in all and for each remote address.
// Over the bound in all, the connection that has been idle longest is closed;
// where none is idle, and over the bound of an address, the new one is. A
// connection is idle from its arrival until its first request, and between
// requests.
type Gate struct {
	max, perAddress int

	mu      sync.Mutex // guards what follows
	conns   map[string]*gated
	hosts   map[netip.Addr]int
	idle    list.List // of *gated, longest idle first
	refused uint64
	evicted uint64
	closed  bool
}

// NewGate returns a gate for max connections, and three quarters of them from
// one address (an IPv6 address counts by its /64).
func NewGate(max int) *Gate {
	return &Gate{max: max, perAddress: max - max/4, conns: map[string]*gated{}, hosts: map[netip.Addr]int{}}
}

// Counts returns how many connections are open, were refused, and were closed
// while idle to make room.
func (g *Gate) Counts() (open int, refused, evicted uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns), g.refused, g.evicted
}

// Drain lets nobody in any more and closes connections without a running
// request, also those that have not shown yet what they want: a server that
// stops gracefully would wait for them.
func (g *Gate) Drain() {
	g.mu.Lock()
	g.closed = true
	var idle []*gated
	for e := g.idle.Front(); e != nil; e = e.Next() {
		idle = append(idle, e.Value.(*gated))
	}
	g.mu.Unlock()
	for _, c := range idle {
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
	requests int           // running
	place    *list.Element // in gate.idle; nil while requests run
}

func (g *Gate) admit(c net.Conn) net.Conn {
	in := &gated{Conn: c, gate: g, name: c.RemoteAddr().String(), host: hostOf(c.RemoteAddr())}
	var victim *gated
	g.mu.Lock()
	full := g.closed || g.hosts[in.host] >= g.perAddress
	if !full && len(g.conns) >= g.max {
		if front := g.idle.Front(); front != nil {
			victim = front.Value.(*gated)
			g.drop(victim)
			g.evicted++
		} else {
			full = true
		}
	}
	if full {
		g.refused++
	} else {
		g.conns[in.name] = in
		g.hosts[in.host]++
		in.place = g.idle.PushBack(in)
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

// abort closes at once: without lingering, the descriptor and the kernel's
// buffers are free when it returns.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
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
	if g.hosts[c.host]--; g.hosts[c.host] == 0 {
		delete(g.hosts, c.host)
	}
	if c.place != nil {
		g.idle.Remove(c.place)
		c.place = nil
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
	switch {
	case c.requests > 0 && c.place != nil:
		g.idle.Remove(c.place)
		c.place = nil
	case c.requests == 0 && c.place == nil:
		c.place = g.idle.PushBack(c)
	}
}

// find returns the connection from a remote address, or nil.
func (g *Gate) find(remote string) *gated {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns[remote]
}

// hostOf returns what connections are counted by.
func hostOf(a net.Addr) netip.Addr {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	addr := p.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return addr
}
