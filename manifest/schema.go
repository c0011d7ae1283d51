package manifest

import (
	_ "embed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The URLs under which the schemas are published. They carry the version and
// never change their meaning.
const (
	SchemaURL       = "https://ashlar-mesh.github.io/schema/manifest/v1.json"
	PolicySchemaURL = "https://ashlar-mesh.github.io/schema/policy/v1.json"
)

//go:embed schema.json
var schemaJSON []byte

//go:embed policy.schema.json
var policySchemaJSON []byte

// Schema returns the JSON Schema (draft 2020-12) of a manifest.
func Schema() []byte { return append([]byte(nil), schemaJSON...) }

// PolicySchema returns the JSON Schema (draft 2020-12) of a policy file. It
// refers to definitions of Schema.
func PolicySchema() []byte { return append([]byte(nil), policySchemaJSON...) }

var manifestSchema = sync.OnceValue(func() *jsonschema.Schema { return mustCompile(SchemaURL) })
var policySchema = sync.OnceValue(func() *jsonschema.Schema { return mustCompile(PolicySchemaURL) })

// mustCompile compiles an embedded schema; that they compile is tested.
func mustCompile(url string) *jsonschema.Schema {
	c := jsonschema.NewCompiler()
	c.Draft = jsonschema.Draft2020
	c.ExtractAnnotations = true
	c.LoadURL = func(u string) (io.ReadCloser, error) { return nil, fmt.Errorf("schema %q is not embedded", u) }
	for u, doc := range map[string][]byte{SchemaURL: schemaJSON, PolicySchemaURL: policySchemaJSON} {
		if err := c.AddResource(u, strings.NewReader(string(doc))); err != nil {
			panic(err)
		}
	}
	return c.MustCompile(url)
}

// walker applies a compiled schema to a document in the document's order. It
// knows the keywords that the embedded schemas use; conditions (allOf with if
// and then) are for editors, and the same rules are in the checks of meaning.
type walker struct {
	*reporter
	// bad are the values that break a rule and that no later check looks at.
	bad map[*jsonpos.Node]bool
}

func (w *walker) walk(s *jsonschema.Schema, n *jsonpos.Node, p *path) {
	if w.full {
		return
	}
	for s.Ref != nil {
		s = s.Ref
	}
	if n.Kind == jsonpos.Null {
		w.refuse(n, p, "MAN-009", "null is not a value; leave the field out")
		return
	}
	if len(s.Types) > 0 && !hasType(n, s.Types[0]) {
		w.refuse(n, p, "MAN-003", fmt.Sprintf("expected %s, but this is %s", typeName(s.Types[0]), kindName(n)))
		return
	}
	switch n.Kind {
	case jsonpos.Object:
		w.object(s, n, p)
	case jsonpos.Array:
		w.array(s, n, p)
	default:
		w.scalar(s, n, p)
	}
}

func (w *walker) refuse(n *jsonpos.Node, p *path, code problem.Code, message string) {
	w.bad[n] = true
	w.report(p, spanOf(n), finding{code: code, message: message})
}

func (w *walker) object(s *jsonschema.Schema, n *jsonpos.Node, p *path) {
	if s.MaxProperties >= 0 && len(n.Members) > s.MaxProperties {
		w.refuse(n, p, "MAN-006", fmt.Sprintf("%d entries, but at most %d are allowed", len(n.Members), s.MaxProperties))
		return
	}
	if len(n.Members) < s.MinProperties {
		w.report(p, spanOf(n), finding{code: "MAN-006", message: fmt.Sprintf("at least %d entry is needed", s.MinProperties)})
	}
	for _, key := range s.Required {
		if n.Get(key) == nil {
			w.report(p, span{n.Start, n.Start + 1}, finding{code: "MAN-005", message: fmt.Sprintf("field %q is missing", key)})
		}
	}
	extra, _ := s.AdditionalProperties.(*jsonschema.Schema)
	for i := range n.Members {
		m := &n.Members[i]
		at := p.member(m.Key)
		known := s.Properties[m.Key]
		switch {
		case known != nil:
			w.walk(known, m.Value, at)
		case extra == nil:
			w.unknown(s, m, at)
		default:
			if s.PropertyNames != nil {
				w.name(s.PropertyNames, m, at)
			}
			w.walk(extra, m.Value, at)
		}
	}
}

func (w *walker) unknown(s *jsonschema.Schema, m *jsonpos.Member, p *path) {
	w.bad[m.Value] = true
	w.report(p, keySpan(m), finding{code: "MAN-002", message: fmt.Sprintf("unknown field %q", clip(m.Key)), suggest: w.didYouMean(m.Key, slices.Sorted(maps.Keys(s.Properties)))})
}

func (w *walker) name(s *jsonschema.Schema, m *jsonpos.Member, p *path) {
	for s.Ref != nil {
		s = s.Ref
	}
	if f := textRules(s, m.Key); f.code != "" {
		f.message = fmt.Sprintf("name %q: %s", clip(m.Key), f.message)
		w.report(p, keySpan(m), f)
	}
}

func (w *walker) array(s *jsonschema.Schema, n *jsonpos.Node, p *path) {
	if s.MaxItems >= 0 && len(n.Items) > s.MaxItems {
		w.refuse(n, p, "MAN-006", fmt.Sprintf("%d items, but at most %d are allowed", len(n.Items), s.MaxItems))
		return
	}
	if len(n.Items) < s.MinItems {
		w.report(p, spanOf(n), finding{code: "MAN-006", message: fmt.Sprintf("at least %d item is needed", s.MinItems)})
	}
	seen := make(map[string]int)
	for i, item := range n.Items {
		w.walk(s.Items2020, item, p.item(i))
		if !s.UniqueItems || w.bad[item] {
			continue
		}
		if first, dup := seen[item.Text]; dup {
			w.report(p.item(i), spanOf(item), finding{code: "MAN-008", message: fmt.Sprintf("%q is listed twice, first as item %d", clip(item.Text), first)})
			continue
		}
		seen[item.Text] = i
	}
}

func (w *walker) scalar(s *jsonschema.Schema, n *jsonpos.Node, p *path) {
	var f finding
	switch n.Kind {
	case jsonpos.String:
		f = textRules(s, n.Text)
		if f.code == "MAN-004" {
			f.suggest = w.didYouMean(n.Text, enumNames(s))
		}
	case jsonpos.Number:
		f = numberRules(s, n.Text)
	}
	if f.code != "" {
		w.bad[n] = true
		w.report(p, spanOf(n), f)
	}
}

// textRules returns what of a schema's rules a string breaks.
func textRules(s *jsonschema.Schema, text string) finding {
	length := utf8.RuneCountInString(text)
	switch {
	case len(s.Enum) > 0 && !inEnum(s, text):
		return finding{code: "MAN-004", message: "value must be " + oneOf(enumNames(s))}
	case s.MaxLength >= 0 && length > s.MaxLength:
		return finding{code: "MAN-006", message: fmt.Sprintf("%d characters, but at most %d are allowed", length, s.MaxLength)}
	case s.Pattern != nil && !s.Pattern.MatchString(text), length < s.MinLength:
		return finding{code: "MAN-007", message: "malformed " + article(s.Description), suggest: example(s)}
	}
	return finding{}
}

func numberRules(s *jsonschema.Schema, text string) finding {
	v, err := strconv.ParseInt(text, 10, 64)
	if len(s.Constant) > 0 && text != fmt.Sprint(s.Constant[0]) {
		return finding{code: "MAN-013", message: fmt.Sprintf("value must be %v", s.Constant[0])}
	}
	tooSmall := s.Minimum != nil && (err != nil && text[0] == '-' || err == nil && s.Minimum.Num().Int64() > v)
	tooLarge := s.Maximum != nil && (err != nil && text[0] != '-' || err == nil && s.Maximum.Num().Int64() < v)
	if tooSmall || tooLarge {
		return finding{code: "MAN-006", message: fmt.Sprintf("value must be between %v and %v", s.Minimum.Num(), s.Maximum.Num())}
	}
	return finding{}
}

func inEnum(s *jsonschema.Schema, text string) bool {
	for _, e := range s.Enum {
		if e == text {
			return true
		}
	}
	return false
}

func enumNames(s *jsonschema.Schema) []string {
	names := make([]string, len(s.Enum))
	for i, e := range s.Enum {
		names[i] = fmt.Sprint(e)
	}
	return names
}

func oneOf(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	return "one of " + strings.Join(quoted, ", ")
}

func hasType(n *jsonpos.Node, want string) bool {
	if want == "integer" {
		return n.Kind == jsonpos.Number && !strings.ContainsAny(n.Text, ".eE") && n.Text != "-0"
	}
	return n.Kind.String() == want
}

func typeName(t string) string {
	switch t {
	case "object", "array":
		return "an " + t
	case "integer":
		return "a whole number without fraction or exponent"
	}
	return "a " + t
}

func kindName(n *jsonpos.Node) string {
	if n.Kind == jsonpos.Number {
		return "the number " + clip(n.Text)
	}
	return typeName(n.Kind.String())
}

// article turns a description into what a message can say of the value: the
// first sentence, its first letter small.
func article(description string) string {
	first, _, _ := strings.Cut(description, ". ")
	first = strings.TrimSuffix(first, ".")
	if first == "" {
		return "value"
	}
	return "value; expected " + strings.ToLower(first[:1]) + first[1:]
}

func example(s *jsonschema.Schema) string {
	if len(s.Examples) == 0 {
		return ""
	}
	text, ok := s.Examples[0].(string)
	if !ok || len(text) > 60 {
		return ""
	}
	return fmt.Sprintf("for example %q", text)
}

// clip shortens what a document brought for use in a message.
func clip(s string) string {
	const limit = 64
	if utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit-1]) + "…"
}
