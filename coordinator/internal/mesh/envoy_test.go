package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/integration/envoytest"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// The tests of this file run two real Envoys: shop calls stock (http, some
// routes) and ledger (tcp), both served by one marble, back.
const (
	shopAddr, backAddr = "127.0.91.1", "127.0.91.2" // Envoys
	shopLo, backLo     = "127.0.92.1", "127.0.92.2" // programs
	stockPort          = 18081
	ledgerPort         = 18082
	toStock            = 19001
	toLedger           = 19002
)

func pairView() *coordinator.View {
	return &coordinator.View{
		Revision: "aa", TrustDomain: "shop.example",
		Manifest: &manifest.Manifest{Version: 1, TrustDomain: "shop.example", Marbles: map[string]manifest.Marble{
			"shop": {Calls: []manifest.Call{
				{Marble: "back", Port: "stock", Listen: toStock, Routes: []string{"GET /items/*", "POST /order"}},
				{Marble: "back", Port: "ledger", Listen: toLedger},
			}},
			"other": {},
			"back": {Serves: map[string]manifest.Port{
				"stock": {Port: stockPort, Protocol: manifest.HTTP}, "ledger": {Port: ledgerPort, Protocol: manifest.TCP},
			}},
		}},
		Instances: []coordinator.ViewInstance{
			{Marble: "back", ID: "b1", Address: backAddr, Loopback: backLo},
			{Marble: "shop", ID: "s1", Address: shopAddr, Loopback: shopLo},
		},
	}
}

// pair is the running deployment.
type pair struct {
	*fixture
	shop, back *envoytest.Agent
}

func newPair(t *testing.T) *pair {
	envoytest.Binary(t)
	programs(t)
	p := &pair{fixture: newFixture(t, pairView())}
	p.back = envoytest.NewAgent(t, p.ca, p.leaf("back", "b1", time.Hour), p.address)
	p.shop = envoytest.NewAgent(t, p.ca, p.leaf("shop", "s1", time.Hour), p.address)
	var wg sync.WaitGroup
	wg.Go(func() { envoytest.Start(t, p.back.Socket, "shop") }) // a lie: it is back
	wg.Go(func() { envoytest.Start(t, p.shop.Socket, "shop") })
	wg.Wait()
	return p
}

// programs are what knows nothing of Ashlar: an HTTP and an echo server.
func programs(t *testing.T) {
	t.Helper()
	serve(t, at(backLo, stockPort), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			echoBody(w, r)
			return
		}
		if r.ProtoMajor == 2 {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "9")
			w.Header().Set("Grpc-Message", "this is the program")
			return
		}
		fmt.Fprintf(w, "%s %s by %s", r.Method, r.URL.Path, r.Header.Get("X-Forwarded-Client-Cert"))
	}))
	lis, err := net.Listen("tcp", at(backLo, ledgerPort))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _ = lis.Close() })
}

// echoBody answers with what comes, as it comes.
func echoBody(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	if c.EnableFullDuplex() != nil || c.Flush() != nil {
		return
	}
	buf := make([]byte, 512)
	for {
		n, err := r.Body.Read(buf)
		if _, bad := w.Write(buf[:n]); err != nil || bad != nil || c.Flush() != nil {
			return
		}
	}
}

func at(ip string, port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }

func serve(t *testing.T, address string, h http.Handler) {
	t.Helper()
	lis, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &httptest.Server{Listener: lis, Config: &http.Server{Handler: h, Protocols: &protocols}}
	srv.Start()
	t.Cleanup(srv.Close)
}

// call makes a request through the shop's Envoy.
func call(t *testing.T, client *http.Client, method, path string, header ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://%s:%d%s", shopLo, toStock, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// echo sends a line through the shop's Envoy and returns what comes back.
func echo(line string) (string, error) {
	c, err := net.DialTimeout("tcp", at(shopLo, toLedger), patience)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, line); err != nil {
		return "", err
	}
	buf := make([]byte, len(line))
	_, err = io.ReadFull(c, buf)
	return string(buf), err
}

