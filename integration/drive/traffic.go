package drive

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// pause is between two requests of one worker.
const pause = 5 * time.Millisecond

// Traffic asks for a page again and again: half of its workers keep their
// connection, half open a new one for each request.
type Traffic struct {
	t      testing.TB
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	done   int64
	last   time.Time     // of the newest answer
	gap    time.Duration // the longest between two answers
	failed []string
}

// Pages starts workers on a URL that has to answer 200.
func Pages(t testing.TB, workers int, url string) *Traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	tr := &Traffic{t: t, cancel: cancel, last: time.Now()}
	t.Cleanup(tr.Halt)
	for i := range workers {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: i%2 == 1, MaxIdleConnsPerHost: 1}}
		tr.work.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				tr.one(ctx, client, url)
				time.Sleep(pause)
			}
		})
	}
	return tr
}

func (tr *Traffic) one(ctx context.Context, client *http.Client, url string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		tr.fail(err.Error())
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			tr.fail(err.Error())
		}
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil && ctx.Err() == nil:
		tr.fail(err.Error())
	case err == nil && resp.StatusCode != http.StatusOK:
		tr.fail(fmt.Sprintf("%d %.200s", resp.StatusCode, body))
	case err == nil:
		tr.answer()
	}
}

func (tr *Traffic) answer() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.done++
	now := time.Now()
	tr.gap, tr.last = max(tr.gap, now.Sub(tr.last)), now
}

func (tr *Traffic) fail(what string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.failed = append(tr.failed, time.Now().Format("15:04:05.000 ")+what)
}

// Halt ends the traffic and waits for its workers.
func (tr *Traffic) Halt() {
	tr.cancel()
	tr.work.Wait()
}

// Done is how many requests were answered.
func (tr *Traffic) Done() int64 {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.done
}

// More waits until n further requests were answered.
func (tr *Traffic) More(n int64) {
	tr.t.Helper()
	want := tr.Done() + n
	Eventually(tr.t, Patience, func() string {
		if got := tr.Done(); got < want {
			return fmt.Sprintf("%d of %d requests were answered; failures: %q", got, want, tr.Failures())
		}
		return ""
	})
}

// Failures are the first five.
func (tr *Traffic) Failures() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]string{}, tr.failed[:min(len(tr.failed), 5)]...)
}

// Flawless ends the traffic; not one request may have failed.
func (tr *Traffic) Flawless(during string) {
	tr.t.Helper()
	tr.Halt()
	if len(tr.failed) > 0 || tr.done == 0 {
		tr.t.Errorf("%s: %d requests failed and %d were answered, want none and some; the first:\n%s",
			during, len(tr.failed), tr.done, strings.Join(tr.Failures(), "\n"))
		return
	}
	tr.t.Logf("%s: %d requests, none failed; the longest time without an answer: %s", during, tr.done, tr.gap.Round(time.Millisecond))
}
