package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

// cases is how many of n random cases are tried: a tenth with -short, for
// machines on which each takes its time.
func cases(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// accepts is what the coordinator decides of a marble's evidence.
func accepts(m *Manifest, marble string, c attest.Claims) bool {
	p, ok := m.PolicyFor(marble)
	return ok && meets(p, c)
}

// admitsCoordinator is what the coordinator decides of another one's evidence.
func admitsCoordinator(m *Manifest, c attest.Claims) bool {
	return m.Coordinators != nil && meets(attest.Policy{Package: m.Packages[m.Coordinators.Package], Platform: m.Platforms[m.Coordinators.Platform]}, c)
}

func meets(p attest.Policy, c attest.Claims) bool {
	return !slices.ContainsFunc(p.Check(c), func(s attest.Step) bool { return !s.OK })
}

// paths enumerates the lengths of all chains from one marble to another that
// pass no marble twice.
func paths(m *Manifest, from, to string) []int {
	var found []int
	var walk func(at string, seen []string)
	walk = func(at string, seen []string) {
		for _, c := range m.Marbles[at].Calls {
			if c.Marble == to {
				found = append(found, len(seen))
			} else if !slices.Contains(seen, c.Marble) {
				walk(c.Marble, append(slices.Clone(seen), c.Marble))
			}
		}
	}
	walk(from, []string{from})
	return found
}

func atLeast(lengths []int, n int) bool {
	return slices.ContainsFunc(lengths, func(l int) bool { return l >= n })
}

// named reports whether a marble's parameters name a secret.
func named(m *Manifest, marble, secret string) bool {
	for _, text := range m.Marbles[marble].Parameters.Env {
		if strings.Contains(text, ".Secrets."+secret+" ") {
			return true
		}
	}
	return slices.Contains(m.Marbles[marble].Parameters.References.Files["/run/"+secret], secret)
}

// released simulates what the coordinator gives a marble that asks for a secret:
// to its readers, unless it is a counter or use-only.
func released(m *Manifest, marble, secret string) bool {
	s := m.Secrets[secret]
	return slices.Contains(s.Readers, marble) && s.Type != Counter && s.Operations == nil
}

// used reports whether a marble may have something done with a secret.
func used(m *Manifest, marble, secret string) bool {
	s := m.Secrets[secret]
	return slices.Contains(s.Readers, marble) && (s.Type == Counter || s.Operations != nil)
}

// grantedTo simulates the coordinator's decision about a user's request, by a
// reading of rights of its own.
func grantedTo(m *Manifest, user, right string) bool {
	for _, role := range m.Users[user].Roles {
		for _, action := range m.Roles[role].Actions {
			pattern := strings.ReplaceAll(regexp.QuoteMeta(action), `\*`, "[^/:]+")
			switch {
			case !strings.Contains(action, ":"):
				pattern += "(:.*)?"
			case strings.HasSuffix(action, ":*"):
				pattern = regexp.QuoteMeta(strings.TrimSuffix(action, "*")) + ".*"
			default:
				pattern += "(/.*)?"
			}
			if expression(pattern).MatchString(right) {
				return true
			}
		}
	}
	return false
}

var expressions = map[string]*regexp.Regexp{}

func expression(pattern string) *regexp.Regexp {
	if expressions[pattern] == nil {
		expressions[pattern] = regexp.MustCompile("^" + pattern + "$")
	}
	return expressions[pattern]
}

// asking is kept while the questions are about one manifest.
var asking *asker

func mustAsk(t *testing.T, m, since *Manifest, format string, args ...any) Answer {
	t.Helper()
	question := fmt.Sprintf(format, args...)
	if asking == nil || asking.m != m {
		asking = read(m)
	}
	f, names, err := understand(question)
	if err != nil {
		t.Fatalf("%s: %v", question, err)
	}
	answer, err := asking.answer(f, names, since)
	if err != nil {
		t.Fatalf("%s: %v\n%s", question, err, m.raw)
	}
	for _, f := range answer.Facts {
		checkGrants(t, m, f)
	}
	return answer
}

// checkGrants holds the places of a fact against the document.
func checkGrants(t *testing.T, m *Manifest, f Fact) {
	t.Helper()
	if len(f.Grants) == 0 {
		t.Fatalf("%s: nothing grants it", f)
	}
	for _, g := range f.Grants {
		if g.Line == 0 {
			continue
		}
		rest := m.raw
		for range g.Line - 1 {
			rest = rest[bytes.IndexByte(rest, '\n')+1:]
		}
		rest = rest[g.Column-1:]
		var v any
		if err := json.NewDecoder(bytes.NewReader(rest)).Decode(&v); err != nil {
			t.Fatalf("%s: at %v stands %.20q", f, g, rest)
		}
		want := g.Path[strings.LastIndexAny(g.Path, ".]")+1:]
		if call, ok := v.(map[string]any); ok && f.Kind == FactCalls {
			if got := fmt.Sprint(call["marble"], ":", call["port"]); got != f.Object || !strings.HasPrefix(g.Path, "marbles."+f.Subject+".calls[") {
				t.Fatalf("%s: at %v stands a call of %s", f, g, got)
			}
		} else if want != "" && v != want {
			t.Fatalf("%s: at %v stands %v", f, g, v)
		}
	}
}

func subjects(answer Answer, kind FactKind) []string {
	var all []string
	for _, f := range answer.Facts {
		if f.Kind == kind {
			all = append(all, f.Subject)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func same(t *testing.T, m *Manifest, answer Answer, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %v, want %v\n%s", answer.Question, got, want, m.raw)
	}
}

func decided(t *testing.T, m *Manifest, answer Answer, want bool) {
	t.Helper()
	if answer.Yes == nil || *answer.Yes != want {
		t.Fatalf("%s: got %s, want %t\n%s", answer.Question, answer.Summary, want, m.raw)
	}
}

// TestAnswersAreWhatHappens holds every answer about thousands of random
// manifests against brute force: all chains are enumerated, each release and
// each right is decided one by one.
func TestAnswersAreWhatHappens(t *testing.T) {
	w := newWorld(t, 1)
	for range cases(1000) {
		m := w.manifest(t)
		for _, marble := range MarbleNames(m) {
			callsOf(t, m, marble)
		}
		for secret := range m.Secrets {
			readersOf(t, m, secret)
		}
		for _, right := range worldRights {
			if !read(m).known(rightSlot, right) {
				continue
			}
			var want []string
			for _, user := range slices.Sorted(maps.Keys(m.Users)) {
				decided(t, m, mustAsk(t, m, nil, "may %s do %s", user, right), grantedTo(m, user, right))
				if grantedTo(m, user, right) {
					want = append(want, user)
				}
			}
			answer := mustAsk(t, m, nil, "who has %s", right)
			same(t, m, answer, subjects(answer, FactHas), want)
		}
	}
}

func callsOf(t *testing.T, m *Manifest, from string) {
	t.Helper()
	into := mustAsk(t, m, nil, "who can call %s", from)
	var direct, through []string
	for _, to := range MarbleNames(m) {
		lengths := paths(m, from, to)
		decided(t, m, mustAsk(t, m, nil, "may %s reach %s directly", from, to), slices.Contains(lengths, 1))
		decided(t, m, mustAsk(t, m, nil, "may %s reach %s through others", from, to), atLeast(lengths, 2))
		answer := mustAsk(t, m, nil, "may %s reach %s", from, to)
		decided(t, m, answer, len(lengths) > 0)
		if at := from; len(lengths) > 0 && !slices.Contains(lengths, 1) {
			for _, f := range answer.Facts {
				if f.Subject != at {
					t.Fatalf("%s: the chain breaks at %s: %v", answer.Question, at, answer.Facts)
				}
				at, _, _ = strings.Cut(f.Object, ":")
			}
			if at != to || len(answer.Facts) != slices.Min(lengths) {
				t.Fatalf("%s: got %d hops to %s, want %d", answer.Question, len(answer.Facts), at, slices.Min(lengths))
			}
		}
		back := paths(m, to, from)
		switch {
		case slices.Contains(back, 1):
			direct = append(direct, to)
		case to != from && len(back) > 0:
			through = append(through, to)
		}
	}
	same(t, m, into, subjects(into, FactCalls), direct)
	same(t, m, into, subjects(into, FactReaches), through)
	out := mustAsk(t, m, nil, "what can %s call", from)
	for _, f := range out.Facts {
		to, _, _ := strings.Cut(f.Object, ":")
		if lengths := paths(m, from, to); f.Kind == FactCalls && !slices.Contains(lengths, 1) || f.Kind == FactReaches && (len(lengths) == 0 || slices.Contains(lengths, 1)) {
			t.Fatalf("%s: %s, but the chains have %v hops", out.Question, f, lengths)
		}
	}
}

func readersOf(t *testing.T, m *Manifest, secret string) {
	t.Helper()
	var reads, uses, gives []string
	open, s := false, m.Secrets[secret]
	for _, marble := range MarbleNames(m) {
		decided(t, m, mustAsk(t, m, nil, "may %s read %s", marble, secret), released(m, marble, secret))
		if sent := slices.Contains(m.SecretsOf(marble), secret); sent != named(m, marble, secret) {
			t.Fatalf("%s is sent %s: got %t", marble, secret, sent)
		}
		of := mustAsk(t, m, nil, "what can %s read", marble)
		if got := slices.ContainsFunc(of.Facts, func(f Fact) bool { return f.Kind == FactReads && f.Object == secret }); got != released(m, marble, secret) {
			t.Fatalf("%s: got %v", of.Question, of.Facts)
		}
		if released(m, marble, secret) {
			reads = append(reads, marble)
		}
		if used(m, marble, secret) {
			uses = append(uses, marble)
		}
		if slices.Contains(s.Depositors, marble) {
			gives = append(gives, marble)
		}
		open = open || slices.Contains(s.Readers, marble) && m.Packages[m.Marbles[marble].Package].AllowDebug
	}
	for _, user := range slices.Sorted(maps.Keys(m.Users)) {
		if grantedTo(m, user, ReadSecret+secret) && s.Type != Counter && s.Operations == nil {
			reads = append(reads, user)
		}
		if grantedTo(m, user, WriteSecret+secret) && s.Type == Opaque {
			gives = append(gives, user)
		}
	}
	if c := m.Coordinators; c != nil { // it has the whole state
		reads = append(reads, "a coordinator")
		open = open || m.Packages[c.Package].AllowDebug
	}
	slices.Sort(reads)
	slices.Sort(gives)
	answer := mustAsk(t, m, nil, "who can ever read %s", secret)
	same(t, m, answer, subjects(answer, FactReads), reads)
	same(t, m, answer, subjects(answer, FactUses), uses)
	same(t, m, answer, subjects(answer, FactGives), gives)
	if got := len(subjects(answer, FactAnybody)) > 0; got != open {
		t.Fatalf("%s: anybody: got %t, want %t", answer.Question, got, open)
	}
}

// TestNewlyAllowedIsAllThatIsNew compares thousands of pairs of manifests:
// every request, chain, release, right and piece of evidence that the second
// allows and the first did not is told of, and no request, release or right
// that both allow.
func TestNewlyAllowedIsAllThatIsNew(t *testing.T) {
	w := newWorld(t, 2)
	for range cases(1000) {
		old, now := w.manifest(t), w.manifest(t)
		answer := mustAsk(t, now, old, NewlyAllowed)
		told := make(map[string]bool)
		for _, f := range answer.Facts {
			told[string(f.Kind)+" "+f.Subject+" "+f.Object] = true
			told[f.Subject] = told[f.Subject] || f.Kind == FactNew || f.Kind == FactRuns
		}
		check := func(fact string, want bool) {
			t.Helper()
			if told[fact] != want {
				t.Fatalf("%s: got %t, want %t\n%s\nbefore\n%s", fact, told[fact], want, now.raw, old.raw)
			}
		}
		newRequests(now, old, check)
		for _, marble := range MarbleNames(now) {
			for secret := range now.Secrets {
				if released(now, marble, secret) && !released(old, marble, secret) {
					check("reads "+marble+" "+secret, true)
				} else if released(old, marble, secret) {
					check("reads "+marble+" "+secret, false)
				}
			}
			for range 30 {
				if c := w.claims(); accepts(now, marble, c) && !accepts(old, marble, c) && !told[marble] {
					t.Fatalf("%s newly accepts %+v, which is not told\n%s\nbefore\n%s", marble, c, now.raw, old.raw)
				}
			}
		}
		for range 30 {
			if c := w.claims(); admitsCoordinator(now, c) && !admitsCoordinator(old, c) && !told["a coordinator"] {
				t.Fatalf("coordinators: %+v is newly accepted, which is not told\n%s\nbefore\n%s", c, now.raw, old.raw)
			}
		}
		for user := range now.Users {
			for _, right := range actionsOf(now, user) {
				check("has "+user+" "+right, !grantedTo(old, user, right))
			}
		}
		if again := mustAsk(t, now, now, NewlyAllowed); len(again.Facts) > 0 || again.Summary != "nothing is newly allowed" {
			t.Fatalf("against itself: %v", again)
		}
	}
}

// newRequests decides every request on every port, and every chain.
func newRequests(now, old *Manifest, check func(string, bool)) {
	may := func(m *Manifest, from, to, port, route string) bool {
		return slices.ContainsFunc(m.Marbles[from].Calls, func(c Call) bool {
			return c.Marble == to && c.Port == port && (len(c.Routes) == 0 || slices.Contains(c.Routes, route))
		})
	}
	for _, from := range MarbleNames(now) {
		for _, to := range MarbleNames(now) {
			for _, port := range []string{"http", "tcp"} {
				fresh := false
				for _, route := range append(worldRoutes, "any other") {
					fresh = fresh || may(now, from, to, port, route) && !may(old, from, to, port, route)
				}
				check("calls "+from+" "+to+":"+port, fresh)
			}
			lengths := paths(now, from, to)
			check("reaches "+from+" "+to, len(lengths) > 0 && !slices.Contains(lengths, 1) && len(paths(old, from, to)) == 0)
		}
	}
}

// TestLooserRulesAreSeen changes one rule of a package or platform at a time:
// where evidence is newly accepted, the change was seen to be looser.
func TestLooserRulesAreSeen(t *testing.T) {
	w := newWorld(t, 3)
	policy := func(pkg, platform doc) (p attest.Policy) {
		for _, part := range []struct{ from, to any }{{pkg, &p.Package}, {platform, &p.Platform}} {
			raw, err := json.Marshal(part.from)
			if err == nil {
				err = json.Unmarshal(raw, part.to)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	found := 0
	for range 5000 {
		pkg, platform := w.pkg(), w.platform()
		old := policy(pkg, platform)
		if w.IntN(2) == 0 {
			w.alter(pkg, w.pkg())
		} else {
			w.alter(platform, w.platform())
		}
		now := policy(pkg, platform)
		seen := len(loosened(asTree(old.Package), asTree(now.Package)))+len(loosened(full(old.Platform), full(now.Platform))) > 0
		for range 30 {
			c := w.claims()
			if meets(now, c) && !meets(old, c) {
				found++
				if !seen {
					t.Fatalf("%+v is newly accepted, which is not seen\nbefore %s\nnow    %s", c, rewritten(asTree(old)), rewritten(asTree(now)))
				}
			}
		}
	}
	if found < 500 {
		t.Errorf("only %d times was evidence newly accepted", found)
	}
}