// eventually asks until it is so: what was pushed takes effect a little later.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %s: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestRealEnvoys(t *testing.T) {
	p := newPair(t)
	client := &http.Client{Transport: &http.Transport{}}
	eventually(t, "first request", func() bool {
		code, _ := call(t, client, "GET", "/items/1")
		return code == 200
	})
	t.Run("routes", func(t *testing.T) { testRoutes(t, client) })
	t.Run("tcp", func(t *testing.T) {
		if got, err := echo("hello"); got != "hello" {
			t.Errorf("got %q, %v; want hello", got, err)
		}
	})
	t.Run("grpc", func(t *testing.T) { testGRPC(t) })
	t.Run("strangers", func(t *testing.T) { testStrangers(t, p) })
	t.Run("rotation", func(t *testing.T) { testRotation(t, p) })
	t.Run("endpoint", func(t *testing.T) { testEndpointMoves(t, p, client) })
	t.Run("port in use", func(t *testing.T) { testPortInUse(t, p) })
	t.Run("edge removed", func(t *testing.T) { testEdgeRemoved(t, p, client) })
}

func testRoutes(t *testing.T, client *http.Client) {
	for _, tc := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/items/1", 200}, {"GET", "/items/1?x=/admin", 200}, {"POST", "/order", 200}, {"POST", "/order?now", 200},
		{"GET", "/items/a%20b", 200}, {"GET", "//items//1", 200},
		{"GET", "/", 403}, {"GET", "/items", 403}, {"POST", "/items/1", 403}, {"GET", "/order", 403},
		{"POST", "/order/2", 403}, {"GET", "/admin?/items/1", 403},
		{"GET", "/items/../admin", 403}, {"GET", "/items/%2e%2e/admin", 403}, {"GET", "/items/%2E./admin", 403},
		{"GET", "/items/..%2fadmin", 400}, {"GET", "/items%2f1", 400}, {"GET", "/items/..%5cadmin", 400},
		{"GET", "/ITEMS/1", 403}, {"HEAD", "/items/1", 403},
		{"GET", "/items/..;/admin", 403}, {"GET", "/items/..;x=1/admin", 403}, {"GET", "/items/..%3b/admin", 403}, {"GET", "/items/..%3B/admin", 403},
		{"GET", "/items/;/../../admin", 403}, {"GET", "/items/1%00/x", 400}, {"GET", "/items/1?a;b=%3b", 200},
		{"get", "/items/1", 400}, {"OPTIONS", "/items/1", 403}, {"TRACE", "/items/1", 403},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			code, body := call(t, client, tc.method, tc.path)
			if code != tc.want {
				t.Errorf("got %d %q, want %d", code, body, tc.want)
			}
		})
	}
	t.Run("no upgrade", func(t *testing.T) {
		if code, _ := call(t, client, "GET", "/items/1", "Connection", "Upgrade", "Upgrade", "websocket"); code != 403 {
			t.Errorf("got %d, want 403: what follows an upgrade has no routes", code)
		}
	})
	t.Run("caller is told, and cannot lie", func(t *testing.T) {
		_, body := call(t, client, "GET", "/items/1",
			"X-Forwarded-Client-Cert", "URI=spiffe://shop.example/admin", "X_Forwarded_Client_Cert", "URI=spiffe://shop.example/admin")
		if !strings.HasSuffix(body, "URI=spiffe://shop.example/shop") || strings.Contains(body, "admin") {
			t.Errorf("got %q, want the caller's identity alone", body)
		}
	})
}

// testGRPC makes a gRPC call through both Envoys, to a path that no route
// allows: the refusal is Envoy's. With the route it is the program's.
func testGRPC(t *testing.T) {
	conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///%s:%d", shopLo, toStock), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	call := func(method string) string {
		err := conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
		return status.Convert(err).Message()
	}
	if got := call("/other/Method"); !strings.Contains(got, "RBAC: access denied") {
		t.Errorf("got %q, want Envoy's refusal", got)
	}
	if got := call("/order"); got != "this is the program" {
		t.Errorf("got %q, want the program's answer", got)
	}
}

