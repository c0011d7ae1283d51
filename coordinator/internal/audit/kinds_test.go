package audit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestEveryKindIsDisclosedAndDocumented reads the kinds out of the source: each
// has a row in disclosed and in docs/wire.md, and the two say the same.
func TestEveryKindIsDisclosedAndDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(doc)) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); len(cells) == 3 && strings.HasPrefix(line, "| `") {
			for _, kind := range strings.Split(strings.TrimPrefix(cells[0], "| "), ", ") {
				rows[strings.Trim(kind, "`")] = cells[1:]
			}
		}
	}
	found := 0
	for _, kind := range kinds(t) {
		found++
		d, ok := disclosed[Kind(kind)]
		if !ok {
			t.Errorf("kind %s has no row in disclosed", kind)
		}
		row, ok := rows[kind]
		if !ok {
			t.Errorf("kind %s has no row in docs/wire.md", kind)
			continue
		}
		public := strings.Split(strings.Trim(row[1], " |"), ", ")
		var want []string
		if d.text {
			want = append(want, "text")
		}
		for _, detail := range d.details {
			if detail == everyDetail {
				detail = "all"
			}
			want = append(want, "`"+detail+"`")
		}
		if len(want) == 0 {
			want = []string{"–"}
		}
		if !sameSet(public, want) {
			t.Errorf("docs/wire.md says that public of kind %s is %s, the code %s", kind, strings.Join(public, ", "), strings.Join(want, ", "))
		}
	}
	if found != len(disclosed) {
		t.Errorf("got %d kinds, disclosed has %d", found, len(disclosed))
	}
}

func sameSet(a, b []string) bool {
	in := map[string]bool{}
	for _, s := range a {
		in[s] = true
	}
	for _, s := range b {
		if !in[s] {
			return false
		}
	}
	return len(in) == len(b)
}

// kinds returns the values of all constants of type Kind in this package.
func kinds(t *testing.T) (values []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok {
				if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Kind" {
					value, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					values = append(values, value)
				}
			}
			return true
		})
	}
	return values
}
