package jsonpos

import (
	"encoding/json"
	"strings"
	"testing"
)

var roomy = Limits{Depth: 64, Values: 10_000}

func TestParsePositions(t *testing.T) {
	raw := []byte("{\n  \"aé\": [1, \"x\\n\"],\n  \"b\": {\"c\": true}\n}\n")
	root, faults := Parse(raw, roomy)
	if len(faults) > 0 {
		t.Fatalf("got faults %v, want none", faults)
	}
	lines := NewLines(raw)
	for _, c := range []struct {
		name         string
		n            *Node
		text         string
		line, column int
	}{
		{"number", root.Get("aé").Items[0], "1", 2, 10},
		{"string", root.Get("aé").Items[1], "x\n", 2, 13},
		{"nested", root.Get("b").Get("c"), "true", 3, 14},
	} {
		t.Run(c.name, func(t *testing.T) {
			line, column := lines.Position(c.n.Start)
			if c.n.Text != c.text || line != c.line || column != c.column {
				t.Errorf("got %q at %d:%d, want %q at %d:%d", c.n.Text, line, column, c.text, c.line, c.column)
			}
		})
	}
	if got := string(raw[root.Get("b").Start:root.Get("b").End]); got != `{"c": true}` {
		t.Errorf("extent of b: got %q", got)
	}
	if got := lines.Text(3); got != `  "b": {"c": true}` {
		t.Errorf("line 3: got %q", got)
	}
	if root.Get("none") != nil || (*Node)(nil).Get("x") != nil {
		t.Error("a key that is not there must give nil")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		reason    Reason
		offset    int
	}{
		{"empty", "", Syntax, 0},
		{"spaces", "  ", Syntax, 2},
		{"trailing bytes", "{} x", Syntax, 3},
		{"two documents", "1 2", Syntax, 2},
		{"trailing comma in object", `{"a":1,}`, Syntax, 7},
		{"trailing comma in array", `[1,]`, Syntax, 3},
		{"missing comma", `[1 2]`, Syntax, 3},
		{"leading comma", `[,1]`, Syntax, 1},
		{"bare key", `{a:1}`, Syntax, 1},
		{"no colon", `{"a" 1}`, Syntax, 5},
		{"open object", `{"a":1`, Syntax, 6},
		{"wrong bracket", `[1}`, Syntax, 2},
		{"open string", `"abc`, Syntax, 0},
		{"escaped end", `"abc\`, Syntax, 0},
		{"control character", "\"a\nb\"", Syntax, 2},
		{"unknown escape", `"\x"`, Syntax, 0},
		{"high surrogate alone", `"\ud800"`, Syntax, 0},
		{"low surrogate alone", `"\udc00x"`, Syntax, 0},
		{"two high surrogates", `"\ud800\ud800"`, Syntax, 0},
		{"leading zero", `01`, Syntax, 1},
		{"plus", `+1`, Syntax, 0},
		{"bare minus", `-`, Syntax, 1},
		{"no fraction", `1.`, Syntax, 2},
		{"no exponent", `1e`, Syntax, 2},
		{"NaN", `NaN`, Syntax, 0},
		{"half a literal", `tru`, Syntax, 0},
		{"comment", "// x\n1", Syntax, 0},
		{"byte order mark", "\ufeff1", Syntax, 0},
		{"not UTF-8", "{\"a\":\"\xff\"}", NotUTF8, 6},
		{"too deep", strings.Repeat("[", 65), TooDeep, 64},
		{"too many", "[" + strings.Repeat("1,", 10_000) + "1]", TooMany, 19_999},
		{"duplicate", `{"a":1,"b":2,"a":3}`, Duplicate, 13},
		{"duplicate by escape", `{"a":1,"\u0061":2}`, Duplicate, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, faults := Parse([]byte(c.raw), roomy)
			if len(faults) != 1 || faults[0].Reason != c.reason || faults[0].Start != c.offset {
				t.Fatalf("got %+v, want reason %v at %d", faults, c.reason, c.offset)
			}
			if (root != nil) != (c.reason == Duplicate) {
				t.Errorf("got tree %v", root)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	for _, raw := range []string{`{}`, `[]`, `"\ud83d\ude00"`, `"\\ud800"`, `"\\\\\u00e9"`, `-0.5e+10`, `null`, ` [ { } , [ ] ] `, `"` + "\uFFFD" + `"`, `"\ufffd"`} {
		if _, faults := Parse([]byte(raw), roomy); len(faults) > 0 {
			t.Errorf("%s: got %v, want no fault", raw, faults)
		}
	}
}

func TestDuplicateInALargeObject(t *testing.T) {
	var b strings.Builder
	for i := range 100 {
		b.WriteString(`"k` + strings.Repeat("x", i) + `":` + `1,`)
	}
	root, faults := Parse([]byte("{"+b.String()+`"kxxx":2}`), roomy)
	if len(faults) != 1 || faults[0].Reason != Duplicate || root.Get("kxxx").Text != "1" || len(root.Members) != 100 {
		t.Errorf("got %v, %d members; want one duplicate, the first value, 100 members", faults, len(root.Members))
	}
}

// FuzzParse checks the parser against encoding/json: what it takes is valid
// JSON, and what it refuses as syntax is not, but for lone surrogates.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2,{"b":null}],"c":"\u00e9"}`, `[1,]`, `"\ud800"`, `{"a":1,"a":2}`, `-0.0e-1`, "\xff", `[[[[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		root, faults := Parse(raw, roomy)
		lines := NewLines(raw)
		for _, fault := range faults {
			if l, c := lines.Position(fault.Start); l < 1 || c < 1 {
				t.Errorf("fault %v at %d:%d", fault, l, c)
			}
			if fault.Reason == Syntax && json.Valid(raw) && !strings.Contains(fault.Text, "surrogate") {
				t.Errorf("refused valid JSON %q: %v", raw, fault)
			}
		}
		if root != nil && !json.Valid(raw) {
			t.Errorf("took invalid JSON %q", raw)
		}
		if root == nil && len(faults) == 0 {
			t.Errorf("neither tree nor fault for %q", raw)
		}
	})
}