// testStrangers connects to back's Envoy as what may not.
func testStrangers(t *testing.T, p *pair) {
	other := envoytest.NewCA(t)
	hour := time.Now().Add(time.Hour)
	config := func(id *envoytest.Identity, version uint16) *tls.Config {
		c := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, MaxVersion: version, NextProtos: []string{"http/1.1"}}
		if id != nil {
			c.Certificates = []tls.Certificate{id.Certificate}
		}
		return c
	}
	for _, tc := range []struct {
		name   string
		config *tls.Config
		ok     bool
	}{
		{"the shop itself", config(p.ca.Leaf(t, "spiffe://shop.example/shop", hour), tls.VersionTLS13), true},
		{"another marble", config(p.ca.Leaf(t, "spiffe://shop.example/other", hour), tls.VersionTLS13), false},
		{"a longer name", config(p.ca.Leaf(t, "spiffe://shop.example/shop/x", hour), tls.VersionTLS13), false},
		{"another trust domain, our authority", config(p.ca.Leaf(t, "spiffe://mall.example/shop", hour), tls.VersionTLS13), false},
		{"another authority, our name", config(other.Leaf(t, "spiffe://shop.example/shop", hour), tls.VersionTLS13), false},
		{"expired", config(p.ca.Leaf(t, "spiffe://shop.example/shop", time.Now().Add(-time.Minute)), tls.VersionTLS13), false},
		{"no certificate", config(nil, tls.VersionTLS13), false},
		{"TLS 1.2", config(p.ca.Leaf(t, "spiffe://shop.example/shop", hour), tls.VersionTLS12), false},
	} {
		for _, port := range []int{stockPort, ledgerPort} {
			t.Run(fmt.Sprintf("%s to %d", tc.name, port), func(t *testing.T) {
				got, resumable, err := request(port, tc.config)
				if ok := strings.Contains(got, "/items/7"); ok != tc.ok {
					t.Errorf("got %q, %v; want answered %v", got, err, tc.ok)
				}
				if resumable {
					t.Error("got a session ticket, want none")
				}
			})
		}
	}
	t.Run("plaintext", func(t *testing.T) {
		for _, port := range []int{stockPort, ledgerPort} {
			if got, _, err := request(port, nil); strings.Contains(got, "/items/7") {
				t.Errorf("port %d: got %q, %v; want nothing", port, got, err)
			}
		}
	})
}

// ticket notes whether a server offers to resume.
type ticket struct{ offered atomic.Bool }

func (c *ticket) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *ticket) Put(_ string, s *tls.ClientSessionState) {
	c.offered.Store(s != nil || c.offered.Load())
}

// request writes an HTTP request to back's Envoy and reads what comes; the echo
// server gives the same back.
func request(port int, config *tls.Config) (got string, resumable bool, err error) {
	raw, err := net.DialTimeout("tcp", at(backAddr, port), patience)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(patience))
	seen := new(ticket)
	c := raw
	if config != nil {
		config.ClientSessionCache, config.ServerName = seen, "back"
		c = tls.Client(raw, config)
	}
	if _, err := io.WriteString(c, "GET /items/7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", false, err
	}
	buf := make([]byte, 2048)
	for !strings.Contains(got, "/items/7") && err == nil {
		var n int
		n, err = c.Read(buf)
		got += string(buf[:n])
	}
	return got, seen.offered.Load(), err
}

