package replica

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/pause"
)

const (
	speakTime = 5 * time.Second  // for the first byte of a connection, and for a header
	holdTime  = 10 * time.Second // how long a connection waits for somebody to answer it
	dialTime  = 3 * time.Second
	dialAgain = 250 * time.Millisecond // between attempts to reach the active replica

	acceptFirst = 5 * time.Millisecond // pause when a connection cannot be accepted,
	acceptMost  = time.Second          // doubling up to this
)

// keepAlive finds out that a peer is gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}

// Target says where a port passes connections on: HOST:PORT, or "" while there is
// nobody. changed closes when that may be another one.
type Target func() (addr string, changed <-chan struct{})

// Port is a listening socket that stays while what is done with its connections
// changes: they are passed on, or served, or wait. Each connection goes where the
// port's route leads at that time; one that comes while it leads nowhere waits for
// up to 10 s. It is safe for concurrent use.
type Port struct {
	listener        net.Listener
	most, perCaller int
	local           bool            // it listens on the loopback
	ctx             context.Context // ends with the port
	cancel          context.CancelFunc
	work            sync.WaitGroup // the accept loop, and a goroutine for each connection in hand

	switching sync.Mutex     // held while another route is taken, and the former target's follower ends
	following sync.WaitGroup // that follower

	mu     sync.Mutex // guards what follows
	route  *route
	conns  map[*inbound]struct{}       // in hand: not served
	hosts  map[netip.Addr]int          // how many of them are each caller's
	shown  map[netip.AddrPort]struct{} // remote addresses that connections of servers have
	counts Counts
}

// Counts says what a port did with connections.
type Counts struct {
	Waiting int    // until they speak, or until somebody is there to answer
	Passing int    // to the active replica
	Passed  uint64 // since the start
	Refused uint64 // for want of room
	Unheard uint64 // nobody answered them in time
	Forged  uint64 // with a header that does not verify
}

// route is where connections go.
type route struct {
	addr    string        // of the replica that they are passed on to, if any
	served  *served       // gets them, if not nil
	voucher *Voucher      // for or of other replicas
	over    chan struct{} // closes when another route is taken
	stop    chan struct{} // closes when its target is followed no more
	follow  func()        // follows the target
}

// Listen opens a port. Most bounds the connections in its hands, and three
// quarters of it those of one caller (an IPv6 address counts by its /64); each
// takes two descriptors while it is passed on. Those that are served are the
// server's to bound. Connections wait until Serve or Forward.
func Listen(addr string, most int) (*Port, error) {
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := config.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &Port{listener: l, most: most, perCaller: most - most/4, route: &route{over: make(chan struct{})}, conns: map[*inbound]struct{}{},
		hosts: map[netip.Addr]int{}, shown: map[netip.AddrPort]struct{}{}}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		p.local = a.IP.IsLoopback()
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.work.Go(p.accept)
	return p, nil
}

// Addr is where the port listens.
func (p *Port) Addr() net.Addr { return p.listener.Addr() }

// Counts returns what the port did so far.
func (p *Port) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.counts
	c.Waiting = len(p.conns) - c.Passing
	return c
}

// Close closes the socket and every connection that is not served.
func (p *Port) Close() error {
	p.cancel()
	err := p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.conn.Close() // the peer is not waited for
	}
	p.mu.Unlock()
	p.Hold()
	p.work.Wait()
	return err
}

// Hold lets connections wait.
func (p *Port) Hold() { p.take(&route{}) }

// Forward passes connections on to where the target says. When that becomes
// another replica, those that were passed on are cut, so that peers connect anew.
// The voucher vouches for the callers' addresses; without one the other side sees
// this replica's.
func (p *Port) Forward(to Target, v *Voucher) {
	addr, changed := to()
	first := &route{addr: addr, voucher: v, stop: make(chan struct{})}
	first.follow = func() {
		for r := first; ; {
			select {
			case <-changed:
			case <-first.stop:
				return
			}
			if addr, changed = to(); addr != r.addr {
				next := &route{addr: addr, voucher: v, stop: first.stop}
				if !p.replace(r, next) {
					return
				}
				r = next
			}
		}
	}
	p.take(first)
}

// Serve gives connections to a server from now on, which gets them from the
// listener that it returns. Closing that ends the serving, not the port: then
// connections wait. The voucher checks what other replicas vouch for; without one
// their word is skipped, and they count as the callers themselves.
func (p *Port) Serve(v *Voucher) net.Listener {
	s := &served{port: p, conns: make(chan net.Conn)}
	s.route = &route{served: s, voucher: v}
	p.take(s.route)
	return s
}

// take takes a route in place of whatever was, and waits until the target of that
// is followed no more.
func (p *Port) take(r *route) {
	p.switching.Lock()
	defer p.switching.Unlock()
	p.mu.Lock()
	if p.route.stop != nil {
		close(p.route.stop)
	}
	p.turn(r)
	p.mu.Unlock()
	p.following.Wait()
	if r.follow != nil {
		p.following.Go(r.follow)
	}
}

// replace takes a route in place of another one, if that is still taken.
func (p *Port) replace(old, r *route) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.route != old {
		return false
	}
	p.turn(r)
	return true
}

func (p *Port) turn(r *route) {
	r.over = make(chan struct{})
	old := p.route
	p.route = r
	close(old.over)
}

func (p *Port) now() *route {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.route
}

// accept takes connections until the port is closed.
func (p *Port) accept() {
	for wait := acceptFirst; ; {
		c, err := p.listener.Accept()
		if err == nil {
			wait = acceptFirst
			p.admit(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		pause.For(p.ctx, wait) // such as out of descriptors
		wait = min(2*wait, acceptMost)
	}
}

// served is the listener of what a server gets.
type served struct {
	port  *Port
	route *route
	conns chan net.Conn
}

// Accept returns the next connection.
func (s *served) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.route.over:
		return nil, fmt.Errorf("accepting on %s: %w", s.Addr(), net.ErrClosed)
	}
}

// Close ends the serving.
func (s *served) Close() error {
	s.port.replace(s.route, &route{})
	return nil
}

// Addr is the port's.
func (s *served) Addr() net.Addr { return s.port.Addr() }
