package manifest

import (
	"reflect"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// NotesPath is the path of what has no meaning: "$schema", notes of the document
// itself, and its layout where nothing else changes.
const NotesPath = "notes"

// Demand is a part of the manifest that a revision changes, and who may change
// it.
//
// A part is a field of the document ("approvals"), an entry of a section
// ("packages/web"), or a field of a marble or secret ("marbles/web/calls").
type Demand struct {
	Path string `json:"path"`
	// Rights are the rights to this change, of which one suffices: updateManifest
	// for the path, and after it a narrow one where the change only raises what is
	// demanded of evidence.
	Rights []string `json:"rights"`
	// Least is how many users have to agree at least, whatever the number for the
	// path is. A number in approvals is lowered by as many as it names.
	Least   int      `json:"least,omitempty"`
	Changes []Change `json:"changes"`
}

// Demands returns the parts in which two manifests differ, in the order of the
// document and then by name. Defaults are filled in on both sides, so writing one
// out changes nothing. Notes ($comment) belong to the part that they stand in.
// Where nothing but the layout differs, NotesPath is demanded. A first manifest,
// with old nil, demands nothing.
func Demands(old, new *Manifest) []Demand {
	if old == nil {
		return nil
	}
	was, is := partsOf(old), partsOf(new)
	lines := [2]*locator{newLocator(old), newLocator(new)}
	var all []Demand
	for _, p := range was.paths(is) {
		if d, differs := was.demand(is, p, lines); differs {
			all = append(all, d)
		}
	}
	for i := range all {
		all[i].narrow(old, new)
	}
	if all == nil && old.digest != new.digest {
		all = append(all, newDemand(NotesPath, []Change{{Op: Altered, Path: "", Old: "layout", New: "another layout"}}))
	}
	return all
}

func newDemand(path string, changes []Change) Demand {
	return Demand{Path: path, Rights: []string{UpdateManifest + ":" + path}, Changes: changes}
}

var manifestType = reflect.TypeFor[Manifest]()

// split are the sections whose entries are parts of their own; the type is that
// of entries whose fields are parts again.
var split = map[string]reflect.Type{
	"packages": nil, "platforms": nil, "users": nil, "roles": nil, "witnesses": nil,
	"marbles": reflect.TypeFor[Marble](), "secrets": reflect.TypeFor[Secret](),
}

// parted is a manifest taken apart.
type parted struct {
	values map[string]*jsonpos.Node // by path, without notes
	notes  map[string]string        // by path: notes with their places
	whole  map[string]bool          // marbles and secrets, as "marbles/web"
	order  map[string]int           // of the sections
}

// partsOf takes a manifest apart.
func partsOf(m *Manifest) parted {
	p := parted{values: make(map[string]*jsonpos.Node), notes: make(map[string]string), whole: make(map[string]bool), order: make(map[string]int)}
	for i, name := range fieldsOf(manifestType) {
		p.order[name] = i
	}
	for _, section := range plainTree(m).Members {
		p.section(section, func(path string, n *jsonpos.Node) { p.values[path] = n })
	}
	p.note(NotesPath, m.Schema)
	if m.raw == nil {
		return p
	}
	for _, member := range read(m).root.Members {
		switch member.Key {
		case "$schema":
		case comment:
			p.note(NotesPath, member.Value.Text)
		default:
			p.section(member, func(path string, n *jsonpos.Node) { p.note(path, notesIn(n, "")) })
		}
	}
	return p
}

// note adds a note to a part.
func (p parted) note(path, text string) {
	if text != "" {
		p.notes[path] += text + "\n"
	}
}

// section calls f for each part of a member of the document. Notes among the
// fields of an entry are its part "notes".
func (p parted) section(section jsonpos.Member, f func(path string, n *jsonpos.Node)) {
	fields, divided := split[section.Key]
	if !divided {
		f(section.Key, section.Value)
		return
	}
	for _, entry := range section.Value.Members {
		path := section.Key + "/" + entry.Key
		if fields == nil {
			f(path, entry.Value)
			continue
		}
		p.whole[path] = true
		for _, field := range entry.Value.Members {
			if field.Key == comment {
				p.note(path+"/"+NotesPath, field.Value.Text)
				continue
			}
			f(path+"/"+field.Key, field.Value)
		}
	}
}

const comment = "$comment"

// notesIn returns all notes below a value, with their places.
func notesIn(n *jsonpos.Node, at string) string {
	var b strings.Builder
	for _, item := range n.Items {
		b.WriteString(notesIn(item, at+"[]"))
	}
	for _, m := range n.Members {
		if m.Key == comment {
			b.WriteString(at + ": " + m.Value.Text + "\n")
			continue
		}
		b.WriteString(notesIn(m.Value, join(at, m.Key)))
	}
	return b.String()
}

// fieldsOf are the names in JSON of a struct's fields, in order.
func fieldsOf(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); t.Field(i).IsExported() && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// paths are the parts of either manifest. A marble or secret that one of them
// has not has all of its fields, given or not: to add or remove it takes the
// right to each.
func (p parted) paths(other parted) []string {
	all := make(map[string]bool)
	for _, side := range []parted{p, other} {
		for path := range side.values {
			all[path] = true
		}
		for path := range side.notes {
			all[path] = true
		}
		for entry := range side.whole {
			if p.whole[entry] && other.whole[entry] {
				continue
			}
			section, _, _ := strings.Cut(entry, "/")
			for _, field := range fieldsOf(split[section]) {
				all[entry+"/"+field] = true
			}
		}
	}
	paths := sortedKeys(all)
	rank := func(path string) int {
		section, _, _ := strings.Cut(path, "/")
		if i, known := p.order[section]; known {
			return i
		}
		return len(p.order)
	}
	slices.SortStableFunc(paths, func(a, b string) int { return rank(a) - rank(b) })
	return paths
}

// demand compares one part.
func (p parted) demand(other parted, path string, lines [2]*locator) (Demand, bool) {
	was, is := p.values[path], other.values[path]
	entry := path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		entry = path[:i]
	}
	moved := p.whole[entry] != other.whole[entry]
	noted := p.notes[path] != other.notes[path]
	if !differ(was, is) && !noted && !moved {
		return Demand{}, false
	}
	dots := dotted(pathSteps(strings.TrimSuffix(strings.TrimSuffix(path, NotesPath), "/")))
	var d Diff
	switch {
	case was != nil || is != nil:
		d.values(dots, was, is)
	case moved && p.whole[entry]:
		d.add(Removed, dots, "not given", "")
	case moved:
		d.add(Added, dots, "", "not given")
	}
	if noted {
		d.add(Altered, join(dots, comment), brief("", textNode(p.notes[path])), brief("", textNode(other.notes[path])))
	}
	if len(d.Changes) == 0 {
		d.add(Altered, dots, brief(dots, was), "in another order")
	}
	for i, c := range d.Changes {
		side := 1
		if c.Op == Removed {
			side = 0
		}
		d.Changes[i].Line = lines[side].line(c)
	}
	return newDemand(path, d.Changes), true
}

func textNode(s string) *jsonpos.Node { return &jsonpos.Node{Kind: jsonpos.String, Text: s} }

// pathSteps are the names of a path: section, entry, field.
func pathSteps(path string) place {
	var steps place
	if path == "" {
		return nil
	}
	for _, name := range strings.Split(path, "/") {
		steps = append(steps, name)
	}
	return steps
}
