package manifest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// referring is the sample whose marble web has references, written as JSON.
func referring(t *testing.T, references string, more ...string) []byte {
	t.Helper()
	raw := string(edit(t, `"env": {`, `"references": `+references+`, "env": {`))
	secrets := `"secrets": {` + strings.Join(append(more, `"dbPassword": {"type": "opaque", "readers": ["web"], "depositors": ["db"]}, "rsaKey": {"type": "rsa", "readers": ["web"], "operations": ["sign"]},
		"orders": {"type": "counter", "readers": ["web"]}`), ",") + ","
	if !strings.Contains(raw, `"secrets": {`) {
		t.Fatal("the sample has no secrets")
	}
	return []byte(strings.Replace(raw, `"secrets": {`, secrets, 1))
}

func TestReferences(t *testing.T) {
	m := mustParse(t, referring(t, `{"env": {"DB_PASSWORD": ["dbPassword", "sessionKey"]}, "files": {"/etc/db/password": ["dbPassword"]}}`))
	r := m.Marbles["web"].Parameters.References
	if !slices.Equal(r.Env["DB_PASSWORD"], []string{"dbPassword", "sessionKey"}) || !slices.Equal(r.Files["/etc/db/password"], []string{"dbPassword"}) {
		t.Errorf("got %v", r)
	}
	if got := m.SecretsOf("web"); !slices.Equal(got, []string{"dbPassword", "sessionKey"}) {
		t.Errorf("it is sent %v", got)
	}
}

func TestReferencesAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		references string
		code       problem.Code
		path, text string
		suggestion string
	}{
		"no secret":       {`{"env": {"A": ["dbPasword"]}}`, "MAN-034", "marbles.web.parameters.references.env.A[0]", `no secret "dbPasword"`, `"dbPassword"`},
		"not a reader":    {`{"env": {"A": ["cartTLS"]}}`, "MAN-100", "marbles.web.parameters.references.env.A[0]", "web is none of its readers", `add "web" to secrets.cartTLS.readers`},
		"use-only":        {`{"files": {"/a": ["rsaKey"]}}`, "MAN-101", `marbles.web.parameters.references.files["/a"][0]`, "use-only", "agent's socket"},
		"counter":         {`{"env": {"A": ["orders"]}}`, "MAN-101", "marbles.web.parameters.references.env.A[0]", "counter", "agent's socket"},
		"set by env":      {`{"env": {"SESSION_KEY": ["dbPassword"]}}`, "MAN-102", "marbles.web.parameters.references.env.SESSION_KEY", "never be looked at", "remove it"},
		"set by files":    {`{"files": {"/etc/shop/web.pem": ["dbPassword"]}}`, "MAN-102", `marbles.web.parameters.references.files["/etc/shop/web.pem"]`, "never be looked at", "remove it"},
		"for the marble":  {`{"env": {"ASHLAR_DIR": ["dbPassword"]}}`, "MAN-103", "marbles.web.parameters.references.env.ASHLAR_DIR", "marble itself", ""},
		"dots":            {`{"files": {"/etc/../a": ["dbPassword"]}}`, "MAN-007", `marbles.web.parameters.references.files["/etc/../a"]`, "'..'", ""},
		"relative":        {`{"files": {"etc/a": ["dbPassword"]}}`, "MAN-007", `marbles.web.parameters.references.files["etc/a"]`, "absolute path", ""},
		"variable's name": {`{"env": {"A=B": ["dbPassword"]}}`, "MAN-007", `marbles.web.parameters.references.env["A=B"]`, "environment variable", ""},
		"no secrets":      {`{"env": {"A": []}}`, "MAN-006", "marbles.web.parameters.references.env.A", "at least 1", ""},
		"one, not a list": {`{"env": {"A": "dbPassword"}}`, "MAN-003", "marbles.web.parameters.references.env.A", "array", ""},
		"twice":           {`{"env": {"A": ["dbPassword", "dbPassword"]}}`, "MAN-008", "marbles.web.parameters.references.env.A[1]", "twice", ""},
		"unknown kind":    {`{"args": {"A": ["dbPassword"]}}`, "MAN-002", "marbles.web.parameters.references.args", "args", ""},
	} {
		m, ds := Parse(referring(t, c.references))
		if m != nil || len(ds) == 0 {
			t.Errorf("%s: was accepted", name)
			continue
		}
		d := ds[0]
		if d.Code != c.code || d.Path != c.path || !strings.Contains(d.Message, c.text) || !strings.Contains(d.Suggestion, c.suggestion) {
			t.Errorf("%s: got %s %s: %s (%s), want %s %s with %q (%q)", name, d.Code, d.Path, d.Message, d.Suggestion, c.code, c.path, c.text, c.suggestion)
		}
	}
}

// What references may release counts among what a marble is sent.
func TestReferencesCountInTheReply(t *testing.T) {
	for places, want := range map[int]problem.Code{1: "", 4: "MAN-035"} {
		var env, secrets []string
		for i := range places {
			var names []string
			for j := range 60 {
				name := fmt.Sprintf("s%d_%d", i, j)
				names = append(names, `"`+name+`"`)
				secrets = append(secrets, fmt.Sprintf(`"%s": {"type": "cert-rsa", "readers": ["web"], "dnsNames": [%s]}`, name, dnsNames(32)))
			}
			env = append(env, fmt.Sprintf(`"E%d": [%s]`, i, strings.Join(names, ",")))
		}
		m, ds := Parse(referring(t, `{"env": {`+strings.Join(env, ",")+`}}`, secrets...))
		switch {
		case want == "" && (m == nil || len(m.SecretsOf("web")) != 61): // and the sample's
			t.Errorf("%d places: got %v, want 61 secrets sent", places, ds)
		case want != "" && (len(ds) == 0 || ds[0].Code != want):
			t.Errorf("%d places: got %v, want %s", places, ds, want)
		}
	}
}

func dnsNames(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"h%d.example"`, i))
	}
	return strings.Join(all, ",")
}

func TestAskKnowsReferences(t *testing.T) {
	m := mustParse(t, referring(t, `{"files": {"/etc/db/password": ["dbPassword"]}}`))
	a, err := Ask(m, nil, "who can read dbPassword")
	if err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, f := range a.Facts {
		for _, at := range f.Grants {
			places = append(places, at.Path)
		}
	}
	if want := `marbles.web.parameters.references.files["/etc/db/password"][0]`; !slices.Contains(places, want) {
		t.Errorf("got %s because of %v, want %s among them", a.Summary, places, want)
	}
	if a, err := Ask(m, nil, "may web read dbPassword"); err != nil || a.Summary != "yes: web is sent dbPassword" {
		t.Errorf("got %+v, %v, want it sent", a.Summary, err)
	}
}

func TestDiffNamesNewReferences(t *testing.T) {
	old := mustParse(t, referring(t, `{"env": {"A": ["dbPassword"]}}`))
	now := mustParse(t, referring(t, `{"env": {"A": ["sessionKey"]}, "files": {"/b": ["dbPassword"]}}`))
	d := Compare(old, now)
	var got []string
	for _, e := range d.Effects {
		got = append(got, e.Subject+": "+e.Text)
	}
	want := []string{"web: gets the new parameters when it starts the next time", "web: the host may put a reference to sessionKey into variable A", "web: the host may put a reference to dbPassword into file /b"}
	if !slices.Equal(got, want) {
		t.Errorf("got effects %q, want %q", got, want)
	}
	if len(d.Changes) != 2 {
		t.Errorf("got changes %v, want 2", d.Changes)
	}
}
