//go:build linux

package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// set starts a coordinator with the shop's manifest and no marble.
func set(t *testing.T, amend func(map[string]any)) *deployment {
	t.Helper()
	d := bare(t, amend)
	if _, err := d.SetManifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// answers checks that a stranger can verify the coordinator and read its state,
// and that a marble can be activated: a quote is made, a commit is durable.
func (d *deployment) answers(t *testing.T) {
	t.Helper()
	c, err := d.Dial(t.Context(), false)
	if err != nil {
		t.Fatalf("a client cannot verify the coordinator: %v", err)
	}
	defer c.Close()
	before, err := c.Status(t.Context())
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	m, err := probe.Dial(t.Context(), dev.DefaultMesh, probe.Options{})
	if err != nil {
		t.Fatalf("a marble cannot connect: %v", err)
	}
	defer m.Close()
	if _, err := m.Activate(t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Instance: probeInstance()}); err != nil {
		t.Fatalf("activation: %v", err)
	}
	after, err := c.Status(t.Context())
	if err != nil || after.Checkpoint.Size <= before.Checkpoint.Size {
		t.Fatalf("the log has %d records, %v, want more than the %d before the activation", after.Checkpoint.Size, err, before.Checkpoint.Size)
	}
}

// alive checks that the coordinator is the process that was started.
func (d *deployment) alive(t *testing.T) {
	t.Helper()
	select {
	case <-d.Coordinator().Done():
		t.Fatal("the coordinator has ended")
	default:
	}
}

// tlsTo opens a TLS connection that trusts whoever answers.
func tlsTo(t *testing.T, addr string, protocols []string, certs ...tls.Certificate) *tls.Conn {
	t.Helper()
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience},
		Config: &tls.Config{InsecureSkipVerify: true, NextProtos: protocols, Certificates: certs}}
	conn, err := dialer.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*tls.Conn)
}

// alice returns the operator's certificate.
func (d *deployment) alice(t *testing.T) tls.Certificate {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(d.CertFile(), d.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// refusal reads a problem document, which must have a code of the table.
func refusal(t *testing.T, r io.Reader) (int, problem.Error) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p problem.Error
	if err := json.Unmarshal(body, &p); err != nil || !problem.Known(p.Code) || p.Next == "" {
		t.Fatalf("got %s %s, want a problem with a code and what to do next", resp.Status, body)
	}
	return resp.StatusCode, p
}

// TestLimits sends one coordinator what no honest peer sends. After each it
// still answers, and its manifest is the one that was set.
func TestLimits(t *testing.T) {
	d := set(t, nil)
	c := d.client()
	before, err := c.Manifest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slow := dawdle(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"bodies", d.bodies},
		{"manifests", func(t *testing.T) { d.manifests(t, c, before.Raw) }},
		{"HTTP", d.oddHTTP},
		{"mesh port", d.oddMesh},
		{"gRPC", d.oddGRPC},
		{"idle connections", d.idle},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.run(t)
			d.alive(t)
			d.answers(t)
			after, err := c.Manifest(t.Context())
			if err != nil || after.Digest.String() != before.Digest.String() {
				t.Errorf("got manifest %s, %v, want %s unchanged", after.Digest, err, before.Digest)
			}
		})
	}
	t.Run("slow clients are cut off", slow)
}

