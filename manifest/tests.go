package manifest

import (
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// String returns what the test states: "web must not reach db", or the question
// and its answer.
func (t Test) String() string {
	switch {
	case t.Ask != "" && t.Allow:
		return t.Ask + ": yes"
	case t.Ask != "":
		return t.Ask + ": no"
	case t.Allow:
		return t.From + " must reach " + t.To
	}
	return t.From + " must not reach " + t.To
}

// tests runs the manifest's own tests. Where a call leads nowhere, a chain that is
// missing says nothing.
func (c *checker) tests() {
	if n := c.root.Member("marbles"); n != nil && len(c.m.Marbles) > 1 && !c.bad[n.Value] && !anyCalls(n.Value) {
		c.report((*path)(nil).member("marbles"), keySpan(n), finding{code: "MAN-031", warning: true,
			message: "nothing may talk to anything yet", suggest: fmt.Sprintf("add \"calls\" to marbles.%s", n.Value.Members[0].Key)})
	}
	n := c.root.Get("tests")
	if n == nil || c.bad[n] {
		return
	}
	a := newAsker(c.m, c.root, c.lines)
	for i, t := range c.m.Tests {
		if c.full {
			return
		}
		item := n.Items[i]
		if c.bad[item] || c.incomplete(item) || item.Get("allow") == nil {
			continue
		}
		at := (*path)(nil).member("tests").item(i)
		switch {
		case item.Get("ask") != nil:
			c.askTest(a, item, at, t)
		case c.wholeTest(item, at) && c.testNames(item, at, t):
			c.reachTest(a.graph(), item, at, t)
		}
	}
}

// wholeTest reports what is missing of a test that asks no question.
func (c *checker) wholeTest(item *jsonpos.Node, at *path) bool {
	for _, key := range []string{"from", "to"} {
		if item.Get(key) == nil {
			c.report(at, span{item.Start, item.Start + 1}, finding{code: "MAN-005", message: fmt.Sprintf("field %q is missing", key), suggest: `give "from" and "to", or "ask"`})
			return false
		}
	}
	return true
}

func (c *checker) reachTest(g *graph, item *jsonpos.Node, at *path, t Test) {
	route := g.route(t.From, t.To)
	switch {
	case t.Allow && route == nil && !c.broken:
		c.report(at, spanOf(item), finding{code: "MAN-040", message: fmt.Sprintf("test failed: %s, but no chain of calls leads there", t), suggest: g.missing(t.From, t.To)})
	case !t.Allow && route != nil:
		c.report(at, spanOf(item), finding{code: "MAN-040", message: fmt.Sprintf("test failed: %s, but it does: %s", t, words(route))})
	}
}

// askTest runs a test that asks a question.
func (c *checker) askTest(a *asker, item *jsonpos.Node, at *path, t Test) {
	for _, key := range []string{"from", "to"} {
		if m := item.Member(key); m != nil {
			c.report(at.member(key), keySpan(m), finding{code: "MAN-063", message: fmt.Sprintf("a test with \"ask\" has no %q", key)})
			return
		}
	}
	f, names, err := understand(t.Ask)
	if err == nil && f.judge == nil {
		err = problem.New("MAN-062", "%q is not answered by yes or no", printable(clip(t.Ask)))
	}
	var answer Answer
	if err == nil {
		a.quiet = true
		answer, err = a.answer(f, names, nil)
		a.quiet = false
	}
	var refused *problem.Error
	if errors.As(err, &refused) {
		c.report(at.member("ask"), spanOf(item.Get("ask")), finding{code: refused.Code, message: refused.Detail, suggest: refused.Next})
		return
	}
	if *answer.Yes == t.Allow || c.broken && !*answer.Yes {
		return
	}
	answer, _ = a.answer(f, names, nil)
	c.report(at, spanOf(item), finding{code: "MAN-040", message: fmt.Sprintf("test failed: want %s, but %s", t, answer.Summary), suggest: granted(answer)})
}

// granted names the lines that make an answer.
func granted(answer Answer) string {
	text := ""
	for _, f := range answer.Facts {
		for _, g := range f.Grants {
			if len(text) < 200 && g.Line > 0 {
				text += fmt.Sprintf(", line %d (%s)", g.Line, g.Path)
			}
		}
	}
	if text == "" {
		return ""
	}
	return "granted by" + text[1:]
}

func (c *checker) testNames(item *jsonpos.Node, at *path, t Test) bool {
	known := true
	for _, end := range []struct{ key, name string }{{"from", t.From}, {"to", t.To}} {
		if _, ok := c.m.Marbles[end.name]; ok {
			continue
		}
		known = false
		if n := item.Get(end.key); n != nil {
			c.noSuch("MAN-017", at.member(end.key), n, fmt.Sprintf("the test names %q, which is no marble", end.name), c.marbleNames)
		}
	}
	return known
}

func anyCalls(marbles *jsonpos.Node) bool {
	for _, m := range marbles.Members {
		if calls := m.Value.Get("calls"); calls != nil && len(calls.Items) > 0 {
			return true
		}
	}
	return false
}
