package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/transparency"
)

const (
	witnessEvery   = 10 * time.Second // looks whether the log has grown
	witnessAgain   = time.Hour        // submits a log that has not grown, so that the word stays fresh
	witnessTimeout = 10 * time.Second // of one request
	witnessBackoff = 10 * time.Minute // at most, between two attempts that fail
)

// witnessed is what is submitted to witnesses: a coordinator.
type witnessed interface {
	Witnesses() map[string]manifest.Witness
	LogKey() string
	LatestCheckpoint(context.Context) ([]byte, error)
	Consistency(ctx context.Context, older, newer uint64) (transparency.Proof, error)
	AddCosignature(ctx context.Context, signed []byte) error
}

// witnesses submits the log's new checkpoints to the witnesses of the manifest
// (c2sp.org/tlog-witness) and keeps what they co-sign. What they answer decides
// nothing here: clients demand co-signatures.
type witnesses struct {
	core witnessed // set before the first round
	http *http.Client
	now  func() time.Time
	log  *slog.Logger

	mu     sync.Mutex // guards states, which one round changes at a time
	states map[string]*witnessState
}

// witnessState is how a witness stands, by its key.
type witnessState struct {
	name   string
	size   uint64    // of the checkpoint that it co-signed last, as far as is known
	signed time.Time // when it did; zero if never since the start
	next   time.Time // not before
	fails  int       // in a row
	since  time.Time // of the first of them
	why    error     // the newest failure; nil if it co-signed
}

func newWitnesses(now func() time.Time, log *slog.Logger) *witnesses {
	// A witness is an address in the manifest: it may not send elsewhere.
	client := &http.Client{Timeout: witnessTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &witnesses{http: client, now: now, log: log, states: map[string]*witnessState{}}
}

// run submits until ctx ends.
func (w *witnesses) run(ctx context.Context) {
	t := time.NewTicker(witnessEvery)
	defer t.Stop()
	for {
		w.round(ctx)
		select {
		case <-t.C:
		case <-ctx.Done():
			w.http.CloseIdleConnections()
			return
		}
	}
}

// round submits the newest checkpoint to each witness that has not co-signed it
// and may be asked again, to all at once, and waits for them.
func (w *witnesses) round(ctx context.Context) {
	due := w.due(w.core.Witnesses())
	if len(due) == 0 {
		return
	}
	signed, err := w.core.LatestCheckpoint(ctx)
	var at transparency.Checkpoint
	if err == nil {
		at, err = transparency.Open(signed, w.core.LogKey())
	}
	if err != nil {
		if ctx.Err() == nil {
			w.log.Error("no checkpoint for the witnesses", "error", err)
		}
		return
	}
	var asking sync.WaitGroup
	for _, d := range due {
		if d.state.why == nil && d.state.size == at.Size && w.now().Sub(d.state.signed) < witnessAgain {
			continue
		}
		asking.Go(func() {
			err := w.submit(ctx, d, at, signed)
			if ctx.Err() == nil {
				w.note(d, at.Size, err)
			}
		})
	}
	asking.Wait()
}

// task is one witness to be asked.
type task struct {
	url   string
	key   transparency.WitnessKey
	state *witnessState
	old   uint64
}

// due returns the witnesses that may be asked now, and forgets those that are no
// longer in the manifest.
func (w *witnesses) due(named map[string]manifest.Witness) []task {
	w.mu.Lock()
	defer w.mu.Unlock()
	var due []task
	current := map[string]bool{}
	for name, m := range named {
		key, err := transparency.ParseWitnessKey(m.Key)
		if err != nil || m.URL == "" { // the manifest's checks name a bad key; one without an address fetches
			continue
		}
		id := m.URL + " " + m.Key
		current[id] = true
		s := w.states[id]
		if s == nil {
			s = &witnessState{name: name}
			w.states[id] = s
		}
		if !w.now().Before(s.next) {
			due = append(due, task{url: strings.TrimSuffix(m.URL, "/") + transparency.WitnessPath, key: key, state: s, old: s.size})
		}
	}
	for id := range w.states {
		if !current[id] {
			delete(w.states, id)
		}
	}
	return due
}

// submit asks one witness for its co-signature and keeps it. A witness that has
// another size than was thought is asked once more, from there.
func (w *witnesses) submit(ctx context.Context, d task, at transparency.Checkpoint, signed []byte) error {
	old := min(d.old, at.Size)
	for range 2 {
		proof, err := w.proof(ctx, old, at.Size)
		if err != nil {
			return err
		}
		answer, err := w.ask(ctx, d.url, transparency.WitnessRequest{Old: old, Proof: proof, Note: signed})
		if err != nil {
			return problem.Because(err, "LOG-083", "asking %s", d.key.Name())
		}
		if size, stale := answer.Stale(); stale {
			if size > at.Size {
				return problem.New("LOG-084", "%s has co-signed %d entries, and the log has %d", d.key.Name(), size, at.Size)
			}
			old = size
			continue
		}
		co, err := answer.Cosignature(signed, w.core.LogKey(), d.key)
		if err != nil {
			return err
		}
		return w.core.AddCosignature(ctx, append(bytes.Clone(signed), co.Line...))
	}
	return problem.New("LOG-083", "%s names one size after another", d.key.Name())
}

func (w *witnesses) proof(ctx context.Context, old, size uint64) (transparency.Proof, error) {
	if old == 0 || old == size {
		return nil, nil
	}
	return w.core.Consistency(ctx, old, size)
}

// ask makes one request.
func (w *witnesses) ask(ctx context.Context, url string, r transparency.WitnessRequest) (transparency.WitnessAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(r.Encode()))
	if err != nil {
		return transparency.WitnessAnswer{}, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := w.http.Do(req)
	if err != nil {
		return transparency.WitnessAnswer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, transparency.MaxWitnessAnswer+1))
	return transparency.WitnessAnswer{Status: resp.StatusCode, Type: resp.Header.Get("Content-Type"), Body: body}, err
}

// note keeps what became of a request, and says so when that changes.
func (w *witnesses) note(d task, size uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, now := d.state, w.now()
	before := s.why
	s.why = err
	if err == nil {
		if before != nil {
			w.log.Info("a witness co-signs the log again", "witness", s.name, "entries", size)
		}
		s.size, s.signed, s.next, s.fails = size, now, time.Time{}, 0
		return
	}
	if s.fails++; s.fails == 1 {
		s.since = now
	}
	s.next = now.Add(min(witnessEvery<<min(s.fails-1, 10), witnessBackoff))
	if problem.CodeOf(before) != problem.CodeOf(err) {
		w.log.Warn("a witness has not co-signed the log", "witness", s.name, "entries", size, "error", err)
	}
}

// warnings say in the status which witnesses do not co-sign. One failure may be
// an accident, except where a witness has seen another log.
func (w *witnesses) warnings() []apiv1.Attention {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []apiv1.Attention
	for _, s := range w.states {
		if s.why == nil || s.fails < 3 && problem.CodeOf(s.why) != "LOG-084" {
			continue
		}
		e := problem.From(s.why)
		all = append(all, apiv1.Attention{Code: string(e.Code), Subject: fmt.Sprintf("witness %s", s.name), Text: problem.Lookup(e.Code).Title, Next: e.Next, Since: s.since})
	}
	slices.SortFunc(all, func(a, b apiv1.Attention) int { return strings.Compare(a.Subject, b.Subject) })
	return all
}
