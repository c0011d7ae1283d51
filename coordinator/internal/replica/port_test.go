package replica

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
)

func newVoucher(t testing.TB) *Voucher {
	t.Helper()
	data, err := seal.RandomKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVoucher(data, time.Now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func listen(t testing.TB, most int) *Port {
	t.Helper()
	p, err := Listen("127.0.0.1:0", most)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// echo answers each connection with a name, its remote address as the server sees
// it, a line feed, and what it sends.
func echo(t testing.TB, name string, l net.Listener) {
	t.Helper()
	var accepting, work sync.WaitGroup
	var open sync.Map
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(c, nil)
			work.Go(func() {
				defer open.Delete(c)
				defer c.Close()
				_, _ = fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr()) // the test reads it, or not
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // ends the serving
		accepting.Wait()
		open.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
		work.Wait()
	})
}

// fixed is a target that stays.
func fixed(p *Port) Target {
	never := make(chan struct{})
	return func() (string, <-chan struct{}) { return p.Addr().String(), never }
}

// movable is a target that a test moves.
type movable struct {
	mu      sync.Mutex
	addr    string
	changed chan struct{}
}

func newMovable(addr string) *movable { return &movable{addr: addr, changed: make(chan struct{})} }

func (m *movable) target() (string, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addr, m.changed
}

func (m *movable) move(addr string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addr = addr
	close(m.changed)
	m.changed = make(chan struct{})
}

func connect(t testing.TB, p *Port) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the test may have
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// hears says that a connection sends hello and gets what it is answered by, with
// the remote address that the server saw.
func hears(t testing.TB, c *net.TCPConn, name, remote string) {
	t.Helper()
	send(t, c, "hello")
	answers(t, c, name, remote)
}

// answers says that a connection that sent hello gets what it is answered by.
func answers(t testing.TB, c *net.TCPConn, name, remote string) {
	t.Helper()
	want := name + " " + remote + "\nhello"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

// isCut waits until a connection ends before it is answered any more.
func isCut(t testing.TB, c net.Conn, why string) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	var slow net.Error
	if n > 0 || errors.As(err, &slow) && slow.Timeout() {
		t.Errorf("%s: got %d bytes, %v; want the connection's end", why, n, err)
	}
}

// waits polls for what a port counts.
func waits(t testing.TB, p *Port, what string, ok func(Counts) bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(p.Counts()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: got %+v", what, p.Counts())
		}
	}
}

func TestForwardShowsTheCaller(t *testing.T) {
	v := newVoucher(t)
	active, standby, keyless := listen(t, 16), listen(t, 16), listen(t, 16)
	echo(t, "a", active.Serve(v))
	standby.Forward(fixed(active), v)
	keyless.Forward(fixed(active), nil)
	c := connect(t, standby)
	hears(t, c, "a", c.LocalAddr().String())
	c = connect(t, active)
	hears(t, c, "a", c.LocalAddr().String())
	c = connect(t, keyless)
	send(t, c, "hello")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "a 127.0.0.1:") || line == "a "+c.LocalAddr().String()+"\n" {
		t.Errorf("got %q, %v; want the address of the replica that passed it on", line, err)
	}
	if got := standby.Counts(); got != (Counts{Passing: 1, Passed: 1}) {
		t.Errorf("got %+v, want one connection that is passed on", got)
	}
}

func TestForwardTLS(t *testing.T) {
	v := newVoucher(t)
	active, standby := listen(t, 16), listen(t, 16)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.RemoteAddr+" ") // the test reads it
		_, _ = io.Copy(w, r.Body)
	}))
	if err := server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	server.Listener = active.Serve(v)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	standby.Forward(fixed(active), v)
	for _, p := range []*Port{active, standby} {
		body := strings.Repeat("x", 1<<20)
		resp, err := server.Client().Post("https://"+p.Addr().String(), "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		from, sent, _ := strings.Cut(string(got), " ")
		if addr, err := netip.ParseAddrPort(from); err != nil || addr.Addr().String() != "127.0.0.1" || sent != body {
			t.Errorf("got %d bytes from %s, want %d", len(sent), from, len(body))
		}
	}
}

// Each side may end what it sends and still gets what the other one sends.
func TestForwardHalfClose(t *testing.T) {
	standby := listen(t, 16)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := newMovable(l.Addr().String())
	standby.Forward(m.target, nil)
	for name, serverFirst := range map[string]bool{"server first": true, "client first": false} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, standby)
			send(t, c, "a")
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			first, second := s.(*net.TCPConn), c
			early, late := "hi", "a"
			if serverFirst {
				send(t, s, early)
			} else {
				first, second = c, s.(*net.TCPConn)
				early, late = "a", ""
			}
			if err := first.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(second); err != nil || string(got) != early {
				t.Errorf("got %q, %v; want %q and the end", got, err, early)
			}
			send(t, second, "more")
			if err := second.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(first); err != nil || string(got) != late+"more" {
				t.Errorf("got %q, %v; want %q and the end", got, err, late+"more")
			}
		})
	}
	waits(t, standby, "all have ended", func(c Counts) bool { return c.Passing == 0 && c.Waiting == 0 })
}

