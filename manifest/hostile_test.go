package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestHostileInput(t *testing.T) {
	raw := sample(t)
	flood := func(item string) []byte {
		return []byte(`{"version":1,"trustDomain":"t","packages":{"p":{"sim":{"allowAnyMeasurement":true}}},"marbles":{"a":{"package":"p","calls":[` +
			strings.TrimSuffix(strings.Repeat(item+",", 1000), ",") + `]}}}`)
	}
	var names strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&names, `,"m%d":{"package":"p","calls":[{"marble":"nobody%d","port":"x"}]}`, i, i)
	}
	for _, c := range []struct {
		name string
		raw  []byte
		code problem.Code
	}{
		{"empty", nil, "MAN-001"},
		{"truncated", raw[:len(raw)/2], "MAN-001"},
		{"50 MB", bytes.Repeat([]byte(" "), 50<<20), "MAN-010"},
		{"10,000 deep", bytes.Repeat([]byte("["), 10_000), "MAN-012"},
		{"10,000 deep objects", bytes.Repeat([]byte(`{"a":`), 10_000), "MAN-012"},
		{"2,000,000 values", append(bytes.Repeat([]byte("0,"), 2<<20-2), '0'), "MAN-001"},
		{"2,000,000 values in a list", []byte("[" + strings.Repeat("0,", 2<<20-4) + "0]"), "MAN-012"},
		{"not UTF-8", bytes.Replace(raw, []byte("shop"), []byte("sh\xffop"), 1), "MAN-011"},
		{"UTF-16", []byte("\xff\xfe{\x00}\x00"), "MAN-011"},
		{"a list", []byte(`[]`), "MAN-003"},
		{"calls of numbers", flood("1"), "MAN-049"},
		{"calls of empty objects", flood("{}"), "MAN-049"},
		{"calls of nobody", flood(`{"marble":"x","port":"y"}`), "MAN-049"},
		{"too many marbles", []byte(`{"version":1,"trustDomain":"t","packages":{"p":{"sim":{"allowAnyMeasurement":true}}},"marbles":{"a":{"package":"p"}` + names.String() + `}}`), "MAN-006"},
		{"long name", []byte(`{"` + strings.Repeat("x", 3<<20) + `":1}`), "MAN-002"},
		{"long line", []byte(strings.Repeat(" ", 3<<20) + `{"x":1}`), "MAN-002"},
		{"parentheses", edit(t, "{{ .Marble.Name }}", "{{"+strings.Repeat("(", 16_000)), "MAN-032"},
		{"pipes", edit(t, "{{ .Marble.Name }}", "{{ .Marble.Name "+strings.Repeat("|json", 3_000)+"}}"), "MAN-032"},
		{"wide printf", edit(t, "{{ .Marble.Name }}", `{{ printf \"%1000000000d\" 1 }}`), "MAN-032"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, ds := Parse(c.raw)
			if m != nil {
				t.Fatal("got a manifest")
			}
			for _, d := range ds {
				checkPlace(t, d)
				if d.Code == c.code {
					return
				}
			}
			t.Errorf("got %d diagnostics, the first %v; want %s", len(ds), ds[0], c.code)
		})
	}
}

func TestReplyTooLarge(t *testing.T) {
	var files strings.Builder
	for i := range 14 {
		fmt.Fprintf(&files, `"/f%d": "%s",`, i, strings.Repeat("x", 250_000))
	}
	_, ds := Parse(edit(t, `"files": { "/etc/shop`, `"files": { `+files.String()+` "/etc/shop`))
	if len(ds) != 1 || ds[0].Code != "MAN-035" || ds[0].Path != "marbles.web.parameters" {
		t.Errorf("got %v, want MAN-035", ds)
	}
}

// TestWalkAgreesWithSchema compares the walk in document order with the schema
// library's own validation, on many broken documents: whatever the library
// refuses, Parse refuses, and what is wrong with the schema alone the walk finds.
func TestWalkAgreesWithSchema(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for i := range 3000 {
		raw := mutate(rng, sample(t))
		if i%10 == 0 {
			raw = mutate(rng, admitting(held, `{"package":"pair","platform":"rack"}`))
		}
		var doc any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if dec.Decode(&doc) != nil {
			continue
		}
		if _, faults := jsonpos.Parse(raw, jsonpos.Limits{Depth: maxDepth, Values: maxValues}); len(faults) > 0 {
			continue
		}
		w, root := newWalker(raw, MaxSize)
		w.walk(manifestSchema(), root, nil)
		want := manifestSchema().Validate(doc)
		_, ds := Parse(raw)
		if want != nil {
			refused++
			if !ds.HasErrors() {
				t.Fatalf("Parse takes what the schema refuses: %#v\n%s", want, raw)
			}
		}
		if want == nil && len(w.diags) > 0 {
			t.Fatalf("the walk refuses what the schema takes: %v\n%s", w.diags, raw)
		}
		if want != nil && len(w.diags) == 0 && !conditional(want) {
			t.Fatalf("the walk takes what the schema refuses: %#v\n%s", want, raw)
		}
	}
	if refused < 500 {
		t.Errorf("only %d documents were refused; the test shows too little", refused)
	}
}

