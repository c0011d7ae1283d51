// Package probe asks a program how it is, as the kubelet would, and answers with
// that and the marble's stage: the program listens on the loopback alone, and
// what listens on the pod's address is a proxy that serves peers.
//
// It owns what a probe is, and its limits. It asks loopback addresses and
// nobody else, and says nothing of what the program answered but the status:
// whoever reaches the port could read it.
package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/marble/stage"
)

const (
	maxAtOnce    = 16          // probes that are asked at once
	maxRedirects = 10          // the kubelet's
	maxHeader    = 64 << 10    // bytes of the program's answer
	maxWrite     = time.Second // to the prober, after the program was asked
)

// Handler serves GET /probe/readiness, /probe/liveness and /probe/startup.
type Handler struct {
	probes  Set
	tracker *stage.Tracker
	started func() bool
	now     func() time.Time
	client  http.Client
	busy    chan struct{} // holds one for each probe that is asked
}

// New returns a handler; started reports whether the program runs.
func New(probes Set, tracker *stage.Tracker, started func() bool, now func() time.Time) *Handler {
	return &Handler{probes: probes, tracker: tracker, started: started, now: now, busy: make(chan struct{}, maxAtOnce),
		client: http.Client{CheckRedirect: redirect, Transport: &http.Transport{DisableKeepAlives: true,
			DisableCompression: true, MaxResponseHeaderBytes: maxHeader}}}
}

// redirect follows where the kubelet would: to the same host.
func redirect(next *http.Request, via []*http.Request) error {
	if next.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return errRedirects
	}
	return nil
}

var errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)

// answer is the body: the stage, and how the program is if it was asked.
type answer struct {
	stage.Status
	Program string `json:"program,omitempty"`
}

// ServeHTTP implements http.Handler. The path's last element is the probe.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	s, _ := h.tracker.Current()
	ok, ask := false, h.started()
	switch name {
	case Readiness:
		ok = s.Ready(h.now())
		ask = ok
	case Liveness:
		ok = true
	case Startup:
		ok = ask
	default:
		http.NotFound(w, r)
		return
	}
	a := answer{Status: s}
	if target, given := h.probes[name]; given && ask {
		control := http.NewResponseController(w)
		until := time.Now().Add(target.Timeout + maxWrite)
		_ = errors.Join(control.SetReadDeadline(until), control.SetWriteDeadline(until)) // not there in a recorder
		a.Program, ok = h.ask(r.Context(), target)
	}
	code := http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(a) // the prober went away
}

// ask asks the program once. What it says holds nothing that the program wrote.
func (h *Handler) ask(ctx context.Context, t Target) (said string, ok bool) {
	select {
	case h.busy <- struct{}{}:
		defer func() { <-h.busy }()
	default:
		return fmt.Sprintf("not asked: %d probes are asked already", maxAtOnce), false
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	if t.URL.Scheme == "tcp" {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.URL.Host)
		if err != nil {
			return why(err, t.Timeout), false
		}
		_ = conn.Close() // nothing was sent
		return "accepts connections", true
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL.String(), nil)
	if err != nil {
		return "cannot be asked", false
	}
	request.Header.Set("User-Agent", "ashlar-marble")
	request.Header.Set("Accept", "*/*")
	for name, values := range t.Headers {
		request.Header[name] = values
	}
	request.Host = t.Headers.Get("Host")
	response, err := h.client.Do(request)
	if err != nil {
		return why(err, t.Timeout), false
	}
	_ = response.Body.Close() // never read
	return fmt.Sprintf("answers %d", response.StatusCode), response.StatusCode >= 200 && response.StatusCode < 400
}

// why says what kind of error it was: its text may quote the program.
func why(err error, timeout time.Duration) string {
	var timedOut net.Error
	switch {
	case errors.Is(err, errRedirects):
		return errRedirects.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timedOut) && timedOut.Timeout():
		return fmt.Sprintf("no answer within %s", timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	}
	return "no valid answer"
}
