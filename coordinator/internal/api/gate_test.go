package api

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/caller"
)

// Over the limit of a port, whoever was idle longest gives way; whoever has a
// request running stays.
func TestIdleConnectionsGiveWay(t *testing.T) {
	s := newStack(t, stackConfig{connections: 40})
	dial := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", s.client)
		if errors.Is(err, syscall.ECONNRESET) {
			return nil // refused before the dial returned
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var idle []net.Conn
	for range 25 {
		idle = append(idle, dial("127.0.0.2"))
	}
	for range 15 {
		dial("127.0.0.3")
	}
	stillServes(t, s)
	_ = idle[0].SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := idle[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the oldest connection closed", err)
	}
	// One address cannot have them all, and does not shut itself out.
	for range 60 {
		dial("127.0.0.4")
	}
	stillServes(t, s)
	if open, _, evicted := s.gates[0].Counts(); open > 40 || evicted < 60 {
		t.Errorf("got %d open and %d that gave way, want at most 40, and at least 60", open, evicted)
	}
	if n := s.gates[0].of("127.0.0.4"); n > 30 {
		t.Errorf("got %d connections from one address, want three quarters of 40 at most", n)
	}
}

// of counts the connections from an address.
func (g *Gate) of(addr string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.hosts[netip.MustParseAddr(addr)]; h != nil {
		return h.open
	}
	return 0
}

// Where every connection of an address is busy, its next one is refused; others
// are let in.
func TestBusyAddressIsRefused(t *testing.T) {
	g := NewGate(4)
	in := func(remote string) net.Conn {
		near, far := net.Pipe()
		t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
		return g.admit(addressed{near, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(remote))})
	}
	for _, remote := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"} {
		in(remote).(*gated).count(func(n int) int { return n + 1 })
	}
	if in("192.0.2.1:4") != nil {
		t.Error("a fourth connection was let in, want at most three from one address")
	}
	last := in("192.0.2.2:1")
	if last == nil {
		t.Fatal("another address was refused")
	}
	last.(*gated).count(func(n int) int { return n + 1 })
	if in("192.0.2.3:1") != nil {
		t.Error("a fifth connection was let in, want at most four")
	}
	last.(*gated).count(func(n int) int { return n - 1 })
	if in("192.0.2.3:1") == nil {
		t.Error("a connection was refused while another was idle")
	}
	if _, refused, evicted := g.Counts(); refused != 2 || evicted != 1 {
		t.Errorf("got %d refused and %d that gave way, want 2 and 1", refused, evicted)
	}
}

// addressed is a connection from an address of our choice.
type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }

func TestBudget(t *testing.T) {
	for _, c := range []struct {
		descriptors uint64
		want        int
	}{{64, 0}, {95, 0}, {96, 16}, {256, 96}, {1024, 480}, {20_000, 9375}, {1 << 30, 50_000}} {
		got, err := budget(c.descriptors)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("budget(%d): got %d, %v, want %d", c.descriptors, got, err, c.want)
		}
	}
}

func TestRateForgetsAddresses(t *testing.T) {
	now := time.Unix(0, 0)
	r := newRate(1, 2, func() time.Time { return now })
	a := caller.Of(&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 1})
	for i, want := range []bool{true, true, false} {
		if got, _ := r.take(a); got != want {
			t.Errorf("take %d: got %t, want %t", i, got, want)
		}
	}
	now = now.Add(time.Second)
	if ok, _ := r.take(a); !ok {
		t.Error("no token after a second")
	}
	for i := range 2 * maxBuckets {
		r.take(caller.Of(&net.TCPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)), Port: 1}))
	}
	if n := len(r.buckets); n > maxBuckets {
		t.Errorf("got %d buckets, want at most %d", n, maxBuckets)
	}
	six := caller.Of(&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1})
	if other := caller.Of(&net.TCPAddr{IP: net.ParseIP("2001:db8::ffff"), Port: 2}); six != other {
		t.Errorf("got %s and %s, want one /64", six, other)
	}
}
