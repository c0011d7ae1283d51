// Package stage says where a marble stands: its stage, why, and when it tries
// next, for everyone who looks (probe, log, coordinator).
//
// It owns the closed set of stages and the one transition function. It decides
// nothing: who enters a stage has decided.
package stage

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Stage is one of the stages below.
type Stage string

// The stages, in the order of a start without trouble; then the others.
const (
	Starting             Stage = "starting"
	Connecting           Stage = "connecting"
	VerifyingCoordinator Stage = "verifying-coordinator"
	WaitingForManifest   Stage = "waiting-for-manifest"
	Attesting            Stage = "attesting"
	Rendering            Stage = "rendering"
	StartingProxy        Stage = "starting-proxy"
	Running              Stage = "running"
	Degraded             Stage = "degraded" // the program runs; something that keeps it in the mesh does not
	Refused              Stage = "refused"  // the verdict said no
	Stopping             Stage = "stopping" // final
)

// Status is a stage and what is to be said about it. No field holds a secret.
type Status struct {
	Stage     Stage     `json:"stage"`
	Reason    string    `json:"reason,omitempty"`
	Code      string    `json:"code,omitempty"`     // of the problem behind it
	NextRetry time.Time `json:"nextRetry,omitzero"` // when the marble tries again
	NotAfter  time.Time `json:"notAfter,omitzero"`  // end of the lease in hand
}

// Ready reports whether the program may be sent work: it runs, and at now its
// lease has not ended.
func (s Status) Ready(now time.Time) bool {
	return s.Stage == Running || (s.Stage == Degraded && now.Before(s.NotAfter))
}

// LogValue writes the status as a group.
func (s Status) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("name", string(s.Stage))}
	if s.Reason != "" {
		attrs = append(attrs, slog.String("reason", s.Reason))
	}
	if s.Code != "" {
		attrs = append(attrs, slog.String("code", s.Code))
	}
	if !s.NextRetry.IsZero() {
		attrs = append(attrs, slog.Time("nextRetry", s.NextRetry))
	}
	return slog.GroupValue(attrs...)
}

// Tracker holds the current status. It is safe for concurrent use.
type Tracker struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex // guards what follows
	current Status
	changed chan struct{} // closed and replaced at each change
}

// NewTracker returns a tracker in stage Starting that logs each change.
func NewTracker(log *slog.Logger, now func() time.Time) *Tracker {
	return &Tracker{log: log, now: now, current: Status{Stage: Starting}, changed: make(chan struct{})}
}

// follows reports whether a marble in stage from may enter stage to.
func follows(from, to Stage) bool {
	return from != Stopping || to == Stopping
}

// Enter makes s the current status. After Stopping every other stage is
// ignored. A status without NotAfter keeps that of the one before.
func (t *Tracker) Enter(s Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !follows(t.current.Stage, s.Stage) {
		return
	}
	if s.NotAfter.IsZero() {
		s.NotAfter = t.current.NotAfter
	}
	if s == t.current {
		return
	}
	t.current = s
	close(t.changed)
	t.changed = make(chan struct{})
	level := slog.LevelInfo
	if s.Stage == Degraded || s.Stage == Refused || s.Code != "" {
		level = slog.LevelWarn
	}
	t.log.Log(context.Background(), level, "stage", "stage", s)
}

// Current returns the status, and a channel that is closed when it changes.
func (t *Tracker) Current() (Status, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current, t.changed
}

// Handler serves the probes: /ready answers 200 when the program may be sent
// work and 503 otherwise, /live always 200; both with the status as JSON.
func (t *Tracker) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		s, _ := t.Current()
		code := http.StatusOK
		if !s.Ready(t.now()) {
			code = http.StatusServiceUnavailable
		}
		write(w, code, s)
	})
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) {
		s, _ := t.Current()
		write(w, http.StatusOK, s)
	})
	return mux
}

func write(w http.ResponseWriter, code int, s Status) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(s) // the prober went away
}
