package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestAskSample(t *testing.T) {
	m := mustParse(t, sample(t))
	for _, c := range []struct{ question, summary, first string }{
		{"may web reach db?", "yes: web → cart (line 34) → db (line 45)", "web calls cart:http: port 8080, http, GET /items/* @ marbles.web.calls[0] 34:9"},
		{"  MAY web Reach db  through OTHERS ", "yes: web → cart (line 34) → db (line 45)", "web calls cart:http: port 8080, http, GET /items/* @ marbles.web.calls[0] 34:9"},
		{"may web reach db directly", "no: web does not call db", ""},
		{"may cart read sessionKey", "no: cart is none of the readers of sessionKey", ""},
		{"who can read sessionKey", "web can read sessionKey; alice could release it alone", "web reads sessionKey: runs package web on platform default @ secrets.sessionKey.readers[0] 54:86, marbles.web.parameters.env.SESSION_KEY 38:18, marbles.web.package 28:7"},
		{"which single person could release cartTLS", "alice could release cartTLS alone", "alice sets a manifest that changes secrets/cartTLS/readers @ users.alice.roles[0] 60:17, roles.operator.actions[0] 64:31"},
		{"what can run as db", "package db under sim on platform default can run as db; so can anybody who poses as it", "db runs db: sim: program [1111…1111], agent [2222…2222], files.schema.sql 3333…3333 @ marbles.db.package 49:7, packages.db.sim 13:7"},
		{"what can db read", "db can read no secret", ""},
		{"who has manageEndorsements", "nobody has manageEndorsements", ""},
		{"what can db call", "db can call nobody", ""},
		{"who can call db", "cart can call db; 1 more reaches through others", "cart calls db:sql: port 5432, tcp @ marbles.cart.calls[0] 45:17"},
	} {
		a, err := Ask(m, nil, c.question)
		if err != nil {
			t.Errorf("%s: %v", c.question, err)
			continue
		}
		first := ""
		if len(a.Facts) > 0 {
			var at []string
			for _, g := range a.Facts[0].Grants {
				at = append(at, fmt.Sprintf("%s %d:%d", g.Path, g.Line, g.Column))
			}
			first = a.Facts[0].String() + " @ " + strings.Join(at, ", ")
		}
		if a.Summary != c.summary || first != c.first {
			t.Errorf("%s: got %q\n%q\nwant %q\n%q", c.question, a.Summary, first, c.summary, c.first)
		}
	}
}

func TestAskRefuses(t *testing.T) {
	m := mustParse(t, sample(t))
	for _, c := range []struct {
		question string
		code     problem.Code
		next     string
	}{
		{"", "MAN-060", "ashlar manifest ask --help lists all questions"},
		{"hello", "MAN-060", "ashlar manifest ask --help lists all questions"},
		{"may web raech db", "MAN-060", `did you mean "may web reach db"?`},
		{"may web reach db trough others", "MAN-060", `did you mean "may web reach db through others"?`},
		{"what may web call", "MAN-060", `did you mean "what can web call"?`},
		{"who can read", "MAN-060", "ashlar manifest ask --help lists all questions"},
		{"may web reach db now", "MAN-060", `did you mean "may web reach db"?`},
		{"may web reach dbb", "MAN-061", `did you mean "db"?`},
		{"may web read SessionKey", "MAN-061", `did you mean "sessionKey"?`},
		{"what can bob do", "MAN-061", "it has alice"},
		{"who has updateManifests", "MAN-061", `did you mean "updateManifest"?`},
		{strings.Repeat("x", 1001), "MAN-060", "ashlar manifest ask --help lists all questions"},
	} {
		_, err := Ask(m, nil, c.question)
		var got *problem.Error
		if !errors.As(err, &got) || got.Code != c.code || got.Next != c.next {
			t.Errorf("%.40q: got %v, want %s, %q", c.question, err, c.code, c.next)
		} else if got.Next != c.next {
			t.Errorf("%.40q: got %q, want %q", c.question, got.Next, c.next)
		}
	}
}

