package derive

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// TestLargeDeployment derives a manifest of 300 services with a policy each.
func TestLargeDeployment(t *testing.T) {
	var b strings.Builder
	for i := range 300 {
		b.WriteString(pod(fmt.Sprintf("s%d", i), "", `, ports: [{containerPort: 8080, name: http}], env: [{name: NEXT_URL, value: "http://s0"}]`, ""))
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d}\nspec: {selector: {app: s%d}, ports: [{port: 80, targetPort: http}]}\n", i, i)
		fmt.Fprintf(&b, "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np%d}\nspec: {podSelector: {matchLabels: {app: s%d}}, ingress: [{from: [{podSelector: {matchLabels: {app: s%d}}}]}]}\n", i, i, (i+1)%300)
	}
	r, doc := derived(t, b.String(), Options{})
	calls := 0
	for _, m := range doc.Marbles {
		calls += len(m.Calls)
	}
	if calls != 300 || len(doc.Tests) != 0 || !r.said(importer.Stricter, "keep s5 from it") {
		t.Errorf("got %d calls and %d tests, want a ring of 300 calls", calls, len(doc.Tests))
	}
}

func TestHostileYAMLIsRefusedWithCodes(t *testing.T) {
	long := "a: &a \"" + strings.Repeat("x", 400<<10) + "\"\nb: [" + strings.Repeat("*a, ", 50_000) + "*a]\n"
	var many strings.Builder
	for i := range maxWorkloads + 1 {
		fmt.Fprintf(&many, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p%d}\nspec: {containers: [{name: c}]}\n", i)
	}
	nested := `{"apiVersion":"v1","kind":"List","items":[`
	tests := []struct {
		name, yaml string
		want       problem.Code
	}{
		{"no object", "a: b", "KUB-090"},
		{"a list", "[1]", "KUB-090"},
		{"not YAML", "a: [", "KUB-090"},
		{"a key twice", "apiVersion: v1\nkind: Pod\nkind: Pod\n", "KUB-090"},
		{"a key twice in JSON", `{"apiVersion":"v1","kind":"Pod","kind":"Pod"}`, "KUB-090"},
		{"text behind a separator", "--- {}\n" + pod("a", "", "", ""), "KUB-090"},
		{"a document behind the end of one", strings.Replace(pod("a", "", "", ""), "---\n", "", 1) + "...\napiVersion: v1\nkind: Namespace\n", "KUB-090"},
		{"an object twice", pod("a", "", "", "") + pod("a", "", "", ""), "KUB-090"},
		{"wrong types", "apiVersion: v1\nkind: Pod\nspec: hunter2\n", "KUB-090"},
		{"no container", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "KUB-090"},
		{"no such container", pod("a", `, annotations: {ashlar.dev/container: x}`, "", ""), "KUB-090"},
		{"aliases", long, "KUB-090"},
		{"an alias of itself", "a: &a [*a]", "KUB-090"},
		{"deep", "a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "KUB-090"},
		{"deep JSON", `{"apiVersion":"v1","kind":"Pod","spec":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}", "KUB-090"},
		{"lists in lists", strings.Repeat(nested, 6) + strings.Repeat("]}", 6), "KUB-090"},
		{"too large", strings.Repeat(" ", MaxFile+1), "KUB-091"},
		{"too many", many.String(), "KUB-091"},
		{"nothing", "", "KUB-092"},
		{"comments alone", "# a\n---\n# b\n---\n", "KUB-092"},
		{"nothing that runs", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "KUB-092"},
		{"an unknown field in a policy", pod("a", "", "", "") + "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np}\nspec: {podselector: {}}\n", "KUB-094"},
		{"an unknown operator", pod("a", "", "", "") + "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np}\nspec: {podSelector: {matchExpressions: [{key: a, operator: Like}]}}\n", "KUB-094"},
	}
	for _, tt := range tests {
		c, err := Read([]Source{{"k.yaml", []byte(tt.yaml)}})
		if err == nil {
			_, err = c.Manifest(Options{})
		}
		if problem.CodeOf(err) != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds text of the document: %v", tt.name, err)
		}
	}
}

// TestManyPoliciesEnd holds as many policies against as many pods as are read.
func TestManyPoliciesEnd(t *testing.T) {
	var b strings.Builder
	for i := range 900 {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p%d, labels: {a: b}}\nspec: {containers: [{name: c, ports: [{containerPort: 80}]}]}\n", i)
	}
	for i := range 900 {
		fmt.Fprintf(&b, "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np%d}\nspec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}\n", i)
	}
	c, err := Read([]Source{{"k.yaml", []byte(b.String())}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Manifest(Options{}); problem.CodeOf(err) != "KUB-091" {
		t.Errorf("got %v, want KUB-091", err)
	}
}

// FuzzRead reads hostile bytes: no panic, and each manifest is one that Parse has
// only meaning to object to.
func FuzzRead(f *testing.F) {
	for _, s := range sample(f) {
		f.Add(s.Data)
	}
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}]}}]}`))
	f.Add([]byte("a: &a [*a]\n---\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Read([]Source{{"k", data}})
		if err != nil {
			if problem.CodeOf(err) == "" {
				t.Fatalf("an error without a code: %v", err)
			}
			return
		}
		r, err := c.Manifest(Options{TEE: "sim"})
		if err != nil {
			if problem.CodeOf(err) == "" {
				t.Fatalf("an error without a code: %v", err)
			}
			return
		}
		for _, o := range r.Open {
			if slices.Contains([]problem.Code{"MAN-001", "MAN-002", "MAN-003", "MAN-004", "MAN-007", "MAN-008", "MAN-015", "MAN-017", "MAN-018", "MAN-022", "MAN-029", "MAN-030", "MAN-040"}, o.Code) {
				t.Fatalf("the manifest is malformed: %+v\n%s", o, r.Manifest)
			}
		}
	})
}
