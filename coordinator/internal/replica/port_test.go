package replica

import (
	"crypto/rand"
	"io"
	"net"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
)

func vouchers(t *testing.T) *Voucher {
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

func listen(t *testing.T, most int) *Port {
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

// echo answers each connection with its remote address, as the server sees it, a
// line feed, and what it sends.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1)
				if _, err := io.ReadFull(c, b); err != nil {
					return
				}
				_, _ = io.WriteString(c, c.RemoteAddr().String()+"\n"+string(b)) // the test reads it
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close() // ends the serving
		<-done
	})
}

// fixed is a target that stays.
func fixed(addr string) Target {
	never := make(chan struct{})
	return func() (string, <-chan struct{}) { return addr, never }
}

func TestForwardShowsTheCaller(t *testing.T) {
	v := vouchers(t)
	active, standby := listen(t, 16), listen(t, 16)
	echo(t, active.Serve(v))
	standby.Forward(fixed(active.Addr().String()), v)
	c, err := net.Dial("tcp", standby.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if want := c.LocalAddr().String() + "\nhello"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
