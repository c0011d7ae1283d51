package audit

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// What callers without an identity may add to the log: this many records a
// minute and a day. All further ones of a minute become one record.
const (
	anonymousPerMinute = 30
	anonymousPerDay    = 1000
)

// What each user may add by being refused. maxRefusedUsers bounds those that are
// counted; then all begin anew.
const (
	userPerMinute   = 100
	userPerDay      = 5000
	maxRefusedUsers = 4096
)

// gate counts the records of callers without an identity, and of users who are
// refused.
type gate struct {
	mu         sync.Mutex // guards all fields
	all        quota
	users      map[string]*quota // by name
	suppressed map[Kind]int      // since the last record about them
	since      time.Time         // of the first suppressed one
}

// quota is what somebody has added lately.
type quota struct{ minute, day window }

// take reports whether one more may be added now, and counts it if so.
func (q *quota) take(at time.Time, perMinute, perDay int) bool {
	q.minute.roll(at, time.Minute)
	q.day.roll(at, 24*time.Hour)
	if q.minute.count >= perMinute || q.day.count >= perDay {
		return false
	}
	q.minute.count++
	q.day.count++
	return true
}

// window is a fixed stretch of time and what happened in it.
type window struct {
	start time.Time
	count int
}

// roll starts the window anew when at lies outside it; a clock that was put
// back counts as outside.
func (w *window) roll(at time.Time, length time.Duration) {
	if at.Before(w.start) || at.Sub(w.start) >= length {
		*w = window{start: at}
	}
}

// Admit says whether a record about a caller without an identity may be
// appended now. If not, it is counted, and a later Flush records the count.
// Counts that were not flushed are lost with the process.
func (l *Log) Admit(kind Kind, at time.Time) bool {
	g := &l.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all.take(at, anonymousPerMinute, anonymousPerDay) || g.suppress(kind, at)
}

// AdmitUser is Admit for a record that a user was refused.
func (l *Log) AdmitUser(kind Kind, user string, at time.Time) bool {
	g := &l.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.users[user]
	if q == nil {
		if g.users == nil || len(g.users) >= maxRefusedUsers {
			g.users = map[string]*quota{}
		}
		q = &quota{}
		g.users[user] = q
	}
	return q.take(at, userPerMinute, userPerDay) || g.suppress(kind, at)
}

// suppress counts a record that is not appended; it returns false. The caller
// holds mu.
func (g *gate) suppress(kind Kind, at time.Time) bool {
	if g.suppressed == nil {
		g.suppressed = map[Kind]int{}
		g.since = at
	}
	g.suppressed[kind]++
	return false
}

// AppendAnonymous appends r in an Update of its own if Admit lets it through.
func (l *Log) AppendAnonymous(ctx context.Context, r Record) error {
	if !l.Admit(r.Kind, r.Time) {
		return nil
	}
	return l.store.Update(ctx, func(tx *store.Tx) error {
		_, err := l.Append(tx, r)
		return err
	})
}

// Flush appends one record that counts what Admit has turned away, if anything
// was and a minute has passed since. Call it every minute, and with final set
// before the store is closed.
func (l *Log) Flush(ctx context.Context, at time.Time, final bool) error {
	g := &l.gate
	g.mu.Lock()
	counts, since := g.suppressed, g.since
	if counts == nil || !final && at.Sub(since) < time.Minute && !at.Before(since) {
		g.mu.Unlock()
		return nil
	}
	g.suppressed = nil
	g.mu.Unlock()

	r := Record{Time: at, Kind: Suppressed, Details: map[string]string{"since": since.UTC().Format(time.RFC3339)}}
	total := 0
	for kind, n := range counts {
		r.Details[string(kind)] = strconv.Itoa(n)
		total += n
	}
	r.Text = fmt.Sprintf("%d more refusals, of callers without an identity or of users who are refused all the time", total)
	err := l.store.Update(ctx, func(tx *store.Tx) error {
		_, err := l.Append(tx, r)
		return err
	})
	if err != nil {
		g.restore(counts, since)
	}
	return err
}

// restore puts back counts that could not be recorded.
func (g *gate) restore(counts map[Kind]int, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for kind, n := range g.suppressed {
		counts[kind] += n
	}
	g.suppressed, g.since = counts, since
}
