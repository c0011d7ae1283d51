package main

import (
	"slices"
	"sync"
	"time"
)

// ask is one kind of request that is made again and again.
type ask struct {
	from, to string
	route    string // "GET /open"
	direct   bool   // to the callee's Envoy, past the caller's own
}

// rules says what a manifest, and what was revoked since, lets pass.
type rules map[ask]bool

// phase is a stretch of time with the same rules in force.
type phase struct {
	from  time.Time
	rules rules
}

// outcome is what became of one request.
type outcome struct {
	ask
	began, ended time.Time
	passed       bool
	why          string // it did not pass
}

// judgement of an outcome.
type judgement int

const (
	right           judgement = iota
	failedAllowed             // every rule of its time lets it pass, and it did not
	passedForbidden           // no rule of its time lets it pass, and it did
	between                   // the rules changed while they took effect: both are right
)

// checker knows which rules were in force at each moment. While a change takes
// effect both old and new rules are; where they agree, so must every request.
type checker struct {
	mu      sync.Mutex // guards what follows
	phases  []phase
	spans   []span
	counts  [4]int
	wrong   []outcome            // at most maxWrong
	last    map[string]time.Time // by caller: the end of the newest request that passed
	refused int
}

// span is a stretch of time in which two phases were in force.
type span struct {
	from, to time.Time
	old, new rules
}

const maxWrong = 20

func newChecker(first rules) *checker {
	return &checker{phases: []phase{{rules: first}}, last: map[string]time.Time{}}
}

// change begins a transition to other rules; the returned function ends it.
func (c *checker) change(next rules) (settled func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	old := c.phases[len(c.phases)-1].rules
	c.phases = append(c.phases, phase{now, next})
	c.spans = append(c.spans, span{from: now, old: old, new: next})
	i := len(c.spans) - 1
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spans[i].to = time.Now()
	}
}

// note judges an outcome and counts it.
func (c *checker) note(o outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.judge(o)
	c.counts[j]++
	if !o.passed {
		c.refused++
	} else if o.ended.After(c.last[o.from]) {
		c.last[o.from] = o.ended
	}
	if (j == failedAllowed || j == passedForbidden) && len(c.wrong) < maxWrong {
		c.wrong = append(c.wrong, o)
	}
}

// judge holds an outcome against all rules that were in force between its
// beginning and its end. The caller holds mu.
func (c *checker) judge(o outcome) judgement {
	allowed := slices.Collect(c.answers(o))
	switch {
	case slices.Contains(allowed, true) && slices.Contains(allowed, false):
		return between
	case allowed[0] && !o.passed:
		return failedAllowed
	case !allowed[0] && o.passed:
		return passedForbidden
	}
	return right
}

// answers gives what each rule of the outcome's time says.
func (c *checker) answers(o outcome) func(yield func(bool) bool) {
	return func(yield func(bool) bool) {
		for i, p := range c.phases {
			last := i == len(c.phases)-1
			if !p.from.After(o.ended) && (last || c.phases[i+1].from.After(o.began)) && !yield(p.rules[o.ask]) {
				return
			}
		}
		for _, s := range c.spans {
			if !s.from.After(o.ended) && (s.to.IsZero() || s.to.After(o.began)) {
				if !yield(s.old[o.ask]) || !yield(s.new[o.ask]) {
					return
				}
			}
		}
	}
}

// lastPassed is when the newest request of a caller that passed had its answer.
func (c *checker) lastPassed(from string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[from]
}

// total is how many requests have ended.
func (c *checker) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[right] + c.counts[failedAllowed] + c.counts[passedForbidden] + c.counts[between]
}

// totals returns the counts, and outcomes that were wrong.
func (c *checker) totals() (counts [4]int, refused int, wrong []outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts, c.refused, slices.Clone(c.wrong)
}
