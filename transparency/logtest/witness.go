package logtest

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/transparency"
)

// Witness co-signs checkpoints of the logs that it trusts, as
// c2sp.org/tlog-witness says. It keeps the newest of each in memory only. It is
// safe for concurrent use. It is an http.Handler.
type Witness struct {
	cosigner *transparency.Cosigner
	now      func() time.Time

	mu     sync.Mutex                         // guards all below; held over check and update
	logs   map[string]string                  // verifier key by origin
	newest map[string]transparency.Checkpoint // by origin
	asked  int
}

// NewWitness returns a witness that trusts no log yet.
func NewWitness(name string, key ed25519.PrivateKey, now func() time.Time) (*Witness, error) {
	c, err := transparency.NewCosigner(name, key)
	if err != nil {
		return nil, err
	}
	return &Witness{cosigner: c, now: now, logs: map[string]string{}, newest: map[string]transparency.Checkpoint{}}, nil
}

// Key returns the witness's public key.
func (w *Witness) Key() transparency.WitnessKey { return w.cosigner.Key() }

// Trust adds a log by its verifier key.
func (w *Witness) Trust(vkey string) error {
	v, err := transparency.Verifier(vkey)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logs[v.Name()] = vkey
	return nil
}

// Newest returns the checkpoint of a log that was co-signed last.
func (w *Witness) Newest(origin string) (transparency.Checkpoint, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.newest[origin]
	return c, ok
}

// Asked returns how many requests came.
func (w *Witness) Asked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// ServeHTTP answers POST add-checkpoint.
func (w *Witness) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != transparency.WitnessPath {
		http.NotFound(out, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 128<<10))
	if err != nil {
		http.Error(out, "reading", http.StatusBadRequest)
		return
	}
	a := w.Add(body)
	out.Header().Set("Content-Type", a.Type)
	out.WriteHeader(a.Status)
	_, _ = out.Write(a.Body) // the client sees a short answer
}

// Add judges one request in the order of the specification.
func (w *Witness) Add(body []byte) transparency.WitnessAnswer {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	r, err := transparency.ParseWitnessRequest(body)
	if err != nil {
		return say(http.StatusBadRequest, "malformed")
	}
	next, status := w.open(r.Note)
	if status != 0 {
		return say(status, "not a log that is witnessed")
	}
	if r.Old > next.Size {
		return say(http.StatusBadRequest, "old is larger than the checkpoint")
	}
	last, known := w.newest[next.Origin]
	if !known {
		last = transparency.Checkpoint{Origin: next.Origin, Root: transparency.EmptyRoot()}
	}
	if r.Old != last.Size {
		return transparency.WitnessAnswer{Status: http.StatusConflict, Type: transparency.WitnessSize, Body: fmt.Appendf(nil, "%d\n", last.Size)}
	}
	if r.Old == next.Size && known && last.Root != next.Root {
		return say(http.StatusConflict, "another root of the same size")
	}
	if r.Old == 0 && len(r.Proof) > 0 || transparency.VerifyConsistency(last, next, r.Proof) != nil {
		return say(http.StatusUnprocessableEntity, "no consistency")
	}
	line, err := w.cosigner.Cosign(r.Note, w.now())
	if err != nil {
		return say(http.StatusInternalServerError, "cannot sign")
	}
	w.newest[next.Origin] = next
	return transparency.WitnessAnswer{Status: http.StatusOK, Type: "text/plain; charset=utf-8", Body: line}
}

// open returns the checkpoint of a log that is trusted, or the status to refuse
// with.
func (w *Witness) open(signed []byte) (transparency.Checkpoint, int) {
	origin, err := originOf(signed)
	if err != nil {
		return transparency.Checkpoint{}, http.StatusBadRequest
	}
	vkey, ok := w.logs[origin]
	if !ok {
		return transparency.Checkpoint{}, http.StatusNotFound
	}
	c, err := transparency.Open(signed, vkey)
	if err != nil {
		return transparency.Checkpoint{}, http.StatusForbidden
	}
	return c, 0
}

// originOf returns the first line of a note.
func originOf(signed []byte) (string, error) {
	for i, b := range signed {
		if b == '\n' && i > 0 {
			return string(signed[:i]), nil
		}
	}
	return "", errors.New("no origin")
}

func say(status int, text string) transparency.WitnessAnswer {
	return transparency.WitnessAnswer{Status: status, Type: "text/plain; charset=utf-8", Body: []byte(text + "\n")}
}
