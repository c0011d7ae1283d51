// Package alarm waits for moments of a clock that may jump: when a machine was
// suspended or migrated, or its clock was set, a timer still waits for what was
// left before. An Alarm looks at the clock again every now and then.
//
// It owns no goroutine and decides nothing about what is due.
package alarm

import "time"

// Look is how often an Alarm looks at the clock unless told otherwise.
const Look = 15 * time.Second

// Alarm rings when its clock reaches a moment, at the latest one look after it
// jumped over it. It belongs to one goroutine, as a time.Timer does.
type Alarm struct {
	now   func() time.Time
	look  time.Duration
	timer *time.Timer
	at    time.Time
}

// New returns an alarm that is not set. A look of zero is Look.
func New(now func() time.Time, look time.Duration) *Alarm {
	if look <= 0 {
		look = Look
	}
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &Alarm{now: now, look: look, timer: t}
}

// Set lets the alarm ring at a moment; one that has passed is now.
func (a *Alarm) Set(at time.Time) {
	a.at = at
	a.timer.Reset(min(max(0, at.Sub(a.now())), a.look))
}

// In lets the alarm ring after a time by its clock.
func (a *Alarm) In(d time.Duration) { a.Set(a.now().Add(d)) }

// Stop lets it ring no more until it is set again.
func (a *Alarm) Stop() { a.timer.Stop() }

// C gives a value at each look. Whether it rings, Ringing says.
func (a *Alarm) C() <-chan time.Time { return a.timer.C }

// Ringing is called for each value of C: it reports whether the moment has come,
// and else waits on.
func (a *Alarm) Ringing() bool {
	if a.now().Before(a.at) {
		a.Set(a.at)
		return false
	}
	return true
}
