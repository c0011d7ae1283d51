package coordinator

import (
	"container/heap"
	"time"

	"github.com/ashlar-mesh/ashlar/manifest"
)

// phase says how far an instance is on the way from a renewal that was due to
// losing its identity. The way leads forward only; a renewal begins anew.
type phase int

const (
	onTime     phase = iota // its renewal is not due, or has not been for long
	isDegraded              // is shown
	isDrained               // gets no new requests
	isCut                   // has no identity
)

var phaseNames = [...]string{onTime: "", isDegraded: "degraded", isDrained: "drained", isCut: "cut"}

// String returns the phase as a stage of a marble has it; "" for onTime.
func (p phase) String() string { return phaseNames[p] }

// lapse is when an instance whose renewals fail enters each phase. The moments
// are in order, and none is after the end of the lease.
type lapse struct{ due, degrade, drain, cut time.Time }

// leastCut is how long after a renewal was due the identity ends at the earliest.
const leastCut = time.Second

// lapseOf computes the moments for a renewal that is due at one time and a lease
// that would end at another. The cut is on a whole second, as the end of the leaf
// is.
func lapseOf(due, end time.Time, r manifest.Renewal) lapse {
	left := end.Sub(due)
	l := lapse{due: due, degrade: due.Add(left / 4), drain: due.Add(left * 3 / 4), cut: end}
	if r.CutAfter > 0 {
		after := max(leastCut, time.Duration(r.CutAfter))
		l.cut = earlier(end, due.Add(after+time.Second-1).Truncate(time.Second))
	}
	if r.DrainAfter > 0 {
		l.drain = due.Add(time.Duration(r.DrainAfter))
	}
	if r.DegradeAfter > 0 {
		l.degrade = due.Add(time.Duration(r.DegradeAfter))
	}
	l.drain = earlier(l.drain, l.cut)
	l.degrade = earlier(l.degrade, l.drain)
	return l
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// phase returns the phase at a time.
func (l lapse) phase(at time.Time) phase {
	switch {
	case !at.Before(l.cut):
		return isCut
	case !at.Before(l.drain):
		return isDrained
	case !at.Before(l.degrade):
		return isDegraded
	}
	return onTime
}

// next returns when the phase after p begins; false after the last.
func (l lapse) next(p phase) (time.Time, bool) {
	switch p {
	case onTime:
		return l.degrade, true
	case isDegraded:
		return l.drain, true
	case isDrained:
		return l.cut, true
	}
	return time.Time{}, false
}

// lapse returns the moments of an instance. Records of earlier releases have
// none: the usual ones hold.
func (r instanceRecord) lapse() lapse {
	if r.DrainAt.IsZero() {
		due := r.RenewAfter
		if due.IsZero() {
			due = r.NotAfter
		}
		return lapseOf(due, r.NotAfter, manifest.Renewal{})
	}
	return lapse{due: r.RenewAfter, degrade: r.DegradeAt, drain: r.DrainAt, cut: r.NotAfter}
}

// moment is when an instance enters its next phase, unless it has another leaf
// by then.
type moment struct {
	at          time.Time
	key, serial string
}

// timeline holds what is to come, the earliest first. What a renewal made void
// stays until its time: at most one entry for each renewal of a lease's life.
type timeline []moment

func (t timeline) Len() int           { return len(t) }
func (t timeline) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timeline) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push implements heap.Interface.
func (t *timeline) Push(x any) { *t = append(*t, x.(moment)) }

// Pop implements heap.Interface.
func (t *timeline) Pop() any {
	last := len(*t) - 1
	m := (*t)[last]
	(*t)[last] = moment{}
	*t = (*t)[:last]
	return m
}

func (t *timeline) add(m moment) { heap.Push(t, m) }

// due takes out the first entry if its time has come.
func (t *timeline) due(at time.Time) (moment, bool) {
	if len(*t) == 0 || at.Before((*t)[0].at) {
		return moment{}, false
	}
	return heap.Pop(t).(moment), true
}
