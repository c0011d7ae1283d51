package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// calls are all calls that lead somewhere, ordered by caller and then as listed.
func (a *asker) calls() []Edge { return a.graph().edges }

// graph is made once.
func (a *asker) graph() *graph {
	if a.calling == nil {
		a.calling = newGraph(a.m, edges(a.m, callLines(a.lines, a.root)))
	}
	return a.calling
}

// terms are on what terms a call is allowed.
func (e Edge) terms() string {
	text := fmt.Sprintf("port %d, %s", e.Number, e.Protocol)
	if e.Protocol != HTTP {
		return text
	}
	if len(e.Routes) == 0 {
		return text + ", every request"
	}
	return text + ", " + strings.Join(e.Routes, ", ")
}

func (e Edge) place() place { return place{"marbles", e.From, "calls", e.index} }

func (a *asker) hop(e Edge) {
	a.fact(Fact{Kind: FactCalls, Subject: e.From, Object: e.To + ":" + e.Port, Text: e.terms()}, e.place())
}

// callers tells who can call a marble, and who reaches it through those.
func (a *asker) callers(names []string) string {
	to := names[0]
	var direct []string
	into := make(map[string][]Edge)
	for _, e := range a.calls() {
		into[e.To] = append(into[e.To], e)
		if e.To == to {
			a.hop(e)
			direct = append(direct, e.From)
		}
	}
	through := a.spread(to, func(at string) []Edge { return into[at] }, func(e Edge) string { return e.From })
	far := 0
	for _, w := range through {
		if w.hops > 1 && w.marble != to {
			far++
			a.fact(Fact{Kind: FactReaches, Subject: w.marble, Object: to, Text: fmt.Sprintf("through %s, %d hops", w.by.To, w.hops)}, w.by.place())
		}
	}
	return fmt.Sprintf("%s can call %s%s", some(slices.Compact(direct)), to, alsoThrough(far, "reaches", "reach"))
}

// callees tells whom a marble can call, and whom it reaches through those.
func (a *asker) callees(names []string) string {
	from := names[0]
	var direct []string
	out := make(map[string][]Edge)
	for _, e := range a.calls() {
		out[e.From] = append(out[e.From], e)
		if e.From == from {
			a.hop(e)
			direct = append(direct, e.To)
		}
	}
	slices.Sort(direct)
	through := a.spread(from, func(at string) []Edge { return out[at] }, func(e Edge) string { return e.To })
	far := 0
	for _, w := range through {
		if w.hops > 1 && w.marble != from {
			far++
			a.fact(Fact{Kind: FactReaches, Subject: from, Object: w.marble, Text: fmt.Sprintf("through %s, %d hops", w.by.From, w.hops)}, w.by.place())
		}
	}
	return fmt.Sprintf("%s can call %s%s", from, some(slices.Compact(direct)), alsoThrough(far, "is reached", "are reached"))
}

func alsoThrough(n int, one, many string) string {
	switch n {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("; 1 more %s through others", one)
	}
	return fmt.Sprintf("; %d more %s through others", n, many)
}

// way is how a marble is reached in a search: in so many hops, the last of them
// by this call.
type way struct {
	marble string
	hops   int
	by     Edge
}

// spread searches breadth first and returns what it reaches, nearest first.
func (a *asker) spread(start string, next func(string) []Edge, end func(Edge) string) []way {
	var all []way
	seen := map[string]bool{start: true}
	queue := []way{{marble: start}}
	for ; len(queue) > 0; queue = queue[1:] {
		for _, e := range next(queue[0].marble) {
			to := end(e)
			if seen[to] {
				continue
			}
			seen[to] = true
			w := way{to, queue[0].hops + 1, e}
			all = append(all, w)
			queue = append(queue, w)
		}
	}
	return all
}

// reaches judges whether traffic that begins at one marble can arrive at
// another: directly, or by a shortest chain. A marble reaches itself only
// through others.
func (a *asker) reaches(names []string) (bool, string) {
	if yes, why := a.reachesDirectly(names); yes {
		return true, why
	}
	return a.chain(names, a.graph().route(names[0], names[1]))
}

func (a *asker) reachesDirectly(names []string) (bool, string) {
	from, to := names[0], names[1]
	g, found := a.graph(), false
	for _, i := range g.out[g.index[from]] {
		if e := g.edges[i]; e.To == to {
			a.hop(e)
			found = true
		}
	}
	if found {
		return true, fmt.Sprintf("%s calls %s", from, to)
	}
	return false, fmt.Sprintf("%s does not call %s", from, to)
}

// reachesThrough judges whether there is a chain with another marble between.
func (a *asker) reachesThrough(names []string) (bool, string) {
	return a.chain(names, a.graph().through(names[0], names[1]))
}

// chain tells of a chain of calls; nil is none.
func (a *asker) chain(names []string, route []Edge) (bool, string) {
	if route == nil {
		return false, fmt.Sprintf("no chain of calls leads from %s to %s", names[0], names[1])
	}
	for _, e := range route {
		a.hop(e)
	}
	return true, words(route)
}