// bodies announces, or sends, more than a manifest may have: the answer comes
// without the body being read.
func (d *deployment) bodies(t *testing.T) {
	const size = 300 << 20
	head := func(fields string) string {
		return "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + fields + "\r\n"
	}
	cases := []struct {
		name, head string
		send       int // bytes of the body, if the coordinator takes them
	}{
		{"300 MB announced, none sent", head(fmt.Sprintf("Content-Length: %d\r\n", size)), 0},
		{"300 MB announced with Expect", head(fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n", size)), 0},
		{"300 MB sent", head(fmt.Sprintf("Content-Length: %d\r\n", size)), size},
		{"300 MB in chunks", head("Transfer-Encoding: chunked\r\n"), size},
	}
	for _, one := range cases {
		for _, who := range []struct {
			name  string
			certs []tls.Certificate
			codes []problem.Code
		}{
			{"alice", []tls.Certificate{d.alice(t)}, []problem.Code{"CRD-113"}},
			// Who may not set a manifest may be told just that.
			{"nobody", nil, []problem.Code{"CRD-113", "CRD-015"}},
		} {
			t.Run(one.name+" by "+who.name, func(t *testing.T) {
				conn := tlsTo(t, dev.DefaultClient, []string{"http/1.1"}, who.certs...)
				start := time.Now()
				if _, err := io.WriteString(conn, one.head); err != nil {
					t.Fatal(err)
				}
				sent := make(chan int)
				go func() { sent <- pour(conn, one.send, strings.Contains(one.head, "chunked")) }()
				code, p := refusal(t, conn)
				t.Logf("%d %s after %s", code, p.Code, time.Since(start).Round(time.Millisecond))
				if code/100 != 4 || !containsCode(who.codes, p.Code) {
					t.Errorf("got %d %s, want a 4xx with one of %v", code, p.Code, who.codes)
				}
				conn.Close()
				if n := <-sent; n >= 64<<20 {
					t.Errorf("the coordinator took %d bytes of a body that it refused", n)
				}
			})
		}
	}
}

// pour sends n bytes of nothing until the peer does not want more.
func pour(w io.Writer, n int, chunked bool) (sent int) {
	block := bytes.Repeat([]byte{' '}, 64<<10)
	if chunked {
		block = append(fmt.Appendf(nil, "%x\r\n", len(block)), append(block, '\r', '\n')...)
	}
	for sent < n {
		k, err := w.Write(block)
		sent += k
		if err != nil {
			return sent
		}
	}
	return sent
}

func containsCode(list []problem.Code, code problem.Code) bool {
	for _, c := range list {
		if c == code {
			return true
		}
	}
	return false
}

// manifests are sent by alice, who may set them, with the right If-Match.
func (d *deployment) manifests(t *testing.T, c *client.Client, good []byte) {
	marble := func(m string) string {
		return strings.Replace(string(good), `"marbles": {`, `"marbles": { "huge": `+m+`, `, 1)
	}
	secret := func(s string) string {
		return strings.Replace(string(good), `"secrets": {`, `"secrets": { "huge": `+s+`, `, 1)
	}
	cases := []struct {
		name, raw string
		code      problem.Code
	}{
		{"truncated", string(good[:len(good)/2]), "MAN-001"},
		{"50 MB", string(good) + strings.Repeat(" ", 50<<20), "CRD-113"},
		{"10,000 deep", strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000), "MAN-012"},
		{"10,000 deep, unclosed", strings.Repeat("[", 10_000), "MAN-012"},
		{"duplicate key", strings.Replace(string(good), `"version": 1`, `"version": 1, "version": 1`, 1), "MAN-008"},
		{"mis-cased", strings.Replace(string(good), `"tests"`, `"Tests"`, 1), "MAN-002"},
		{"not UTF-8", strings.Replace(string(good), `"shop.example"`, "\"shop\xff.example\"", 1), "MAN-011"},
		{"null", "null", ""},
		{"gigabit key", secret(`{"type": "symmetric", "bits": 1000000000, "scope": "shared", "readers": ["cart"]}`), ""},
		{"RSA-16384", secret(`{"type": "cert-rsa", "bits": 16384, "scope": "shared", "readers": ["cart"]}`), ""},
		{"reply over the limit", marble(`{"package": "probe", "parameters": {"files": {` + large(15) + `}}}`), "MAN-035"},
		{"200,000 marbles", strings.Replace(string(good), `"marbles": {`, `"marbles": {`+many(200_000), 1), ""},
	}
	now, err := c.Manifest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range cases {
		t.Run(one.name, func(t *testing.T) {
			if one.raw == string(good) {
				t.Fatal("the case changes nothing")
			}
			start := time.Now()
			_, err := c.SetManifest(t.Context(), []byte(one.raw), now.Digest)
			e := problem.From(err)
			if err == nil || !problem.Known(e.Code) || e.Kind().HTTPStatus()/100 != 4 || e.Next == "" {
				t.Fatalf("got %v, want a coded refusal of the 4xx kind", err)
			}
			if one.code != "" && e.Code != one.code {
				t.Errorf("got %s %s, want %s", e.Code, e.Detail, one.code)
			}
			t.Logf("%s after %s: %.120s", e.Code, time.Since(start).Round(time.Millisecond), e.Detail)
		})
	}
}

// large is the text of n files of 256 KiB each.
func large(n int) string {
	var files []string
	for i := range n {
		files = append(files, fmt.Sprintf(`"/%d": "%s"`, i, strings.Repeat("x", 256<<10)))
	}
	return strings.Join(files, ", ")
}

// many is the text of n marbles, each called otherwise.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"m%d": {}, `, i)
	}
	return b.String()
}

