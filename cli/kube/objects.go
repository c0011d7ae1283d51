package kube

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/releaseutil"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// object is one document of a manifest.
type object map[string]any

func (o object) text(path ...string) string {
	s, _ := o.field(path...).(string)
	return s
}

func (o object) field(path ...string) any {
	var at any = map[string]any(o)
	for _, key := range path {
		m, _ := at.(map[string]any)
		at = m[key]
	}
	return at
}

func (o object) kind() string      { return o.text("kind") }
func (o object) name() string      { return o.text("metadata", "name") }
func (o object) namespace() string { return o.text("metadata", "namespace") }

// String names the object as people do.
func (o object) String() string { return o.kind() + " " + o.name() }

// key tells objects apart. The version of an API is no part of it.
func (o object) key() string {
	group, _, versioned := strings.Cut(o.text("apiVersion"), "/")
	if !versioned {
		group = ""
	}
	return group + "/" + o.kind() + "/" + o.namespace() + "/" + o.name()
}

// objects are the documents of a manifest, in its order.
func objects(manifest string) ([]object, error) {
	docs := releaseutil.SplitManifests(manifest)
	names := slices.SortedFunc(maps.Keys(docs), func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	var all []object
	for _, name := range names {
		var o object
		if err := yaml.Unmarshal([]byte(docs[name]), &o); err != nil {
			return nil, problem.Because(err, "KUB-018", "a document that it gives is no YAML")
		}
		if len(o) == 0 {
			continue
		}
		if o.kind() == "" || o.name() == "" {
			return nil, problem.New("KUB-018", "a document that it gives has no kind or no name")
		}
		all = append(all, o)
	}
	return all, nil
}

// What a change does to an object.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// Change is what happens to one object.
type Change struct {
	Action string  `json:"action"`
	Object string  `json:"object"`           // "StatefulSet ashlar-coordinator"
	Fields []Field `json:"fields,omitempty"` // of one that is changed
}

// Field is one value that changes; "" is none.
type Field struct {
	Path string `json:"path"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// compare lists what happens to the objects of old when they become new.
func compare(old, new []object) []Change {
	before := map[string]object{}
	for _, o := range old {
		before[o.key()] = o
	}
	changes := []Change{}
	for _, n := range new {
		o, had := before[n.key()]
		delete(before, n.key())
		if !had {
			changes = append(changes, Change{Action: Added, Object: n.String()})
			continue
		}
		if fields := differences(o, n); len(fields) > 0 {
			changes = append(changes, Change{Action: Changed, Object: n.String(), Fields: fields})
		}
	}
	for _, o := range old {
		if _, left := before[o.key()]; left {
			changes = append(changes, Change{Action: Removed, Object: o.String()})
		}
	}
	return changes
}

// differences are the fields of an object that differ. Values of a Secret are
// not shown: the chart has none, but what somebody added to a release may.
func differences(old, new object) []Field {
	var fields []Field
	walk("", map[string]any(old), map[string]any(new), func(f Field) {
		if new.kind() == "Secret" && (strings.HasPrefix(f.Path, "data.") || strings.HasPrefix(f.Path, "stringData.")) {
			f.From, f.To = "[redacted]", "[redacted]"
		}
		fields = append(fields, f)
	})
	return fields
}

func walk(path string, old, new any, each func(Field)) {
	o, isMap := old.(map[string]any)
	n, alsoMap := new.(map[string]any)
	if isMap && alsoMap {
		for _, key := range slices.Sorted(maps.Keys(overlay(o, n))) {
			walk(strings.TrimPrefix(path+"."+key, "."), o[key], n[key], each)
		}
		return
	}
	ol, isList := old.([]any)
	nl, alsoList := new.([]any)
	if isList && alsoList {
		o, n := byName(ol), byName(nl)
		for _, key := range union(o, n) {
			walk(path+"["+key+"]", o.of[key], n.of[key], each)
		}
		return
	}
	if a, b := inner(old), inner(new); a != nil && b != nil {
		walk(path, a, b, each)
		return
	}
	if from, to := show(old), show(new); from != to {
		each(Field{path, from, to})
	}
}

// list is a list by what tells its elements apart: their names, or else their
// places.
type list struct {
	keys []string
	of   map[string]any
}

func byName(elements []any) list {
	l := list{of: map[string]any{}}
	for i, e := range elements {
		key := strconv.Itoa(i)
		if name := object(asMap(e)).text("name"); name != "" && l.of[name] == nil {
			key = name
		}
		l.keys = append(l.keys, key)
		l.of[key] = e
	}
	return l
}

func union(a, b list) []string {
	keys := slices.Clone(a.keys)
	for _, key := range b.keys {
		if _, had := a.of[key]; !had {
			keys = append(keys, key)
		}
	}
	return keys
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// inner is the JSON object that a text is, such as a file in a ConfigMap; nil if
// it is none.
func inner(v any) map[string]any {
	s, ok := v.(string)
	if !ok || !strings.HasPrefix(strings.TrimSpace(s), "{") {
		return nil
	}
	var m map[string]any
	if json.Unmarshal([]byte(s), &m) != nil {
		return nil
	}
	return m
}

// show is a value on one line.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case map[string]any, []any:
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	}
	return fmt.Sprint(v)
}
