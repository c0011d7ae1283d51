package api

import (
	"net/netip"
	"sync"
	"time"
)

// rate is a token bucket for each remote address. It remembers at most
// maxBuckets addresses; when it is full, those that are at rest are forgotten,
// and if none is, all are.
type rate struct {
	perSecond, burst float64
	now              func() time.Time

	mu      sync.Mutex // guards buckets
	buckets map[netip.Addr]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

const maxBuckets = 4096

func newRate(perSecond, burst float64, now func() time.Time) *rate {
	return &rate{perSecond: perSecond, burst: burst, now: now, buckets: map[netip.Addr]bucket{}}
}

// take reports whether an address may ask once more, and if not, when.
func (r *rate) take(a netip.Addr) (ok bool, after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	b, known := r.buckets[a]
	if !known {
		if len(r.buckets) >= maxBuckets {
			r.forget(now)
		}
		b = bucket{tokens: r.burst, at: now}
	}
	b = r.refill(b, now)
	if b.tokens < 1 {
		r.buckets[a] = b
		return false, time.Duration((1 - b.tokens) / r.perSecond * float64(time.Second))
	}
	b.tokens--
	r.buckets[a] = b
	return true, 0
}

func (r *rate) refill(b bucket, now time.Time) bucket {
	elapsed := max(0, now.Sub(b.at).Seconds())
	return bucket{tokens: min(r.burst, b.tokens+elapsed*r.perSecond), at: now}
}

func (r *rate) forget(now time.Time) {
	for a, b := range r.buckets {
		if r.refill(b, now).tokens >= r.burst {
			delete(r.buckets, a)
		}
	}
	if len(r.buckets) >= maxBuckets {
		clear(r.buckets)
	}
}
