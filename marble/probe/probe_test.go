package probe

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

func TestParse(t *testing.T) {
	set, err := Parse(`{"readiness": "http://127.0.0.1:8080/healthz?full=1", "liveness": "tcp://[::1]:99",
		"startup": {"url": "http://127.0.77.5:1/", "headers": {"host": "web.example", "X-A": "b"}, "timeoutSeconds": 7}}`)
	if err != nil || len(set) != 3 {
		t.Fatalf("got %v, %v", set, err)
	}
	if s := set[Startup]; s.Timeout != 7*time.Second || s.Headers.Get("Host") != "web.example" || s.Headers.Get("X-A") != "b" {
		t.Errorf("got %+v", s)
	}
	if r := set[Readiness]; r.Timeout != time.Second || r.URL.RequestURI() != "/healthz?full=1" {
		t.Errorf("got %+v", r)
	}
	if set, err := Parse(""); err != nil || set != nil {
		t.Errorf("nothing: got %v, %v", set, err)
	}
}

func TestParseRefusals(t *testing.T) {
	for raw, want := range map[string]string{
		`{`:  "no JSON document",
		`[]`: "want an object",
		`{"liveness": "tcp://127.0.0.1:1", "liveness": "tcp://127.0.0.1:2"}`:   "liveness",
		`{"livenes": "tcp://127.0.0.1:1"}`:                                     `did you mean "liveness"?`,
		`{"Liveness": "tcp://127.0.0.1:1"}`:                                    "unknown key",
		`{"liveness": 8080}`:                                                   "want a URL",
		`{"liveness": null}`:                                                   "want a URL",
		`{"liveness": {}}`:                                                     "url is missing",
		`{"liveness": {"url": 1}}`:                                             "wrong type",
		`{"liveness": {"url": "tcp://127.0.0.1:1", "headers": {"A": "b"}}}`:    "for http",
		`{"liveness": {"url": "http://127.0.0.1:1/", "headers": {"A": 1}}}`:    "header",
		`{"liveness": {"url": "http://127.0.0.1:1/", "headers": {"A b": ""}}}`: "header",

		`{"liveness": {"url": "http://127.0.0.1:1/", "headers": {"x-forwarded-CLIENT-cert": "URI=spiffe://a/b"}}}`: "says who calls",
		`{"liveness": {"url": "http://127.0.0.1:1/", "headers": {"X_Forwarded-Client_Cert": "URI=spiffe://a/b"}}}`: "says who calls",
		`{"liveness": {"url": "http://127.0.0.1:1/", "headers": {"A": "b\r\nc"}}}`:                                 "header",
		`{"liveness": {"url": "http://127.0.0.1:1/", "timeoutSeconds": 0}}`:                                        "timeoutSeconds",
		`{"liveness": {"url": "http://127.0.0.1:1/", "timeoutSeconds": 1.5}}`:                                      "timeoutSeconds",
		`{"liveness": {"url": "http://127.0.0.1:1/", "timeoutSeconds": 61}}`:                                       "timeoutSeconds",
		`{"liveness": {"url": "http://127.0.0.1:1/", "method": "POST"}}`:                                           "unknown key",
		`{"liveness": "http://169.254.169.254:80/latest"}`:                                                         "no loopback",
		`{"liveness": "http://[::ffff:10.0.0.1]:80/"}`:                                                             "no loopback",
		`{"liveness": "http://localhost:80/"}`:                                                                     "want http://127.0.0.1",
		`{"liveness": "http://127.0.0.1/"}`:                                                                        "want http://127.0.0.1",
		`{"liveness": "http://127.0.0.1:0/"}`:                                                                      "want http://127.0.0.1",
		`{"liveness": "http://user@127.0.0.1:1/"}`:                                                                 "want http://127.0.0.1",
		`{"liveness": "http://127.0.0.1:1/#f"}`:                                                                    "want http://127.0.0.1",
		`{"liveness": "https://127.0.0.1:1/"}`:                                                                     "want http://127.0.0.1",
		`{"liveness": "tcp://127.0.0.1:1/x"}`:                                                                      "want http://127.0.0.1",
		`{"liveness": "file:///etc/passwd"}`:                                                                       "want http://127.0.0.1",
		strings.Repeat(" ", maxDocument+1):                                                                         "limit",
	} {
		if _, err := Parse(raw); problem.CodeOf(err) != "MRB-062" || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want MRB-062 with %q", raw, err, want)
		}
	}
}

