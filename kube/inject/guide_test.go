package inject_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

const guide = "../../docs/guides/kubernetes.md"

// TestGuideHasTheProfiles compares the guide's table with the code's.
func TestGuideHasTheProfiles(t *testing.T) {
	raw, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "-update -->\n", "<!-- end of profiles -->"
	head, rest, ok := strings.Cut(string(raw), from)
	got, tail, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatal("the guide has no place for the table")
	}
	want := profileTable()
	if *update {
		if err := os.WriteFile(guide, []byte(head+from+want+to+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		got = want
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func profileTable() string {
	table := inject.Profiles()
	names := slices.Sorted(maps.Keys(table))
	slices.SortStableFunc(names, func(a, b string) int {
		if table[a].Runtime != table[b].Runtime {
			return strings.Compare(table[a].Runtime, table[b].Runtime)
		}
		return strings.Compare(table[b].RuntimeClass, table[a].RuntimeClass)
	})
	var b strings.Builder
	b.WriteString("| profile | TEE | runtime | what the pod gets |\n|---|---|---|---|\n")
	for _, name := range names {
		p := table[name]
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", name, p.TEE, p.Runtime, strings.Join(given(p), "; "))
	}
	return b.String()
}

// given lists what a row gives, in words.
func given(p inject.Profile) []string {
	var all []string
	add := func(what string, values ...string) {
		if len(values) > 0 {
			all = append(all, what+"`"+strings.Join(values, "`, `")+"`")
		}
	}
	pairs := func(m map[string]string, between string) []string {
		var list []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			list = append(list, k+between+m[k])
		}
		return list
	}
	if p.RuntimeClass != "" {
		add("RuntimeClass ", p.RuntimeClass)
	}
	if p.EPC != nil {
		add("", fmt.Sprintf("%s: %s", p.EPC.Name, p.EPC.Default))
	}
	add("", pairs(p.Resources, ": ")...)
	add("node ", pairs(p.NodeLabels, "=")...)
	add("tolerates ", p.Tolerations...)
	var paths []string
	for _, h := range p.HostPaths {
		paths = append(paths, h.Path)
	}
	add("host ", paths...)
	add("", pairs(p.Annotations, ": ")...)
	add("", pairs(p.Env, "=")...)
	if p.Privileged {
		all = append(all, "privileged")
	}
	return all
}

// TestGuideHasTheAnnotations finds each name of inject.go in the guide, and no
// other of Ashlar's.
func TestGuideHasTheAnnotations(t *testing.T) {
	raw, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "inject.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if s, err := strconv.Unquote(l.Value); err == nil && strings.HasPrefix(s, "ashlar.dev/") {
				names[s] = true
			}
		}
		return true
	})
	if len(names) < 10 {
		t.Fatalf("found only %v in inject.go", names)
	}
	for name := range names {
		if !strings.Contains(string(raw), "`"+name) {
			t.Errorf("%s is not in the guide", name)
		}
	}
	for _, part := range strings.Split(string(raw), "ashlar.dev/")[1:] {
		end := strings.IndexFunc(part, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') })
		if name := "ashlar.dev/" + part[:end]; !names[name] && end > 0 {
			t.Errorf("the guide names %s, which the code does not know", name)
		}
	}
}
