package injector

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *clock) forward(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(d) }

// document is a manifest with these marbles.
func document(marbles ...string) []byte {
	var parts []string
	for _, m := range marbles {
		parts = append(parts, fmt.Sprintf(`%q: {"package": "app", "serves": {"http": {"port": 8080}}}`, m))
	}
	return []byte(`{"version": 1, "trustDomain": "shop.example",
		"packages": {"app": {"sim": {"allowAnyMeasurement": true}}},
		"marbles": {` + strings.Join(parts, ",") + `}}`)
}

// fakeCoordinator answers as one with a manifest.
type fakeCoordinator struct {
	mu       sync.Mutex
	raw      []byte // nil: no manifest
	revision int
	err      error // of every request
	statuses int
	reads    int
	pages    []apiv1.Marbles
}

func (f *fakeCoordinator) set(raw []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raw, f.err = raw, err
	f.revision++
}

func (f *fakeCoordinator) asked() (statuses, reads int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.statuses, f.reads
}

func (f *fakeCoordinator) Status(context.Context) (apiv1.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.statuses++
	if f.err != nil || f.raw == nil {
		return apiv1.Status{}, f.err
	}
	d := manifest.DigestOf(f.raw)
	return apiv1.Status{Manifest: d[:], Revision: f.revision}, nil
}

func (f *fakeCoordinator) Manifest(context.Context) (apiv1.Manifest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return apiv1.Manifest{Raw: f.raw, Revision: f.revision}, f.err
}

func (f *fakeCoordinator) Marbles(_ context.Context, after string, _ int) (apiv1.Marbles, error) {
	if after == "" {
		return f.pages[0], nil
	}
	return f.pages[len(after)], nil
}

func (f *fakeCoordinator) Close() {}

func (f *fakeCoordinator) source(now func() time.Time) *Source {
	return newSource(func(context.Context) (coordinator, error) { return f, nil }, now)
}

func TestTheManifestIsAskedForWhenItIsOld(t *testing.T) {
	f, c := &fakeCoordinator{}, &clock{at: noon}
	s := f.source(c.now)
	expect := func(what string, age time.Duration, revision, statuses, reads int) {
		t.Helper()
		seen, err := s.Manifest(t.Context(), age)
		gotStatuses, gotReads := f.asked()
		if err != nil || seen.Revision != revision || seen.Trouble != nil || gotStatuses != statuses || gotReads != reads {
			t.Errorf("%s: got revision %d (%v, %v) after %d statuses and %d reads, want revision %d after %d and %d",
				what, seen.Revision, err, seen.Trouble, gotStatuses, gotReads, revision, statuses, reads)
		}
	}
	f.set(document("web"), nil)
	expect("first", manifestAge, 1, 1, 1)
	c.forward(manifestAge)
	expect("young enough", manifestAge, 1, 1, 1)
	c.forward(time.Millisecond)
	expect("old, the same", manifestAge, 1, 2, 1)
	expect("asked a moment ago", 0, 1, 2, 1)
	c.forward(2 * askAgain)
	expect("asked for anew", 0, 1, 3, 1)
	f.set(document("web", "cart"), nil)
	expect("not known yet", manifestAge, 1, 3, 1)
	c.forward(time.Hour)
	expect("another", manifestAge, 2, 4, 2)
}

func TestOneQuestionForManyPods(t *testing.T) {
	f := &fakeCoordinator{}
	f.set(document("web"), nil)
	s := f.source(time.Now)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if seen, err := s.Manifest(t.Context(), manifestAge); err != nil || seen.Manifest == nil {
				t.Errorf("got %+v, %v", seen, err)
			}
		})
	}
	all.Wait()
	if statuses, reads := f.asked(); statuses != 1 || reads != 1 {
		t.Errorf("got %d statuses and %d reads, want one of each", statuses, reads)
	}
}

func TestACoordinatorThatIsAway(t *testing.T) {
	away := problem.New("CRD-105", "dial tcp: connection refused")
	for _, c := range []struct {
		name string
		raw  []byte
		err  error
		code problem.Code
	}{
		{"no manifest", nil, nil, "KUB-075"},
		{"away", nil, away, "KUB-076"},
		{"odd", nil, errors.New("odd"), "KUB-076"},
		{"not the one", nil, problem.New("CRD-100", "measurement differs"), "KUB-077"},
		{"a manifest of another release", []byte(`{"version": 9}`), nil, "KUB-076"},
	} {
		f, at := &fakeCoordinator{}, &clock{at: noon}
		s := f.source(at.now)
		f.set(c.raw, c.err)
		if _, err := s.Manifest(t.Context(), manifestAge); problem.CodeOf(err) != c.code {
			t.Errorf("%s, none seen: got %v, want %s", c.name, err, c.code)
		}
		f.set(document("web"), nil)
		at.forward(time.Hour)
		if seen, err := s.Manifest(t.Context(), manifestAge); err != nil || seen.Trouble != nil {
			t.Errorf("%s, then there: got %v, %v", c.name, err, seen.Trouble)
		}
		f.set(c.raw, c.err)
		at.forward(time.Hour)
		seen, err := s.Manifest(t.Context(), manifestAge)
		if c.code == "KUB-075" {
			if problem.CodeOf(err) != c.code {
				t.Errorf("%s, after one: got %v, want %s", c.name, err, c.code)
			}
			continue
		}
		if err != nil || seen.Trouble == nil || seen.Manifest == nil || !seen.At.Equal(noon.Add(time.Hour)) {
			t.Errorf("%s, one seen: got %+v, %v, want the manifest of an hour ago and the trouble", c.name, seen, err)
		}
	}
}

func TestACoordinatorThatIsSilent(t *testing.T) {
	s := newSource(func(ctx context.Context) (coordinator, error) {
		<-ctx.Done()
		return nil, problem.Because(ctx.Err(), "CRD-106", "coord")
	}, time.Now)
	s.timeout = 20 * time.Millisecond
	if _, err := s.Manifest(t.Context(), manifestAge); problem.CodeOf(err) != "KUB-076" {
		t.Errorf("got %v, want KUB-076", err)
	}
	began := time.Now()
	for range 100 {
		_, _ = s.Manifest(t.Context(), manifestAge)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("a hundred pods waited %s, want the first to wait for all", took)
	}
}

func TestMarblesOfAllPages(t *testing.T) {
	f := &fakeCoordinator{pages: []apiv1.Marbles{
		{Marbles: []apiv1.Marble{{Name: "a"}}, Next: "a"}, {Marbles: []apiv1.Marble{{Name: "b"}}, Next: "bb"}, {Marbles: []apiv1.Marble{{Name: "c"}}, Next: "bb"},
	}}
	got, err := f.source(time.Now).Marbles(t.Context())
	if err != nil || len(got) != 3 {
		t.Errorf("got %v, %v, want three", got, err)
	}
}