// oddHTTP is what is not HTTP, or not ours, on the client port.
func (d *deployment) oddHTTP(t *testing.T) {
	for name, request := range map[string]string{
		"no such path":       "GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n",
		"path that climbs":   "GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
		"method":             "BREW /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
		"unknown parameter":  "GET /v1/status?verbose=1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"page of billions":   "GET /v1/marbles?limit=4000000000 HTTP/1.1\r\nHost: x\r\n\r\n",
		"long nonce":         "GET /v1/attestation?nonce=" + strings.Repeat("a", 4000) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"If-Match malformed": "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIf-Match: *\r\nContent-Length: 2\r\n\r\n{}",
	} {
		t.Run(name, func(t *testing.T) {
			conn := tlsTo(t, dev.DefaultClient, []string{"http/1.1"})
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			if code, p := refusal(t, conn); code/100 != 4 {
				t.Errorf("got %d %s, want a 4xx", code, p.Code)
			}
		})
	}
	// What cannot be understood as HTTP at all is refused by the protocol's own
	// means, or closed.
	for name, bytes := range map[string]string{
		"noise":             strings.Repeat("\x00\xff\x17", 1000) + "\r\n\r\n",
		"endless head":      "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("x", 1000)+"\r\n", 200),
		"two lengths":       "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"length and chunks": "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			conn := tlsTo(t, dev.DefaultClient, []string{"http/1.1"})
			go io.WriteString(conn, bytes) //nolint:errcheck // it may be cut off
			closes(t, conn, "HTTP/1.1 2")
		})
	}
	t.Run("plaintext", func(t *testing.T) {
		closes(t, plain(t, dev.DefaultClient, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 2")
	})
}

func plain(t *testing.T, addr, send string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, send); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// closes reads until the peer closes; what it said must not begin with granted.
func closes(t *testing.T, conn net.Conn, granted string) {
	t.Helper()
	said, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatalf("the connection stays open; the peer said %.100q", said)
	}
	if strings.HasPrefix(string(said), granted) {
		t.Errorf("got %.200q, want a refusal", said)
	}
}

// descriptors raises this process's limit and returns how many connections it
// may open, at most want.
func descriptors(t *testing.T, want int) int {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if most := int(min(l.Max, 1<<20)) - 500; most < want {
		t.Logf("the limit of open files is %d: %d connections instead of %d", l.Max, most, want)
		return most
	}
	return want
}

// flood opens n idle connections from this one address and keeps them until
// the test ends; it returns how many were taken.
func flood(t *testing.T, addr string, n int) (taken int) {
	t.Helper()
	for range n {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			continue // turned away: that is what the limit is for
		}
		taken++
		t.Cleanup(func() { conn.Close() })
	}
	if taken == 0 {
		t.Fatal("not one connection was taken")
	}
	return taken
}

// idle opens 10,000 idle connections at each port, in turn, from the address
// from which honest peers come too.
func (d *deployment) idle(t *testing.T) {
	n := descriptors(t, 10_000)
	for _, addr := range []string{dev.DefaultClient, dev.DefaultMesh} {
		t.Run(addr, func(t *testing.T) {
			start := time.Now()
			taken := flood(t, addr, n)
			t.Logf("%d of %d connections were taken in %s; the coordinator uses %s", taken, n, time.Since(start).Round(time.Millisecond), memoryOf(t, d.Coordinator().Pid()))
			d.answers(t)
		})
	}
}

// dawdle opens connections that begin and do not go on. The function returned
// checks that the coordinator ended them all.
func dawdle(t *testing.T) func(*testing.T) {
	const hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" // the head of a ClientHello of 512 bytes
	var conns []net.Conn
	for range 50 {
		conns = append(conns, plain(t, dev.DefaultClient, hello), plain(t, dev.DefaultMesh, hello), plain(t, dev.DefaultMesh, ""))
		half := tlsTo(t, dev.DefaultClient, []string{"http/1.1"})
		if _, err := io.WriteString(half, "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, half)
	}
	return func(t *testing.T) {
		for _, conn := range conns {
			_ = conn.SetDeadline(time.Now().Add(patience))
			closes(t, conn, "HTTP/1.1 2")
		}
	}
}
