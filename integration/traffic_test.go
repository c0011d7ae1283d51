//go:build linux

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Addresses at which programs of the shop reach others, on loopback, by way of
// their own Envoy.
const (
	gatewayToWeb  = "http://127.0.0.1:9081"
	webToCart     = "http://127.0.0.1:9082"
	cartToCatalog = "http://127.0.0.1:9083"
)

// pause is between two requests of one worker.
const pause = 5 * time.Millisecond

// traffic asks for a page again and again: half of its workers keep their
// connection, half open a new one for each request.
type traffic struct {
	t      *testing.T
	cancel context.CancelFunc
	work   sync.WaitGroup
	done   atomic.Int64

	mu     sync.Mutex // guards failed
	failed []string
}

// drive starts workers on a URL that has to answer 200.
func drive(t *testing.T, workers int, url string) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	tr := &traffic{t: t, cancel: cancel}
	t.Cleanup(func() { tr.halt() })
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

func (tr *traffic) one(ctx context.Context, client *http.Client, url string) {
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
		tr.done.Add(1)
	}
}

func (tr *traffic) fail(what string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.failed = append(tr.failed, time.Now().Format("15:04:05.000 ")+what)
}

func (tr *traffic) halt() {
	tr.cancel()
	tr.work.Wait()
}

// more waits until n further requests were answered.
func (tr *traffic) more(n int64) {
	tr.t.Helper()
	want := tr.done.Load() + n
	eventually(tr.t, 20*time.Second, func() string {
		if got := tr.done.Load(); got < want {
			return fmt.Sprintf("%d of %d requests were answered; failures: %q", got, want, tr.failures())
		}
		return ""
	})
}

func (tr *traffic) failures() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]string{}, tr.failed[:min(len(tr.failed), 5)]...)
}

// flawless ends the traffic; not one request may have failed.
func (tr *traffic) flawless(during string) {
	tr.t.Helper()
	tr.halt()
	if len(tr.failed) > 0 || tr.done.Load() == 0 {
		tr.t.Errorf("%s: %d requests failed and %d were answered, want none and some; the first:\n%s",
			during, len(tr.failed), tr.done.Load(), strings.Join(tr.failures(), "\n"))
		return
	}
	tr.t.Logf("%s: %d requests, none failed", during, tr.done.Load())
}

// instances returns the live instances of every marble, by marble.
func instances(t *testing.T, c *client.Client) map[string][]apiv1.Instance {
	t.Helper()
	page, err := c.Marbles(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]apiv1.Instance{}
	for _, m := range page.Marbles {
		out[m.Name] = m.Instances
	}
	return out
}

// serials returns the serial of the leaf of each of the shop's marbles.
func (d *deployment) serials(c *client.Client) map[string]string {
	d.t.Helper()
	out := map[string]string{}
	all := instances(d.t, c)
	for _, s := range d.Services {
		if len(all[s.Name]) == 1 {
			out[s.Name] = all[s.Name][0].Serial
		}
	}
	return out
}

// awaitSettled waits until every marble of the shop runs and its Envoy has
// taken all that it was sent.
func (d *deployment) awaitSettled(c *client.Client) {
	d.t.Helper()
	eventually(d.t, 20*time.Second, func() string {
		all := instances(d.t, c)
		for _, s := range d.Services {
			if len(all[s.Name]) != 1 {
				return fmt.Sprintf("%s has %d instances", s.Name, len(all[s.Name]))
			}
			i := all[s.Name][0]
			if i.Stage != "running" || !i.Proxy.Connected {
				return fmt.Sprintf("%s is %s (%s), proxy connected: %v", s.Name, i.Stage, i.Reason, i.Proxy.Connected)
			}
			for _, typ := range i.Proxy.Types {
				if typ.State != "applied" {
					return fmt.Sprintf("%s's proxy has %s %s", s.Name, typ.Type, typ.State)
				}
			}
		}
		return ""
	})
}

// amend sets a changed copy of the manifest in force, as alice.
func (d *deployment) amend(c *client.Client, change func(doc map[string]any)) apiv1.SetResult {
	d.t.Helper()
	now, err := c.Manifest(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(now.Raw, &doc); err != nil {
		d.t.Fatal(err)
	}
	change(doc)
	return d.put(c, doc, now.Digest)
}

func (d *deployment) put(c *client.Client, doc map[string]any, ifMatch attest.Hex) apiv1.SetResult {
	d.t.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		d.t.Fatal(err)
	}
	r, err := c.SetManifest(d.t.Context(), raw, ifMatch, manifest.AllRisks()...)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// audit returns the whole log.
func audit(t *testing.T, c *client.Client) []apiv1.AuditRecord {
	t.Helper()
	var all []apiv1.AuditRecord
	for {
		page, err := c.Audit(t.Context(), uint64(len(all)), 1000)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Records...)
		if len(page.Records) == 0 || uint64(len(all)) >= page.Checkpoint.Size {
			return all
		}
	}
}

// soak reports whether what takes minutes, or needs an idle machine, is wanted.
func soak() bool { return os.Getenv("ASHLAR_SOAK") == "1" }