func TestAbout(t *testing.T) {
	m := mustParse(t, sample(t))
	for name, want := range map[string][]string{
		"cart":           {"who can call cart", "what can cart call", "what can cart read", "what can run as cart"},
		"cartTLS":        {"who can ever read cartTLS"},
		"alice":          {"what can alice do"},
		"updateManifest": {"who has updateManifest"},
		"default":        {"which single person could raise the floor of default"},
	} {
		answers, err := About(m, name)
		var got []string
		for _, a := range answers {
			got = append(got, a.Question)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	_, err := About(m, "crat")
	if e := problem.From(err); e.Code != "MAN-061" || e.Next != `did you mean "cart"?` {
		t.Errorf("got %v", err)
	}
}

// TestQuestionsTakeThemselves checks that each form is understood as itself.
func TestQuestionsTakeThemselves(t *testing.T) {
	for i, q := range Questions() {
		q = strings.NewReplacer("[", "", "]", "").Replace(q)
		f, names, err := understand(q)
		if err != nil || f != &forms[i] || f.with(names) != q {
			t.Errorf("%q: got %v, %v", q, names, err)
		}
	}
}

func TestNewTerms(t *testing.T) {
	m := mustParse(t, sample(t))
	for _, c := range []struct{ old, new, want string }{
		{`"lease": "30m"`, `"lease": "2h"`, "web (lease): keeps an identity for 2h; was 30m"},
		{`"lease": "30m"`, `"lease": "20m"`, ""},
		{`"maxInstances": 20`, `"maxInstances": 21`, "web (maxInstances): may have 21 instances; was 20"},
		{`"web.shop.example"]`, `"web.shop.example", "x.example"]`, "web (x.example): may go by this DNS name"},
		{`"shop.example"`, `"shop2.example"`, "mesh (shop2.example): identities of this trust domain; was shop.example"},
		{`{ "from": "web", "to": "db", "allow": true },`, ``, "tests (web must reach db): is demanded no more"},
		{`"scope": "shared"`, `"scope": "instance"`, ""},
		{`"minTCBEvaluation": 19`, `"minTCBEvaluation": 18`, "web (default): sgx.minTCBEvaluation is 18; was 19"},
		{`"minTCBEvaluation": 19`, `"minTCBEvaluation": 20`, ""},
		{`"maxAge": "720h"`, `"maxAge": "721h"`, `web (default): endorsements.maxAge is "721h0m0s"; was "720h0m0s"`},
		{`"SWHardeningNeeded"]`, `"SWHardeningNeeded", "OutOfDate"]`, `web (default): sgx.acceptedTCBStatuses has ["OutOfDate"] as well`},
		{`"acceptedAdvisories": ["INTEL-SA-00615"], `, ``, `web (default): sgx.acceptedAdvisories is not demanded any more; was ["INTEL-SA-00615"]`},
		{`"minSecurityVersion": 3`, `"minSecurityVersion": 2`, "web (web): sgx.minSecurityVersion is 2; was 3"},
		{`"minSecurityVersion": 3`, `"minSecurityVersion": 3, "allowAnyMeasurement": true`, "web (web): sgx.allowAnyMeasurement is true; was not given"},
	} {
		a, err := Ask(mustParse(t, edit(t, c.old, c.new)), m, NewlyAllowed)
		if err != nil {
			t.Fatal(err)
		}
		has := slices.ContainsFunc(a.Facts, func(f Fact) bool { return f.String() == c.want })
		if c.want == "" && len(a.Facts) > 0 || c.want != "" && !has {
			t.Errorf("%s: got %v, want %q", c.new, a.Facts, c.want)
		}
	}
	a, err := Ask(m, nil, NewlyAllowed)
	if err != nil || !strings.HasPrefix(a.Summary, "newly allowed: call: 2, reach: 1, reader: 2, right: 1,") {
		t.Errorf("against nothing: got %q, %v", a.Summary, err)
	}
}

// TestNoRuleIsPassedOver takes each field of a package and a platform that name
// every rule away: it is looser to have it, or not to have it.
func TestNoRuleIsPassedOver(t *testing.T) {
	for _, text := range []string{everyPackage(), everyPlatform()} {
		root, faults := jsonpos.Parse([]byte(text), jsonpos.Limits{Depth: maxDepth, Values: maxValues})
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		if l := loosened(root, root); len(l) > 0 {
			t.Fatalf("against itself: %v", l)
		}
		var walk func(n *jsonpos.Node, at string)
		walk = func(n *jsonpos.Node, at string) {
			for i, m := range slices.Clone(n.Members) {
				whole := n.Members
				n.Members = slices.Delete(slices.Clone(whole), i, i+1)
				less, _ := jsonpos.Parse(rewritten(root), jsonpos.Limits{Depth: maxDepth, Values: maxValues})
				n.Members = whole
				if len(loosened(root, less))+len(loosened(less, root)) == 0 {
					t.Errorf("%s.%s: neither with it nor without it is looser", at, m.Key)
				}
				walk(m.Value, at+"."+m.Key)
			}
		}
		walk(root, "")
	}
}

// rewritten writes a tree as JSON again.
func rewritten(n *jsonpos.Node) []byte {
	switch n.Kind {
	case jsonpos.Object:
		var parts []string
		for _, m := range n.Members {
			parts = append(parts, fmt.Sprintf("%q:%s", m.Key, rewritten(m.Value)))
		}
		return []byte("{" + strings.Join(parts, ",") + "}")
	case jsonpos.Array:
		var parts []string
		for _, item := range n.Items {
			parts = append(parts, string(rewritten(item)))
		}
		return []byte("[" + strings.Join(parts, ",") + "]")
	case jsonpos.String:
		return []byte(fmt.Sprintf("%q", n.Text))
	}
	return []byte(n.Text)
}

func TestOpenings(t *testing.T) {
	for _, c := range []struct {
		p    attest.Package
		want int
	}{
		{attest.Package{SGX: &attest.SGXReference{}}, 0},
		{attest.Package{SGX: &attest.SGXReference{AllowAny: true}}, 1},
		{attest.Package{SGX: &attest.SGXReference{AllowAny: true}, TDX: &attest.TDXReference{AllowAny: true}, AllowDebug: true}, 3},
		{attest.Package{Azure: &attest.AzureReference{SNP: &attest.SNPReference{AllowAny: true}}}, 1},
		{attest.Package{Sim: &attest.SimReference{}}, 1},
	} {
		if got := openings(c.p); len(got) != c.want {
			t.Errorf("%+v: got %v, want %d", c.p, got, c.want)
		}
	}
}

func TestTestsThatAsk(t *testing.T) {
	const was = `{ "from": "db", "to": "web", "allow": false }`
	for _, c := range []struct{ test, code, message, suggestion string }{
		{`{"ask": "may web read sessionKey", "allow": true}`, "", "", ""},
		{`{"ask": "may cart read sessionKey", "allow": false}`, "", "", ""},
		{`{"ask": "may web reach db directly", "allow": false}`, "", "", ""},
		{`{"ask": "may alice do updateManifest", "allow": true}`, "", "", ""},
		{`{"ask": "may web read sessionKey", "allow": false}`, "MAN-040", "test failed: want may web read sessionKey: no, but yes: web is sent sessionKey", "granted by line 54 (secrets.sessionKey.readers[0]), line 38 (marbles.web.parameters.env.SESSION_KEY), line 28 (marbles.web.package)"},
		{`{"ask": "may web reach db through others", "allow": false}`, "MAN-040", "test failed: want may web reach db through others: no, but yes: web → cart (line 34) → db (line 45)", "granted by line 34 (marbles.web.calls[0]), line 45 (marbles.cart.calls[0])"},
		{`{"ask": "may web reach db directly", "allow": true}`, "MAN-040", "test failed: want may web reach db directly: yes, but no: web does not call db", ""},
		{`{"ask": "who can call web", "allow": true}`, "MAN-062", `"who can call web" is not answered by yes or no`, `ask a question that begins with "may"`},
		{`{"ask": "may web read sesionKey", "allow": true}`, "MAN-061", `the manifest has no secret "sesionKey"`, `did you mean "sessionKey"?`},
		{`{"ask": "may web reed sessionKey", "allow": true}`, "MAN-060", `"may web reed sessionKey" is no question that can be asked`, `did you mean "may web read sessionKey"?`},
		{`{"ask": "may web read sessionKey", "from": "web", "allow": true}`, "MAN-063", `a test with "ask" has no "from"`, ""},
		{`{"from": "web", "allow": true}`, "MAN-005", `field "to" is missing`, `give "from" and "to", or "ask"`},
		{`{"allow": true}`, "MAN-005", `field "from" is missing`, `give "from" and "to", or "ask"`},
	} {
		_, ds := Parse(edit(t, was, c.test))
		if c.code == "" {
			if ds.HasErrors() {
				t.Errorf("%s: got %v", c.test, ds)
			}
			continue
		}
		if ds.Errors() != 1 || string(ds[0].Code) != c.code || ds[0].Message != c.message || ds[0].Suggestion != c.suggestion && c.code != "MAN-063" || ds[0].Line != 68 {
			t.Errorf("%s: got %v %q, want %s %s %q", c.test, ds, ds[0].Suggestion, c.code, c.message, c.suggestion)
		}
	}
}

// TestManyQuestionsAreCheap runs a thousand tests over a long chain and a
// marble with large parameters.
func TestManyQuestionsAreCheap(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"version":1,"trustDomain":"t","packages":{"p":{"sgx":{"uniqueID":` + hexes(32) + `}}},"secrets":{"k":{"type":"symmetric","readers":["m0"]}},"marbles":{`)
	const n = 1000
	for i := range n {
		fmt.Fprintf(&b, `"m%d":{"package":"p","serves":{"x":{"port":1000}},"calls":[{"marble":"m%d","port":"x","listen":2000}],"parameters":{"env":{"A":"{{ .Marble.Name }}"}}},`, i, (i+1)%n)
	}
	fmt.Fprintf(&b, `"end":{"package":"p"}},"tests":[{"ask":"may m0 read k","allow":true}`)
	for i := range 999 {
		fmt.Fprintf(&b, `,{"ask":"may m%d reach m%d through others","allow":true}`, i, (i+n-2)%n)
	}
	b.WriteString("]}")
	if _, ds := Parse([]byte(b.String())); ds.HasErrors() {
		t.Errorf("got %.300v", ds)
	}
}

func FuzzAsk(f *testing.F) {
	m := mustParse(f, sample(f))
	for _, q := range Questions() {
		f.Add(q)
	}
	f.Add("may web reach db?")
	f.Add("who can ever read \x1b[31m")
	f.Fuzz(func(t *testing.T, q string) {
		a, err := Ask(m, m, q)
		if err == nil {
			if again, err := Ask(m, m, a.Question); err != nil || again.Summary != a.Summary {
				t.Errorf("%q is %q, which is answered %q, %v; want %q", q, a.Question, again.Summary, err, a.Summary)
			}
		} else if code := problem.CodeOf(err); code != "MAN-060" && code != "MAN-061" {
			t.Errorf("%q: got %v", q, err)
		}
	})
}
