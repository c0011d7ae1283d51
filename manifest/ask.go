package manifest

import (
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// Answer is what a manifest says to a question, with what grants it. Order is
// stable: the same manifests and question give the same answer.
type Answer struct {
	Question string `json:"question"`      // as it was understood
	Yes      *bool  `json:"yes,omitempty"` // of questions that begin with "may"; else nil
	Summary  string `json:"summary"`       // one sentence
	Facts    []Fact `json:"facts"`
	More     int    `json:"more,omitempty"` // facts beyond MaxFacts, which are left out
}

// MaxFacts bounds the facts of one answer.
const MaxFacts = 1000

// FactKind says what a fact is about.
type FactKind string

// The kinds of fact: subject and object of each.
const (
	FactCalls   FactKind = "calls"   // a marble calls a port of another ("cart:http")
	FactReaches FactKind = "reaches" // a marble reaches another through others
	FactReads   FactKind = "reads"   // a marble gets a secret, or a user sees its value
	FactUses    FactKind = "uses"    // a marble has operations done with a secret that it never gets, or counts
	FactGives   FactKind = "gives"   // a marble or user may give a secret its value
	FactRuns    FactKind = "runs"    // a marble runs a package, under a TEE
	FactOn      FactKind = "runs-on" // a marble runs on a platform, under a TEE
	FactAnybody FactKind = "anybody" // "anybody" can be a marble: what it runs, or the host, is not held fast
	FactHas     FactKind = "has"     // a user has a right
	FactCould   FactKind = "could"   // a user could bring it about alone, or two users ("a and b") together
	FactNew     FactKind = "new"     // a marble, user or platform is newly allowed what the text says
)

// Fact is one part of an answer.
type Fact struct {
	Kind    FactKind `json:"kind"`
	Subject string   `json:"subject"`
	Object  string   `json:"object"`
	Text    string   `json:"text,omitempty"` // on what terms, in words
	Grants  []Grant  `json:"grants"`         // what makes it so
}

// String returns the fact as one sentence, without what grants it.
func (f Fact) String() string {
	switch f.Kind {
	case FactCould:
		return f.Subject + " " + f.Text
	case FactNew:
		return fmt.Sprintf("%s (%s): %s", f.Subject, f.Object, f.Text)
	}
	verb := string(f.Kind)
	switch f.Kind {
	case FactOn:
		verb = "runs on"
	case FactAnybody:
		verb = "can be"
	}
	text := fmt.Sprintf("%s %s %s", f.Subject, verb, f.Object)
	if f.Text != "" {
		text += ": " + f.Text
	}
	return text
}

// Grant is a place of the manifest. Line and column are 1-based, columns in
// characters; they are 0 where the manifest says it by leaving something out.
type Grant struct {
	Path   string `json:"path"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// Ask answers a question in one of the forms that Questions lists. since is the
// manifest that m replaces, for questions about what changes; nil is none.
// Errors: MAN-060 where the words are no question, MAN-061 where one names
// what m has not.
func Ask(m, since *Manifest, question string) (Answer, error) {
	f, names, err := understand(question)
	if err != nil {
		return Answer{}, err
	}
	return read(m).answer(f, names, since)
}

// About answers every question about a name at once: who calls a marble and
// whom it calls, who reads a secret, what a user may do, who has a right.
// MAN-061 if the manifest has no such name.
func About(m *Manifest, name string) ([]Answer, error) {
	a := read(m)
	var all []Answer
	for i := range forms {
		if !forms[i].about {
			continue
		}
		slot := forms[i].slots()[0]
		if !a.known(slot, name) {
			continue
		}
		answer, err := a.answer(&forms[i], []string{name}, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, answer)
	}
	if all == nil {
		return nil, a.unknown("name", name, a.everyName())
	}
	return all, nil
}

// asker answers questions about one manifest. Its caches bound what thousands of
// questions about one document cost.
type asker struct {
	m      *Manifest
	root   *jsonpos.Node
	lines  *jsonpos.Lines
	before *asker // of the manifest that is replaced; nil if there is none
	quiet  bool   // only yes or no is wanted: no facts are kept

	facts   []Fact
	more    int
	calling *graph
	nodes   map[string]map[string]*jsonpos.Member // entries of a section, by name
	naming  map[string]map[string][]place         // by marble and secret: the parameters that name it
}

func newAsker(m *Manifest, root *jsonpos.Node, lines *jsonpos.Lines) *asker {
	return &asker{m: m, root: root, lines: lines, nodes: make(map[string]map[string]*jsonpos.Member), naming: make(map[string]map[string][]place)}
}

// read makes an asker of a parsed manifest.
func read(m *Manifest) *asker {
	root, _ := jsonpos.Parse(m.raw, jsonpos.Limits{Depth: maxDepth, Values: maxValues})
	return newAsker(m, root, jsonpos.NewLines(m.raw))
}

// answer runs a form whose names exist.
func (a *asker) answer(f *form, names []string, since *Manifest) (Answer, error) {
	for i, slot := range f.slots() {
		if !a.known(slot, names[i]) {
			return Answer{}, a.unknown(slot.word(), names[i], a.names(slot))
		}
	}
	a.before = nil
	if since != nil {
		a.before = read(since)
	}
	a.facts, a.more = []Fact{}, 0
	out := Answer{Question: f.with(names)}
	if f.judge != nil {
		yes, why := f.judge(a, names)
		out.Yes = &yes
		out.Summary = "no: " + why
		if yes {
			out.Summary = "yes: " + why
		}
	} else {
		out.Summary = f.tell(a, names)
	}
	out.Facts, out.More = a.facts, a.more
	return out, nil
}

// place is where something stands in a manifest: keys and indices from the root.
type place []any

// fact adds a fact and the places that grant it.
func (a *asker) fact(f Fact, grants ...place) {
	if a.quiet {
		return
	}
	if len(a.facts) >= MaxFacts {
		a.more++
		return
	}
	f.Grants = make([]Grant, 0, len(grants))
	for _, g := range grants {
		f.Grants = append(f.Grants, a.grant(g))
	}
	a.facts = append(a.facts, f)
}

// grant finds a place. What is not there has the path alone.
func (a *asker) grant(at place) Grant {
	var p *path
	n, offset := a.root, -1
	for depth, step := range at {
		offset = -1
		switch step := step.(type) {
		case string:
			p = p.member(step)
			if m := a.member(n, at, depth); m != nil {
				n, offset = m.Value, m.KeyStart
				continue
			}
		case int:
			p = p.item(step)
			if n != nil && step >= 0 && step < len(n.Items) {
				n = n.Items[step]
				offset = n.Start
				continue
			}
		}
		n = nil
	}
	g := Grant{Path: p.String()}
	if offset >= 0 {
		g.Line, g.Column = a.lines.Position(offset)
	}
	return g
}

// member finds a key. Sections may be long and are indexed once.
func (a *asker) member(n *jsonpos.Node, at place, depth int) *jsonpos.Member {
	if n == nil {
		return nil
	}
	key := at[depth].(string)
	if depth != 1 {
		return n.Member(key)
	}
	section := at[0].(string)
	if a.nodes[section] == nil {
		index := make(map[string]*jsonpos.Member, len(n.Members))
		for i := range n.Members {
			index[n.Members[i].Key] = &n.Members[i]
		}
		a.nodes[section] = index
	}
	return a.nodes[section][key]
}

// some returns a few names as "a, b and c", and of many the first.
func some(names []string) string {
	const few = 5
	switch n := len(names); {
	case n == 0:
		return "nobody"
	case n == 1:
		return names[0]
	case n > few:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few-1], ", "), n-few+1)
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}
