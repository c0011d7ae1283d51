package kube

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestRefusalOf(t *testing.T) {
	for _, c := range []struct {
		name, message string
		want          refused
	}{
		{"the injector", `Error creating: admission webhook "pods.injector.ashlar.dev" denied the request: KUB-052 the manifest in force has no marble "wbe"; next: did you mean "web"?`,
			refused{said{"KUB-052", `the manifest in force has no marble "wbe"`, `did you mean "web"?`}, "pods.injector.ashlar.dev", false}},
		{"a StatefulSet", `create Pod web-0 in StatefulSet web failed error: admission webhook "pods.injector.ashlar.dev" denied the request: KUB-053 two TEEs`,
			refused{said{"KUB-053", "two TEEs", ""}, "pods.injector.ashlar.dev", false}},
		{"another webhook", `admission webhook "policy.example" denied the request: ABC-123 no`, refused{said{"", "ABC-123 no", ""}, "policy.example", false}},
		{"without a reason", `admission webhook "policy.example" denied the request`, refused{said{"", "", ""}, "policy.example", false}},
		{"away", `Internal error occurred: failed calling webhook "pods.injector.ashlar.dev": failed to call webhook: Post "https://ashlar-injector.mesh.svc:443/inject": dial tcp 10.0.0.7:443: connect: connection refused`,
			refused{said{"", `Post "https://ashlar-injector.mesh.svc:443/inject": dial tcp 10.0.0.7:443: connect: connection refused`, ""}, "pods.injector.ashlar.dev", true}},
		{"pod security", `pods "web" is forbidden: violates PodSecurity "restricted:latest": hostPath`,
			refused{said: said{text: `pods "web" is forbidden: violates PodSecurity "restricted:latest": hostPath`}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := refusalOf(c.message); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestHeard(t *testing.T) {
	for line, want := range map[string]said{
		"evidence refused: rtmr1 differs (ATT-012); next: ashlar explain web/7f2c": {"ATT-012", "evidence refused: rtmr1 differs", "ashlar explain web/7f2c"},
		"waiting for manifest; next: ashlar manifest set FILE":                     {"", "waiting for manifest", "ashlar manifest set FILE"},
		"KUB-052: gone": {"KUB-052", "gone", ""},
		"the part ZZZ-999 of KUB-052 is not known": {"KUB-052", "the part ZZZ-999 of is not known", ""},
		"": {},
	} {
		if got := heard(line); got != want {
			t.Errorf("%q: got %+v, want %+v", line, got, want)
		}
	}
}

// FuzzRefusal reads what anybody who may refuse pods can write.
func FuzzRefusal(f *testing.F) {
	f.Add(`Error creating: admission webhook "w" denied the request: KUB-052 (ATT-012); next: x`)
	f.Add(`failed calling webhook "": `)
	f.Fuzz(func(t *testing.T, message string) {
		r := refusalOf(message)
		if r.code != "" && !problem.Known(r.code) {
			t.Errorf("got code %q, which is not known", r.code)
		}
		if len(r.text)+len(r.next) > len(message) {
			t.Errorf("got %q and %q out of %q, which is shorter", r.text, r.next, message)
		}
		if utf8.ValidString(message) && !utf8.ValidString(r.text+r.next) {
			t.Errorf("got %q, which cuts a character", r.text+r.next)
		}
		if r.away && r.code != "" || strings.Contains(r.by, `"`) {
			t.Errorf("got %+v", r)
		}
	})
}
