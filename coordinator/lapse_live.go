package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Stages that the coordinator itself tells of an instance, or understands.
const (
	stageStopping     = "stopping"
	stageDisconnected = "disconnected"
)

const (
	// watchAgain bounds how long Watch sleeps, for clocks that are set.
	watchAgain = 10 * time.Second
	// removeAgain is how long waits what could not be done at its time.
	removeAgain = time.Second
)

// lapsing is what live knows of instances whose renewals fail.
type lapsing struct {
	timeline timeline
	earlier  chan struct{}        // holds one token when the first moment became another
	overdue  []string             // instance keys, degraded or drained, newest last, at most maxAttention
	count    [len(phaseNames)]int // of instances by phase; that of onTime is not kept
	leaving  map[string]struct{}  // instance keys that say that they are stopping
	cuts     map[string]cutNote   // by marble: its newest cut, until an instance of it is accepted
	cutNews  []string             // marbles in cuts, newest last, at most maxAttention
}

// cutNote says which instance was cut.
type cutNote struct {
	key, reason string
	times       lapse
}

func newLapsing() lapsing {
	return lapsing{earlier: make(chan struct{}, 1), leaving: map[string]struct{}{}, cuts: map[string]cutNote{}}
}

// begin starts the way of a new leaf. The caller holds mu.
func (l *live) begin(key string, r *run, record instanceRecord) {
	if r.begun == record.Serial {
		return
	}
	l.enter(key, r, onTime)
	delete(l.lapsing.leaving, key)
	r.begun, r.times = record.Serial, record.lapse()
	l.plan(key, r)
}

// plan puts the next moment of an instance into the timeline. The caller holds mu.
func (l *live) plan(key string, r *run) {
	at, more := r.times.next(r.phase)
	if !more {
		return
	}
	t := &l.lapsing.timeline
	t.add(moment{at: at, key: key, serial: r.begun})
	if first := (*t)[0]; first.key == key && first.at.Equal(at) {
		select {
		case l.lapsing.earlier <- struct{}{}:
		default:
		}
	}
}

// enter puts an instance into a phase. The caller holds mu.
func (l *live) enter(key string, r *run, p phase) {
	if r.phase == p {
		return
	}
	l.lapsing.count[r.phase]--
	l.lapsing.count[p]++
	r.phase = p
	l.lapsing.overdue = without(l.lapsing.overdue, key)
	if _, leaving := l.lapsing.leaving[key]; !leaving && (p == isDegraded || p == isDrained) {
		l.lapsing.overdue = newest(l.lapsing.overdue, key)
	}
}

// forget drops what is known of an instance that is no more. The caller holds mu.
func (l *live) forget(key string, r *run) {
	l.enter(key, r, onTime)
	delete(l.lapsing.leaving, key)
}

// advance lets everything happen that is due. It reports whether the View has
// something else to tell, and which instances have no identity any more.
func (l *live) advance(at time.Time) (moved bool, ended []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		m, due := l.lapsing.timeline.due(at)
		if !due {
			return moved, ended
		}
		r := l.runs[m.key]
		if r == nil || r.begun != m.serial {
			continue
		}
		p := r.times.phase(at)
		moved = moved || p >= isDrained
		l.enter(m.key, r, p)
		if p == isCut {
			l.noteCut(m.key, r)
			ended = append(ended, m.key)
		}
		l.plan(m.key, r)
	}
}

// noteCut remembers an instance that was cut and did not say that it stops.
func (l *live) noteCut(key string, r *run) {
	if _, leaving := l.lapsing.leaving[key]; leaving {
		return
	}
	marble := marbleOf(key)
	l.lapsing.cuts[marble] = cutNote{key: key, reason: r.reason, times: r.times}
	l.lapsing.cutNews = newest(l.lapsing.cutNews, marble)
	for name := range l.lapsing.cuts {
		if !slices.Contains(l.lapsing.cutNews, name) {
			delete(l.lapsing.cuts, name)
		}
	}
}

// forgetCut ends the note of a marble's cut instance: another was accepted. The
// caller holds mu.
func (l *live) forgetCut(marble string) {
	if _, ok := l.lapsing.cuts[marble]; ok {
		delete(l.lapsing.cuts, marble)
		l.lapsing.cutNews = without(l.lapsing.cutNews, marble)
	}
}

// again has an instance that could not be removed looked at later.
func (l *live) again(keys []string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		if r := l.runs[key]; r != nil {
			l.lapsing.timeline.add(moment{at: at, key: key, serial: r.begun})
		}
	}
}

// upcoming returns when the next moment is; false if there is none.
func (l *live) upcoming() (time.Time, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.lapsing.timeline) == 0 {
		return time.Time{}, false
	}
	return l.lapsing.timeline[0].at, true
}

// isLeaving reports whether an instance says that it is stopping.
func (l *live) isLeaving(key string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, leaving := l.lapsing.leaving[key]
	return leaving
}

// Lapses are how many instances are on the way to losing their identity.
type Lapses struct{ Degraded, Drained int }

// Lapses returns how many instances' renewals are overdue.
func (c *Coordinator) Lapses() Lapses {
	c.live.mu.RLock()
	defer c.live.mu.RUnlock()
	return Lapses{Degraded: c.live.lapsing.count[isDegraded], Drained: c.live.lapsing.count[isDrained]}
}

