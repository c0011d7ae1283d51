package localapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/localapi"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

var quiet = slog.New(slog.DiscardHandler)

// served is a marble whose coordinator knows secrets, and a client of its socket.
type served struct {
	coordinator *marbletest.Coordinator
	m           *marble.Marble
	client      *http.Client
	socket      string
}

func serve(t *testing.T, b marbletest.Behaviour) served {
	t.Helper()
	c := marbletest.Start(t, b)
	m, err := marble.Run(t.Context(), marble.Config{Marble: "web", ID: "1", Address: "127.0.0.1", Coordinator: c.Address,
		Trust: marble.Trust{Root: c.CA.Root}, Issuer: &marbletest.Issuer{}, Log: quiet, Tracker: stage.NewTracker(quiet, time.Now),
		CallTimeout: 5 * time.Second, Backoff: marble.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	socket := filepath.Join(t.TempDir(), "api.sock")
	s, err := localapi.Start(socket, m, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	t.Cleanup(client.CloseIdleConnections)
	return served{c, m, client, socket}
}

func (s served) do(t *testing.T, method, path string, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://marble"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// vault answers as a coordinator with a few secrets does.
func vault() marbletest.Behaviour {
	count := uint64(0)
	return marbletest.Behaviour{
		Fetch: func(r *marblepb.FetchRequest) (*marblepb.FetchResponse, error) {
			switch r.GetName() {
			case "token":
				return &marblepb.FetchResponse{Secret: &marblepb.Secret{Value: []byte("t0p"), Version: 2, Previous: &marblepb.Secret{Value: []byte("old"), Version: 1}}}, nil
			case "pair":
				return &marblepb.FetchResponse{Secret: &marblepb.Secret{PrivateKey: []byte("private"), PublicKey: []byte("public"), Certificates: [][]byte{[]byte("cert")}, Version: 1}}, nil
			}
			return nil, problem.New("SEC-002", "web is no reader of %s", r.GetName())
		},
		Use: func(r *marblepb.UseRequest) (*marblepb.UseResponse, error) {
			if r.GetOperation() == "increment" {
				count++
			}
			if r.GetOperation() == "increment" || r.GetOperation() == "read" {
				return &marblepb.UseResponse{Count: count}, nil
			}
			return &marblepb.UseResponse{Version: 3, Output: fmt.Appendf(nil, "%s %s %s %s %d %s", r.GetName(), r.GetOperation(), r.GetInput(), r.GetAssociated(), r.GetVersion(), r.GetHash())}, nil
		},
		Deposit: func(r *marblepb.DepositRequest) (*marblepb.DepositResponse, error) {
			return &marblepb.DepositResponse{Version: uint64(len(r.GetValue()))}, nil
		},
	}
}

func TestRoutes(t *testing.T) {
	s := serve(t, vault())
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/secrets/token", "", 200, `{"name":"token","version":2,"value":"dDBw","previous":{"version":1,"value":"b2xk"}}`},
		{"GET", "/v1/secrets/token?as=raw", "", 200, "t0p"},
		{"GET", "/v1/secrets/pair?as=pem", "", 200, "-----BEGIN CERTIFICATE-----\nY2VydA==\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\ncHJpdmF0ZQ==\n-----END PRIVATE KEY-----\n"},
		{"GET", "/v1/secrets/pair?as=raw", "", 400, "MRB-035"},
		{"GET", "/v1/secrets/other", "", 403, "SEC-002"},
		{"POST", "/v1/secrets/key/sign?hash=sha384&version=2&as=raw", "hello", 200, "key sign hello  2 sha384"},
		{"POST", "/v1/secrets/key/encrypt?associated=row%201&as=raw", "plain", 200, "key encrypt plain row 1 0 "},
		{"POST", "/v1/secrets/key/decrypt?as=raw", "x", 200, "key decrypt x  0 "},
		{"POST", "/v1/secrets/key/hmac", "x", 200, `{"output":"a2V5IGhtYWMgeCAgMCA=","version":3}`},
		{"GET", "/v1/secrets/key/public?as=pem", "", 200, "BEGIN PUBLIC KEY"},
		{"POST", "/v1/secrets/key/sign?as=pem", "x", 400, "MRB-035"},
		{"POST", "/v1/secrets/n/increment", "", 200, `{"version":0,"count":1}`},
		{"GET", "/v1/secrets/n/count", "", 200, `{"version":0,"count":1}`},
		{"PUT", "/v1/secrets/token", "12345", 200, `{"version":5}`},
		{"GET", "/v1/stage", "", 200, `"stage":"attesting"`},
		{"GET", "/v1/secrets/n/increment", "", 400, "MRB-035"},
		{"POST", "/v1/secrets/key/steal", "", 400, "MRB-035"},
		{"GET", "/v2/secrets/key", "", 400, "MRB-035"},
		{"GET", "/v1/secrets/..%2f..%2fkey", "", 400, "MRB-035"},
		{"GET", "/v1/secrets/" + strings.Repeat("a", 64), "", 400, "MRB-035"},
		{"GET", "/v1/secrets/token?as=yaml", "", 400, "MRB-035"},
		{"GET", "/v1/secrets/token?as=raw&as=pem", "", 400, "MRB-035"},
		{"GET", "/v1/secrets/token?verbose=1", "", 400, "MRB-035"},
		{"POST", "/v1/secrets/key/sign?version=-1", "", 400, "MRB-035"},
		{"POST", "/v1/secrets/key/encrypt?associated=" + strings.Repeat("a", 4097), "", 413, "MRB-036"},
		{"PUT", "/v1/secrets/token", strings.Repeat("a", 64<<10+1), 413, "MRB-036"},
	} {
		status, got := s.do(t, c.method, c.path, []byte(c.body))
		if status != c.status || !strings.Contains(got, c.want) {
			t.Errorf("%s %.60s: got %d %.200q, want %d %q", c.method, c.path, status, got, c.status, c.want)
		}
	}
	if st, err := os.Stat(s.socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", st, err)
	}
}

// A problem is a document with a code, and no secret is in it.
func TestProblems(t *testing.T) {
	s := serve(t, vault())
	_, text := s.do(t, "GET", "/v1/secrets/other", nil)
	var d map[string]any
	if err := json.Unmarshal([]byte(text), &d); err != nil || d["code"] != "SEC-002" || d["title"] == "" || d["next"] == "" || d["status"] != 403.0 {
		t.Errorf("got %s, %v", text, err)
	}
}

// Without a live lease nothing is answered, whatever was fetched before.
func TestOnlyWithALiveLease(t *testing.T) {
	s := serve(t, vault())
	if status, _ := s.do(t, "GET", "/v1/secrets/token", nil); status != 200 {
		t.Fatal("not fetched")
	}
	for s.coordinator.Push(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Revocation{Revocation: &marblepb.Revocation{Code: "INC-001", Reason: "stolen"}}}) == 0 {
		time.Sleep(time.Millisecond) // until the session is there
	}
	<-s.m.Ended()
	for _, c := range [][2]string{{"GET", "/v1/secrets/token"}, {"POST", "/v1/secrets/key/sign"}, {"PUT", "/v1/secrets/token"}} {
		if status, text := s.do(t, c[0], c[1], nil); status != http.StatusForbidden || !strings.Contains(text, "MRB-032") {
			t.Errorf("%s %s: got %d %s, want MRB-032", c[0], c[1], status, text)
		}
	}
	if status, text := s.do(t, "GET", "/v1/stage", nil); status != 200 {
		t.Errorf("got %d %s", status, text)
	}
}

func TestCutLease(t *testing.T) {
	b := vault()
	b.Life, b.RenewAfter = 300*time.Millisecond, 20*time.Millisecond
	b.Renewed = func(*marblepb.Renewal) error { return problem.New("ATT-014", "no") }
	granted := false
	b.Activated = func(*marblepb.ActivateRequest) error {
		if granted {
			return problem.New("ATT-014", "no")
		}
		granted = true
		return nil
	}
	s := serve(t, b)
	for _, live, changed := s.m.Live(); live; _, live, changed = s.m.Live() {
		<-changed
	}
	if status, text := s.do(t, "GET", "/v1/secrets/token", nil); status != http.StatusServiceUnavailable || !strings.Contains(text, "MRB-021") {
		t.Errorf("got %d %s, want MRB-021", status, text)
	}
}

// Fetched values are kept for a moment, so that a program may ask as often as it
// likes; another lease is another question.
func TestFreshness(t *testing.T) {
	b, asked := vault(), make(chan struct{}, 100)
	fetch := b.Fetch
	b.Fetch = func(r *marblepb.FetchRequest) (*marblepb.FetchResponse, error) {
		asked <- struct{}{}
		return fetch(r)
	}
	s := serve(t, b)
	for range 10 {
		s.do(t, "GET", "/v1/secrets/token", nil)
	}
	if len(asked) != 1 {
		t.Errorf("asked %d times, want once", len(asked))
	}
	_, changed := s.m.Lease()
	demand := &marblepb.SessionResponse{Message: &marblepb.SessionResponse_Demand{Demand: &marblepb.Demand{Nonce: s.coordinator.Nonce()}}}
	for s.coordinator.Push(demand) == 0 {
		time.Sleep(time.Millisecond) // until the session is there
	}
	<-changed
	s.do(t, "GET", "/v1/secrets/token", nil)
	if len(asked) != 2 {
		t.Errorf("asked %d times after a renewal, want twice", len(asked))
	}
}

// A program that is slow, or opens too much, takes nothing from others beyond
// its share.
func TestHostileProgram(t *testing.T) {
	block := make(chan struct{})
	b := vault()
	b.Use = func(*marblepb.UseRequest) (*marblepb.UseResponse, error) {
		<-block
		return &marblepb.UseResponse{}, nil
	}
	s := serve(t, b)
	done := make(chan int, 40)
	for range 40 {
		go func() {
			resp, err := s.client.Post("http://marble/v1/secrets/key/sign", "", strings.NewReader("x"))
			if err != nil {
				done <- 0
				return
			}
			resp.Body.Close()
			done <- resp.StatusCode
		}()
	}
	for range 8 { // 32 are being answered
		if got := <-done; got != http.StatusTooManyRequests {
			t.Errorf("got %d, want 429", got)
		}
	}
	close(block)
	for range 32 {
		if got := <-done; got != http.StatusOK {
			t.Errorf("got %d, want 200", got)
		}
	}
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET /v1/stage HTTP/1.1\r\nHost: x\r\nX-Large: %s\r\n\r\n", strings.Repeat("a", 64<<10)); err != nil {
		t.Logf("cut while writing: %v", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64)
	if n, _ := conn.Read(answer); !strings.Contains(string(answer[:n]), "431") && n != 0 {
		t.Errorf("got %q, want 431", answer[:n])
	}
}

func FuzzHandler(f *testing.F) {
	f.Add("GET", "/v1/secrets/token?as=raw", "")
	f.Add("POST", "/v1/secrets/key/sign?hash=sha256&version=1&associated=%00", "x")
	f.Add("PUT", "/v1/secrets/%2e%2e", "x")
	h := localapi.Handler(echo{})
	f.Fuzz(func(t *testing.T, method, target, body string) {
		req, err := http.NewRequest(method, "http://marble"+target, strings.NewReader(body))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("%s %q: got %d %s", method, target, w.Code, w.Body)
		}
	})
}

// echo answers everything.
type echo struct{}

func (echo) Secret(context.Context, string) (marble.Secret, error) { return marble.Secret{}, nil }
func (echo) Use(_ context.Context, u marble.Use) (marble.Used, error) {
	return marble.Used{Output: u.Input}, nil
}
func (echo) Deposit(context.Context, string, []byte) (uint64, error) { return 1, nil }
func (echo) Stage() stage.Status                                     { return stage.Status{Stage: stage.Running} }
