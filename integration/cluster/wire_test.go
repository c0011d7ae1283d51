//go:build linux

package cluster

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// dialTime is how long a connection behind a wire or a balancer may take.
const dialTime = time.Second

// wire is a way to a TCP address that can be cut: then nothing passes in either
// direction, and nobody is told. What was under way arrives when it is mended.
type wire struct {
	listener net.Listener
	target   string
	work     sync.WaitGroup

	ended chan struct{}
	conns conns

	mu   sync.Mutex // guards what follows
	open chan struct{}
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, target: target, open: make(chan struct{}), ended: make(chan struct{})}
	close(w.open)
	w.work.Go(w.accept)
	t.Cleanup(w.close)
	return w
}

func (w *wire) address() string { return w.listener.Addr().String() }

// cut lets nothing through any more.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = make(chan struct{})
}

// mend ends a cut.
func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.open:
	default:
		close(w.open)
	}
}

// pass waits until the wire is whole; false when it is taken away.
func (w *wire) pass() bool {
	w.mu.Lock()
	open := w.open
	w.mu.Unlock()
	select {
	case <-open:
		return true
	case <-w.ended:
		return false
	}
}

func (w *wire) accept() {
	for {
		c, err := w.listener.Accept()
		if err != nil {
			return // closed
		}
		w.work.Go(func() { w.carry(c) })
	}
}

func (w *wire) carry(near net.Conn) {
	if !w.conns.keep(near) {
		return
	}
	defer w.conns.drop(near)
	if !w.pass() {
		return
	}
	far, err := net.DialTimeout("tcp", w.target, dialTime)
	if err != nil || !w.conns.keep(far) {
		return
	}
	defer w.conns.drop(far)
	join(near, far, w.pass)
}

func (w *wire) close() {
	_ = w.listener.Close()
	close(w.ended)
	w.conns.close()
	w.work.Wait()
}

// conns are open connections that are closed together.
type conns struct {
	mu     sync.Mutex // guards what follows
	all    map[net.Conn]bool
	closed bool
}

// keep takes a connection; where all were closed it is closed too, and keep is
// false.
func (s *conns) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close() // nothing was sent
		return false
	}
	if s.all == nil {
		s.all = map[net.Conn]bool{}
	}
	s.all[c] = true
	return true
}

func (s *conns) drop(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
	_ = c.Close() // both ends know
}

func (s *conns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.all {
		_ = c.Close()
	}
}

// join carries bytes in both directions until one end closes; before each piece
// it asks pass.
func join(a, b net.Conn, pass func() bool) {
	var both sync.WaitGroup
	one := func(from, to net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if !pass() {
				break
			}
			if n > 0 {
				if _, err := to.Write(buf[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		_, _ = a.Close(), b.Close() // a half of a connection is of use to nobody here
	}
	both.Go(func() { one(a, b) })
	both.Go(func() { one(b, a) })
	both.Wait()
}

// A wire that is cut gives nothing and says nothing; mended, it gives all.
func TestClusterWire(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var echoes sync.WaitGroup
	defer echoes.Wait()
	echoes.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c) // ends with the test
	})
	w := newWire(t, l.Addr().String())
	c, err := net.Dial("tcp", w.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 4)
	say := func(text string, limit time.Duration) error {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(limit)) // a TCP connection has deadlines
		_, err := io.ReadFull(c, buf)
		return err
	}
	if err := say("ping", 10*time.Second); err != nil || string(buf) != "ping" {
		t.Fatalf("got %q, %v, want what was said", buf, err)
	}
	w.cut()
	if err := say("more", 100*time.Millisecond); err == nil || err == io.EOF {
		t.Errorf("got %q, %v through a wire that is cut, want nothing at all", buf, err)
	}
	w.mend()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "more" {
		t.Errorf("got %q, %v after the wire was mended, want what had been said", buf, err)
	}
}
