package replica

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/caller"
)

// yieldAfter is how long a connection must have been silent to make room for a new
// one.
const yieldAfter = 10 * time.Second

// inbound is a connection in the port's hands. All but active belongs to the
// goroutine that handles it.
type inbound struct {
	conn   *net.TCPConn
	host   netip.Addr     // what it is counted by; never changes
	from   netip.AddrPort // the caller
	header []byte         // of the replica that passed it on; nil once it was checked
	passed bool           // it came through another replica
	first  []byte         // what was read of it, and not answered
	spent  bool           // it cannot be passed on anew
	drops  int            // how often it was dropped without an answer, by one replica in turn

	active atomic.Int64 // when bytes went through, in ns since the process's epoch
}

// epoch is what activity is counted from, by the monotonic clock.
var epoch = time.Now()

func (in *inbound) touch() { in.active.Store(int64(time.Since(epoch))) }

func (in *inbound) silent() time.Duration {
	return time.Since(epoch) - time.Duration(in.active.Load())
}

// peer is the other end of the connection itself.
func (in *inbound) peer() netip.AddrPort {
	a, ok := in.conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
}

// admit takes a connection in hand, if there is room.
func (p *Port) admit(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close() // no listener of TCP gives such
		return
	}
	in := &inbound{conn: tcp, host: caller.Of(c.RemoteAddr())}
	in.from = in.peer()
	in.touch()
	p.mu.Lock()
	victim, full := p.room(in.host)
	if victim != nil {
		p.forget(victim)
		p.counts.Refused++
	}
	if full = full || p.ctx.Err() != nil; full {
		p.counts.Refused++
	} else {
		p.conns[in] = struct{}{}
		p.hosts[in.host]++
	}
	p.mu.Unlock()
	if victim != nil {
		abort(victim.conn)
	}
	if full {
		abort(tcp)
		return
	}
	p.work.Go(func() { p.handle(in) })
}

// room finds the connection that gives way to a new one of a caller: the one that
// is silent longest, of that caller or else of the one that has the most. The
// caller holds p.mu.
func (p *Port) room(from netip.Addr) (victim *inbound, full bool) {
	if p.hosts[from] < p.perCaller {
		if len(p.conns) < p.most {
			return nil, false
		}
		for host, n := range p.hosts {
			if n > p.hosts[from] {
				from = host
			}
		}
	}
	for c := range p.conns {
		if c.host == from && (victim == nil || c.active.Load() < victim.active.Load()) {
			victim = c
		}
	}
	if victim == nil || victim.silent() < yieldAfter {
		return nil, true
	}
	return victim, false
}

// forget gives the place of a connection free. The caller holds p.mu.
func (p *Port) forget(in *inbound) {
	if _, ok := p.conns[in]; !ok {
		return
	}
	delete(p.conns, in)
	if p.hosts[in.host]--; p.hosts[in.host] == 0 {
		delete(p.hosts, in.host)
	}
}

// abort closes at once, without lingering.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0) // best effort: closing follows either way
	_ = c.Close()      // the peer is not waited for
}

// count changes the counts.
func (p *Port) count(change func(*Counts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.counts)
}

// handle gives a connection to where the route leads.
func (p *Port) handle(in *inbound) {
	served := false
	defer func() {
		p.mu.Lock()
		p.forget(in)
		p.mu.Unlock()
		if !served {
			_ = in.conn.Close() // the peer is not waited for
		}
	}()
	if !in.hear() {
		return
	}
	patience := time.NewTimer(holdTime)
	defer patience.Stop()
	for {
		r := p.now()
		var again <-chan time.Time
		switch {
		case r.served != nil:
			done := false
			if served, done = p.hand(in, r, patience.C); done {
				return
			}
			continue
		case r.addr != "" && !in.passed:
			if up, err := p.dial(in, r); err == nil && (!p.pass(in, up, r) || in.dropped(r)) {
				return
			}
			again = time.After(dialAgain)
		}
		select {
		case <-r.over:
		case <-again:
		case <-patience.C:
			p.count(func(c *Counts) { c.Unheard++ })
			return
		case <-p.ctx.Done():
			return
		}
	}
}

// dropped counts that a replica ended a connection without an answer, and reports
// whether it did so again: then it is there, and does not want it.
func (in *inbound) dropped(r *route) bool {
	select {
	case <-r.over:
		in.drops = 0
	default:
		in.drops++
	}
	return in.drops > 1
}

// hear reads the first byte, and the header of another replica if it begins one.
func (in *inbound) hear() bool {
	_ = in.conn.SetReadDeadline(time.Now().Add(speakTime)) // fails where reading does
	in.first = make([]byte, 1, headerSize)
	if _, err := io.ReadFull(in.conn, in.first); err != nil {
		return false
	}
	if in.first[0] == magic[0] {
		h := in.first[:headerSize]
		if _, err := io.ReadFull(in.conn, h[1:]); err != nil {
			return false
		}
		in.header, in.first, in.passed = h, nil, true
	}
	in.touch()
	return in.conn.SetReadDeadline(time.Time{}) == nil
}

// hand gives a connection to the server of a route. It is done with it, or else
// the route is over.
func (p *Port) hand(in *inbound, r *route, patience <-chan time.Time) (served, done bool) {
	if in.header != nil && r.voucher != nil {
		from, err := r.voucher.open(in.header)
		if err != nil {
			p.count(func(c *Counts) { c.Forged++ })
			return false, true
		}
		in.from, in.header = from, nil
	}
	if !p.show(in.from) {
		// A balancer may have one address at two replicas.
		if in.from = in.peer(); !in.passed || !p.show(in.from) {
			p.count(func(c *Counts) { c.Refused++ })
			return false, true
		}
	}
	c := &conn{Conn: in.conn, first: in.first, remote: net.TCPAddrFromAddrPort(in.from), closed: func() { p.hide(in.from) }}
	select {
	case r.served.conns <- c:
		return true, true
	case <-patience:
		p.count(func(c *Counts) { c.Unheard++ })
		done = true
	case <-r.over:
	case <-p.ctx.Done():
		done = true
	}
	p.hide(in.from)
	return false, done
}

// show takes a remote address for a connection that is served. Servers tell
// connections apart by it, so each is of one only.
func (p *Port) show(a netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, taken := p.shown[a]; taken {
		return false
	}
	p.shown[a] = struct{}{}
	return true
}

func (p *Port) hide(a netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.shown, a)
}

// conn is a connection that is served.
type conn struct {
	net.Conn
	first  []byte // what was read already; belongs to the reader
	remote net.Addr
	once   sync.Once
	closed func()
}

// Read reads what was read already first.
func (c *conn) Read(b []byte) (int, error) {
	if len(c.first) > 0 && len(b) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// RemoteAddr is the caller's, also if another replica passed the connection on.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetLinger is as of a TCP connection.
func (c *conn) SetLinger(seconds int) error { return c.Conn.(*net.TCPConn).SetLinger(seconds) }

// Close closes the connection.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.closed)
	return err
}
