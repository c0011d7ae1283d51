package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// browse returns an HTTP client that trusts everybody: these tests are about
// what the server answers.
func browse(t testing.TB, h2 bool, user *tls.Certificate) *http.Client {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true}
	if user != nil {
		config.Certificates = []tls.Certificate{*user}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: h2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func TestEveryRouteAnswers(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	m := s.newMarble(t, "7f2c19ab-0000-4000-8000-000000000001")
	resp, err := m.activate(t)
	if err != nil {
		t.Fatal(err)
	}
	c, ctx := s.dial(t, nil), context.Background()
	if got, err := c.Manifest(ctx); err != nil || !bytes.Equal(got.Raw, s.manifest("1h")) {
		t.Errorf("manifest: got %v, %v, want what was set", got.Digest, err)
	}
	if got, err := c.Status(ctx); err != nil || got.Instances != 1 || got.Marbles != 2 || !got.Simulation {
		t.Errorf("status: got %+v, %v, want 2 marbles, 1 instance, simulation", got, err)
	}
	if got, err := c.Marbles(ctx, "", 1); err != nil || len(got.Marbles) != 1 || got.Marbles[0].Name != "db" || got.Next != "db" {
		t.Errorf("marbles: got %+v, %v, want db and more", got, err)
	}
	if got, err := c.Marble(ctx, "web"); err != nil || len(got.Instances) != 1 {
		t.Errorf("marble: got %+v, %v, want one instance", got, err)
	}
	if got, err := c.Decisions(ctx, "web", 10); err != nil || len(got) != 1 || got[0].ID != resp.GetDecision() {
		t.Errorf("decisions: got %+v, %v, want %s", got, err, resp.GetDecision())
	}
	if got, err := c.Decision(ctx, resp.GetDecision()); err != nil || !got.Accepted || !got.Verdict.OK() {
		t.Errorf("decision: got %+v, %v, want an accepted one", got, err)
	}
	if got, err := c.Audit(ctx, 0, 2); err != nil || len(got.Records) != 2 || got.Next != 2 {
		t.Errorf("audit: got %+v, %v, want two records", got, err)
	}
	if got, err := c.Bundle(ctx); err != nil || len(got) != 1 || !bytes.Equal(got[0], c.Verified().Root.Raw) {
		t.Errorf("bundle: got %d, %v, want the attested root", len(got), err)
	}
	if got, err := c.OpenAPI(ctx); err != nil || !json.Valid(got) {
		t.Errorf("openapi: got %.40s, %v, want JSON", got, err)
	}
	spiffe, err := browse(t, true, nil).Get("https://" + s.client + "/v1/bundle.json")
	if err != nil {
		t.Fatal(err)
	}
	defer spiffe.Body.Close()
	var set struct{ Keys []jwk }
	if err := json.NewDecoder(spiffe.Body).Decode(&set); err != nil || len(set.Keys) != 1 || set.Keys[0].Curve != "P-384" || set.Keys[0].Use != "x509-svid" {
		t.Errorf("bundle.json: got %+v, %v, want one P-384 key", set, err)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	s := newStack(t, stackConfig{})
	type request struct {
		name, method, path, body string
		header                   http.Header
		status                   int
		code                     problem.Code
	}
	typed := http.Header{"Content-Type": {"application/json"}}
	with := func(k, v string) http.Header { return http.Header{"Content-Type": {"application/json"}, k: {v}} }
	before := []request{
		{"no manifest yet", "GET", "/v1/manifest", "", nil, 404, "CRD-010"},
		{"unknown path", "GET", "/v1/nothing", "", nil, 404, "CRD-111"},
		{"root", "GET", "/", "", nil, 404, "CRD-111"},
		{"double slash", "GET", "/v1//status", "", nil, 404, "CRD-111"},
		{"dots", "GET", "/v1/../v1/status", "", nil, 404, "CRD-111"},
		{"trailing slash", "GET", "/v1/status/", "", nil, 404, "CRD-111"},
		{"method", "POST", "/v1/manifest", "{}", typed, 405, "CRD-112"},
		{"invented method", "BREW", "/v1/status", "", nil, 405, "CRD-112"},
		{"body of a GET", "GET", "/v1/status", "x", nil, 415, "CRD-114"},
		{"unknown parameter", "GET", "/v1/marbles?limits=1", "", nil, 400, "CRD-110"},
		{"parameter where none is taken", "GET", "/v1/status?x=1", "", nil, 400, "CRD-110"},
		{"repeated parameter", "GET", "/v1/marbles?limit=1&limit=2", "", nil, 400, "CRD-110"},
		{"damaged query", "GET", "/v1/marbles?limit=%zz", "", nil, 400, "CRD-110"},
		{"limit zero", "GET", "/v1/marbles?limit=0", "", nil, 400, "CRD-110"},
		{"limit too large", "GET", "/v1/decisions?limit=1001", "", nil, 400, "CRD-110"},
		{"limit negative", "GET", "/v1/audit?limit=-1", "", nil, 400, "CRD-110"},
		{"limit with zeros", "GET", "/v1/audit?limit=01", "", nil, 400, "CRD-110"},
		{"from huge", "GET", "/v1/audit?from=99999999999999999999", "", nil, 400, "CRD-110"},
		{"no nonce", "GET", "/v1/attestation", "", nil, 400, "CRD-110"},
		{"short nonce", "GET", "/v1/attestation?nonce=00", "", nil, 400, "CRD-110"},
		{"nonce not hex", "GET", "/v1/attestation?nonce=" + strings.Repeat("g", 64), "", nil, 400, "CRD-110"},
		{"empty manifest", "PUT", "/v1/manifest", "", typed, 415, "CRD-114"},
		{"content type", "PUT", "/v1/manifest", "{}", http.Header{"Content-Type": {"text/plain"}}, 415, "CRD-114"},
		{"If-Match unquoted", "PUT", "/v1/manifest", "{}", with("If-Match", strings.Repeat("0", 64)), 400, "CRD-110"},
		{"If-Match any", "PUT", "/v1/manifest", "{}", with("If-Match", "*"), 400, "CRD-110"},
		{"If-Match two", "PUT", "/v1/manifest", "{}", http.Header{"Content-Type": {"application/json"}, "If-Match": {`"00"`, `"01"`}}, 400, "CRD-110"},
		{"truncated manifest", "PUT", "/v1/manifest", string(s.manifest("1h")[:100]), typed, 422, ""},
		{"deep manifest", "PUT", "/v1/manifest", strings.Repeat("[", 10_000), typed, 413, "MAN-012"},
		{"too large", "PUT", "/v1/manifest", strings.Repeat(" ", manifest.MaxSize+1), typed, 413, "CRD-113"},
		{"unknown marble", "GET", "/v1/marbles/none", "", nil, 404, ""},
		{"unknown decision", "GET", "/v1/decisions/web/7f2c", "", nil, 404, ""},
	}
	check := func(t *testing.T, c *http.Client, r request) {
		t.Helper()
		req, err := http.NewRequest(r.method, "https://"+s.client+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range r.header {
			req.Header[k] = v
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var d document
		if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
			t.Fatalf("status %d without a problem: %v", resp.StatusCode, err)
		}
		if resp.StatusCode != r.status || d.Status != r.status || r.code != "" && d.Code != r.code {
			t.Errorf("got %d %+v, want %d %s", resp.StatusCode, d, r.status, r.code)
		}
		if resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("X-Request-Id") == "" ||
			!problem.Known(d.Code) || d.Title == "" || d.Type == "" || d.Instance == "" || d.Next == "" {
			t.Errorf("got header %v and %+v, want a whole problem", resp.Header, d)
		}
	}
	for _, h2 := range []bool{false, true} {
		c := browse(t, h2, nil)
		for _, r := range before {
			t.Run(r.name, func(t *testing.T) { check(t, c, r) })
		}
	}
	s.set(t, "1h")
	stranger := browse(t, true, userCertificate(t))
	alice := browse(t, true, s.alice)
	after := string(s.manifest("2h"))
	t.Run("nobody", func(t *testing.T) {
		check(t, browse(t, true, nil), request{method: "PUT", path: "/v1/manifest", body: after, header: typed, status: 401, code: "CRD-015"})
	})
	t.Run("stranger", func(t *testing.T) {
		check(t, stranger, request{method: "PUT", path: "/v1/manifest", body: after, header: typed, status: 401, code: "CRD-041"})
	})
	t.Run("no If-Match", func(t *testing.T) {
		check(t, alice, request{method: "PUT", path: "/v1/manifest", body: after, header: typed, status: 400, code: "CRD-012"})
	})
	t.Run("stale If-Match", func(t *testing.T) {
		check(t, alice, request{method: "PUT", path: "/v1/manifest", body: after, header: with("If-Match", `"`+strings.Repeat("0", 64)+`"`), status: 409, code: "CRD-013"})
	})
}

// TestStrangersDoNotDelayTheOwner opens more bodies than are read at once: who is
// not the owner is refused before a byte of his.
func TestStrangersDoNotDelayTheOwner(t *testing.T) {
	s := newStack(t, stackConfig{owned: true})
	for range maxBodies + 1 {
		conn, err := tls.Dial("tcp", s.client, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("got %v, %v, want 401 before the body was sent", resp, err)
		}
	}
	if _, err := s.dial(t, s.alice).SetManifest(context.Background(), s.manifest("1h"), nil); err != nil {
		t.Errorf("the owner's manifest: %v", err)
	}
}

func TestSetManifestWithUser(t *testing.T) {
	s := newStack(t, stackConfig{})
	// The first set is open; a certificate that nobody knows yet does not hinder.
	c := s.dial(t, s.alice)
	first, err := c.SetManifest(context.Background(), s.manifest("1h"), nil)
	if err != nil || !first.OpenFirstSet || first.Revision != 1 {
		t.Fatalf("got %+v, %v, want an open first set", first, err)
	}
	next, err := c.SetManifest(context.Background(), s.manifest("2h"), first.Digest)
	if err != nil || next.OpenFirstSet || next.Revision != 2 {
		t.Fatalf("got %+v, %v, want revision 2 by alice", next, err)
	}
	if m, err := c.Manifest(context.Background()); err != nil || m.SetBy != "alice" {
		t.Errorf("got %+v, %v, want alice", m, err)
	}
}

// rawTLS opens a TLS connection that speaks HTTP/1.1 by hand.
func rawTLS(t testing.TB, addr string) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLargeBodyIsRefusedBeforeItIsRead(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"declared 300 MB":          {"PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 314572800\r\n\r\n", 413},
		"small, but nobody's":      {"PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n", 401},
		"chunked, but nobody's":    {"PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", 401},
		"to a resource without it": {"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 314572800\r\n\r\n", 415},
	} {
		t.Run(name, func(t *testing.T) {
			conn := rawTLS(t, s.client)
			if _, err := io.WriteString(conn, c.head); err != nil {
				t.Fatal(err)
			}
			// Not one byte of the body was sent: the answer must come anyway.
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.status || !resp.Close {
				t.Errorf("got %d, close %t, want %d and close", resp.StatusCode, resp.Close, c.status)
			}
		})
	}
}

// A chunked body has no declared size: it is cut off at the limit.
// Over HTTP/2 the stream ends and the connection stays: with it the answer would
// be lost to clients that are still sending.
func TestLargeBodyOverHTTP2KeepsTheConnection(t *testing.T) {
	s := newStack(t, stackConfig{})
	c := browse(t, true, nil)
	reused := false
	trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	for i, resource := range []string{"manifest", "status", "manifest"} {
		const size = 300 << 20
		req, err := http.NewRequestWithContext(trace, http.MethodPut, "https://"+s.client+"/v1/"+resource, io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = size
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.ProtoMajor != 2 || resp.StatusCode/100 != 4 || !bytes.Contains(body, []byte(`"code":"CRD-11`)) {
			t.Errorf("%s: got %s %d, %q, %v, want a coded refusal", resource, resp.Proto, resp.StatusCode, body, err)
		}
		if reused != (i > 0) {
			t.Errorf("request %d: got a reused connection %t", i, reused)
		}
	}
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestEndlessBodyIsCutOff(t *testing.T) {
	s := newStack(t, stackConfig{})
	conn := rawTLS(t, s.client)
	if _, err := io.WriteString(conn, "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan *http.Response, 1)
	go func() {
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			_ = resp.Body.Close()
		}
		answered <- resp
	}()
	chunk := append([]byte("100000\r\n"), append(bytes.Repeat([]byte(" "), 1<<20), '\r', '\n')...)
	sent := 0
	for ; sent < 300; sent++ {
		if _, err := conn.Write(chunk); err != nil {
			break
		}
	}
	if sent == 300 {
		t.Error("300 MB were taken")
	}
	if resp := <-answered; resp == nil || resp.StatusCode != 413 {
		t.Errorf("got %+v, want 413", resp)
	}
}

func TestMalformedHTTP(t *testing.T) {
	s := newStack(t, stackConfig{times: Times{Handshake: 300 * time.Millisecond}})
	random := make([]byte, 4096)
	rand.Read(random)
	cases := map[string]string{
		"garbage":        string(random),
		"no host":        "GET /v1/status HTTP/1.1\r\n\r\n",
		"huge header":    "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 1<<17) + "\r\n\r\n",
		"two lengths":    "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"both framings":  "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: gzip\r\n\r\n",
		"unfinished":     "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Slow",
		"h2 preface":     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + string(random),
		"asterisk":       "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"authority form": "CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	}
	for name, bytes := range cases {
		t.Run(name, func(t *testing.T) {
			conn := rawTLS(t, s.client)
			_, _ = io.WriteString(conn, bytes) // the server may close early
			// The server ends the connection by itself, whatever it says before.
			_, err := io.Copy(io.Discard, conn)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection was held open")
			}
			stillServes(t, s)
		})
	}
	for name, bytes := range map[string]string{"plaintext": "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", "nothing": "", "half a hello": "\x16\x03\x01\x02\x00\x01"} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.client)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			_, _ = io.WriteString(conn, bytes)
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection was held open")
			}
			stillServes(t, s)
		})
	}
}