// Whatever is parsed is asked of a loopback address.
func FuzzParse(f *testing.F) {
	f.Add(`{"readiness": "http://127.0.0.1:8080/healthz", "liveness": {"url": "tcp://[::1]:1", "timeoutSeconds": 2}}`)
	f.Add(`{"startup": {"url": "http://127.1.2.3:80/%2f?x#", "headers": {"Host": "x"}}}`)
	f.Fuzz(func(t *testing.T, raw string) {
		set, err := Parse(raw)
		if err != nil {
			return
		}
		for name, target := range set {
			ip := net.ParseIP(target.URL.Hostname())
			if ip == nil || !ip.IsLoopback() || target.Timeout < time.Second || target.Timeout > time.Minute {
				t.Errorf("%s: %+v", name, target)
			}
			if again, err := url.Parse(target.URL.String()); err != nil || again.Host != target.URL.Host {
				t.Errorf("%s: %s is another URL when it is sent", name, target.URL)
			}
		}
	})
}

// bench is a program, and a marble whose stage the test sets.
type bench struct {
	tracker *stage.Tracker
	started atomic.Bool
	handler http.Handler
}

func newBench(probes Set) *bench {
	b := &bench{tracker: stage.NewTracker(slog.New(slog.DiscardHandler), time.Now)}
	mux := http.NewServeMux()
	mux.Handle("GET /probe/{name}", New(probes, b.tracker, b.started.Load, time.Now))
	b.handler = mux
	return b
}

func (b *bench) get(t *testing.T, name string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/probe/"+name, nil))
	var a answer
	if w.Code != http.StatusNotFound {
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Errorf("%s: %v in %s", name, err, w.Body)
		}
	}
	return w.Code, a.Program
}

func target(t *testing.T, raw string) Target {
	t.Helper()
	u, err := parseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	return Target{URL: u, Timeout: time.Minute}
}

func TestStageAndProgram(t *testing.T) {
	program := &atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(program.Load()))
		io.WriteString(w, "a secret") //nolint:errcheck // a test's program
	}))
	defer server.Close()
	own := target(t, server.URL+"/healthz")
	with, without := newBench(Set{Readiness: own, Liveness: own, Startup: own}), newBench(nil)
	for _, c := range []struct {
		name                         string
		started                      bool
		stage                        stage.Stage
		program                      int32
		readiness, liveness, startup int // with probes of the program
		bare                         [3]int
	}{
		{"waiting", false, stage.WaitingForManifest, 200, 503, 200, 503, [3]int{503, 200, 503}},
		{"starts", true, stage.StartingProgram, 500, 503, 503, 503, [3]int{503, 200, 200}},
		{"started, not ready", true, stage.StartingProgram, 200, 503, 200, 200, [3]int{503, 200, 200}},
		{"running", true, stage.Running, 204, 200, 200, 200, [3]int{200, 200, 200}},
		{"redirects elsewhere", true, stage.Running, 399, 200, 200, 200, [3]int{200, 200, 200}},
		{"running and ill", true, stage.Running, 400, 503, 503, 503, [3]int{200, 200, 200}},
		{"ended", false, stage.Stopping, 200, 503, 200, 503, [3]int{503, 200, 503}},
	} {
		program.Store(c.program)
		for _, b := range []*bench{with, without} {
			b.started.Store(c.started)
			b.tracker.Enter(stage.Status{Stage: c.stage})
			want := [3]int{c.readiness, c.liveness, c.startup}
			if b == without {
				want = c.bare
			}
			var got [3]int
			for i, name := range []string{Readiness, Liveness, Startup} {
				code, said := b.get(t, name)
				if got[i] = code; strings.Contains(said, "secret") {
					t.Errorf("%s: the program's answer is passed on: %s", c.name, said)
				}
			}
			if got != want {
				t.Errorf("%s, probes %v: got %v, want %v", c.name, b == with, got, want)
			}
		}
	}
	if code, _ := with.get(t, "other"); code != http.StatusNotFound {
		t.Errorf("another name: got %d, want 404", code)
	}
}