// DemandAt returns when to demand a renewal that a live instance has not offered
// by itself: when a fifth has passed of the time from when it was due to the cut.
func (c *Coordinator) DemandAt(p Peer) time.Time {
	c.live.mu.RLock()
	defer c.live.mu.RUnlock()
	r := c.live.runs[instanceKey(p.Marble, p.Instance)]
	if r == nil {
		return p.NotAfter
	}
	return r.times.due.Add(r.times.cut.Sub(r.times.due) / 5)
}

// Watch has what becomes of instances whose renewals fail, and the end of
// break-glass, happen at its time, whether anybody talks to the coordinator or
// not, until ctx ends. It sleeps
// until the next moment is there. What cannot be stored is tried again; failed
// learns of it and may be nil.
func (c *Coordinator) Watch(ctx context.Context, failed func(error)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.live.lapsing.earlier:
		}
		err := c.watchOnce(ctx)
		if err != nil && ctx.Err() == nil && failed != nil {
			failed(err)
		}
		wait := watchAgain
		for _, upcoming := range []func() (time.Time, bool){c.live.upcoming, c.incidents.Load().upcoming} {
			if next, any := upcoming(); any {
				wait = min(wait, max(0, next.Sub(c.config.Now())))
			}
		}
		if err != nil {
			wait = max(wait, removeAgain)
		}
		timer.Reset(wait)
	}
}

func (c *Coordinator) watchOnce(ctx context.Context) error {
	done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return errors.Join(c.lapses(ctx), c.endExceptions(ctx))
}

// lapses does what is due now: instances are drained or cut.
func (c *Coordinator) lapses(ctx context.Context) error {
	now := c.config.Now()
	moved, ended := c.live.advance(now)
	if moved {
		c.changed()
	}
	if err := c.removeEnded(ctx, ended, now); err != nil {
		c.live.again(ended, now.Add(removeAgain))
		return err
	}
	return nil
}

// removeEnded removes instances whose lease has ended, in Updates of a bounded
// size.
func (c *Coordinator) removeEnded(ctx context.Context, ended []string, now time.Time) error {
	for batch := range slices.Chunk(ended, maxPruned) {
		err := c.update(ctx, func(tx *store.Tx) error {
			for _, key := range batch {
				if r, ok := instances.Get(tx, key); ok && !now.Before(r.NotAfter) {
					remove(tx, key)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("removing instances whose lease has ended: %w", err)
		}
		for _, key := range batch {
			if err := c.live.sync(ctx, c.store, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// lapseAttention returns what needs attention, newest first: instances whose
// renewal is overdue, and marbles of which one was cut.
func (l *live) lapseAttention() []apiv1.Attention {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var list []apiv1.Attention
	for _, marble := range slices.Backward(l.lapsing.cutNews) {
		n := l.lapsing.cuts[marble]
		list = append(list, attentionTo("CRD-092", n.key, because(n.times.text(isCut), n.reason), n.times.cut))
	}
	for _, key := range slices.Backward(l.lapsing.overdue) {
		r := l.runs[key]
		code, since := problem.Code("CRD-090"), r.times.degrade
		if r.phase == isDrained {
			code, since = "CRD-091", r.times.drain
		}
		list = append(list, attentionTo(code, key, because(r.times.text(r.phase), r.reason), since))
	}
	return list
}

func attentionTo(code problem.Code, key, text string, since time.Time) apiv1.Attention {
	marble, _, _ := strings.Cut(key, "/")
	next := strings.NewReplacer("`ashlar marble show`", "ashlar marble show "+marble, "`ashlar explain`", "ashlar explain "+marble).Replace(problem.Lookup(code).Next)
	return apiv1.Attention{Code: string(code), Subject: short(key), Text: text, Next: next, Since: since.UTC()}
}

// text says where a lapse stands, and what comes next and when.
func (l lapse) text(p phase) string {
	switch p {
	case isDegraded:
		return fmt.Sprintf("its renewal is due since %s; it is drained at %s and cut at %s", stamp(l.due), stamp(l.drain), stamp(l.cut))
	case isDrained:
		return fmt.Sprintf("gets no new requests since %s: its renewal is due since %s; it is cut at %s", stamp(l.drain), stamp(l.due), stamp(l.cut))
	case isCut:
		return fmt.Sprintf("lost its identity at %s: its renewal was due at %s", stamp(l.cut), stamp(l.due))
	}
	return ""
}

func because(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + "; " + reason
}

// lapsed completes what is shown of an instance: how far it is on the way to
// losing its identity, and what comes next.
func (r run) lapsed(i apiv1.Instance, at time.Time) apiv1.Instance {
	i.RenewAfter, i.DegradeAt, i.DrainAt = r.times.due.UTC(), r.times.degrade.UTC(), r.times.drain.UTC()
	p := r.times.phase(at)
	if p == onTime || i.Stage == stageStopping {
		return i
	}
	i.Reason = because(r.times.text(p), i.Reason)
	if p == isDrained || i.Stage != stageDisconnected {
		i.Stage = p.String()
	}
	return i
}
