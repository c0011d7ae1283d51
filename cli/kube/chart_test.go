package kube

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ashlar-mesh/ashlar/charts"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// little is a chart with a schema and a template that refuses.
var little = fstest.MapFS{
	"little/Chart.yaml":  {Data: []byte("apiVersion: v2\nname: little\nversion: 1.2.3\nappVersion: four\nkubeVersion: '>=1.28.0-0'\n")},
	"little/values.yaml": {Data: []byte("size: 1\npolicy: ''\ncoordinator: {state: {createUntil: ''}}\n")},
	"little/values.schema.json": {Data: []byte(`{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": false,
		"properties": {"size": {"type": "integer", "minimum": 1}, "policy": {"type": "string"}, "coordinator": {"type": "object", "additionalProperties": false,
		"properties": {"state": {"type": "object", "additionalProperties": false, "properties": {"createUntil": {"type": "string"}}}}}}}`)},
	"little/templates/all.yaml": {Data: []byte(`{{ if eq (int .Values.size) 13 }}{{ fail "size: not thirteen" }}{{ end }}apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}
data: {app: {{ .Chart.AppVersion }}, until: {{ .Values.coordinator.state.createUntil | quote }}, kube: {{ .Capabilities.KubeVersion.Version }}}
`)},
}

func loaded(t *testing.T) *Chart {
	t.Helper()
	c, err := LoadChart(little, "little", "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoadChart(t *testing.T) {
	for version, want := range map[string]string{"": "devel", "v1.2.3": "v1.2.3"} {
		c, err := LoadChart(charts.Ashlar, "ashlar", version)
		if err != nil {
			t.Fatal(err)
		}
		if c.App() != want || c.Version() == "" {
			t.Errorf("built as %q: got chart %q with programs %q, want %q", version, c.Version(), c.App(), want)
		}
	}
	if _, err := LoadChart(little, "absent", ""); problem.CodeOf(err) != "KUB-018" {
		t.Errorf("got %v, want KUB-018", err)
	}
}

func TestRender(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	policy := Document{Name: "policy.json", Data: []byte(`{"policy": "{}"}`)}
	r, err := Render(loaded(t), Target{"mesh", "shop"}, Values{Documents: []Document{policy}, Until: at}, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"{name: mesh, namespace: shop}", "app: four", `until: "2026-11-22T12:00:00Z"`, "kube: v1.37.2"} {
		if !strings.Contains(r, want) {
			t.Errorf("got %s, want %q in it", r, want)
		}
	}
	r, err = Render(loaded(t), Target{"mesh", "shop"}, Values{Set: []string{"coordinator.state.createUntil=never"}, Until: at}, "1.30")
	if err != nil || !strings.Contains(r, `until: "never"`) || !strings.Contains(r, "kube: v1.30}") {
		t.Errorf("got %s (%v), want the value that was given, and v1.30", r, err)
	}
}

func TestRenderRefuses(t *testing.T) {
	for _, c := range []struct {
		name, kube string
		v          Values
		code       problem.Code
		says, next string
	}{
		{"a typo", "", Values{Set: []string{"sise=1"}}, "KUB-005", "sise: there is no such value", "did you mean size?"},
		{"a typo below", "", Values{Set: []string{"coordinator.state.createUnti=x"}}, "KUB-005", "coordinator.state.createUnti: there is", "did you mean coordinator.state.createUntil?"},
		{"another type", "", Values{SetString: []string{"size=1"}}, "KUB-005", "size: got string, want integer", ""},
		{"two at once", "", Values{Set: []string{"size=0", "policy=1"}}, "KUB-005", "policy: got number, want string; size: minimum: got 0, want 1", ""},
		{"a key twice", "", Values{Documents: []Document{{"v.yaml", []byte("size: 1\nsize: 2\n")}}}, "KUB-005", "v.yaml", ""},
		{"no YAML", "", Values{Documents: []Document{{"v.yaml", []byte("{")}}}, "KUB-005", "v.yaml", ""},
		{"no key", "", Values{Set: []string{"size"}}, "KUB-005", "--set size", ""},
		{"what a template refuses", "", Values{Set: []string{"size=13"}}, "KUB-005", "size: not thirteen", ""},
		{"an old cluster", "1.20", Values{}, "KUB-014", ">=1.28.0-0", ""},
		{"no version", "new", Values{}, "KUB-005", "--kube-version new", ""},
		{"a file that is not there", "", Values{SetFile: []string{"policy=absent"}, Read: os.ReadFile}, "KUB-005", "absent", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Render(loaded(t), Target{"mesh", "shop"}, c.v, c.kube)
			e := problem.From(err)
			if err == nil || e.Code != c.code || !strings.Contains(e.Detail, c.says) || !strings.Contains(e.Next, c.next) {
				t.Errorf("got %v, next %q; want %s, %q and %q", err, e.Next, c.code, c.says, c.next)
			}
		})
	}
}

func TestLaterValuesWin(t *testing.T) {
	v := Values{Documents: []Document{{"a", []byte("x: {one: 1, two: 2}\nlist: [1, 2]\n")}, {"b", []byte("x: {two: 3}\nlist: [4]\n")}},
		Set: []string{"x.one=5"}, SetString: []string{"x.text=7"}, SetFile: []string{"x.file=name"},
		Read: func(name string) ([]byte, error) { return []byte("content of " + name), nil }}
	got, err := v.merged()
	if err != nil {
		t.Fatal(err)
	}
	if text := show(got); text != `{"list":[4],"x":{"file":"content of name","one":5,"text":"7","two":3}}` {
		t.Errorf("got %s", text)
	}
	if first, err := (Values{Documents: v.Documents[:1]}).merged(); err != nil || show(first) != `{"list":[1,2],"x":{"one":1,"two":2}}` {
		t.Errorf("merging has changed what was merged: got %s, %v", show(first), err)
	}
}

func TestAppliedIsWhatWasShown(t *testing.T) {
	if out, err := exactly("a").Run(bytes.NewBufferString("a")); err != nil || out.String() != "a" {
		t.Errorf("got %v, %v; want what was rendered", out, err)
	}
	if _, err := exactly("a").Run(bytes.NewBufferString("b")); problem.CodeOf(err) != "KUB-016" {
		t.Errorf("got %v, want KUB-016", err)
	}
}
