package api

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/alarm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Times bounds how long a peer may take. Zero fields get the defaults.
type Times struct {
	Handshake time.Duration // TLS handshake and the head of a request; 10 s
	Request   time.Duration // a whole request or unary call, and its answer; 30 s
	Idle      time.Duration // a connection without requests; 2 min
	Look      time.Duration // how often who waits for a moment looks at the clock, which may jump; 15 s
	Spread    time.Duration // over which demands are spread when other rules hold; 5 s
}

func (t Times) orDefault() Times {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&t.Handshake, 10*time.Second)
	set(&t.Request, 30*time.Second)
	set(&t.Idle, 2*time.Minute)
	set(&t.Look, alarm.Look)
	set(&t.Spread, 5*time.Second)
	return t
}

const (
	maxHeader      = 32 << 10 // bytes of a request's head
	maxStreams     = 64       // requests at once over one HTTP/2 connection
	maxBodies      = 8        // manifests received at once
	statementRate  = 20       // statements a second for one address; each costs a quote
	statementBurst = 100
)

// Config is what both APIs need.
type Config struct {
	Coordinator *coordinator.Coordinator
	Gate        *Gate // of this port
	Times       Times
	Metrics     *Metrics
	Log         *slog.Logger
	Now         func() time.Time
	// Endorsements are what the client API shows and imports.
	Endorsements Endorsements
}

type (
	connKey    struct{}
	requestKey struct{}
)

type clientAPI struct {
	c          *coordinator.Coordinator // nil while it waits for recovery
	recovery   Recovery
	stored     Endorsements
	log        *slog.Logger
	metrics    *Metrics
	statements *rate
	joins      joins
	bodies     chan struct{}
	times      Times
	mux        *http.ServeMux
}

// NewClient returns the server of the client API. Serve it with ServeClient.
func NewClient(c Config) *http.Server {
	s := &clientAPI{c: c.Coordinator, recovery: c.Coordinator, stored: c.Endorsements, log: c.Log, metrics: c.Metrics, times: c.Times.orDefault(),
		statements: newRate(statementRate, statementBurst, c.Now), bodies: make(chan struct{}, maxBodies), joins: newJoins(c), mux: http.NewServeMux()}
	for _, r := range routes {
		s.mux.Handle(r.path, s.resource(r))
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, problem.New("CRD-111", "%s", clip(r.URL.Path, 80)))
	})
	return s.server(servingConfig(c.Coordinator, c.Now, []string{"h2", "http/1.1"}, tls.RequestClientCert))
}

// server returns the HTTP server of the API.
func (s *clientAPI) server(config *tls.Config) *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.times.Handshake,
		ReadTimeout:       s.times.Request,
		WriteTimeout:      2 * s.times.Request,
		IdleTimeout:       s.times.Idle,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: s.times.Idle / 4, PingTimeout: s.times.Handshake},
		TLSConfig:         config,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // anybody can cause these
		ConnState:         connState,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if g := underlying(conn); g != nil {
				return context.WithValue(ctx, connKey{}, g)
			}
			return ctx
		},
	}
}

