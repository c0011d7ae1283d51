package coordinator

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// longestLease is the longest life of a leaf that a manifest gives.
const longestLease = 24 * time.Hour

// outdated are the marbles for which other rules hold since a moment: instances
// that attested before are to do so again at once, and not only when their leaf
// is half over. It is in memory alone: after a restart they do it when it is due.
type outdated struct {
	mu      sync.Mutex           // guards all fields
	since   map[string]time.Time // by marble, of the last longestLease
	changed chan struct{}        // closed when since has changed
}

// mark notes marbles whose rules have changed at a moment.
func (o *outdated) mark(marbles []string, at time.Time) {
	if len(marbles) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since == nil {
		o.since = map[string]time.Time{}
	}
	for name, t := range o.since {
		if at.Sub(t) > longestLease {
			delete(o.since, name)
		}
	}
	for _, name := range marbles {
		o.since[name] = at
	}
	if o.changed != nil {
		close(o.changed)
	}
	o.changed = make(chan struct{})
}

// of returns when the rules of a marble changed, zero if they did not, and a
// channel that is closed when that may be otherwise.
func (o *outdated) of(marble string) (time.Time, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return o.since[marble], o.changed
}

// Outdated reports whether an instance attested before the rules for its marble
// changed, by another manifest or a floor: then fresh evidence is to be demanded
// of it at once. The channel is closed when that may have changed.
func (c *Coordinator) Outdated(ctx context.Context, p Peer) (bool, <-chan struct{}) {
	since, changed := c.outdated.of(p.Marble)
	if since.IsZero() {
		return false, changed
	}
	before := false
	err := c.store.View(ctx, func(tx *store.Tx) error {
		r, ok := instances.Get(tx, instanceKey(p.Marble, p.Instance))
		before = ok && r.AttestedAt.Before(since)
		return nil
	})
	return err == nil && before, changed
}

// otherRules lists the marbles of old that would be judged by other rules while
// next is in force, or get another certificate, or nothing.
func otherRules(old, next *revision) []string {
	var names []string
	for _, name := range old.marbles {
		was, _ := old.policyFor(name)
		is, stays := next.policyFor(name)
		a, b := old.m.Marbles[name], next.m.Marbles[name]
		if !stays || !reflect.DeepEqual(was, is) || a.Lease != b.Lease || !slices.Equal(a.DNSNames, b.DNSNames) {
			names = append(names, name)
		}
	}
	return names
}

// changesRules reports whether what is assumed changes the rules for a marble.
func (p *planner) changesRules(marble string) bool {
	if p.next == p.rev && len(p.assumed) == 0 {
		return false
	}
	is, known := p.floors.policyFor(p.rev, marble)
	would, stays := p.policy(binding.Activate, marble)
	return known && (!stays || !reflect.DeepEqual(is, would))
}

// onPlatform lists the marbles that a platform's rules hold for.
func (r *revision) onPlatform(platform string) []string {
	return slices.DeleteFunc(slices.Clone(r.marbles), func(name string) bool {
		p, _ := r.policyFor(name)
		return p.PlatformName != platform
	})
}
