package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	passBuffer = 8 << 10          // bytes on their way, for each direction
	passIdle   = 10 * time.Minute // without a byte; servers ping more often
	passWrite  = time.Minute      // for a peer to take what is in the buffer
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
	d := net.Dialer{KeepAliveConfig: keepAlive}
	c, err := d.DialContext(bounded, "tcp", r.addr)
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

// pass lets bytes go both ways until both sides have ended, or one failed, or
// another replica becomes the one to pass on to.
func (p *Port) pass(in *inbound, up *net.TCPConn, r *route) {
	p.count(func(c *Counts) { c.Passing, c.Passed = c.Passing+1, c.Passed+1 })
	defer p.count(func(c *Counts) { c.Passing-- })
	cut := func() {
		_ = in.conn.Close() // neither peer is waited for
		_ = up.Close()
	}
	in.touch()
	ended := make(chan struct{})
	var ways sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{up, in.conn}, {in.conn, up}} {
		ways.Go(func() {
			if in.move(way[0], way[1]) != nil {
				cut()
			}
		})
	}
	go func() { // owned by what follows
		ways.Wait()
		close(ended)
	}()
	for addr := r.addr; ; {
		select {
		case <-ended:
			cut()
			return
		case <-p.ctx.Done():
			cut()
			<-ended
			return
		case <-r.over:
			if r = p.now(); r.served != nil || r.addr != "" && r.addr != addr {
				cut()
				<-ended
				return
			}
		}
	}
}

// move copies bytes one way until src has no more, and then tells dst.
func (in *inbound) move(dst, src *net.TCPConn) error {
	b := make([]byte, passBuffer)
	for {
		if err := src.SetReadDeadline(time.Now().Add(passIdle)); err != nil {
			return err
		}
		n, err := src.Read(b)
		if n > 0 {
			in.touch()
			if err := dst.SetWriteDeadline(time.Now().Add(passWrite)); err != nil {
				return err
			}
			if _, err := dst.Write(b[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded) && in.silent() < passIdle:
		case !errors.Is(err, io.EOF):
			return err
		default:
			return dst.CloseWrite()
		}
	}
}
