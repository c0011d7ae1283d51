package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// asked is a client of a server with a handler. Pauses take no time.
func asked(t *testing.T, h http.HandlerFunc) (*Client, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := newClient(ClientConfig{URL: server.URL, Pause: func(ctx context.Context, _ time.Duration) bool { return ctx.Err() == nil }})
	if err != nil {
		t.Fatal(err)
	}
	return c, server
}

// TestFewAtOnce asks for many documents, with no more requests under way than
// the limit.
func TestFewAtOnce(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	full := make(chan struct{}, 64) // a request that found the service full
	release := make(chan struct{})
	c, server := asked(t, func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		if now == atOnce {
			full <- struct{}{}
		}
		mu.Unlock()
		<-release
		mu.Lock()
		now--
		mu.Unlock()
	})
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			if _, err := c.get(t.Context(), fmt.Sprintf("%s/%d", server.URL, i)); err != nil {
				t.Errorf("document %d: %v", i, err)
			}
		})
	}
	<-full
	close(release)
	all.Wait()
	if most != atOnce {
		t.Errorf("got %d requests at once, want %d", most, atOnce)
	}
}

// TestRedirects follows the service's own, and none elsewhere.
func TestRedirects(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "no business here") }))
	t.Cleanup(elsewhere.Close)
	c, server := asked(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/own":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/other":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		default:
			fmt.Fprint(w, "document")
		}
	})
	if r, err := c.get(t.Context(), server.URL+"/own"); err != nil || string(r.body) != "document" {
		t.Errorf("own: got %q, %v, want the document", r.body, err)
	}
	if r, err := c.get(t.Context(), server.URL+"/other"); problem.CodeOf(err) != "ATT-064" || !strings.Contains(err.Error(), "another host") {
		t.Errorf("another host: got %q, %v, want ATT-064", r.body, err)
	}
}

// TestRetryAfter reads both forms, and bounds what a service may ask for.
func TestRetryAfter(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": firstPause, "0": firstPause, "-5": firstPause, "7": 7 * time.Second, "999999999": longestPenance, "Sun, 22 Nov 2026 12:01:00 GMT": time.Minute,
		"Sun, 22 Nov 2026 11:00:00 GMT": firstPause, "Mon, 22 Nov 2027 12:00:00 GMT": longestPenance, "soon": firstPause,
	} {
		c := &Client{now: func() time.Time { return noon }}
		if got := c.leaveAlone(header); got != want || !c.until.Equal(noon.Add(want)) {
			t.Errorf("%q: got %s until %s, want %s", header, got, c.until, want)
		}
	}
}

// TestAskerGivesUp: one whose time is over does not wait for the answer.
func TestAskerGivesUp(t *testing.T) {
	release := make(chan struct{})
	asking := make(chan struct{}, 1)
	c, server := asked(t, func(http.ResponseWriter, *http.Request) {
		asking <- struct{}{}
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asking
		cancel()
	}()
	if _, err := c.get(ctx, server.URL); !errors.Is(err, context.Canceled) || problem.CodeOf(err) != "ATT-064" {
		t.Errorf("got %v, want ATT-064 for a cancelled context", err)
	}
}
