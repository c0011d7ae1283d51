//go:build linux

package cluster

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// asking asks the client API for the status again and again, and remembers the
// longest time without an answer.
type asking struct {
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	answers  int
	last     time.Time
	longest  time.Duration
	failures []string
}

func (s *site) ask(c *client.Client) *asking {
	ctx, cancel := context.WithCancel(s.t.Context())
	a := &asking{cancel: cancel, last: time.Now()}
	s.t.Cleanup(a.halt)
	a.work.Go(func() {
		for ctx.Err() == nil {
			_, err := c.Status(ctx)
			if ctx.Err() != nil {
				return
			}
			a.note(err)
			time.Sleep(10 * time.Millisecond)
		}
	})
	return a
}

func (a *asking) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.failures = append(a.failures, err.Error())
		return
	}
	now := time.Now()
	a.answers++
	a.longest, a.last = max(a.longest, now.Sub(a.last)), now
}

// gap is the longest time without an answer since it was asked for last.
func (a *asking) gap() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	gap := a.longest
	a.longest = 0
	return gap.Round(time.Millisecond)
}

func (a *asking) halt() {
	a.cancel()
	a.work.Wait()
}

// Replicas are replaced one after the other by those of a newer program, which the
// manifest names before, and one of them without what was on its disk. Visits,
// marbles and clients notice nothing but time.
func TestClusterRollingUpgrade(t *testing.T) {
	s := newSite(t, "first", "second")
	newer := s.anotherBuild("ashlar-coordinator-newer")
	s.known = append(s.known, s.digest(newer)) // users and marbles that judge the coordinator by its program know both
	s.three(lease, nil)
	log := s.history()
	drive.Amend(s.t, s.connect(), func(doc map[string]any) {
		ref := doc["packages"].(map[string]any)["coordinator"].(map[string]any)["sim"].(map[string]any)
		for _, field := range []string{"program", "agent"} {
			ref[field] = append(ref[field].([]any), s.digest(newer).String())
		}
	})
	visits, joins, asked := s.visit(), s.activate(2, 50*time.Millisecond), s.ask(s.connect())
	joins.More(4)
	asked.gap()
	for i, r := range []*replica{s.settled(2), nil, nil} {
		if r == nil {
			r = s.oldest(newer)
		}
		took := r.terminate()
		joins.More(4)
		r.program = newer
		if i == 2 {
			if err := os.RemoveAll(r.state()); err != nil {
				t.Fatal(err)
			}
		}
		r.start()
		s.settled(2)
		t.Logf("%s ended in %s and was replaced; the longest time without an answer to clients: %s", r.name, took.Round(time.Millisecond), asked.gap())
	}
	s.renewed(log)
	asked.halt()
	t.Logf("%d answers, %d failures; the first: %.300q", asked.answers, len(asked.failures), asked.failures[:min(1, len(asked.failures))])
	joins.Halt()
	joins.Kept(s.connect())
	t.Logf("%d activations were acknowledged, %d failed and were tried again: %.300v", joins.Count(), len(joins.Failed()), joins.Failed())
	log.goesOn()
	visits.Flawless("three replicas were replaced by newer ones")
}

// oldest is a replica that does not run a program yet, rather a standby than the
// active one.
func (s *site) oldest(newer string) *replica {
	s.t.Helper()
	active := s.settled(2)
	left := active
	for _, r := range s.replicas {
		if r.program != newer && r != active {
			left = r
		}
	}
	if left.program == newer {
		s.t.Fatal("every replica was replaced")
	}
	return left
}
