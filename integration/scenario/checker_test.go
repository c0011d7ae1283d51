package main

import (
	"testing"
	"time"
)

// at is a moment, in seconds.
func at(s int) time.Time { return time.Unix(int64(1_000_000+s), 0) }

func TestChecker(t *testing.T) {
	open, shut := ask{from: "a", to: "b", route: "GET /open"}, ask{from: "a", to: "b", route: "GET /closed"}
	always := ask{from: "a", to: "c", route: "GET /open"}
	c := &checker{
		phases: []phase{{rules: rules{open: true, always: true}}, {at(100), at(110), rules{shut: true, always: true}}},
	}
	for _, tt := range []struct {
		name         string
		ask          ask
		began, ended int
		passed       bool
		want         judgement
	}{
		{"allowed before", open, 10, 11, true, right},
		{"allowed before, and refused", open, 10, 11, false, failedAllowed},
		{"forbidden before", shut, 10, 11, false, right},
		{"forbidden before, and passed", shut, 10, 11, true, passedForbidden},
		{"begun before the change", open, 99, 101, false, between},
		{"while it takes effect", open, 105, 106, true, between},
		{"new rule while it takes effect", shut, 105, 106, false, between},
		{"what both allow, while it takes effect", always, 105, 106, false, failedAllowed},
		{"what neither allows, while it takes effect", ask{from: "c", to: "a"}, 105, 106, true, passedForbidden},
		{"begun while it took effect", open, 109, 111, true, between},
		{"withdrawn", open, 110, 111, true, passedForbidden},
		{"withdrawn, refused", open, 111, 112, false, right},
		{"granted", shut, 111, 112, true, right},
		{"granted, refused", shut, 111, 112, false, failedAllowed},
	} {
		got := c.judge(outcome{ask: tt.ask, began: at(tt.began), ended: at(tt.ended), passed: tt.passed})
		if got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
	c.phases[1].settled = time.Time{} // has not taken effect yet
	if got := c.judge(outcome{ask: open, began: at(500), ended: at(501), passed: true}); got != between {
		t.Errorf("not in effect yet: got %d, want %d", got, between)
	}
}

func TestCheckerCounts(t *testing.T) {
	a, b := ask{from: "a", to: "b"}, ask{from: "b", to: "a"}
	c := newChecker(rules{a: true})
	now := time.Now()
	c.note(outcome{ask: a, began: now, ended: now, passed: true})
	c.note(outcome{ask: b, began: now, ended: now})
	for range maxWrong + 5 {
		c.note(outcome{ask: b, began: now, ended: now, passed: true})
	}
	settled := c.change(rules{b: true})
	settled()
	later := time.Now().Add(time.Second)
	c.note(outcome{ask: a, began: later, ended: later})
	c.note(outcome{ask: b, began: later, ended: later})
	counts, refused, wrong := c.totals()
	if counts != [4]int{right: 3, failedAllowed: 1, passedForbidden: maxWrong + 5} || refused != 3 || len(wrong) != maxWrong {
		t.Errorf("got %v, %d refused, %d wrong", counts, refused, len(wrong))
	}
}
