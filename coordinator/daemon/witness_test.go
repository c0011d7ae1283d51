package daemon

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/transparency"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

// cosignedLog is a coordinator's log as the witnesses' loop sees it.
type cosignedLog struct {
	*logtest.Log
	named map[string]manifest.Witness

	mu    sync.Mutex // guards below
	added [][]byte
}

func (l *cosignedLog) Witnesses() map[string]manifest.Witness { return l.named }
func (l *cosignedLog) LogKey() string                         { return l.VerifierKey() }

func (l *cosignedLog) LatestCheckpoint(context.Context) ([]byte, error) { return l.Note(l.Size()), nil }

func (l *cosignedLog) Consistency(_ context.Context, older, newer uint64) (transparency.Proof, error) {
	return transparency.NewReader(l.Checkpoint(newer), l.Tile).Consistency(older)
}

func (l *cosignedLog) AddCosignature(_ context.Context, signed []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.added = append(l.added, signed)
	return nil
}

// took returns how many co-signatures came since the last call.
func (l *cosignedLog) took() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.added)
	l.added = nil
	return n
}

func (l *cosignedLog) grow(n int) {
	for range n {
		l.Append([]byte("entry"))
	}
}

func witnessSeed(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func newWitness(t *testing.T, name string, seed byte, trusts string) *logtest.Witness {
	t.Helper()
	w, err := logtest.NewWitness(name, witnessSeed(seed), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Trust(trusts); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWitnesses(t *testing.T) {
	l := &cosignedLog{Log: logtest.NewLog(1)}
	l.grow(3)
	a, b := newWitness(t, "a.example", 1, l.VerifierKey()), newWitness(t, "b.example", 2, l.VerifierKey())
	down := false
	serverA := httptest.NewServer(a)
	defer serverA.Close()
	serverB := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		b.ServeHTTP(w, r)
	}))
	defer serverB.Close()
	l.named = map[string]manifest.Witness{
		"a": {Key: a.Key().String(), URL: serverA.URL}, "b": {Key: b.Key().String(), URL: serverB.URL + "/"},
		"fetches": {Key: newWitness(t, "c.example", 3, l.VerifierKey()).Key().String()},
	}
	now := time.Now()
	w := newWitnesses(func() time.Time { return now }, slog.New(slog.DiscardHandler))
	w.core = l
	step := func(what string, co, asked int) {
		t.Helper()
		before := a.Asked() + b.Asked()
		w.round(t.Context())
		if got, was := l.took(), a.Asked()+b.Asked()-before; got != co || was != asked {
			t.Errorf("%s: got %d co-signatures of %d requests, want %d of %d", what, got, was, co, asked)
		}
	}
	step("the first checkpoint", 2, 2)
	step("nothing new", 0, 0)
	l.grow(300)
	step("a longer log", 2, 2)
	now = now.Add(2 * witnessAgain)
	step("not longer, but long ago", 2, 2)
	w.states = map[string]*witnessState{} // as after a restart
	step("sizes that are not known", 2, 4)
	down = true
	l.grow(1)
	step("one is down", 1, 1)
	l.grow(1)
	step("it is left alone for a while", 1, 1)
	for range 2 {
		now = now.Add(witnessBackoff)
		w.round(t.Context())
	}
	l.took()
	if got := w.warnings(); len(got) != 1 || got[0].Code != "LOG-083" || got[0].Subject != "witness b" {
		t.Errorf("got warnings %+v, want one of witness b", got)
	}
	down = false
	now = now.Add(witnessBackoff)
	step("it is up again", 1, 1)
	if got := w.warnings(); len(got) != 0 {
		t.Errorf("got warnings %+v, want none", got)
	}
	for _, x := range []*logtest.Witness{a, b} {
		if c, _ := x.Newest(l.Signer().Name()); c != l.Checkpoint(l.Size()) {
			t.Errorf("%s has %+v, want the newest", x.Key().Name(), c)
		}
	}
	l.named = nil
	step("no longer in the manifest", 0, 0)
	if len(w.states) != 0 {
		t.Errorf("got %d witnesses that are kept, want none", len(w.states))
	}
}

// TestWitnessesSeeRollbacks brings a log back from an older copy, and lets it go
// on from there: who watched it says so.
func TestWitnessesSeeRollbacks(t *testing.T) {
	l := &cosignedLog{Log: logtest.NewLog(1)}
	l.grow(5)
	old := l.Fork()
	l.grow(5)
	x := newWitness(t, "a.example", 1, l.VerifierKey())
	server := httptest.NewServer(x)
	defer server.Close()
	l.named = map[string]manifest.Witness{"a": {Key: x.Key().String(), URL: server.URL}}
	now := time.Now()
	fresh := func(log *logtest.Log) *witnesses {
		w := newWitnesses(func() time.Time { return now }, slog.New(slog.DiscardHandler))
		l.Log = log
		w.core = l
		return w
	}
	fresh(l.Log).round(t.Context())
	if l.took() != 1 {
		t.Fatal("the log was not co-signed")
	}
	for _, c := range []struct {
		name string
		grow int
	}{{"shorter", 0}, {"of the same size", 5}, {"longer", 7}} {
		fork := old.Fork()
		for range c.grow {
			fork.Append([]byte("another"))
		}
		w := fresh(fork)
		w.round(t.Context())
		if got := w.warnings(); l.took() != 0 || len(got) != 1 || got[0].Code != "LOG-084" {
			t.Errorf("%s: got %+v, want LOG-084 at once", c.name, got)
		}
	}
}

// TestWitnessesThatMisbehave must not hold the loop up, nor get anything in.
func TestWitnessesThatMisbehave(t *testing.T) {
	l := &cosignedLog{Log: logtest.NewLog(1)}
	l.grow(5)
	x := newWitness(t, "a.example", 1, l.VerifierKey())
	elsewhere := httptest.NewServer(x)
	defer elsewhere.Close()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		code   problem.Code
	}{
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}, "LOG-083"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }, "LOG-081"},
		"cuts":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "LOG-083"},
		"never agrees": {func(w http.ResponseWriter, r *http.Request) {
			var size [1]byte
			_, _ = r.Body.Read(make([]byte, 4))
			_, _ = r.Body.Read(size[:])
			w.Header().Set("Content-Type", transparency.WitnessSize)
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte{'0' + (size[0]-'0'+1)%3, '\n'})
		}, "LOG-083"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			w := newWitnesses(time.Now, slog.New(slog.DiscardHandler))
			w.core = l
			l.named = map[string]manifest.Witness{"a": {Key: x.Key().String(), URL: server.URL}}
			w.round(t.Context())
			for _, s := range w.states {
				if problem.CodeOf(s.why) != c.code {
					t.Errorf("got %v, want %s", s.why, c.code)
				}
			}
			if l.took() != 0 || x.Asked() != 0 {
				t.Error("something was co-signed")
			}
		})
	}
}

// TestWitnessesEnd ends the loop with its context.
func TestWitnessesEnd(t *testing.T) {
	w := newWitnesses(time.Now, slog.New(slog.DiscardHandler))
	w.core = &cosignedLog{Log: logtest.NewLog(1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.run(ctx); close(done) }()
	cancel()
	<-done
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Error("the context lives")
	}
}
