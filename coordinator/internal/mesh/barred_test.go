package mesh

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/integration/envoytest"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// rogue is a caller that does as it likes: it has a leaf and open connections to
// a real Envoy, over each of the protocols.
type rogue struct {
	t        testing.TB
	identity *envoytest.Identity
	sni      string

	h1, tcp *tls.Conn
	h1r     *bufio.Reader
	h2      *http.ClientConn
	stream  *io.PipeWriter // body of a request that has not ended
	reply   io.ReadCloser  // and of its answer
}

func (p *rogue) dial(addr string, alpn ...string) (*tls.Conn, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		Certificates: []tls.Certificate{p.identity.Certificate}, ServerName: p.sni, NextProtos: alpn})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// open opens a connection of each kind, and one request that stays open.
func (p *rogue) open() *rogue {
	p.t.Helper()
	var err error
	if p.h1, err = p.dial(at(backAddr, stockPort), "http/1.1"); err != nil {
		p.t.Fatal(err)
	}
	p.h1r = bufio.NewReader(p.h1)
	if p.tcp, err = p.dial(at(backAddr, ledgerPort)); err != nil {
		p.t.Fatal(err)
	}
	conn, err := p.dial(at(backAddr, stockPort), "h2")
	if err != nil {
		p.t.Fatal(err)
	}
	if p.h2, err = envoytest.HTTP2(p.t.Context(), conn); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = p.h1.Close()
		_ = p.tcp.Close()
		_ = conn.Close()
	})
	return p
}

// begin makes a request over HTTP/2 that goes on.
func (p *rogue) begin() *rogue {
	p.t.Helper()
	body, w := io.Pipe()
	req, err := http.NewRequest("POST", "https://back/stream", body)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := p.h2.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("got %v, %v; want the head of a stream", resp, err)
	}
	p.stream, p.reply = w, resp.Body
	return p
}

// says sends a line over what is still open and returns whether it came back.
func says(w io.Writer, r io.Reader) bool {
	back := make(chan bool, 1)
	go func() {
		got := make([]byte, 5)
		_, err := io.WriteString(w, "ping\n")
		if err == nil {
			_, err = io.ReadFull(r, got)
		}
		back <- err == nil && string(got) == "ping\n"
	}()
	select {
	case came := <-back:
		return came
	case <-time.After(patience):
		return false
	}
}

func (p *rogue) overTCP() bool {
	_ = p.tcp.SetDeadline(time.Now().Add(patience))
	return says(p.tcp, p.tcp)
}