func stillServes(t testing.TB, s *stack) {
	t.Helper()
	c := browse(t, true, nil)
	resp, err := c.Get("https://" + s.client + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("got %d, want 200", resp.StatusCode)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	s := newStack(t, stackConfig{})
	for _, addr := range []string{s.client, s.mesh} {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}})
		if err == nil {
			_ = c.Close()
			t.Errorf("%s speaks TLS 1.2", addr)
		}
	}
}

func TestStatementsAreRateLimited(t *testing.T) {
	s := newStack(t, stackConfig{})
	c := browse(t, true, nil)
	for i := range statementBurst + 50 {
		nonce := make([]byte, 32)
		rand.Read(nonce)
		resp, err := c.Get("https://" + s.client + "/v1/attestation?nonce=" + hex.EncodeToString(nonce))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == 429 {
			if resp.Header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
			return
		}
		if resp.StatusCode != 200 {
			t.Fatalf("statement %d: got %d", i, resp.StatusCode)
		}
	}
	t.Errorf("%d statements were given at once", statementBurst+50)
}

// The statement verifies only against what the coordinator runs.
func TestStatementOfAnotherProgramIsRefused(t *testing.T) {
	s := newStack(t, stackConfig{})
	_, err := client.Dial(context.Background(), s.client, client.Options{Verifiers: s.verifiers,
		Policy: attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{agent}}}}})
	if problem.CodeOf(err) != "CRD-100" {
		t.Errorf("got %v, want CRD-100", err)
	}
	_, err = client.Dial(context.Background(), s.client, client.Options{
		Policy: attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{program}}}}})
	if problem.CodeOf(err) != "CRD-100" {
		t.Errorf("without verifiers: got %v, want CRD-100", err)
	}
}
