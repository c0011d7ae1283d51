package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Decode reads a document of settings into v, a pointer to a struct that holds
// Settings or embeds it: at most MaxSettings bytes, no unknown, duplicate or
// differently-cased field, nothing behind the document. KUB-062 otherwise.
func Decode(raw []byte, v any) error {
	if len(raw) > MaxSettings {
		return problem.New("KUB-062", "the injector's settings have %d bytes, limit %d", len(raw), MaxSettings)
	}
	tree, faults := jsonpos.Parse(raw, jsonpos.Limits{Depth: 8, Values: 50_000})
	var errs []error
	for _, f := range faults {
		errs = append(errs, fmt.Errorf("line %d: %s", jsonpos.NewLines(raw).Line(f.Start), f.Text))
	}
	if len(errs) == 0 {
		errs = exact(tree, reflect.TypeOf(v), "")
	}
	if len(errs) == 0 {
		if err := json.Unmarshal(raw, v); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return problem.Because(errors.Join(errs...), "KUB-062", "the injector's settings")
	}
	return nil
}

// exact finds the keys of objects that are no field of their struct, letter for
// letter: encoding/json would ignore the case.
func exact(n *jsonpos.Node, t reflect.Type, at string) []error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var errs []error
	switch {
	case n.Kind == jsonpos.Array && t.Kind() == reflect.Slice:
		for i, e := range n.Items {
			errs = append(errs, exact(e, t.Elem(), fmt.Sprintf("%s[%d]", at, i))...)
		}
	case n.Kind == jsonpos.Object && t.Kind() == reflect.Map:
		for _, m := range n.Members {
			errs = append(errs, exact(m.Value, t.Elem(), at+"."+m.Key)...)
		}
	case n.Kind == jsonpos.Object && t.Kind() == reflect.Struct:
		fields := fieldsOf(t)
		for _, m := range n.Members {
			field, ok := fields[m.Key]
			if !ok {
				errs = append(errs, unknownField(strings.TrimPrefix(at+"."+m.Key, "."), m.Key, fields))
				continue
			}
			errs = append(errs, exact(m.Value, field, at+"."+m.Key)...)
		}
	}
	return errs
}

// fieldsOf lists the types of a struct's fields by their names in JSON.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			fields[name] = f.Type
		}
	}
	return fields
}

func unknownField(at, key string, fields map[string]reflect.Type) error {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	if near := nearest.Word(key, names); near != "" {
		return fmt.Errorf("unknown field %.128q: did you mean %q?", at, near)
	}
	return fmt.Errorf("unknown field %.128q", at)
}
