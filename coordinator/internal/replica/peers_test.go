package replica

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Over the bound, who is silent longest gives way, of who has the most.
func TestPortIsBounded(t *testing.T) {
	p := listen(t, 4)
	from := func(ip string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		c, err := d.Dial("tcp", p.Addr().String())
		if errors.Is(err, syscall.ECONNRESET) {
			return nil // refused before the dial returned
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience)) // fails where reading does
		return c
	}
	is := func(open int, refused uint64) {
		t.Helper()
		waits(t, p, fmt.Sprintf("want %d open, %d refused", open, refused), func(c Counts) bool { return c.Waiting == open && c.Refused == refused })
	}
	oldest := from("127.0.0.2")
	send(t, oldest, "x")
	is(1, 0)
	for range 2 {
		send(t, from("127.0.0.2"), "x")
	}
	is(3, 0)
	if c := from("127.0.0.2"); c != nil { // the fourth of one caller
		isCut(t, c, "three quarters are one caller's at most")
	}
	is(3, 1)
	send(t, from("127.0.0.3"), "x")
	is(4, 1)
	if c := from("127.0.0.4"); c != nil {
		isCut(t, c, "the port is full")
	}
	is(4, 2)
	p.mu.Lock()
	for in := range p.conns {
		if in.from.String() == oldest.LocalAddr().String() {
			in.active.Add(-int64(yieldAfter))
		}
	}
	p.mu.Unlock()
	send(t, from("127.0.0.4"), "x")
	isCut(t, oldest, "it is silent longest")
	is(4, 3)
}

// A caller that says nothing, or half of a header, keeps nobody waiting, and is
// closed in the end.
func TestSlowPeers(t *testing.T) {
	t.Parallel()
	v := newVoucher(t)
	p := listen(t, 16)
	echo(t, "a", p.Serve(v))
	silent, half := connect(t, p), connect(t, p)
	h, err := v.header(netip.MustParseAddrPort("192.0.2.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	send(t, half, string(h[:headerSize-1]))
	c := connect(t, p)
	hears(t, c, "a", c.LocalAddr().String())
	isCut(t, silent, "it said nothing")
	isCut(t, half, "it said half")
}

func TestHeadersThatDoNotCount(t *testing.T) {
	v := newVoucher(t)
	caller := netip.MustParseAddrPort("192.0.2.1:4711")
	header := func(of *Voucher) string {
		h, err := of.header(caller)
		if err != nil {
			t.Fatal(err)
		}
		return string(h)
	}
	p := listen(t, 16)
	echo(t, "a", p.Serve(v))
	used := header(v)
	c := connect(t, p)
	send(t, c, used)
	hears(t, c, "a", caller.String())
	for name, h := range map[string]string{
		"used before":         used,
		"of another key":      header(newVoucher(t)),
		"nothing but a magic": magic + strings.Repeat("\x00", headerSize-len(magic)),
	} {
		c := connect(t, p)
		send(t, c, h+"hello")
		isCut(t, c, name)
	}
	if got := p.Counts().Forged; got != 3 {
		t.Errorf("got %d forged, want 3", got)
	}
	again := connect(t, p) // the address is another connection's
	send(t, again, header(v))
	hears(t, again, "a", again.LocalAddr().String())
	_ = again.Close() // nothing more is asked of it
	own := connect(t, p)
	h, err := v.header(own.LocalAddr().(*net.TCPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	first := connect(t, p)
	send(t, first, string(h))
	hears(t, first, "a", own.LocalAddr().String())
	send(t, own, "hello")
	isCut(t, own, "its address is another connection's")
	_ = first.Close() // nothing more is asked of it
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		free := len(p.shown) == 0
		p.mu.Unlock()
		if free {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the address does not become free")
		}
	}
	c = connect(t, p)
	send(t, c, header(v))
	hears(t, c, "a", caller.String())

}

// Who has no key takes what others pass on, and believes nothing of whose it is.
func TestHeadersWithoutAKey(t *testing.T) {
	standby, desk := listen(t, 16), listen(t, 16)
	echo(t, "desk", desk.Serve(nil))
	standby.Forward(fixed(desk), newVoucher(t))
	c := connect(t, standby)
	send(t, c, "x\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	if caller := c.LocalAddr().String(); err != nil || !strings.HasPrefix(line, "desk 127.0.0.1:") || strings.Contains(line, caller) {
		t.Errorf("got %q, %v; want an answer to 127.0.0.1, and not to %s", line, err, caller)
	}
}

// What another replica passed on is not passed on again: two that take each other
// for the active one would go on for ever.
func TestPassedOnOnce(t *testing.T) {
	v := newVoucher(t)
	a, b := listen(t, 16), listen(t, 16)
	a.Forward(fixed(b), v)
	b.Forward(fixed(a), v)
	c := connect(t, a)
	send(t, c, "x")
	waits(t, a, "it is passed on", func(c Counts) bool { return c.Passing == 1 })
	waits(t, b, "it waits", func(c Counts) bool { return c.Waiting == 1 })
	echo(t, "b", b.Serve(v))
	line, err := bufio.NewReader(c).ReadString('\n')
	if want := "b " + c.LocalAddr().String() + "\n"; err != nil || line != want {
		t.Errorf("got %q, %v; want %q", line, err, want)
	}
}

// Without a key nobody can tell: the bounds and the patience of ports end it.
func TestPassedOnInCircles(t *testing.T) {
	t.Parallel()
	a, b := listen(t, 16), listen(t, 16)
	a.Forward(fixed(b), nil)
	b.Forward(fixed(a), nil)
	c := connect(t, a)
	send(t, c, "x")
	isCut(t, c, "it went round until there was no room")
}

// A record that names the loopback leads nobody to what listens there, unless the
// port does so itself.
func TestNotToTheLoopback(t *testing.T) {
	to := listen(t, 16)
	_, port, err := net.SplitHostPort(to.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	outside, err := Listen("0.0.0.0:0", 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Close() })
	for _, host := range []string{"127.0.0.1", "localhost", "::ffff:127.0.0.1", "0.0.0.0", "::"} {
		addr := net.JoinHostPort(host, port)
		if c, err := outside.DialContext(t.Context(), "tcp", addr); err == nil || !strings.Contains(err.Error(), "within this machine") {
			t.Errorf("%s: got %v, %v; want it refused", addr, c, err)
		}
	}
	c, err := to.DialContext(t.Context(), "tcp", to.Addr().String())
	if err != nil {
		t.Fatalf("on the loopback itself: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
