package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// anybody is the subject of facts about whoever it may be.
const anybody = "anybody"

// sent reports whether a marble's parameters name a secret: what is sent to it
// when it starts. Every other secret of its own it may fetch.
func (a *asker) sent(marble, secret string) bool {
	_, found := slices.BinarySearch(a.m.SecretsOf(marble), secret)
	return found
}

// readerAt is the marble's index among a secret's readers; -1 if it is none.
func (a *asker) readerAt(marble, secret string) int {
	return slices.Index(a.m.Secrets[secret].Readers, marble)
}

// uses are the places of a marble's parameters that name a secret. A marble's
// parameters are read once.
func (a *asker) uses(marble, secret string) []place {
	if a.quiet {
		return nil
	}
	if found, done := a.naming[marble]; done {
		return found[secret]
	}
	found := make(map[string][]place)
	note := func(text string, at ...any) {
		names, err := TemplateSecrets(text)
		if err != nil { // Parse refuses such templates
			return
		}
		for _, name := range names {
			found[name] = append(found[name], append(place{"marbles", marble, "parameters"}, at...))
		}
	}
	p := a.m.Marbles[marble].Parameters
	for i, text := range p.Argv {
		note(text, "argv", i)
	}
	for _, name := range sortedKeys(p.Env) {
		note(p.Env[name], "env", name)
	}
	for _, name := range sortedKeys(p.Files) {
		note(p.Files[name], "files", name)
	}
	a.referring(marble, func(secret string, at ...any) {
		found[secret] = append(found[secret], append(place{"marbles", marble, "parameters", "references"}, at...))
	})
	a.naming[marble] = found
	return found[secret]
}

// referring calls f with each secret that a reference of the host's may name in
// a marble, and where.
func (a *asker) referring(marble string, f func(secret string, at ...any)) {
	r := a.m.Marbles[marble].Parameters.References
	for _, kind := range []struct {
		name   string
		places map[string][]string
	}{{"env", r.Env}, {"files", r.Files}} {
		for _, place := range sortedKeys(kind.places) {
			for i, secret := range kind.places[place] {
				f(secret, kind.name, place, i)
			}
		}
	}
}

// reading adds what makes a marble read a secret, or use it, and reports whether
// it reads it.
func (a *asker) reading(marble, secret string) bool {
	at := a.readerAt(marble, secret)
	if at < 0 {
		return false
	}
	mb, s := a.m.Marbles[marble], a.m.Secrets[secret]
	f := Fact{Kind: FactReads, Subject: marble, Object: secret, Text: fmt.Sprintf("runs package %s on platform %s", mb.Package, platformOf(mb))}
	reads := s.Exported()
	switch {
	case s.Type == Counter:
		f.Kind, f.Text = FactUses, "reads and increments it; "+f.Text
	case !reads:
		f.Kind, f.Text = FactUses, fmt.Sprintf("%s, and never gets it; %s", some(wordsOf(s.Operations)), f.Text)
	case !a.sent(marble, secret):
		f.Text = "fetches it from its agent; " + f.Text
	}
	a.fact(f, slices.Concat([]place{{"secrets", secret, "readers", at}}, a.uses(marble, secret), []place{{"marbles", marble, "package"}})...)
	return reads
}

// giving adds who may give an opaque secret its value, and so knows it.
func (a *asker) giving(secret string) []string {
	if a.m.Secrets[secret].Type != Opaque {
		return nil
	}
	var who []string
	for i, marble := range a.m.Secrets[secret].Depositors {
		a.fact(Fact{Kind: FactGives, Subject: marble, Object: secret, Text: "deposits it, and knows what it gave"}, place{"secrets", secret, "depositors", i}, place{"marbles", marble, "package"})
		who = append(who, marble)
	}
	for _, user := range sortedKeys(a.m.Users) {
		if a.has(user, WriteSecret+secret, Fact{Kind: FactGives, Subject: user, Object: secret, Text: "gives it a value, and knows what was given"}) {
			who = append(who, user)
		}
	}
	return who
}

