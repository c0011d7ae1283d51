package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// Operations of a change.
const (
	Added   = "+"
	Removed = "-"
	Altered = "~"
)

// Change is one place in which two manifests differ. Values are short forms for
// people: certificates and files appear by their SHA-256.
type Change struct {
	Op   string `json:"op"` // "+", "-" or "~"
	Path string `json:"path"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
	Line int    `json:"line,omitempty"` // of the new manifest, and of the old one for what is removed; Demands fills it in
}

// Diff is what lies between two manifests: the places, and what they do to a
// running deployment. Defaults are filled in on both sides, so writing one out
// is no change; neither are notes and formatting.
type Diff struct {
	Changes []Change `json:"changes"`
	Effects []Effect `json:"effects"`
}

// Empty reports whether the manifests mean the same.
func (d Diff) Empty() bool { return len(d.Changes) == 0 }

// Risks returns the names of the risks that somebody has to accept, sorted.
func (d Diff) Risks() []string {
	var risks []string
	for _, e := range d.Effects {
		if e.Risk != "" {
			risks = append(risks, e.Risk)
		}
	}
	slices.Sort(risks)
	return slices.Compact(risks)
}

// Compare returns what changes from a to b. A nil a is no manifest: everything
// is added. Order is stable: sections as documented, then by name.
func Compare(a, b *Manifest) Diff {
	d := Diff{Changes: []Change{}, Effects: []Effect{}}
	d.values("", plainTree(a), plainTree(b))
	if a == nil {
		d.first(b)
		return d
	}
	d.effects(a, b)
	return d
}

// plainTree returns the manifest's meaning as a tree, without notes.
func plainTree(m *Manifest) *jsonpos.Node {
	if m == nil {
		return &jsonpos.Node{Kind: jsonpos.Object}
	}
	meaning := *m
	meaning.Schema = ""
	raw, err := json.Marshal(meaning)
	if err != nil {
		panic("manifest: its own types do not marshal: " + err.Error())
	}
	root, _ := jsonpos.Parse(raw, jsonpos.Limits{Depth: maxDepth, Values: 4 * maxValues})
	return root
}

// values compares two values of which either may be nil.
func (d *Diff) values(path string, a, b *jsonpos.Node) {
	switch {
	case a == nil:
		d.whole(Added, path, b)
	case b == nil:
		d.whole(Removed, path, a)
	case a.Kind != b.Kind:
		d.add(Altered, path, brief(path, a), brief(path, b))
	case a.Kind == jsonpos.Object:
		for _, key := range unionKeys(a, b) {
			d.values(join(path, key), a.Get(key), b.Get(key))
		}
	case a.Kind == jsonpos.Array:
		d.lists(path, a, b)
	case a.Text != b.Text:
		d.add(Altered, path, brief(path, a), brief(path, b))
	}
}

func (d *Diff) add(op, path, old, new string) {
	d.Changes = append(d.Changes, Change{Op: op, Path: path, Old: old, New: new})
}

// whole records a value that is on one side only. Sections are opened, so that
// each entry has a line.
func (d *Diff) whole(op, path string, n *jsonpos.Node) {
	if n.Kind == jsonpos.Object && path != "" && !strings.ContainsAny(path, ".[") {
		for _, m := range n.Members {
			d.whole(op, join(path, m.Key), m.Value)
		}
		return
	}
	if n.Kind == jsonpos.Array && len(n.Items) > 0 && identity(path, n.Items[0]) != "" {
		for _, item := range n.Items {
			d.item(op, path, item)
		}
		return
	}
	if op == Added {
		d.add(op, path, "", brief(path, n))
	} else {
		d.add(op, path, brief(path, n), "")
	}
}

func (d *Diff) item(op, path string, n *jsonpos.Node) {
	if op == Added {
		d.add(op, path, "", shown(path, n))
	} else {
		d.add(op, path, shown(path, n), "")
	}
}

// lists compares lists item by item where items have an identity, and else as
// a whole, since order then matters (argv).
func (d *Diff) lists(path string, a, b *jsonpos.Node) {
	if len(a.Items) == 1 && len(b.Items) == 1 && a.Items[0].Kind == jsonpos.String {
		if a.Items[0].Text != b.Items[0].Text {
			d.add(Altered, path, brief(path, a.Items[0]), brief(path, b.Items[0]))
		}
		return
	}
	ia, ib := identities(path, a), identities(path, b)
	if ia == nil || ib == nil {
		if differ(a, b) {
			d.add(Altered, path, brief(path, a), brief(path, b))
		}
		return
	}
	for i, item := range a.Items {
		id := identity(path, item)
		other, stays := ib[id]
		switch {
		case !stays:
			d.item(Removed, path, a.Items[i])
		case item.Kind == jsonpos.Object:
			d.values(path+"["+id+"]", item, other)
		}
	}
	for _, item := range b.Items {
		if _, was := ia[identity(path, item)]; !was {
			d.item(Added, path, item)
		}
	}
}

// identities indexes a list's items; nil if they have no distinct identities.
func identities(path string, n *jsonpos.Node) map[string]*jsonpos.Node {
	m := make(map[string]*jsonpos.Node, len(n.Items))
	for _, item := range n.Items {
		id := identity(path, item)
		if id == "" || m[id] != nil {
			return nil
		}
		m[id] = item
	}
	return m
}

// identity is what makes an item the same in two manifests; "" for arguments,
// whose order matters.
func identity(path string, n *jsonpos.Node) string {
	switch {
	case strings.HasSuffix(path, ".argv"), strings.HasSuffix(path, ".command"):
		return ""
	case n.Kind == jsonpos.Object && n.Get("marble") != nil && n.Get("port") != nil:
		return strconv.Quote(n.Get("marble").Text + ":" + n.Get("port").Text)
	case n.Kind == jsonpos.Object && n.Get("from") != nil && n.Get("to") != nil:
		return strconv.Quote(n.Get("from").Text + " → " + n.Get("to").Text)
	case n.Kind == jsonpos.Object && n.Get("ask") != nil:
		return strconv.Quote(n.Get("ask").Text)
	case n.Kind == jsonpos.String:
		return strconv.Quote(n.Text)
	}
	return ""
}

// shown is an item for people.
func shown(path string, n *jsonpos.Node) string {
	if n.Kind == jsonpos.String {
		return brief(path, n)
	}
	return identity(path, n)
}

func unionKeys(a, b *jsonpos.Node) []string {
	var keys []string
	seen := make(map[string]bool, len(a.Members))
	for _, n := range []*jsonpos.Node{a, b} {
		for _, m := range n.Members {
			if !seen[m.Key] {
				seen[m.Key] = true
				keys = append(keys, m.Key)
			}
		}
	}
	sort.SliceStable(keys, func(i, j int) bool {
		ri, rj := sectionRank(keys[i]), sectionRank(keys[j])
		return ri < rj || ri == rj && keys[i] < keys[j]
	})
	return keys
}

var sections = fieldsOf(manifestType)

// sectionRank orders the document's sections; other keys have one rank.
func sectionRank(key string) int {
	return 1 + slices.Index(sections, key)
}

func join(path, key string) string {
	switch {
	case !plainKey(key):
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// brief returns a value in at most 60 characters.
func brief(path string, n *jsonpos.Node) string {
	switch {
	case n.Kind == jsonpos.String && (strings.HasPrefix(n.Text, "-----BEGIN") || strings.HasSuffix(path, ".certificate") || strings.Contains(path, ".parameters.files[")):
		return fmt.Sprintf("%d bytes, sha256 %s…", len(n.Text), DigestOf([]byte(n.Text)).Short())
	case n.Kind == jsonpos.String && len(n.Text) >= 64 && isHex(n.Text):
		return n.Text[:4] + "…" + n.Text[len(n.Text)-4:]
	case n.Kind == jsonpos.String:
		return strconv.Quote(clip(n.Text))
	case n.Kind == jsonpos.Object:
		keys := make([]string, 0, len(n.Members))
		for _, m := range n.Members {
			keys = append(keys, m.Key)
		}
		return clip("{" + strings.Join(keys, ", ") + "}")
	case n.Kind == jsonpos.Array:
		parts := make([]string, 0, len(n.Items))
		for _, item := range n.Items {
			parts = append(parts, brief(path, item))
		}
		return clip("[" + strings.Join(parts, ", ") + "]")
	}
	return n.Text
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// differ reports whether two values differ, of which either may be nil. Members
// are in the order of the types that wrote them.
func differ(a, b *jsonpos.Node) bool {
	if a == nil || b == nil {
		return a != b
	}
	if a.Kind != b.Kind || a.Text != b.Text || len(a.Items) != len(b.Items) || len(a.Members) != len(b.Members) {
		return true
	}
	for i := range a.Items {
		if differ(a.Items[i], b.Items[i]) {
			return true
		}
	}
	for i := range a.Members {
		if a.Members[i].Key != b.Members[i].Key || differ(a.Members[i].Value, b.Members[i].Value) {
			return true
		}
	}
	return false
}
