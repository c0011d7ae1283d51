package manifest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	pair := func(s ...string) []string { return s }
	for _, c := range []struct {
		name    string
		edits   [][]string // old, new
		changes []string
		effects []string
		risks   []string
	}{
		{"same", nil, nil, nil, nil},
		{"default written out", [][]string{pair(`"sql": { "port": 5432 }`, `"sql": { "port": 5432, "protocol": "tcp" }`), pair(`"db": {
      "package"`, `"db": { "$comment": "x", "lease": "60m",
      "package"`)}, nil, nil, nil},
		{"measurement", [][]string{pair("91c4", "92c4")},
			pair("~ packages.cart.tdx.mrtd 91c4…07bb 92c4…07bb"),
			pair("cart: must meet other reference values: instances that don't are refused at their next renewal (≤ 30m), and have no identity after 1h"), nil},
		{"floor", [][]string{pair(`"minTCBEvaluation": 19`, `"minTCBEvaluation": 20`)},
			pair("~ platforms.default.sgx.minTCBEvaluation 19 20"),
			pair("cart: must meet other platform rules at its next renewal (≤ 30m): instances that don't have no identity after 1h", "db: must meet other platform rules at its next renewal (≤ 30m): instances that don't have no identity after 1h", "web: must meet other platform rules at its next renewal (≤ 15m): instances that don't have no identity after 30m"), nil},
		{"lower floor", [][]string{pair(`"minTCBEvaluation": 19`, `"minTCBEvaluation": 17`), pair(`"UpToDate", "SWHardeningNeeded"`, `"SWHardeningNeeded", "OutOfDate"`)},
			pair(`- platforms.default.sgx.acceptedTCBStatuses "UpToDate" `, `+ platforms.default.sgx.acceptedTCBStatuses  "OutOfDate"`, "~ platforms.default.sgx.minTCBEvaluation 19 17"),
			pair("platform default: demands less: sgx.minTCBEvaluation: 17, the floor is 19 [lower-floors]", "platform default: demands less: sgx.refusedTCBStatuses: without OutOfDate [lower-floors]",
				"cart: must meet other platform rules at its next renewal (≤ 30m): instances that don't have no identity after 1h", "db: must meet other platform rules at its next renewal (≤ 30m): instances that don't have no identity after 1h", "web: must meet other platform rules at its next renewal (≤ 15m): instances that don't have no identity after 30m"), pair("lower-floors")},
		{"grace", [][]string{pair(`"minTCBEvaluation": 19`, `"minTCBEvaluation": 19, "grace": {"until": "2027-01-31T00:00:00Z", "minTCBEvaluation": 17}`), pair(`"720h"`, `"720h", "graceUntil": "2027-02-01T00:00:00Z"`)},
			pair(`+ platforms.default.endorsements.graceUntil  "2027-02-01T00:00:00Z"`, `+ platforms.default.sgx.grace  {until, minTCBEvaluation}`),
			pair("platform default: endorsements: accepts less until 2027-02-01T00:00:00Z", "platform default: sgx: accepts less until 2027-01-31T00:00:00Z",
				"cart: must meet other platform rules at its next renewal (≤ 30m): instances that don't have no identity after 1h", "db: must meet other platform rules at its next renewal (≤ 30m): instances that don't have no identity after 1h", "web: must meet other platform rules at its next renewal (≤ 15m): instances that don't have no identity after 30m"), nil},
		{"hop opens", [][]string{pair(`"routes": ["GET /items/*"] }`, `"routes": ["GET /items/*"] }, { "marble": "db", "port": "sql" }`)},
			pair(`+ marbles.web.calls  "db:sql"`),
			pair("web: Envoy gets another configuration, no restart", "web: hop opens: web → db:sql"), nil},
		{"hop changes", [][]string{pair(`"GET /items/*"`, `"GET /items/*", "PUT /items/*"`)},
			pair(`+ marbles.web.calls["cart:http"].routes  "PUT /items/*"`),
			pair("web: Envoy gets another configuration, no restart", "web: hop changes: web → cart:http now allows GET /items/*, PUT /items/* only"), nil},
		{"hop closes", [][]string{pair(`[{ "marble": "db", "port": "sql" }]`, `[]`), pair(`"to": "db", "allow": true`, `"to": "db", "allow": false`)},
			pair(`- marbles.cart.calls "db:sql" `, `~ tests["web → db"].allow true false`),
			pair("cart: Envoy gets another configuration, no restart", "cart: hop closes: cart → db:sql", "tests: web must reach db: is demanded no more"), nil},
		{"secret dropped", [][]string{pair(`"sessionKey": {`, `"otherKey": {`), pair(".Secrets.sessionKey", ".Secrets.otherKey")},
			pair(`~ marbles.web.parameters.env.SESSION_KEY "{{ hex .Secrets.sessionKey }}" "{{ hex .Secrets.otherKey }}"`, `+ secrets.otherKey  {type, bits, scope, readers, onUpdate, rotation}`, `- secrets.sessionKey {type, bits, scope, readers, onUpdate, rotation} `),
			pair("web: gets the new parameters when it starts the next time", "sessionKey: is destroyed and cannot be recovered [drop-secrets]"), pair("drop-secrets")},
		{"secret resized", [][]string{pair(`"bits": 256`, `"bits": 512`)},
			pair("~ secrets.sessionKey.bits 256 512"),
			pair("sessionKey: is destroyed and made anew: its type, size or scope changes [drop-secrets]"), pair("drop-secrets")},
		{"reader", [][]string{pair(`["web"] }`, `["web", "cart"] }`)},
			pair(`+ secrets.sessionKey.readers  "cart"`), pair("sessionKey: may be read by cart"), nil},
		{"trust domain", [][]string{pair(`"shop.example"`, `"shop2.example"`)},
			pair(`~ trustDomain "shop.example" "shop2.example"`),
			pair("mesh: every SPIFFE ID changes from shop.example to shop2.example; all marbles have to attest again [new-identities]"), pair("new-identities")},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := sample(t)
			for _, e := range c.edits {
				if !bytes.Contains(raw, []byte(e[0])) {
					t.Fatalf("no %q", e[0])
				}
				raw = bytes.Replace(raw, []byte(e[0]), []byte(e[1]), 1)
			}
			d := Compare(mustParse(t, sample(t)), mustParse(t, raw))
			var changes []string
			for _, ch := range d.Changes {
				changes = append(changes, fmt.Sprintf("%s %s %s %s", ch.Op, ch.Path, ch.Old, ch.New))
			}
			effects := effectLines(t, d)
			if !slices.Equal(changes, c.changes) {
				t.Errorf("changes: got %q, want %q", changes, c.changes)
			}
			if !slices.Equal(effects, c.effects) {
				t.Errorf("effects: got %q, want %q", effects, c.effects)
			}
			if !slices.Equal(d.Risks(), c.risks) {
				t.Errorf("risks: got %v, want %v", d.Risks(), c.risks)
			}
		})
	}
}