func TestHowTheProgramIsAsked(t *testing.T) {
	asked := make(chan *http.Request, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/seen", func(_ http.ResponseWriter, r *http.Request) { asked <- r.Clone(t.Context()) })
	mux.Handle("/here", http.RedirectHandler("/fine", http.StatusFound))
	mux.Handle("/ill", http.RedirectHandler("/gone", http.StatusFound))
	mux.Handle("/loop", http.RedirectHandler("/loop", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler("http://192.0.2.1/", http.StatusFound))
	mux.HandleFunc("/fine", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/never", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewServer(mux)
	defer server.Close()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	garbage := newGarbage(t)
	h := New(nil, nil, nil, nil)
	for raw, want := range map[string]struct {
		said string
		ok   bool
	}{
		server.URL + "/here":                       {"answers 200", true},
		server.URL + "/ill":                        {"answers 404", false},
		server.URL + "/loop":                       {"more than 10 redirects", false},
		server.URL + "/away":                       {"answers 302", true},
		server.URL + "/never":                      {"no answer within 10ms", false},
		"http://" + nobody.Addr().String() + "/":   {"connection refused", false},
		"tcp://" + nobody.Addr().String():          {"connection refused", false},
		"tcp://" + server.Listener.Addr().String(): {"accepts connections", true},
		"http://" + garbage + "/":                  {"no valid answer", false},
	} {
		to := target(t, raw)
		if strings.HasSuffix(raw, "/never") {
			to.Timeout = 10 * time.Millisecond
		}
		if said, ok := h.ask(t.Context(), to); said != want.said || ok != want.ok {
			t.Errorf("%s: got %q, %v, want %q, %v", raw, said, ok, want.said, want.ok)
		}
	}
	to := target(t, server.URL+"/seen")
	to.Headers = http.Header{"Host": {"web.example"}, "X-Probe": {"1"}, "User-Agent": {"kube-probe/1.34"}}
	h.ask(t.Context(), to)
	if r := <-asked; r.Host != "web.example" || r.Header.Get("X-Probe") != "1" || r.UserAgent() != "kube-probe/1.34" || r.Method != http.MethodGet {
		t.Errorf("got %s to %s with %v", r.Method, r.Host, r.Header)
	}
}

// newGarbage answers with no HTTP, and with what looks like a secret.
func newGarbage(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(conn, "a secret\r\n\r\n") //nolint:errcheck // the prober went away
		conn.Close()
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// A program that leads each probe back to the marble's own cannot have it ask
// without end.
func TestProbesAtOnceAreBounded(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{}, maxAtOnce+1)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		held <- struct{}{}
		<-hold
	}))
	defer server.Close()
	h := New(nil, nil, nil, nil)
	to := target(t, server.URL)
	to.Timeout = time.Minute
	results := make(chan bool, maxAtOnce)
	for range maxAtOnce {
		go func() { _, ok := h.ask(t.Context(), to); results <- ok }()
	}
	for range maxAtOnce {
		<-held
	}
	if said, ok := h.ask(t.Context(), to); ok || !strings.Contains(said, "not asked") {
		t.Errorf("one more: got %q, %v, want it not asked", said, ok)
	}
	close(hold)
	for range maxAtOnce {
		if !<-results {
			t.Error("one of those at once failed")
		}
	}
}