// Who comes while nobody is there waits.
func TestHeldConnections(t *testing.T) {
	v := newVoucher(t)
	const gone = "127.0.0.1:1"
	active := listen(t, 16)
	echo(t, "a", active.Serve(v))
	for name, c := range map[string]struct{ before, after func(*Port, *movable) }{
		"nobody, then served":        {func(*Port, *movable) {}, func(p *Port, _ *movable) { echo(t, "a", p.Serve(v)) }},
		"nobody, then passed on":     {func(*Port, *movable) {}, func(p *Port, m *movable) { m.move(active.Addr().String()); p.Forward(m.target, v) }},
		"no target, then one":        {func(p *Port, m *movable) { p.Forward(m.target, v) }, func(_ *Port, m *movable) { m.move(active.Addr().String()) }},
		"no answer, then another":    {func(p *Port, m *movable) { m.move(gone); p.Forward(m.target, v) }, func(_ *Port, m *movable) { m.move(active.Addr().String()) }},
		"not served, then passed on": {func(p *Port, _ *movable) { p.Serve(v) }, func(p *Port, m *movable) { m.move(active.Addr().String()); p.Forward(m.target, v) }},
		"closed, then served again":  {func(p *Port, _ *movable) { _ = p.Serve(v).Close() }, func(p *Port, _ *movable) { echo(t, "a", p.Serve(v)) }},
	} {
		t.Run(name, func(t *testing.T) {
			p, m := listen(t, 16), newMovable("")
			c.before(p, m)
			conn := connect(t, p)
			send(t, conn, "hello")
			waits(t, p, "it waits", func(c Counts) bool { return c.Waiting == 1 })
			c.after(p, m)
			answers(t, conn, "a", conn.LocalAddr().String())
		})
	}
}

func TestTargetChanges(t *testing.T) {
	v := newVoucher(t)
	a, b, standby := listen(t, 16), listen(t, 16), listen(t, 16)
	echo(t, "a", a.Serve(v))
	echo(t, "b", b.Serve(v))
	m := newMovable(a.Addr().String())
	standby.Forward(m.target, v)
	c := connect(t, standby)
	hears(t, c, "a", c.LocalAddr().String())

	m.move("") // not known for a moment: the connection stays
	standby.Forward(m.target, v)
	m.move(a.Addr().String())
	send(t, c, "still")
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "still" {
		t.Fatalf("got %q, %v; want still", got, err)
	}

	m.move(b.Addr().String())
	isCut(t, c, "another one is active")
	c = connect(t, standby)
	hears(t, c, "b", c.LocalAddr().String())

	echo(t, "here", standby.Serve(v))
	isCut(t, c, "this one is active")
	c = connect(t, standby)
	hears(t, c, "here", c.LocalAddr().String())
}

// What was not answered yet goes to who is active next.
func TestUnansweredConnectionsMoveOn(t *testing.T) {
	v := newVoucher(t)
	for name, next := range map[string]func(standby, b *Port, m *movable){
		"another one":       func(_, b *Port, m *movable) { m.move(b.Addr().String()) },
		"this one":          func(standby, _ *Port, _ *movable) { echo(t, "b", standby.Serve(v)) },
		"after nobody":      func(_, b *Port, m *movable) { m.move(""); m.move(b.Addr().String()) },
		"after one is gone": func(standby, b *Port, m *movable) { m.move("127.0.0.1:1"); m.move(b.Addr().String()) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, standby := listen(t, 16), listen(t, 16), listen(t, 16)
			echo(t, "b", b.Serve(v))
			m := newMovable(a.Addr().String())
			standby.Forward(m.target, v)
			c := connect(t, standby)
			send(t, c, "hel")
			waits(t, a, "it waits at the first", func(c Counts) bool { return c.Waiting == 1 })
			send(t, c, "lo")
			next(standby, b, m)
			answers(t, c, "b", c.LocalAddr().String())
		})
	}
}

// Who is dropped without an answer is passed on once more, and then dropped.
func TestDroppedConnections(t *testing.T) {
	standby := listen(t, 16)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int64
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			_ = c.Close() // without an answer
		}
	})
	defer work.Wait()
	defer l.Close()
	standby.Forward(newMovable(l.Addr().String()).target, nil)
	c := connect(t, standby)
	send(t, c, "x")
	isCut(t, c, "it was dropped")
	if got := accepted.Load(); got != 2 {
		t.Errorf("got passed on %d times, want 2", got)
	}
	c = connect(t, standby)
	send(t, c, strings.Repeat("x", maxKept+1))
	isCut(t, c, "it sent too much to be passed on anew")
}

// What a port does with connections changes under load: none is ever refused, and
// each is answered by who was there, or ends.
func TestSwitchingUnderLoad(t *testing.T) {
	v := newVoucher(t)
	other, p := listen(t, 256), listen(t, 256)
	echo(t, "other", other.Serve(v))
	var answered [2]atomic.Int64
	stop := make(chan struct{})
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", p.Addr().String())
				if err != nil {
					if !errors.Is(err, syscall.EADDRNOTAVAIL) {
						t.Errorf("dialing: %v", err)
					}
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience)) // fails where reading does
				_, _ = io.WriteString(c, "x")               // or it was cut
				line, _ := bufio.NewReader(c).ReadString('\n')
				switch name, _, _ := strings.Cut(line, " "); name {
				case "here":
					answered[0].Add(1)
				case "other":
					answered[1].Add(1)
				}
				_ = c.Close() // all was read
			}
		})
	}
	more := func(i int) {
		for now, end := answered[i].Load(), time.Now().Add(patience); answered[i].Load() < now+20; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("got %d answers of %d, want more", answered[i].Load(), i)
			}
		}
	}
	for range 20 {
		p.Forward(fixed(other), v)
		more(1)
		l := p.Serve(v)
		var accepting sync.WaitGroup
		accepting.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "here\x20\n") // the client reads it, or not
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		})
		more(0)
		_ = l.Close()
		accepting.Wait()
		p.Hold()
	}
	p.Forward(fixed(other), v)
	close(stop)
	work.Wait()
}