// effectLines are the effects of a diff, each with its risk, which is one of all.
func effectLines(t testing.TB, d Diff) []string {
	t.Helper()
	var lines []string
	for _, e := range d.Effects {
		line := e.Subject + ": " + e.Text
		if e.Risk != "" {
			line += " [" + e.Risk + "]"
			if !slices.Contains(AllRisks(), e.Risk) {
				t.Errorf("%s is none of the risks", e.Risk)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func TestCompareLockOut(t *testing.T) {
	a := mustParse(t, sample(t))
	b := mustParse(t, cutOut(t, sample(t), `  "users": {`, `  "tests": [`))
	d := Compare(a, b)
	if got := fmt.Sprint(d.Risks()); got != "[lock-out]" {
		t.Errorf("got risks %s, want lock-out: %+v", got, d.Effects)
	}
}

// cutOut cuts the part from one text up to another out.
func cutOut(t *testing.T, raw []byte, from, to string) []byte {
	t.Helper()
	i, j := bytes.Index(raw, []byte(from)), bytes.Index(raw, []byte(to))
	if i < 0 || j < i {
		t.Fatalf("no part from %q to %q", from, to)
	}
	return append(append([]byte(nil), raw[:i]...), raw[j:]...)
}

func TestCompareFirst(t *testing.T) {
	d := Compare(nil, mustParse(t, sample(t)))
	if len(d.Risks()) > 0 || len(d.Effects) != 2 || d.Effects[0].Text != "first manifest: trust domain shop.example, 3 marbles, 2 allowed calls" || d.Effects[1].Text != "alice may set the next one" {
		t.Errorf("got %+v", d.Effects)
	}
	var b strings.Builder
	d.Render(&b, false)
	for _, want := range []string{"+ marbles.web", "+ secrets.sessionKey", `+ trustDomain         "shop.example"`, "effects\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("got\n%s\nwant %q in it", b.String(), want)
		}
	}
	if strings.Contains(b.String(), "BEGIN CERTIFICATE") {
		t.Error("certificates must be shown by digest")
	}
}

func TestDiffRenderNamesRisks(t *testing.T) {
	d := Diff{Changes: []Change{{Op: "-", Path: "secrets.legacyKey", Old: "{…}"}, {Op: "~", Path: "packages.pay.tdx.rtmr1", Old: "77f9…", New: "3be0…"}}, Effects: []Effect{{"pay", "must attest again", ""}, {"legacyKey", "is destroyed", RiskDropSecrets}}}
	var b strings.Builder
	d.Render(&b, false)
	want := `  - secrets.legacyKey       {…}
  ~ packages.pay.tdx.rtmr1  77f9… → 3be0…
effects
  pay        must attest again
  ! legacyKey is destroyed  needs --accept=drop-secrets
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestFormat(t *testing.T) {
	raw := sample(t)
	got, err := Format(raw)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Format(got)
	if err != nil || !bytes.Equal(got, again) {
		t.Errorf("Format is not idempotent: %v", err)
	}
	var squeezed []byte
	inString := false
	for i, c := range raw {
		if c == '"' && raw[i-1] != '\\' {
			inString = !inString
		}
		if inString || !strings.ContainsRune(" \n", rune(c)) {
			squeezed = append(squeezed, c)
		}
	}
	if other, err := Format(squeezed); err != nil || !bytes.Equal(other, got) {
		t.Errorf("Format depends on the layout it is given: %v", err)
	}
	if !Equivalent(raw, squeezed) || Equivalent(raw, edit(t, `"bits": 256`, `"bits": 512`)) || Equivalent(raw, []byte("{")) {
		t.Error("Equivalent must see formatting, and nothing but formatting")
	}
	small, err := Format([]byte(`{"a":{},"b":[ ],"c":{"d":{"port":1,"protocol":"http"},"e":[{"x":1}],"f":[1,[2]]},"$comment":"stays"}`))
	want := `{
  "a": {},
  "b": [],
  "c": {
    "d": { "port": 1, "protocol": "http" },
    "e": [{ "x": 1 }],
    "f": [
      1,
      [2]
    ]
  },
  "$comment": "stays"
}
`
	if err != nil || string(small) != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, small, want)
	}
	if _, err := Format([]byte(`{"a":1,"a":2}`)); err == nil {
		t.Error("duplicate keys must be refused")
	}
}

func TestGraph(t *testing.T) {
	m := mustParse(t, sample(t))
	for _, c := range []struct{ format, want string }{
		{"text", "FROM  TO    PORT   LINE  WHAT\ncart  db    5432   45    tcp sql\nweb   cart  8080   34    http http GET /items/*\n"},
		{"mermaid", "flowchart LR\n  m0[\"cart\"]\n  m1[\"db\"]\n  m2[\"web\"]\n  m0 -->|\"sql\"| m1\n  m2 -->|\"http GET /items/*\"| m0\n"},
		{"dot", "digraph mesh {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n  \"cart\";\n  \"db\";\n  \"web\";\n  \"cart\" -> \"db\" [label=\"sql\"];\n  \"web\" -> \"cart\" [label=\"http GET /items/*\"];\n}\n"},
	} {
		t.Run(c.format, func(t *testing.T) {
			if got, err := Graph(m, c.format); err != nil || got != c.want {
				t.Errorf("got %v\n%s\nwant\n%s", err, got, c.want)
			}
		})
	}
	svg, err := Graph(m, "svg")
	if err != nil || strings.Count(svg, "<rect") != 3 || strings.Count(svg, `class="edge"`) != 2 || strings.Contains(svg, "<script") {
		t.Errorf("got %v\n%s", err, svg)
	}
	if _, err := Graph(m, "png"); err == nil {
		t.Error("an unknown format must be refused")
	}
	callers, callees := WhoCan(m, "cart")
	if fmt.Sprint(callers, callees) != "[web → cart:http] [cart → db:sql]" || callers[0].Line != 34 {
		t.Errorf("WhoCan(cart): got %v, %v", callers, callees)
	}
}

// random returns a mesh of n marbles with random calls, cycles included.
func random(rng *rand.Rand, n int) (*Manifest, [][]bool) {
	m := &Manifest{Marbles: make(map[string]Marble)}
	direct := make([][]bool, n)
	for i := range n {
		direct[i] = make([]bool, n)
		mb := Marble{Serves: map[string]Port{"p": {Port: 1}}}
		for j := range n {
			if i != j && rng.IntN(n) == 0 {
				direct[i][j] = true
				mb.Calls = append(mb.Calls, Call{Marble: fmt.Sprint("m", j), Port: "p"})
			}
		}
		m.Marbles[fmt.Sprint("m", i)] = mb
	}
	return m, direct
}

// TestReachAgreesWithBruteForce compares Reach with the transitive closure by
// Floyd and Warshall.
func TestReachAgreesWithBruteForce(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		n := 2 + rng.IntN(9)
		m, direct := random(rng, n)
		closure := make([][]bool, n)
		for i := range n {
			closure[i] = slices.Clone(direct[i])
		}
		for k := range n {
			for i := range n {
				for j := range n {
					closure[i][j] = closure[i][j] || closure[i][k] && closure[k][j]
				}
			}
		}
		for i := range n {
			for j := range n {
				from, to := fmt.Sprint("m", i), fmt.Sprint("m", j)
				route := Reach(m, from, to)
				if (route != nil) != closure[i][j] {
					t.Fatalf("Reach(%s, %s) = %v, want %v in %v", from, to, route, closure[i][j], direct)
				}
				checkRoute(t, route, from, to, direct)
			}
		}
		if _, err := Graph(m, "svg"); err != nil {
			t.Fatal(err)
		}
	}
}

// checkRoute demands that a chain begins and ends where it should and holds
// allowed calls only.
func checkRoute(t *testing.T, route []Edge, from, to string, direct [][]bool) {
	t.Helper()
	for k, e := range route {
		var i, j int
		if _, err := fmt.Sscanf(e.From+" "+e.To, "m%d m%d", &i, &j); err != nil {
			t.Fatal(err)
		}
		if !direct[i][j] || k == 0 && e.From != from || k > 0 && e.From != route[k-1].To || k == len(route)-1 && e.To != to {
			t.Fatalf("route from %s to %s: %v", from, to, route)
		}
	}
}
