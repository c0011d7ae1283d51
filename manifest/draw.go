package manifest

import (
	"fmt"
	"html"
	"strings"
)

// GraphFormats are what Graph can draw.
var GraphFormats = []string{"text", "mermaid", "dot", "svg"}

// Graph draws who may call whom, as text, Mermaid, Graphviz DOT or SVG. The
// same manifest gives the same bytes. The SVG holds no script, follows the
// reader's choice of light or dark, and can stand alone or in a page.
func Graph(m *Manifest, format string) (string, error) {
	switch format {
	case "text":
		return graphText(m), nil
	case "mermaid":
		return graphMermaid(m), nil
	case "dot":
		return graphDOT(m), nil
	case "svg":
		return graphSVG(m), nil
	}
	return "", fmt.Errorf("graph format %q is none of %s", format, strings.Join(GraphFormats, ", "))
}

// label says what of a port an edge grants: "http GET /items/*".
func (e Edge) label() string {
	s := e.Port
	if len(e.Routes) > 0 {
		s += " " + strings.Join(e.Routes, ", ")
	}
	return s
}

func graphText(m *Manifest) string {
	var b strings.Builder
	wFrom, wTo := len("FROM"), len("TO")
	all := Edges(m)
	for _, e := range all {
		wFrom, wTo = max(wFrom, len(e.From)), max(wTo, len(e.To))
	}
	fmt.Fprintf(&b, "%-*s  %-*s  %-5s  %-4s  %s\n", wFrom, "FROM", wTo, "TO", "PORT", "LINE", "WHAT")
	silent := make(map[string]bool, len(m.Marbles))
	for name := range m.Marbles {
		silent[name] = true
	}
	for _, e := range all {
		silent[e.From], silent[e.To] = false, false
		fmt.Fprintf(&b, "%-*s  %-*s  %-5d  %-4d  %s %s\n", wFrom, e.From, wTo, e.To, e.Number, e.Line, e.Protocol, e.label())
	}
	for _, name := range MarbleNames(m) {
		if silent[name] {
			fmt.Fprintf(&b, "%-*s  -\n", wFrom, name)
		}
	}
	return b.String()
}

func graphMermaid(m *Manifest) string {
	var b strings.Builder
	ids := make(map[string]string, len(m.Marbles))
	b.WriteString("flowchart LR\n")
	for i, name := range MarbleNames(m) {
		ids[name] = fmt.Sprintf("m%d", i)
		fmt.Fprintf(&b, "  %s[\"%s\"]\n", ids[name], name)
	}
	for _, e := range Edges(m) {
		fmt.Fprintf(&b, "  %s -->|\"%s\"| %s\n", ids[e.From], mermaidText(e.label()), ids[e.To])
	}
	return b.String()
}

func mermaidText(s string) string {
	return strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;").Replace(s)
}

func graphDOT(m *Manifest) string {
	var b strings.Builder
	b.WriteString("digraph mesh {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n")
	for _, name := range MarbleNames(m) {
		fmt.Fprintf(&b, "  %s;\n", dotText(name))
	}
	for _, e := range Edges(m) {
		fmt.Fprintf(&b, "  %s -> %s [label=%s];\n", dotText(e.From), dotText(e.To), dotText(e.label()))
	}
	b.WriteString("}\n")
	return b.String()
}

func dotText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Sizes of the drawing, in pixels.
const (
	boxHeight  = 34
	rowHeight  = 58
	columnGap  = 110
	letter     = 8
	drawMargin = 20
)

// box is a marble's place in the drawing.
type box struct{ x, y, width int }

