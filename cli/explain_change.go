package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// located gives changes the line of the manifest that each edits, and the value
// that stands there.
func located(changes []attest.Change, raw []byte) []attest.Change {
	root, faults := jsonpos.Parse(raw, jsonpos.Limits{Depth: 64, Values: manifest.MaxSize})
	if len(changes) == 0 || len(faults) > 0 {
		return changes
	}
	lines := jsonpos.NewLines(raw)
	out := slices.Clone(changes)
	for i := range out {
		c := &out[i]
		at, found := nearestNode(root, c.Path)
		if at != nil {
			c.Line = lines.Line(at.Start)
		}
		if !found && c.Op == "replace" {
			c.Op, c.Old = "add", ""
		}
		if found && at.Kind == jsonpos.Array && c.Op == "replace" && len(at.Items) != 1 {
			c.Op, c.Old = "add", ""
		}
		if found && c.Op == "set" && at.Text != "" {
			c.Old = at.Text
		}
	}
	return out
}

// nearestNode returns the value at a path, or the last one on the way to it.
func nearestNode(n *jsonpos.Node, path string) (*jsonpos.Node, bool) {
	for path != "" {
		m := member(n, path)
		if m == nil {
			return n, false
		}
		n, path = m.Value, strings.TrimPrefix(strings.TrimPrefix(path, m.Key), ".")
	}
	return n, true
}

// member returns the member whose key begins the path: names may hold dots.
func member(n *jsonpos.Node, path string) *jsonpos.Member {
	for i := range n.Members {
		m := &n.Members[i]
		if path == m.Key || strings.HasPrefix(path, m.Key+".") {
			return m
		}
	}
	return nil
}

// packageReport says how near each package of the manifest is.
func (a *app) packageReport(e explained) {
	if e.Nearest == "" {
		return
	}
	a.p.Printf("nearest package: %s, fields that differ: %d\n", e.Nearest, e.Distance)
	rows := [][]string{{"package", "fields that differ"}}
	for _, d := range e.Packages {
		differ := strconv.Itoa(d.Fields)
		if d.Absent {
			differ = "not for " + string(e.TEE)
		}
		rows = append(rows, []string{d.Package, differ})
	}
	if len(e.Packages) > 1 {
		a.p.Columns(rows)
	}
}

// changeReport says which edits of the manifest would accept what is refused.
func (a *app) changeReport(v attest.Verdict, changes []attest.Change, file string) {
	if len(changes) == 0 {
		return
	}
	a.p.Printf("if it is meant to be accepted, the %s changes:\n", attest.ManifestAuthor)
	for _, c := range changes {
		where := ""
		if c.Line > 0 && file != "" {
			where = fmt.Sprintf(" (%s:%d)", file, c.Line)
		}
		a.p.Printf("  in %s%s %s\n", c.Path, where, a.edit(c))
	}
	if rest := unmended(v); rest > 0 {
		a.p.Printf("  and no change of the manifest mends %d more of the checks that do not hold\n", rest)
	}
}

// edit words a change: "replace 5c3f…91ae by 77f9…10c6".
func (a *app) edit(c attest.Change) string {
	switch {
	case c.Op == "replace":
		return "replace " + a.p.Value(c.Old) + " by " + a.p.Value(c.New)
	case c.Op == "set" && c.Old != "":
		return "set " + c.New + " instead of " + c.Old
	case c.Op == "set":
		return "set " + c.New
	}
	if strings.HasPrefix(c.New, "{") {
		return "add " + c.New
	}
	return "add " + a.p.Value(strconv.Quote(c.New))
}

// unmended counts the failed steps that no change of the manifest makes hold;
// those that break "tcb.status" down follow it.
func unmended(v attest.Verdict) int {
	n := 0
	for _, s := range v.Failed() {
		one := v
		one.Steps = []attest.Step{s}
		part := s.Field == "tcb.platform" || s.Field == "tcb.qe" || s.Field == "tcb.module"
		if !part && len(one.Changes()) == 0 {
			n++
		}
	}
	return n
}
