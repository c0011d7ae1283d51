package marble

import (
	"context"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/alarm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// lapses reads when the lease is degraded and drained. A coordinator that does
// not say so has the usual moments: a quarter and three quarters of the way from
// when the renewal is due to the end.
func (l *Lease) lapses(p *marblepb.Lease) {
	left := l.NotAfter.Sub(l.RenewAfter)
	l.DegradeAt, l.DrainAt = l.RenewAfter.Add(left/4), l.RenewAfter.Add(left*3/4)
	if at := p.GetDegradeAtUnixMs(); at != 0 {
		l.DegradeAt = time.UnixMilli(at)
	}
	if at := p.GetDrainAtUnixMs(); at != 0 {
		l.DrainAt = time.UnixMilli(at)
	}
	if at := p.GetCutAtUnixMs(); at != 0 && time.UnixMilli(at).Before(l.NotAfter) {
		l.NotAfter = time.UnixMilli(at)
	}
}

// lapse returns how far the lease is on its way to its end at a time, and when
// the next step is; false if there is none.
func (l *Lease) lapse(at time.Time) (to stage.Stage, code, reason string, next time.Time, more bool) {
	switch {
	case at.Before(l.DegradeAt):
		return "", "", "", l.DegradeAt, true
	case at.Before(l.DrainAt):
		return stage.Degraded, "MRB-030", "its renewal is due since " + stamp(l.RenewAfter) + "; it is drained at " + stamp(l.DrainAt) + " and cut at " + stamp(l.NotAfter), l.DrainAt, true
	case at.Before(l.NotAfter):
		return stage.Drained, "MRB-031", "gets no new requests: its renewal is due since " + stamp(l.RenewAfter) + "; it is cut at " + stamp(l.NotAfter), l.NotAfter, true
	}
	return stage.Cut, "MRB-021", "its lease ended at " + stamp(l.NotAfter), time.Time{}, false
}

// watch tells the tracker how far the lease is on its way to its end, whatever
// the renewal loop waits for, and ends the lease at its time.
func (m *Marble) watch(ctx context.Context) {
	wake := alarm.New(m.cfg.Now, m.cfg.Look)
	defer wake.Stop()
	for {
		lease, changed := m.Lease()
		to, code, reason, next, more := lease.lapse(m.cfg.Now())
		if to == stage.Cut {
			m.end(lease)
			_, changed = m.Lease()
		}
		if m.Revoked() == nil {
			m.tracker.Lapse(to, code, reason)
		}
		if more {
			wake.Set(next)
		} else {
			wake.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-m.ended:
			return
		case <-wake.C():
		case <-changed:
		}
	}
}

// end announces that a lease has ended, unless another has taken its place.
func (m *Marble) end(lease *Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lease == lease && !m.over {
		m.over = true
		m.announce()
	}
}

// inForce returns the lease in hand if it counts: MRB-021 if it has ended, MRB-032
// if it was revoked.
func (m *Marble) inForce() (*Lease, error) {
	lease, live, _ := m.Live()
	if revoked := m.Revoked(); revoked != nil {
		return nil, revoked
	}
	if !live {
		return nil, problem.New("MRB-021", "the lease of %s ended at %s", lease.SPIFFEID, stamp(lease.NotAfter))
	}
	return lease, nil
}

// announce tells who waits that the lease in hand changed or ended. The caller
// holds mu.
func (m *Marble) announce() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// revoke ends the identity for good: key and secrets are dropped.
func (m *Marble) revoke(r *marblepb.Revocation) error {
	e := problem.New("MRB-032", "%s: %s", short(r.GetCode()), short(r.GetReason()))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.revoked != nil {
		return m.revoked
	}
	bare := *m.lease
	bare.key, bare.secrets = nil, nil
	m.lease, m.over, m.revoked = &bare, true, e
	m.announce()
	m.tracker.Lapse(stage.Cut, string(e.Code), "its identity was revoked: "+e.Detail)
	close(m.ended)
	return e
}

// Ended is closed when the identity was revoked. Nothing is tried after that:
// Revoked says why, and the program should end.
func (m *Marble) Ended() <-chan struct{} { return m.ended }

// Revoked returns why the identity was taken away, MRB-032; nil while it was not.
func (m *Marble) Revoked() *problem.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revoked
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