// conditional reports whether the schema's conditions alone refuse a document.
func conditional(err error) bool {
	var leaves func(e *jsonschema.ValidationError) bool
	leaves = func(e *jsonschema.ValidationError) bool {
		for _, c := range e.Causes {
			if !leaves(c) {
				return false
			}
		}
		return len(e.Causes) > 0 || strings.Contains(e.KeywordLocation, "/allOf/")
	}
	return leaves(err.(*jsonschema.ValidationError))
}

// mutate replaces, removes or doubles one random value or key.
func mutate(rng *rand.Rand, raw []byte) []byte {
	root, _ := jsonpos.Parse(raw, jsonpos.Limits{Depth: maxDepth, Values: maxValues})
	var all []*jsonpos.Node
	var keys []jsonpos.Member
	var collect func(n *jsonpos.Node)
	collect = func(n *jsonpos.Node) {
		all = append(all, n)
		for _, m := range n.Members {
			keys = append(keys, m)
			collect(m.Value)
		}
		for _, item := range n.Items {
			collect(item)
		}
	}
	collect(root)
	values := []string{`null`, `0`, `-1`, `65536`, `true`, `""`, `"web"`, `"ABC"`, `[]`, `{}`, `["web"]`, `[1]`, `"1h"`, `512`, `"symmetric"`, `"cert-rsa"`, `"cert-ed25519"`}
	n := all[rng.IntN(len(all))]
	start, end, with := n.Start, n.End, values[rng.IntN(len(values))]
	if rng.IntN(3) == 0 {
		k := keys[rng.IntN(len(keys))]
		names := []string{`"$comment"`, `"x"`, `"bits"`, `"Web"`, `"platform"`, `"readers"`}
		start, end, with = k.KeyStart, k.KeyEnd, names[rng.IntN(len(names))]
	}
	return append(append(append([]byte(nil), raw[:start]...), with...), raw[end:]...)
}

func TestSchemaDescribesEverything(t *testing.T) {
	for _, doc := range [][]byte{Schema(), PolicySchema()} {
		var root map[string]any
		if err := json.Unmarshal(doc, &root); err != nil {
			t.Fatal(err)
		}
		checkSchema(t, "", root, false)
	}
}

// checkSchema demands of every schema a description, closed objects and bounds.
func checkSchema(t *testing.T, at string, s map[string]any, inCondition bool) {
	has := func(key string) bool { _, ok := s[key]; return ok }
	if !inCondition && !has("description") && !has("$ref") {
		t.Errorf("%s has no description", at)
	}
	bounds := map[string][]string{"object": {"additionalProperties"}, "array": {"maxItems"}, "integer": {"maximum"}, "string": {"maxLength"}}
	if kind, _ := s["type"].(string); kind != "" && !has("enum") && !has("const") {
		for _, b := range bounds[kind] {
			if !has(b) {
				t.Errorf("%s: %s without %s", at, kind, b)
			}
		}
		if _, isMap := s["additionalProperties"].(map[string]any); isMap && (!has("maxProperties") || !has("propertyNames")) {
			t.Errorf("%s: map without maxProperties or propertyNames", at)
		}
	}
	for _, group := range []string{"properties", "$defs"} {
		members, _ := s[group].(map[string]any)
		for name, v := range members {
			if sub, ok := v.(map[string]any); ok {
				checkSchema(t, at+"/"+group+"/"+name, sub, inCondition)
			}
		}
	}
	for _, key := range []string{"items", "additionalProperties", "propertyNames"} {
		if sub, ok := s[key].(map[string]any); ok {
			checkSchema(t, at+"/"+key, sub, inCondition)
		}
	}
}

