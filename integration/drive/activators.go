package drive

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// PerWorker is how many instances one worker activates in turn.
const PerWorker = 8

// Marbles says what is activated, and how.
type Marbles struct {
	Mesh    string // address of the coordinator's mesh port
	Marble  string
	Issuer  attest.Issuer // vouches for the marble's program
	Workers int
	Pause   time.Duration // between two activations of one worker: half of it to three halves
}

// Activators activate instances as fast as they are let, and remember what was
// acknowledged: the promise that a crash must not break.
type Activators struct {
	t      testing.TB
	m      Marbles
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	acked  map[string]ack
	total  int
	failed []error
}

// ack is the newest acknowledged activation of an instance.
type ack struct {
	serial, decision string
	superseded       bool // another attempt was under way after it: its leaf may be the one that counts
}

// Activate starts the workers; the end of the test ends them.
func Activate(t testing.TB, m Marbles) *Activators {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a := &Activators{t: t, m: m, cancel: cancel, acked: map[string]ack{}}
	t.Cleanup(a.Halt)
	for w := range m.Workers {
		a.work.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				a.one(ctx, fmt.Sprintf("10000000-0000-4000-8000-%012d", w*PerWorker+n%PerWorker))
				time.Sleep(m.Pause/2 + rand.N(m.Pause+1))
			}
		})
	}
	return a
}

func (a *Activators) one(ctx context.Context, id string) {
	c, err := probe.Dial(ctx, a.m.Mesh, probe.Options{})
	if err != nil {
		time.Sleep(time.Millisecond) // nobody is there
		return
	}
	defer c.Close()
	nonce, err := c.Challenge(ctx)
	if err != nil {
		return // nothing was asked for yet
	}
	a.mu.Lock()
	if known, ok := a.acked[id]; ok {
		known.superseded = true
		a.acked[id] = known
	}
	a.mu.Unlock()
	got, err := c.Activate(ctx, probe.Attempt{Issuer: a.m.Issuer, Nonce: nonce,
		Instance: &marblepb.Instance{Marble: a.m.Marble, Id: id, Address: "10.77.0.1"}})
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil && err != nil {
		return // given up by this test
	}
	if err != nil {
		a.failed = append(a.failed, err)
		return
	}
	a.total++
	a.acked[id] = ack{serial: serial(got), decision: got.Response.GetDecision()}
}

// serial is a leaf's serial number as the API writes it.
func serial(a probe.Activation) string {
	leaf, err := x509.ParseCertificate(a.Response.GetLease().GetCertificates()[0])
	if err != nil {
		return err.Error()
	}
	return leaf.SerialNumber.Text(16)
}

// Halt ends the workers and waits for them.
func (a *Activators) Halt() {
	a.cancel()
	a.work.Wait()
}

// Count is how many activations were acknowledged.
func (a *Activators) Count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total
}

// Failed are the errors of activations that were asked for.
func (a *Activators) Failed() []error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]error{}, a.failed...)
}

// More waits until n further activations were acknowledged.
func (a *Activators) More(n int) {
	a.t.Helper()
	a.Await(n, Patience)
}

// Await is More with a limit.
func (a *Activators) Await(n int, limit time.Duration) {
	a.t.Helper()
	began := a.Count()
	Eventually(a.t, limit, func() string {
		if got := a.Count(); got < began+n {
			failed := a.Failed()
			return fmt.Sprintf("%d of %d activations were acknowledged; the last errors: %v", got-began, n, errors.Join(failed[max(0, len(failed)-3):]...))
		}
		return ""
	})
}

// Kept checks that the coordinator has all that was acknowledged.
func (a *Activators) Kept(c *client.Client) {
	t := a.t
	t.Helper()
	m, err := c.Marble(t.Context(), a.m.Marble)
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]string{}
	for _, i := range m.Instances {
		has[i.ID] = i.Serial
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, known := range a.acked {
		if serial, ok := has[id]; !ok || serial != known.serial && !known.superseded {
			t.Errorf("instance %s has leaf %q, want the acknowledged %s (another under way: %v)", id, serial, known.serial, known.superseded)
		}
		if d, err := c.Decision(t.Context(), known.decision); err != nil || !d.Accepted {
			t.Errorf("the acknowledged decision %s: got %+v, %v", known.decision, d, err)
		}
	}
}