// seeing adds the users who may see a secret's value.
func (a *asker) seeing(secret string) []string {
	var who []string
	for _, user := range sortedKeys(a.m.Users) {
		if a.exported(secret) && a.has(user, ReadSecret+secret, Fact{Kind: FactReads, Subject: user, Object: secret, Text: "sees its value"}) {
			who = append(who, user)
		}
	}
	return who
}

func platformOf(mb Marble) string {
	if mb.Platform == "" {
		return DefaultPlatform
	}
	return mb.Platform
}

// readersOf are the readers of a secret, sorted.
func (a *asker) readersOf(secret string) []string {
	return slices.Sorted(slices.Values(a.m.Secrets[secret].Readers))
}

// readers tells who can read a secret: the marbles that get it, the users who may
// see it, who gave it, whoever can pose as one of the marbles, and the users who
// could make it another's.
func (a *asker) readers(names []string) string {
	secret := names[0]
	var who []string
	for _, marble := range a.readersOf(secret) {
		if a.reading(marble, secret) {
			who = append(who, marble)
		}
	}
	who = append(who, a.seeing(secret)...)
	who = append(who, a.holding(secret)...)
	givers := a.giving(secret)
	open := a.posing(secret)
	users := a.releasing(secret)
	text := fmt.Sprintf("%s can read %s", some(who), secret)
	if len(givers) > 0 {
		text += fmt.Sprintf("; %s may give it a value", some(givers))
	}
	if open {
		text += "; so can anybody who poses as one of its readers"
	}
	if len(users) > 0 {
		text += fmt.Sprintf("; %s could release it alone", some(users))
	}
	return text
}

// posing adds what lets anybody be one of those who get a secret, and reports
// whether anything does.
func (a *asker) posing(secret string) bool {
	found := false
	for _, marble := range a.readersOf(secret) {
		found = a.posers(marble, a.m.Marbles[marble].Package) || found
	}
	if c := a.m.Coordinators; c != nil {
		found = a.posers(coordinator, c.Package) || found
	}
	return found
}

// posers adds what lets anybody be who runs a package, and reports whether
// anything does.
func (a *asker) posers(who, pkg string) bool {
	all := openings(a.m.Packages[pkg])
	for _, o := range all {
		a.fact(Fact{Kind: FactAnybody, Subject: anybody, Object: who, Text: o.text}, append(place{"packages", pkg}, o.at...))
	}
	return len(all) > 0
}

// anyMeasurement is the field by which reference values hold nothing fast.
const anyMeasurement = "allowAnyMeasurement"

// opening is what leaves open who a package is.
type opening struct {
	at   place // within the package
	text string
}

// openings are the parts of a package by which it is not held fast.
func openings(p attest.Package) []opening {
	var all []opening
	var walk func(n *jsonpos.Node, at place)
	walk = func(n *jsonpos.Node, at place) {
		for _, m := range n.Members {
			here := append(slices.Clone(at), m.Key)
			switch {
			case m.Value.Kind == jsonpos.Object:
				walk(m.Value, here)
			case m.Key == anyMeasurement && m.Value.Text == "true":
				all = append(all, opening{here, fmt.Sprintf("whoever runs any program under %s", at[len(at)-1])})
			case m.Key == "allowDebug" && m.Value.Text == "true":
				all = append(all, opening{here, "whoever runs the host of a debug enclave or guest, whose memory it reads"})
			}
		}
	}
	walk(asTree(p), nil)
	if p.Sim != nil {
		all = append(all, opening{place{"sim"}, "whoever runs the host: simulation protects from nobody"})
	}
	return all
}

// asTree returns a value of our own as JSON reads it.
func asTree(v any) *jsonpos.Node {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("manifest: its own types do not marshal: " + err.Error())
	}
	root, _ := jsonpos.Parse(raw, jsonpos.Limits{Depth: maxDepth, Values: maxValues})
	return root
}