// columns gives each marble the length of the longest chain of calls that leads
// to it from one that nobody calls. Calls that close a cycle are left out.
func (g *graph) columns() []int {
	column := make([]int, len(g.out))
	const unseen, open, finished = 0, 1, 2
	state := make([]int, len(g.out))
	called := make([]bool, len(g.out))
	for _, to := range g.to {
		called[to] = true
	}
	var order []int // callees before callers
	back := make([]bool, len(g.edges))
	var visit func(v int)
	visit = func(v int) {
		state[v] = open
		for _, e := range g.out[v] {
			switch state[g.to[e]] {
			case open:
				back[e] = true
			case unseen:
				visit(g.to[e])
			}
		}
		state[v] = finished
		order = append(order, v)
	}
	for _, roots := range []bool{true, false} {
		for v := range g.out {
			if state[v] == unseen && called[v] != roots {
				visit(v)
			}
		}
	}
	for i := len(order) - 1; i >= 0; i-- {
		for _, e := range g.out[order[i]] {
			if !back[e] {
				column[g.to[e]] = max(column[g.to[e]], column[order[i]]+1)
			}
		}
	}
	return column
}

// layout places the marbles, column by column and by name within.
func (g *graph) layout(names []string) (boxes []box, width, height int) {
	column := g.columns()
	widths, rows := make([]int, len(names)+1), make([]int, len(names)+1)
	for i, name := range names {
		widths[column[i]] = max(widths[column[i]], letter*len(name)+2*letter)
	}
	left := make([]int, len(names)+1)
	left[0] = drawMargin
	for c := 0; c < len(names); c++ {
		left[c+1] = left[c] + widths[c]
		if widths[c] > 0 {
			left[c+1] += columnGap
		}
	}
	boxes = make([]box, len(names))
	for i := range names {
		c := column[i]
		boxes[i] = box{x: left[c], y: drawMargin + rowHeight*rows[c], width: widths[c]}
		rows[c]++
		width = max(width, left[c]+widths[c]+drawMargin)
		height = max(height, boxes[i].y+boxHeight+drawMargin)
	}
	return boxes, width, height
}

const svgStyle = `text{font:13px ui-monospace,monospace;fill:#1b1f24}.box{fill:#f6f8fa;stroke:#57606a}.edge{fill:none;stroke:#57606a}.head{fill:#57606a}` +
	`@media(prefers-color-scheme:dark){text{fill:#e6edf3}.box{fill:#161b22;stroke:#8b949e}.edge{stroke:#8b949e}.head{fill:#8b949e}}`

func graphSVG(m *Manifest) string {
	names := MarbleNames(m)
	g := newGraph(m, Edges(m))
	boxes, width, height := g.layout(names)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="who may call whom"><style>%s</style>`, width, height, width, height, svgStyle)
	b.WriteString(`<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>` + "\n")
	for i, e := range g.edges {
		from, to := boxes[g.index[e.From]], boxes[g.to[i]]
		x1, y1, x2, y2 := from.x+from.width, from.y+boxHeight/2, to.x, to.y+boxHeight/2
		bend := max(columnGap/2, (x2-x1)/2)
		if x2 <= x1 { // backwards: leave and arrive below the boxes
			x1, y1, x2, y2 = from.x+from.width/2, from.y+boxHeight, to.x+to.width/2, to.y+boxHeight
			fmt.Fprintf(&b, `<path class="edge" marker-end="url(#head)" d="M%d %dC%d %d %d %d %d %d">`, x1, y1, x1, y1+rowHeight/2, x2, y2+rowHeight/2, x2, y2)
		} else {
			fmt.Fprintf(&b, `<path class="edge" marker-end="url(#head)" d="M%d %dC%d %d %d %d %d %d">`, x1, y1, x1+bend, y1, x2-bend, y2, x2, y2)
		}
		fmt.Fprintf(&b, "<title>%s</title></path>\n", html.EscapeString(e.title()))
	}
	for i, name := range names {
		r := boxes[i]
		fmt.Fprintf(&b, `<rect class="box" x="%d" y="%d" width="%d" height="%d" rx="6"/><text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n",
			r.x, r.y, r.width, boxHeight, r.x+r.width/2, r.y+boxHeight/2+4, html.EscapeString(name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (e Edge) title() string {
	s := e.From + " → " + e.To + ": " + e.label()
	if e.Line > 0 {
		s += fmt.Sprintf(" (line %d)", e.Line)
	}
	return s
}
