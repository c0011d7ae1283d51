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
	"maps"
	"net/http"
	"slices"
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
	StartingProgram      Stage = "starting-program" // it runs, but does not listen yet
	Running              Stage = "running"
	Degraded             Stage = "degraded" // the program runs; something that keeps it in the mesh does not
	Drained              Stage = "drained"  // the program runs, and gets no new requests: its renewal is overdue
	Cut                  Stage = "cut"      // the program runs, and has no identity: nobody is connected to it
	Refused              Stage = "refused"  // the verdict said no
	Stopping             Stage = "stopping" // final
)

// Exit codes of a marble that stopped its program (sysexits.h: try again later,
// not permitted).
const (
	ExitCut     = 75 // its identity has ended, and it was told to
	ExitRevoked = 77
)

// Status is a stage and what is to be said about it. No field holds a secret.
type Status struct {
	Stage     Stage     `json:"stage"`
	Reason    string    `json:"reason,omitempty"`
	Code      string    `json:"code,omitempty"`     // of the problem behind it
	NextRetry time.Time `json:"nextRetry,omitzero"` // when the marble tries again
	NotAfter  time.Time `json:"notAfter,omitzero"`  // end of the lease in hand
}

// Ready reports whether the program may be sent work: it runs, is not drained or
// cut, and at now its lease has not ended.
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

// Trouble is something that keeps a running marble from being in the mesh in
// full. The program runs on.
type Trouble struct {
	Code, Reason string
	NextRetry    time.Time // zero: nothing is retried
	// Mild trouble is shown, and does not make the marble Degraded.
	Mild bool
}

// Tracker holds the current status. It is safe for concurrent use.
type Tracker struct {
	log *slog.Logger
	now func() time.Time

	mu       sync.Mutex // guards what follows
	base     Status     // the stage entered last
	troubles map[string]Trouble
	lapse    lapse
	current  Status        // what base and troubles come to
	changed  chan struct{} // closed and replaced at each change
}

// lapse is how far the lease is on its way to its end without a renewal.
type lapse struct {
	stage        Stage // "", Degraded, Drained or Cut
	code, reason string
}

// NewTracker returns a tracker in stage Starting that logs each change.
func NewTracker(log *slog.Logger, now func() time.Time) *Tracker {
	start := Status{Stage: Starting}
	return &Tracker{log: log, now: now, base: start, current: start, troubles: map[string]Trouble{}, changed: make(chan struct{})}
}

// follows reports whether a marble in stage from may enter stage to. Degraded,
// Drained and Cut are never entered: they are Running with a Trouble or a lease
// that lapses.
func follows(from, to Stage) bool {
	return to != Degraded && to != Drained && to != Cut && (from != Stopping || to == Stopping)
}

// Enter makes s the stage. A transition that is not allowed is ignored: after
// Stopping comes nothing.
func (t *Tracker) Enter(s Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !follows(t.base.Stage, s.Stage) {
		return
	}
	if s.NotAfter.IsZero() {
		s.NotAfter = t.base.NotAfter
	}
	t.base = s
	t.publish()
}

// Leased records when the lease in hand ends.
func (t *Tracker) Leased(notAfter time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.base.NotAfter = notAfter
	t.publish()
}

// Trouble records trouble from a source, such as "lease" or "proxy", until
// Clear. While the stage is Running it makes the status Degraded.
func (t *Tracker) Trouble(source string, trouble Trouble) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.troubles[source] = trouble
	t.publish()
}

// Lapse records how far the lease is on its way to its end without a renewal:
// Degraded, Drained, Cut, or "" for one that is renewed in time. While the stage
// is Running, that is the status.
func (t *Tracker) Lapse(to Stage, code, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lapse = lapse{to, code, reason}
	t.publish()
}

// Clear ends the trouble from a source.
func (t *Tracker) Clear(source string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.troubles, source)
	t.publish()
}

// publish computes the status and tells who waits. The caller holds mu.
func (t *Tracker) publish() {
	s := t.base
	if s.Stage == Running {
		t.burden(&s)
	}
	if s == t.current {
		return
	}
	silent := t.current
	silent.NotAfter = s.NotAfter
	t.current = s
	close(t.changed)
	t.changed = make(chan struct{})
	if silent == s { // the lease has its own line
		return
	}
	level := slog.LevelInfo
	if s.Code != "" {
		level = slog.LevelWarn
	}
	t.log.Log(context.Background(), level, "stage", "stage", s)
}

// burden adds to a running marble's status what troubles it. The caller holds mu.
func (t *Tracker) burden(s *Status) {
	worst := ""
	for _, source := range slices.Sorted(maps.Keys(t.troubles)) {
		if worst == "" || t.troubles[worst].Mild && !t.troubles[source].Mild {
			worst = source
		}
	}
	if worst != "" {
		trouble := t.troubles[worst]
		s.Code, s.Reason, s.NextRetry = trouble.Code, worst+": "+trouble.Reason, trouble.NextRetry
		if !trouble.Mild {
			s.Stage = Degraded
		}
	}
	if t.lapse.stage == "" {
		return
	}
	s.Stage = t.lapse.stage
	if s.Code == "" {
		s.Code = t.lapse.code
	}
	if s.Reason != "" {
		s.Reason = "; " + s.Reason
	}
	s.Reason = t.lapse.reason + s.Reason
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