// reads judges whether a marble gets a secret.
func (a *asker) reads(names []string) (bool, string) {
	marble, secret := names[0], names[1]
	switch {
	case a.reading(marble, secret) && a.sent(marble, secret):
		return true, fmt.Sprintf("%s is sent %s", marble, secret)
	case a.readerAt(marble, secret) < 0:
		return false, fmt.Sprintf("%s is none of the readers of %s", marble, secret)
	case !a.exported(secret):
		return false, fmt.Sprintf("%s may use %s, and never gets it", marble, secret)
	}
	return true, fmt.Sprintf("%s may fetch %s", marble, secret)
}

// readBy tells which secrets a marble gets, or uses.
func (a *asker) readBy(names []string) string {
	var sent []string
	for _, secret := range sortedKeys(a.m.Secrets) {
		if a.reading(names[0], secret) {
			sent = append(sent, secret)
		}
	}
	if len(sent) == 0 {
		return fmt.Sprintf("%s can read no secret", names[0])
	}
	return fmt.Sprintf("%s can read %s", names[0], some(sent))
}

// software tells what may run as a marble.
func (a *asker) software(names []string) string {
	p, _ := a.m.PolicyFor(names[0])
	return a.running(names[0], p, place{"marbles", names[0], "package"})
}

// running tells what meets a policy, which a package named at a place makes: the
// package under each TEE, and what the machine must be.
func (a *asker) running(who string, p attest.Policy, at place) string {
	var tees []string
	for _, part := range parts(asTree(p.Package)) {
		tees = append(tees, part.name())
		a.fact(Fact{Kind: FactRuns, Subject: who, Object: p.PackageName, Text: part.name() + ": " + inWords(part.node)},
			at, append(place{"packages", p.PackageName}, part.at...))
	}
	for _, part := range parts(asTree(p.Platform)) {
		if part.name() != "endorsements" && !slices.Contains(tees, part.name()) && !slices.Contains(tees, "azure") {
			continue
		}
		a.fact(Fact{Kind: FactOn, Subject: who, Object: p.PlatformName, Text: part.name() + ": " + inWords(part.node)},
			append(place{"platforms", p.PlatformName}, part.at...))
	}
	text := fmt.Sprintf("package %s under %s on platform %s can run as %s", p.PackageName, some(tees), p.PlatformName, who)
	if a.posers(who, p.PackageName) {
		text += "; so can anybody who poses as it"
	}
	return text
}

// clause is what a package or platform says of one TEE or device.
type clause struct {
	at   place
	node *jsonpos.Node
}

func (c clause) name() string { return c.at[len(c.at)-1].(string) }

// parts splits a package or platform by TEE and device.
func parts(n *jsonpos.Node) []clause {
	var all []clause
	for _, m := range n.Members {
		switch {
		case m.Value.Kind != jsonpos.Object:
		case m.Key == "plugins" || m.Key == "devices":
			for _, inner := range m.Value.Members {
				all = append(all, clause{place{m.Key, inner.Key}, inner.Value})
			}
		default:
			all = append(all, clause{place{m.Key}, m.Value})
		}
	}
	return all
}

// inWords writes an object's fields as "productID 16, signerID 0ab2…7f00".
func inWords(n *jsonpos.Node) string {
	var words []string
	var walk func(n *jsonpos.Node, prefix string)
	walk = func(n *jsonpos.Node, prefix string) {
		for _, m := range n.Members {
			if m.Value.Kind == jsonpos.Object && len(m.Value.Members) > 0 {
				walk(m.Value, prefix+m.Key+".")
			} else {
				words = append(words, prefix+m.Key+" "+brief("", m.Value))
			}
		}
	}
	walk(n, "")
	const most = 12
	if len(words) > most {
		words = append(words[:most], fmt.Sprintf("and %d more", len(words)-most))
	}
	if len(words) == 0 {
		return "the default"
	}
	return strings.Join(words, ", ")
}