// ServeClient serves l until the server is shut down.
func ServeClient(s *http.Server, l net.Listener, g *Gate) error {
	if err := s.ServeTLS(g.Listen(l), "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// StopClient takes no new requests and lets running ones finish until ctx ends;
// then it cuts them.
func StopClient(ctx context.Context, s *http.Server, g *Gate) {
	done := make(chan struct{})
	var stopping sync.WaitGroup
	stopping.Go(func() {
		defer close(done)
		if s.Shutdown(ctx) != nil {
			_ = s.Close() // what is left is cut
		}
	})
	g.Drain(done)
	stopping.Wait()
}

func underlying(c net.Conn) *gated {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	g, _ := c.(*gated)
	return g
}

func connState(c net.Conn, state http.ConnState) {
	g := underlying(c)
	if g == nil {
		return
	}
	switch state {
	case http.StateActive:
		g.count(func(int) int { return 1 })
	case http.StateIdle:
		g.count(func(int) int { return 0 })
	}
}

// serving is what connections are served with until the certificate changes,
// which it does with every CA.
type serving struct {
	cert   *tls.Certificate
	key    []byte // of the certificate, PKIX DER
	config *tls.Config
}

// servingConfig asks for the current certificate at each handshake, and keeps
// on the connection which key it was served with.
func servingConfig(c *coordinator.Coordinator, now func() time.Time, protocols []string, auth tls.ClientAuthType) *tls.Config {
	base := &tls.Config{Time: now, MinVersion: tls.VersionTLS13, NextProtos: protocols, ClientAuth: auth, SessionTicketsDisabled: true}
	var current atomic.Pointer[serving]
	config := base.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		cert, err := c.ServerCertificate()
		if err != nil {
			return nil, err
		}
		s := current.Load()
		if s == nil || s.cert != cert {
			s = &serving{cert: cert, key: cert.Leaf.RawSubjectPublicKeyInfo, config: base.Clone()}
			s.config.Certificates = []tls.Certificate{*cert}
			if auth == tls.VerifyClientCertIfGiven {
				// Not for users: their certificates are pinned, and a hint at CAs would
				// keep TLS libraries from showing them.
				s.config.ClientCAs = c.Roots()
			}
			current.Store(s)
		}
		if g, ok := hello.Conn.(*gated); ok {
			g.served.Store(&s.key)
		}
		return s.config, nil
	}
	return config
}

// ServeHTTP gives every request an id, a deadline, and containment.
func (s *clientAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := newID()
	h := w.Header()
	h.Set("X-Request-Id", id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), requestKey{}, id), s.times.Request)
	defer cancel()
	r = r.WithContext(ctx)
	started := time.Now()
	seen := &recorder{ResponseWriter: w, route: "none"}
	defer func() {
		if p := recover(); p != nil {
			s.metrics.panics.Inc()
			s.log.Error("request panicked", "request", id, "panic", p, "stack", string(debug.Stack()))
			if seen.status != 0 {
				panic(http.ErrAbortHandler) // an answer was begun: cut it off
			}
			s.fail(seen, r, problem.New("CRD-001", "the coordinator's log has the cause under request %s", id))
		}
		s.metrics.request(seen.route, seen.status, time.Since(started))
	}()
	if r.URL.Path != path.Clean(r.URL.Path) || r.URL.Path == "*" {
		s.fail(seen, r, problem.New("CRD-111", "%s", clip(r.URL.Path, 80)))
		return
	}
	s.mux.ServeHTTP(seen, r)
}

// recorder remembers the status and the route of an answer, for metrics.
type recorder struct {
	http.ResponseWriter
	status int
	route  string
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// resource dispatches on the method, after what holds for all.
func (s *clientAPI) resource(rt route) http.Handler {
	allow := []string{"HEAD"}
	for m := range rt.methods {
		allow = append(allow, m)
	}
	slices.Sort(allow)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rec, ok := w.(*recorder); ok {
			rec.route = rt.path
		}
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		h, ok := rt.methods[method]
		switch {
		case !ok:
			w.Header().Set("Allow", strings.Join(allow, ", "))
			s.refuseUnread(w, r, problem.New("CRD-112", "%s; allowed: %s", clip(r.Method, 20), strings.Join(allow, ", ")))
			return
		case method == http.MethodGet && r.ContentLength != 0:
			s.refuseUnread(w, r, problem.New("CRD-114", "GET takes no body"))
			return
		}
		if err := h(s, w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// refuseUnread answers a request whose body, if any, is not wanted.
func (s *clientAPI) refuseUnread(w http.ResponseWriter, r *http.Request, err error) {
	if r.ContentLength != 0 {
		unwanted(w, r)
	}
	s.fail(w, r, err)
}

// unwanted says that the rest of a request's body will not be read. HTTP/1.1
// can only end the connection; HTTP/2 resets the stream by itself once it is
// answered (RFC 9113, 8.1), and with the connection it would lose the answer.
func unwanted(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

func newID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
