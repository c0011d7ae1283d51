package importer

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// value is a value of the source with its path. One that is absent has no node;
// everything that is asked of it is empty, and notes on it are none.
type value struct {
	job  *job
	node *jsonpos.Node
	path string
}

// member is a named value.
type member struct {
	name string
	value
}

func join(path, key string) string {
	plain := key != ""
	for _, c := range key {
		plain = plain && (c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z')
	}
	switch {
	case !plain:
		return fmt.Sprintf("%s[%q]", path, key)
	case path == "":
		return key
	}
	return path + "." + key
}

// present reports whether the value is there and not null.
func (v value) present() bool { return v.node != nil && v.node.Kind != jsonpos.Null }

// empty reports whether nothing is in the value: null, "", [] or {}.
func (v value) empty() bool {
	return !v.present() || v.node.Text == "" && len(v.node.Items)+len(v.node.Members) == 0
}

func (v value) is(k jsonpos.Kind) bool { return v.present() && v.node.Kind == k }

// note says what became of the value, with everything in it; that an object maps
// says nothing of its fields.
func (v value) note(verdict Verdict, became, reason string) {
	if v.node == nil {
		return
	}
	if verdict != Maps || v.node.Kind != jsonpos.Object {
		v.job.noted[v.path] = true
	}
	v.job.lines = append(v.job.lines, placed{Line{v.path, became, verdict, reason}, v.node.Start})
}

// leave notes that the value is left out, whatever its parts would mean.
func (v value) leave(verdict Verdict, reason string) {
	v.job.gone[v.path] = true
	v.note(verdict, "", reason)
}

func (v value) maps(became string) { v.note(Maps, became, "") }

// absent says what the source means by leaving the field out of v.
func (v value) absent(name string, verdict Verdict, became, reason string) {
	v.job.lines = append(v.job.lines, placed{Line{join(v.path, name), became, verdict, "absent there: " + reason}, v.node.Start})
}

// get returns the field of an object by any of its names, case ignored.
func (v value) get(names ...string) value {
	var found value
	if !v.want(jsonpos.Object) {
		return value{job: v.job}
	}
	for _, m := range v.node.Members {
		for _, name := range names {
			if !strings.EqualFold(m.Key, name) {
				continue
			}
			if found.node != nil {
				v.job.fail(problem.New("MAN-070", "%s: %s is there twice", where(v.path), join("", m.Key)))
			}
			found = value{v.job, m.Value, join(v.path, m.Key)}
			break
		}
	}
	found.job = v.job
	return found
}

// members returns the fields of an object in the order of the source.
func (v value) members() []member {
	if !v.want(jsonpos.Object) {
		return nil
	}
	all := make([]member, len(v.node.Members))
	for i, m := range v.node.Members {
		all[i] = member{m.Key, value{v.job, m.Value, join(v.path, m.Key)}}
	}
	return all
}

// items returns the items of a list.
func (v value) items() []value {
	if !v.want(jsonpos.Array) {
		return nil
	}
	all := make([]value, len(v.node.Items))
	for i, item := range v.node.Items {
		all[i] = value{v.job, item, fmt.Sprintf("%s[%d]", v.path, i)}
	}
	return all
}

// oneOrMore returns the items of a list, or the value itself if it is none.
func (v value) oneOrMore() []value {
	switch {
	case !v.present():
		return nil
	case v.is(jsonpos.Array):
		return v.items()
	}
	return []value{v}
}

// text returns a string.
func (v value) text() string {
	if !v.want(jsonpos.String) {
		return ""
	}
	return v.node.Text
}

// scalar returns a string, number or boolean as text: YAML does not tell "3"
// from 3 in the eyes of most authors.
func (v value) scalar() string {
	if v.is(jsonpos.Number) || v.is(jsonpos.Bool) {
		return v.node.Text
	}
	return v.text()
}

// flag returns a boolean.
func (v value) flag() bool { return v.want(jsonpos.Bool) && v.node.Text == "true" }

// count returns a whole number; it is false where there is none.
func (v value) count() (uint64, bool) {
	if !v.want(jsonpos.Number) {
		return 0, false
	}
	n, err := strconv.ParseUint(v.node.Text, 10, 64)
	if err != nil {
		v.job.fail(problem.New("MAN-072", "%s: want a whole number that is not negative", where(v.path)))
	}
	return n, err == nil
}

// want reports whether the value is there and of a kind; another kind is an
// error.
func (v value) want(k jsonpos.Kind) bool {
	if v.present() && v.node.Kind != k {
		v.job.fail(problem.New("MAN-072", "%s: want %s, got %s", where(v.path), k, v.node.Kind))
	}
	return v.is(k)
}

func where(path string) string {
	if path == "" {
		return "the source"
	}
	return path
}
