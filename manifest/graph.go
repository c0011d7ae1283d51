package manifest

import (
	"fmt"
	"strings"
)

// Edge is one call that the manifest allows. What is no edge is refused.
type Edge struct {
	From     string   `json:"from"`
	To       string   `json:"to"`
	Port     string   `json:"port"`   // the callee's port name
	Number   uint16   `json:"number"` // and number
	Listen   uint16   `json:"listen"` // loopback port on which the caller reaches it
	Protocol Protocol `json:"protocol"`
	Routes   []string `json:"routes,omitempty"` // HTTP only; nil allows all
	Line     int      `json:"line,omitempty"`   // of the manifest that grants it; 0 if m was not made by Parse

	index int // among the caller's calls
}

// String returns the edge as "web → cart:http".
func (e Edge) String() string { return e.From + " → " + e.To + ":" + e.Port }

// Edges returns every allowed call, ordered by caller and then as listed.
func Edges(m *Manifest) []Edge { return edges(m, m.callLines) }

func edges(m *Manifest, lines map[string][]int) []Edge {
	var all []Edge
	for _, from := range sortedKeys(m.Marbles) {
		for i, call := range m.Marbles[from].Calls {
			port, ok := m.Marbles[call.Marble].Serves[call.Port]
			if !ok {
				continue
			}
			e := Edge{From: from, To: call.Marble, Port: call.Port, Number: port.Port, Listen: call.Listen, Protocol: port.Protocol, Routes: call.Routes, index: i}
			if at := lines[from]; i < len(at) {
				e.Line = at[i]
			}
			all = append(all, e)
		}
	}
	return all
}

// WhoCan returns the edges that lead to a marble and those that leave it.
func WhoCan(m *Manifest, marble string) (callers, callees []Edge) {
	for _, e := range Edges(m) {
		if e.To == marble {
			callers = append(callers, e)
		}
		if e.From == marble {
			callees = append(callees, e)
		}
	}
	return callers, callees
}

// Reach returns a shortest chain of calls from one marble to another, or nil if
// there is none. A marble reaches itself only through others.
func Reach(m *Manifest, from, to string) []Edge {
	return newGraph(m, Edges(m)).route(from, to)
}

// graph answers which marbles traffic from one can reach.
type graph struct {
	index map[string]int
	out   [][]int // by marble: edges that leave it
	edges []Edge
	to    []int // by edge: the callee's index

	from string // whose reach is in via
	via  []int  // by marble: the edge by which from first reaches it; -1 for none
	skip string // a marble to which from does not go directly; "" for none
}

func newGraph(m *Manifest, edges []Edge) *graph {
	g := &graph{index: make(map[string]int, len(m.Marbles)), edges: edges, out: make([][]int, len(m.Marbles))}
	for i, name := range sortedKeys(m.Marbles) {
		g.index[name] = i
	}
	g.to = make([]int, len(g.edges))
	for i, e := range g.edges {
		g.to[i] = g.index[e.To]
		g.out[g.index[e.From]] = append(g.out[g.index[e.From]], i)
	}
	return g
}

// route searches breadth first; the search from one marble is kept for the next
// question.
func (g *graph) route(from, to string) []Edge {
	start, ok := g.index[from]
	if _, known := g.index[to]; !ok || !known {
		return nil
	}
	if g.via == nil || g.from != from {
		g.search(start)
		g.from = from
	}
	var back []Edge
	for at := g.index[to]; ; {
		e := g.via[at]
		if e < 0 {
			return nil
		}
		back = append(back, g.edges[e])
		if g.edges[e].From == from {
			break
		}
		at = g.index[g.edges[e].From]
	}
	for i, j := 0, len(back)-1; i < j; i, j = i+1, j-1 {
		back[i], back[j] = back[j], back[i]
	}
	return back
}

// through is route without the calls that lead from one to the other directly.
func (g *graph) through(from, to string) []Edge {
	g.via, g.skip = nil, to
	defer func() { g.via, g.skip = nil, "" }()
	return g.route(from, to)
}

func (g *graph) search(start int) {
	g.via = make([]int, len(g.out))
	for i := range g.via {
		g.via[i] = -1
	}
	for queue := []int{start}; len(queue) > 0; queue = queue[1:] {
		for _, e := range g.out[queue[0]] {
			if to := g.to[e]; g.via[to] < 0 && (queue[0] != start || g.edges[e].To != g.skip) {
				g.via[to] = e
				if to != start {
					queue = append(queue, to)
				}
			}
		}
	}
}

// missing says how far traffic gets instead.
func (g *graph) missing(from, to string) string {
	if len(g.out[g.index[from]]) == 0 {
		return fmt.Sprintf("%s calls nobody; add a call to marbles.%s", from, from)
	}
	for _, e := range g.edges {
		if e.To == to {
			return fmt.Sprintf("%s is called by %s (line %d)", to, e.From, e.Line)
		}
	}
	return fmt.Sprintf("nobody calls %s", to)
}

// words returns a chain as "web → cart (line 41) → db (line 50)".
func words(route []Edge) string {
	var b strings.Builder
	for i, e := range route {
		if i == 0 {
			b.WriteString(e.From)
		}
		if i == 8 && len(route) > 10 {
			fmt.Fprintf(&b, " → … → %s", route[len(route)-1].To)
			break
		}
		fmt.Fprintf(&b, " → %s", e.To)
		if e.Line > 0 {
			fmt.Fprintf(&b, " (line %d)", e.Line)
		}
	}
	return b.String()
}
