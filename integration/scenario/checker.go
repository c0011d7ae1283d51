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

// phase is a stretch of time with the same rules in force. Until it has settled,
// those before it are in force as well.
type phase struct {
	from, settled time.Time
	rules         rules
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
	counts  [4]int
	wrong   []outcome            // at most maxWrong
	last    map[string]time.Time // by caller: the end of the newest request that passed
	refused int
}

const maxWrong = 20

func newChecker(first rules) *checker {
	return &checker{phases: []phase{{rules: first}}, last: map[string]time.Time{}}
}

// change begins a transition to other rules; the returned function ends it.
func (c *checker) change(next rules) (settled func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phases = append(c.phases, phase{from: time.Now(), rules: next})
	i := len(c.phases) - 1
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.phases[i].settled = time.Now()
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
	allowed := c.answers(o)
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

// answers gives what the rules of each phase say that was in force between the
// outcome's beginning and its end.
func (c *checker) answers(o outcome) []bool {
	var all []bool
	for i, p := range c.phases {
		over := i+1 < len(c.phases) && !c.phases[i+1].settled.IsZero() && !c.phases[i+1].settled.After(o.began)
		if !p.from.After(o.ended) && !over {
			all = append(all, p.rules[o.ask])
		}
	}
	return all
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