func (p *rogue) overHTTP1() (int, error) {
	_ = p.h1.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(p.h1, "GET /items/1 HTTP/1.1\r\nHost: back\r\n\r\n"); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(p.h1r, nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (p *rogue) overHTTP2() (int, error) {
	req, err := http.NewRequest("GET", "https://back/items/1", nil)
	if err != nil {
		return 0, err
	}
	resp, err := p.h2.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// passes says which ways are open to a peer, old connections and new ones.
func (p *rogue) passes() string {
	var open []string
	if code, err := p.overHTTP1(); err == nil && code == 200 {
		open = append(open, "http/1.1")
	}
	if code, err := p.overHTTP2(); err == nil && code == 200 {
		open = append(open, "h2")
	}
	if p.overTCP() {
		open = append(open, "tcp")
	}
	if c, err := p.dial(at(backAddr, ledgerPort)); err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		if says(c, c) {
			open = append(open, "new tcp")
		}
		_ = c.Close()
	}
	if c, err := p.dial(at(backAddr, stockPort), "http/1.1"); err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(c, "GET /items/1 HTTP/1.1\r\nHost: back\r\nConnection: close\r\n\r\n")
		if b, _ := io.ReadAll(c); bytes.HasPrefix(b, []byte("HTTP/1.1 200")) {
			open = append(open, "new http")
		}
		_ = c.Close()
	}
	return strings.Join(open, " ")
}

const everyWay = "http/1.1 h2 tcp new tcp new http"

// raid is back's Envoy with callers of two marbles, shop with two instances and
// till, as hostile as they like.
type raid struct {
	*fixture
	bad, sibling, other *rogue
}

func newRaid(t *testing.T, sni func(marble string) string) *raid {
	envoytest.Binary(t)
	programs(t)
	v := pairView()
	calls := []manifest.Call{{Marble: "back", Port: "stock", Listen: toStock}, {Marble: "back", Port: "ledger", Listen: toLedger}}
	for _, name := range []string{"shop", "till"} {
		v.Manifest.Marbles[name] = manifest.Marble{Calls: calls}
	}
	f := newFixture(t, v)
	envoytest.Start(t, envoytest.NewAgent(t, f.ca, f.leaf("back", "b1", time.Hour), f.address).Socket, "back")
	as := func(marble, id string) *rogue {
		return (&rogue{t: t, identity: f.leaf(marble, id, time.Hour), sni: sni(marble)}).open()
	}
	r := &raid{fixture: f, bad: as("shop", "s1"), sibling: as("shop", "s2"), other: as("till", "t1")}
	for _, p := range []*rogue{r.bad, r.sibling, r.other} {
		if got := p.passes(); got != everyWay {
			t.Fatalf("%s: at first %q is open, want %q", p.identity.Leaf.Subject, got, everyWay)
		}
	}
	return r
}

func ownChain(marble string) string { return newCompiler(pairView()).callerName(marble) }

// TestBarredPeers takes a right away from peers with open connections to a real
// Envoy: not one more request of theirs passes, and the others' connections stay.
func TestBarredPeers(t *testing.T) {
	noName := func(string) string { return "" }
	for _, tc := range []struct {
		name          string
		sni           func(string) string
		barred        coordinator.BarredPeer
		sibling       string // what stays open to it
		others        string
		siblingsStays bool
	}{
		{"an instance, by its own chain", ownChain, coordinator.BarredPeer{Marble: "shop", Instance: "s1"}, "new tcp new http", everyWay, true},
		{"an instance, without a name", noName, coordinator.BarredPeer{Marble: "shop", Instance: "s1"}, "new tcp new http", "new tcp new http", true},
		{"an instance, in another's chain", func(string) string { return ownChain("nobody") }, coordinator.BarredPeer{Marble: "shop", Instance: "s1"}, "new tcp new http", "new tcp new http", true},
		{"a marble, by its own chain", ownChain, coordinator.BarredPeer{Marble: "shop"}, "", everyWay, false},
		{"a marble, without a name", noName, coordinator.BarredPeer{Marble: "shop"}, "", "new tcp new http", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRaid(t, tc.sni)
			r.bad.begin()
			if !says(r.bad.stream, r.bad.reply) {
				t.Fatal("the stream does not pass at first")
			}
			r.change(func(v *coordinator.View) { v.Barred = []coordinator.BarredPeer{tc.barred} })
			eventually(t, "the barred peer's requests are refused", func() bool {
				code, err := r.bad.overHTTP2()
				return err != nil || code == http.StatusForbidden
			})
			eventually(t, "the barred peer's connections end", func() bool { return !r.bad.overTCP() })
			eventually(t, "the barred peer's streams end", func() bool { return !says(r.bad.stream, r.bad.reply) })
			if got := r.bad.passes(); got != "" {
				t.Errorf("open to the barred peer: %q, want nothing", got)
			}
			again := &rogue{t: t, identity: r.leaf("shop", "s1", time.Hour), sni: tc.sni("shop")} // another leaf of the same instance
			again.h1, again.tcp, again.h2, again.h1r = r.bad.h1, r.bad.tcp, r.bad.h2, r.bad.h1r
			if got := again.passes(); got != "" {
				t.Errorf("open to another leaf of the barred peer: %q, want nothing", got)
			}
			for _, want := range strings.Fields(strings.ReplaceAll(tc.others, "new ", "new-")) {
				if got := strings.ReplaceAll(r.other.passes(), "new ", "new-"); !strings.Contains(" "+got+" ", " "+want+" ") {
					t.Errorf("open to another marble: %q, want %q", got, tc.others)
				}
			}
			if got := r.sibling.passes(); !strings.HasSuffix(got, tc.sibling) || tc.sibling == "" && got != "" {
				t.Errorf("open to another instance: %q, want %q", got, tc.sibling)
			}
			r.change(func(v *coordinator.View) { v.Barred = nil })
			back := &rogue{t: t, identity: r.bad.identity, sni: r.bad.sni}
			eventually(t, "the lifted peer passes again", func() bool {
				c, err := back.dial(at(backAddr, ledgerPort))
				if err != nil {
					return false
				}
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(patience))
				return says(c, c)
			})
		})
	}
}

// TestBarredAreNowhere compiles views in which somebody is barred.
func TestBarredAreNowhere(t *testing.T) {
	v := shopView()
	v.Barred = []coordinator.BarredPeer{{Marble: "cart"}}
	if r := mustCompile(t, v, "cart", "c1"); len(r[Listener])+len(r[Cluster])+len(r[Route])+len(r[Endpoint]) != 0 {
		t.Errorf("a barred marble gets %v, want nothing", r[Listener].Names())
	}
	if r := mustCompile(t, v, "web", "w1"); len(r[Listener]) != 1 || r[Listener]["out/cart/http"] != nil {
		t.Errorf("a caller of a barred marble has the listeners %v", r[Listener].Names())
	}
	chains := func(v *coordinator.View, marble, id, name string) []*listener.FilterChain {
		l := new(listener.Listener)
		if err := mustCompile(t, v, marble, id)[Listener][name].Resource.UnmarshalTo(l); err != nil {
			t.Fatal(err)
		}
		return l.FilterChains
	}
	if got := len(chains(v, "db", "d1", "in/sql")); got != 1 {
		t.Errorf("db has %d filter chains, want the one that nobody passes", got)
	}
	v.Barred = []coordinator.BarredPeer{{Marble: "cart", Instance: "c1"}}
	r := mustCompile(t, v, "web", "w1")
	if text := fmt.Sprint(r[Endpoint]["out/cart/http"].Resource); strings.Contains(text, "127.0.77.2") {
		t.Errorf("web still finds the barred instance: %s", text)
	}
	before := chains(shopView(), "web", "w1", "out/cart/http")[0].Name
	if after := chains(v, "web", "w1", "out/cart/http")[0].Name; after == before {
		t.Error("connections that lead to the barred instance stay")
	}
}