// testRotation swaps the certificates of both ends under load.
func testRotation(t *testing.T, p *pair) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var done, failed atomic.Int64
	for _, keep := range []bool{true, false} {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: !keep}, Timeout: patience}
			for ctx.Err() == nil {
				if code, _ := call(t, client, "GET", "/items/1"); code != 200 {
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	for range 10 {
		back, shop := p.leaf("back", "b1", time.Hour), p.leaf("shop", "s1", time.Hour)
		p.back.Rotate(back)
		p.shop.Rotate(shop)
		eventually(t, "the new certificate is served", func() bool { return served(t, p, stockPort, back) })
		before := done.Load()
		eventually(t, "requests pass", func() bool { return done.Load() > before+5 })
	}
	cancel()
	wg.Wait()
	if failed.Load() != 0 || done.Load() == 0 {
		t.Errorf("%d of %d requests failed in 10 rotations", failed.Load(), done.Load())
	}
	t.Logf("%d requests in 10 rotations", done.Load())
}

// served reports whether back's Envoy presents that certificate.
func served(t *testing.T, p *pair, port int, want *envoytest.Identity) bool {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{p.ca.Leaf(t, "spiffe://shop.example/shop", time.Now().Add(time.Hour)).Certificate}}
	var got *x509.Certificate
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		got = cs.PeerCertificates[0]
		return nil
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", at(backAddr, port), config)
	if err != nil {
		return false
	}
	_ = c.Close()
	return got.Equal(want.Leaf)
}

// testEndpointMoves has back listen elsewhere: its own listeners and the shop's
// endpoints follow.
func testEndpointMoves(t *testing.T, p *pair, client *http.Client) {
	p.change(func(v *coordinator.View) { v.Instances[0].Address = "127.0.91.3" })
	eventually(t, "back listens at its new address", func() bool {
		c, err := net.DialTimeout("tcp", at("127.0.91.3", stockPort), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	eventually(t, "the shop finds it", func() bool {
		code, _ := call(t, client, "GET", "/items/1")
		return code == 200
	})
	p.change(func(v *coordinator.View) { v.Instances[0].Address = backAddr })
	eventually(t, "and back again", func() bool {
		code, _ := call(t, client, "GET", "/items/1")
		got, _ := echo("hello")
		return code == 200 && got == "hello"
	})
}

// testPortInUse gives the shop one more call on a port that is taken: the rest
// goes on, and what Envoy said is recorded.
func testPortInUse(t *testing.T, p *pair) {
	lis, err := net.Listen("tcp", shopLo+":19003")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	p.changeManifest("shop", func(m *manifest.Marble) {
		m.Calls[1].Listen = 19003
	})
	e := p.await("refused by Envoy", func(e coordinator.ProxyEvent) bool { return e.State == "refused" })
	if e.Peer.Marble != "shop" || e.Type != "listener" || !strings.Contains(e.Error, "19003") {
		t.Errorf("got %+v, want the listener on 19003", e)
	}
	p.changeManifest("shop", func(m *manifest.Marble) { m.Calls[1].Listen = toLedger })
	eventually(t, "the former port is served again", func() bool {
		got, _ := echo("hello")
		return got == "hello"
	})
}

// testEdgeRemoved takes the edges away under a live connection.
func testEdgeRemoved(t *testing.T, p *pair, client *http.Client) {
	p.changeManifest("shop", func(m *manifest.Marble) { m.Calls[0].Routes = []string{"POST /order"} })
	eventually(t, "the route is gone, on the same connection", func() bool {
		code, _ := call(t, client, "GET", "/items/1")
		return code == 403
	})
	if code, _ := call(t, client, "POST", "/order"); code != 200 {
		t.Errorf("the other route: got %d, want 200", code)
	}
	client.CloseIdleConnections()
	live, err := net.Dial("tcp", at(shopLo, toLedger))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = live.Close() }()
	_ = live.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(live, "hi"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(live, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	p.changeManifest("shop", func(m *manifest.Marble) { m.Calls = nil })
	if n, err := live.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection from before: got %d bytes, %v; want it closed", n, err)
	}
	for _, port := range []int{toStock, toLedger} {
		eventually(t, "the shop has no way out", func() bool {
			c, err := net.DialTimeout("tcp", at(shopLo, port), time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		})
	}
	shop := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{p.ca.Leaf(t, "spiffe://shop.example/shop", time.Now().Add(time.Hour)).Certificate}}
	for _, port := range []int{stockPort, ledgerPort} {
		eventually(t, "back refuses what the shop still could try", func() bool {
			got, _, err := request(port, shop.Clone())
			return err != nil && !strings.Contains(got, "/items/7")
		})
	}
}
