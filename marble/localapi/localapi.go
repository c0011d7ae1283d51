// Package localapi lets the program of a marble use secrets by HTTP on a local
// unix socket: fetch those that it reads, have keys used that it never gets, raise
// counters, deposit what it made, and see where the marble stands.
//
// It owns the routes, their limits and their words. It holds no secret and no
// right: the marble asks the coordinator under its lease, and without a live lease
// nothing is answered. It talks to processes of this user alone.
package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/agent"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// Limits of the socket, besides those of agent.Listen.
const (
	maxBody       = 64 << 10 // bytes of a request
	maxAssociated = 4 << 10  // bytes
	maxHeader     = 8 << 10  // bytes
	maxAtOnce     = 32       // requests that are being answered
	headerTime    = 5 * time.Second
	readTime      = 15 * time.Second
	writeTime     = 45 * time.Second // the coordinator's answer included
	closeTime     = time.Second
)

// Marble is what the API asks; *marble.Marble is one.
type Marble interface {
	Secret(ctx context.Context, name string) (marble.Secret, error)
	Use(ctx context.Context, u marble.Use) (marble.Used, error)
	Deposit(ctx context.Context, secret string, value []byte) (uint64, error)
	Stage() stage.Status
}

// Server serves until Close.
type Server struct {
	http *http.Server
	done chan struct{}
	once sync.Once
}

// Start listens on the socket.
func Start(socket string, m Marble, log *slog.Logger) (*Server, error) {
	l, err := agent.Listen(socket, log)
	if err != nil {
		return nil, err
	}
	s := &Server{done: make(chan struct{}), http: &http.Server{Handler: Handler(m), ReadHeaderTimeout: headerTime, ReadTimeout: readTime,
		WriteTimeout: writeTime, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l) // ends by Close
	}()
	return s, nil
}

// Close lets running requests finish for a second, and ends.
func (s *Server) Close() {
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		if s.http.Shutdown(ctx) != nil {
			_ = s.http.Close()
		}
	})
	<-s.done
}

// secretName is what the manifest's schema takes as one.
var secretName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,62}$`)

type api struct {
	m       Marble
	running chan struct{}
}

// Handler returns the routes.
func Handler(m Marble) http.Handler {
	a := &api{m: m, running: make(chan struct{}, maxAtOnce)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/stage", func(w http.ResponseWriter, _ *http.Request) { answer(w, m.Stage()) })
	mux.HandleFunc("GET /v1/secrets/{name}", a.do(a.fetch))
	mux.HandleFunc("PUT /v1/secrets/{name}", a.do(a.deposit))
	for _, operation := range []string{"sign", "encrypt", "decrypt", "hmac", "increment"} {
		mux.HandleFunc("POST /v1/secrets/{name}/"+operation, a.do(a.use(operation)))
	}
	mux.HandleFunc("GET /v1/secrets/{name}/public", a.do(a.use("public")))
	mux.HandleFunc("GET /v1/secrets/{name}/count", a.do(a.use("read")))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, problem.New("MRB-035", "no route %s %.100s", r.Method, r.URL.Path))
	})
	return mux
}

// request is one that was found to be well-formed.
type request struct {
	ctx   context.Context
	name  string
	query url.Values
	body  []byte
}

// do reads a request within the limits and answers what f returns.
func (a *api) do(f func(r request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case a.running <- struct{}{}:
			defer func() { <-a.running }()
		default:
			refuse(w, problem.New("MRB-037", "%d requests are being answered", maxAtOnce))
			return
		}
		req, err := read(w, r)
		if err == nil {
			var out any
			if out, err = f(req); err == nil {
				reply(w, req, out)
				return
			}
		}
		refuse(w, err)
	}
}

func read(w http.ResponseWriter, r *http.Request) (request, error) {
	req := request{ctx: r.Context(), name: r.PathValue("name")}
	if !secretName.MatchString(req.name) {
		return req, problem.New("MRB-035", "%.80q is no name of a secret", req.name)
	}
	var err error
	if req.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return req, problem.Because(err, "MRB-035", "reading the query")
	}
	for key, values := range req.query {
		if len(values) != 1 || key != "as" && key != "version" && key != "hash" && key != "associated" {
			return req, problem.New("MRB-035", "query parameter %.40q: wanted as, version, hash or associated, once each", key)
		}
	}
	if req.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return req, problem.New("MRB-036", "the body has more than %d bytes", maxBody)
		}
		return req, problem.Because(err, "MRB-035", "reading the body")
	}
	return req, nil
}

func (a *api) fetch(r request) (any, error) {
	s, err := a.m.Secret(r.ctx, r.name)
	return secretDocument{r.name, s}, err
}

func (a *api) deposit(r request) (any, error) {
	version, err := a.m.Deposit(r.ctx, r.name, r.body)
	return result{Version: version}, err
}

func (a *api) use(operation string) func(request) (any, error) {
	return func(r request) (any, error) {
		u := marble.Use{Secret: r.name, Operation: operation, Input: r.body, Associated: []byte(r.query.Get("associated")), Hash: r.query.Get("hash")}
		if len(u.Associated) > maxAssociated {
			return nil, problem.New("MRB-036", "associated has %d bytes, limit %d", len(u.Associated), maxAssociated)
		}
		if v := r.query.Get("version"); v != "" {
			var err error
			if u.Version, err = strconv.ParseUint(v, 10, 64); err != nil {
				return nil, problem.New("MRB-035", "version %.20q is no number", v)
			}
		}
		used, err := a.m.Use(r.ctx, u)
		if err != nil {
			return nil, err
		}
		out := result{Output: used.Output, Version: used.Version, public: operation == "public"}
		if operation == "read" || operation == "increment" {
			out.Count = &used.Count
		}
		return out, nil
	}
}

// document is a problem as RFC 9457 has it.
type document struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Next   string `json:"next,omitempty"`
}

func refuse(w http.ResponseWriter, err error) {
	e := problem.From(err)
	status := e.Kind().HTTPStatus()
	if e.Kind() == problem.NotPermitted {
		status = http.StatusForbidden // there is nobody else to log in as
	}
	text, _ := json.Marshal(document{Type: "about:blank", Title: problem.Lookup(e.Code).Title, Status: status, Code: string(e.Code), Detail: e.Detail, Next: e.Next}) // strings always encode
	w.Header().Set("Content-Type", "application/problem+json")
	if e.Kind() == problem.Busy || e.Kind() == problem.Unavailable {
		w.Header().Set("Retry-After", "1")
	}
	write(w, status, text)
}

func answer(w http.ResponseWriter, out any) {
	text, err := json.Marshal(out)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, http.StatusOK, text)
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // who asked may have gone
}
