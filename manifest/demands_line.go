package manifest

import (
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// locator finds the lines of changes in a document. Entries are indexed when the
// first change in one of them is looked for.
type locator struct {
	lines *jsonpos.Lines
	root  *jsonpos.Node
	known map[string]int  // by path as Change writes it
	done  map[string]bool // sections that are in known
}

func newLocator(m *Manifest) *locator {
	l := &locator{known: make(map[string]int), done: make(map[string]bool)}
	if m.raw != nil {
		a := read(m)
		l.root, l.lines = a.root, a.lines
	}
	return l
}

// line returns where a change stands, or what it stands in; 0 where the
// document says it by leaving it out.
func (l *locator) line(c Change) int {
	if l.root == nil {
		return 0
	}
	section := c.Path
	if i := strings.IndexAny(section, ".["); i >= 0 {
		section = section[:i]
	}
	if member := l.root.Member(section); member != nil && !l.done[section] {
		l.done[section] = true
		l.index(section, member)
	}
	for _, item := range []string{c.New, c.Old} {
		if line, ok := l.known[c.Path+"["+item+"]"]; ok && item != "" {
			return line
		}
	}
	for path := c.Path; path != ""; {
		if line, ok := l.known[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

func (l *locator) index(path string, m *jsonpos.Member) {
	l.note(path, m.KeyStart)
	var walk func(path string, n *jsonpos.Node)
	walk = func(path string, n *jsonpos.Node) {
		for _, inner := range n.Members {
			here := join(path, inner.Key)
			l.note(here, inner.KeyStart)
			walk(here, inner.Value)
		}
		for _, item := range n.Items {
			id := identity(path, item)
			if id == "" {
				continue
			}
			here := path + "[" + id + "]"
			l.note(here, item.Start)
			l.note(path+"["+shown(path, item)+"]", item.Start)
			walk(here, item)
		}
	}
	walk(path, m.Value)
}

// note keeps the first line of a path.
func (l *locator) note(path string, offset int) {
	if _, known := l.known[path]; !known {
		l.known[path] = l.lines.Line(offset)
	}
}