func TestSchemaExamplesAreValid(t *testing.T) {
	var walk func(s *jsonschema.Schema)
	seen := make(map[*jsonschema.Schema]bool)
	checked := 0
	walk = func(s *jsonschema.Schema) {
		if s == nil || seen[s] {
			return
		}
		seen[s] = true
		for _, e := range s.Examples {
			checked++
			if err := s.Validate(e); err != nil {
				t.Errorf("%s: example %v: %v", s.Location, e, err)
			}
		}
		for _, p := range s.Properties {
			walk(p)
		}
		walk(s.Ref)
		walk(s.Items2020)
		walk(s.PropertyNames)
		if extra, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
			walk(extra)
		}
	}
	walk(manifestSchema())
	walk(policySchema())
	if checked < 20 {
		t.Errorf("only %d examples found", checked)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte(`{"version":1,"VERSION":1,"version":2,"marbles":{"a":{"calls":[null,{"marble":""}]}}}`))
	f.Add([]byte(`{"version":1,"trustDomain":"t","packages":{"p":{"sim":{"allowAnyMeasurement":true}}},"marbles":{"a":{"package":"p","parameters":{"argv":["{{ hex .Secrets.x }}"]}}}}`))
	f.Add(admitting(held, `{"package":"pair","platform":"rack"}`))
	f.Add(admitting(held, `{"package":"pair","platform":"rack","package":"p"}`))
	f.Add(admitting(`"pair":{"sim":{"allowAnyMeasurement":true}}`, `{"package":"\u0070air"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, ds := Parse(raw)
		if (m == nil) != ds.HasErrors() {
			t.Fatalf("manifest %v with diagnostics %v", m != nil, ds)
		}
		var b strings.Builder
		ds.Render(&b, "f", false)
		for _, d := range ds {
			checkPlace(t, d)
		}
		if m == nil {
			return
		}
		formatted, err := Format(raw)
		if err != nil {
			t.Fatalf("Format of a valid manifest: %v", err)
		}
		if again, ds := Parse(formatted); again == nil || !Compare(m, again).Empty() {
			t.Fatalf("formatting changed the meaning: %v", ds)
		}
		if p, ok := m.CoordinatorPolicy(); ok != (m.Coordinators != nil) || slices.ContainsFunc(openings(p.Package), func(o opening) bool { return o.at[len(o.at)-1] == anyMeasurement }) {
			t.Fatalf("coordinators %+v are judged by %+v", m.Coordinators, p)
		}
		for _, format := range GraphFormats {
			if _, err := Graph(m, format); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// deployment returns a manifest of n marbles in a chain.
func deployment(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"version":1,"trustDomain":"shop.example","packages":{"p":{"sgx":{"uniqueID":["` + strings.Repeat("5c", 32) + `"]}},"q":{"tdx":{"mrtd":["` + strings.Repeat("5c", 48) + `"]}}},"marbles":{`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n  \"m%d\": {\"package\": \"%c\", \"lease\": \"30m\", \"serves\": {\"http\": {\"port\": 8080, \"protocol\": \"http\"}},\n    \"parameters\": {\"env\": {\"K\": \"{{ hex .Secrets.key }}\", \"NAME\": \"{{ .Marble.Name }}\"}}", i, 'p'+i%2)
		if i > 0 {
			fmt.Fprintf(&b, ",\n    \"calls\": [{\"marble\": \"m%d\", \"port\": \"http\", \"listen\": 9000, \"routes\": [\"GET /items/*\"]}]", i/2)
		}
		b.WriteByte('}')
	}
	b.WriteString("\n},\"secrets\":{\"key\":{\"type\":\"symmetric\",\"readers\":[\"m0\"")
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, ",\"m%d\"", i)
	}
	b.WriteString(`]}}}`)
	return b.Bytes()
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{3, 100, 10_000} {
		raw := deployment(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if m, ds := Parse(raw); m == nil {
					b.Fatal(ds[0])
				}
			}
		})
	}
}

// TestOpenKernelIsWarnedOf checks that a TDX package which any kernel meets is
// not taken in silence.
func TestOpenKernelIsWarnedOf(t *testing.T) {
	value := `["` + strings.Repeat("5c", 48) + `"]`
	for _, c := range []struct {
		name, tdx, want string
	}{
		{"all", `{"mrtd":` + value + `,"rtmr1":` + value + `,"rtmr2":` + value + `}`, ""},
		{"firmware alone", `{"mrtd":` + value + `}`, "rtmr1 and rtmr2"},
		{"command line open", `{"mrtd":` + value + `,"rtmr1":` + value + `}`, "rtmr2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got := Parse([]byte(`{"version":1,"trustDomain":"shop.example","packages":{"p":{"tdx":` + c.tdx + `}},"marbles":{"m":{"package":"p"}}}`))
			found := ""
			for _, d := range got {
				if d.Code == "MAN-048" {
					found = d.Message
				}
			}
			if got.HasErrors() || (found == "") != (c.want == "") || !strings.Contains(found, "does not compare "+c.want) && c.want != "" {
				t.Errorf("got %v, want a warning of %q", got, c.want)
			}
		})
	}
}

// TestOpenArgumentsAreWarnedOf checks that measured files without pinned
// arguments are not taken in silence: the host could name another file.
func TestOpenArgumentsAreWarnedOf(t *testing.T) {
	sum := `"` + strings.Repeat("5c", 32) + `"`
	for name, c := range map[string]struct {
		files, parameters string
		want              bool
	}{
		"no files":                {``, ``, false},
		"files alone":             {`,"files":{"app.py":` + sum + `}`, ``, true},
		"files and argv":          {`,"files":{"app.py":` + sum + `}`, `,"parameters":{"argv":["python3","app.py"]}`, false},
		"files, other parameters": {`,"files":{"app.py":` + sum + `}`, `,"parameters":{"env":{"A":"b"}}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := Parse([]byte(`{"version":1,"trustDomain":"shop.example","packages":{"p":{"sim":{"program":[` + sum + `],"agent":[` + sum + `]` + c.files +
				`}}},"marbles":{"m":{"package":"p"` + c.parameters + `}}}`))
			warned := false
			for _, d := range got {
				warned = warned || d.Code == "MAN-051"
			}
			if got.HasErrors() || warned != c.want {
				t.Errorf("got %v, want a warning: %t", got, c.want)
			}
		})
	}
}
