package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	passBuffer = 8 << 10          // bytes on their way, for each direction
	passIdle   = 10 * time.Minute // without a byte; servers ping more often
	passWrite  = time.Minute      // for a peer to take what is in the buffer
	maxKept    = 16 << 10         // bytes of a caller that are sent again if nothing was answered; a TLS ClientHello is less
)

// dial connects to the active replica, and tells it the caller and what was read.
func (p *Port) dial(in *inbound, r *route) (*net.TCPConn, error) {
	header, err := r.voucher.header(in.from)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(p.ctx, dialTime)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		select {
		case <-r.over:
			cancel()
		case <-bounded.Done():
		}
	})
	c, err := p.DialContext(bounded, "tcp", r.addr)
	if err != nil {
		return nil, err
	}
	up, ok := c.(*net.TCPConn)
	if ok {
		_ = up.SetWriteDeadline(time.Now().Add(dialTime)) // fails where writing does
		if _, err = up.Write(append(header, in.first...)); err == nil {
			return up, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("reaching the active replica at %s: %w", r.addr, err), c.Close())
}

// DialContext connects to another replica. Its address is the host's word: a port
// that is not on the loopback itself leads nobody to what listens there.
func (p *Port) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive, Control: func(_, addr string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return err
		}
		if ip := to.Addr().Unmap(); !p.local && (ip.IsLoopback() || ip.IsUnspecified()) {
			return fmt.Errorf("%s is within this machine, and no other replica", ip)
		}
		return nil
	}}
	return d.DialContext(ctx, network, addr)
}

// pass lets bytes go both ways until both sides have ended, or one failed, or
// another replica becomes the one to pass on to. It reports whether the connection
// can be passed on anew: nothing was answered yet.
func (p *Port) pass(in *inbound, up *net.TCPConn, r *route) (again bool) {
	p.count(func(c *Counts) { c.Passing, c.Passed = c.Passing+1, c.Passed+1 })
	defer p.count(func(c *Counts) { c.Passing-- })
	in.touch()
	s := &passage{in: in, up: up}
	ended := make(chan struct{})
	var ways sync.WaitGroup
	ways.Go(s.out)
	ways.Go(s.back)
	go func() { // owned by what follows
		ways.Wait()
		close(ended)
	}()
	for addr := r.addr; ; {
		select {
		case <-ended:
		case <-p.ctx.Done():
			_ = in.conn.Close() // the peer is not waited for
		case <-r.over:
			if r = p.now(); r.served == nil && (r.addr == "" || r.addr == addr) {
				continue
			}
		}
		s.withdraw()
		<-ended
		return s.state.Load() == withdrawn && !in.spent && in.conn.SetReadDeadline(time.Time{}) == nil
	}
}

// The states of a passage.
const (
	unanswered = iota
	answered   // the active replica sent something
	withdrawn  // it did not, and will not be heard any more
)

// passage is a connection on its way to the active replica.
type passage struct {
	in    *inbound
	up    *net.TCPConn
	state atomic.Int32
}

// withdraw ends the passage: of the caller's connection only if that was answered.
func (s *passage) withdraw() {
	_ = s.up.Close() // neither peer is waited for
	s.state.CompareAndSwap(unanswered, withdrawn)
	if s.state.Load() == answered {
		_ = s.in.conn.Close()
		return
	}
	_ = s.in.conn.SetReadDeadline(time.Unix(1, 0)) // ends reading; fails where that has ended
}

// out passes on what the caller sends. It is the one that uses in.first and
// in.spent meanwhile.
func (s *passage) out() {
	for b := make([]byte, passBuffer); ; {
		n, err := s.read(s.in.conn, b)
		if n > 0 {
			s.keep(b[:n])
			if write(s.up, b[:n]) != nil {
				s.withdraw()
				return
			}
		}
		if err == nil {
			continue
		}
		if s.state.Load() == withdrawn {
			return
		}
		s.in.spent = true
		if !errors.Is(err, io.EOF) || s.up.CloseWrite() != nil {
			s.withdraw()
		}
		return
	}
}

// keep remembers what was sent, to send it again, until it was answered.
func (s *passage) keep(b []byte) {
	in := s.in
	switch {
	case s.state.Load() == answered:
		in.first = nil
	case in.spent || len(in.first)+len(b) > maxKept:
		in.first, in.spent = nil, true
	default:
		in.first = append(in.first, b...)
	}
}

// back passes on what the active replica answers.
func (s *passage) back() {
	for b := make([]byte, passBuffer); ; {
		n, err := s.read(s.up, b)
		if n > 0 {
			s.state.CompareAndSwap(unanswered, answered)
			if s.state.Load() == withdrawn {
				return
			}
			if write(s.in.conn, b[:n]) != nil {
				s.withdraw()
				return
			}
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) || s.state.Load() != answered || s.in.conn.CloseWrite() != nil {
			s.withdraw()
		}
		return
	}
}

var errWithdrawn = errors.New("withdrawn")

// read reads once. A connection on which nothing went either way for long has
// ended.
func (s *passage) read(c *net.TCPConn, b []byte) (int, error) {
	for {
		if err := c.SetReadDeadline(time.Now().Add(passIdle)); err != nil {
			return 0, err
		}
		if s.state.Load() == withdrawn {
			return 0, errWithdrawn
		}
		n, err := c.Read(b)
		if n > 0 {
			s.in.touch()
		} else if errors.Is(err, os.ErrDeadlineExceeded) && s.in.silent() < passIdle {
			continue
		}
		return n, err
	}
}

func write(c *net.TCPConn, b []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(passWrite)); err != nil {
		return err
	}
	_, err := c.Write(b)
	return err
}
