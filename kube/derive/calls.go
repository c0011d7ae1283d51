package derive

import (
	"cmp"
	"slices"

	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// maxTests bounds the tests that are derived; a manifest may have 1,000.
const maxTests = 500

// end is a port of a marble.
type end struct {
	m    *marble
	port uint16
}

// reach is what is known of connections from one marble to a port of another.
type reach struct {
	allowed bool // somebody's pods may, or nothing keeps them from it
	named   bool // a rule says so
	at      []Place
}

// calls derives who may call whom: from rules that name both ends, and from
// names of Services where nothing forbids it.
func (j *job) calls() error {
	hints := map[*marble][]hint{}
	for _, m := range j.marbles {
		hints[m] = j.hints(m)
	}
	for _, from := range j.marbles {
		var mine []end
		named := map[end]reach{}
		for _, to := range j.marbles {
			for _, number := range to.numbers() {
				r, err := j.reach(from, to, number)
				if err != nil {
					return err
				}
				if e := (end{to, number}); r.allowed && r.named {
					mine, named[e] = append(mine, e), r
				}
			}
		}
		if err := j.guesses(from, hints[from], named, &mine); err != nil {
			return err
		}
		j.wire(from, mine, named)
	}
	for _, m := range j.marbles {
		j.rewrite(m, hints[m])
		j.unnamed(m)
	}
	return j.denials()
}

// reach asks the policies of all pods of two marbles.
func (j *job) reach(from, to *marble, number uint16) (reach, error) {
	var all reach
	for _, a := range from.runs {
		for _, b := range to.runs {
			if a == b {
				continue
			}
			in, out, at, err := j.net.may(a, b, number)
			if err != nil {
				return reach{}, err
			}
			if in == denied || out == denied {
				continue
			}
			all.allowed = true
			if in == named || out == named {
				all.named = true
				all.at = append(all.at, at[:min(len(at), 2*maxGrants-len(all.at))]...)
			}
		}
	}
	return all, nil
}

// guesses adds the calls that only names of Services speak for.
func (j *job) guesses(from *marble, hints []hint, named map[end]reach, mine *[]end) error {
	for _, h := range hints {
		for _, e := range h.ends {
			if e.m == from || slices.Contains(*mine, e) {
				continue
			}
			r, err := j.reach(from, e.m, e.port)
			if err != nil {
				return err
			}
			if !r.allowed {
				j.note(h.at, importer.Stricter, "", "names %s, but NetworkPolicies keep %s from it: no call", h.service, from.name)
				continue
			}
			*mine = append(*mine, e)
			named[e] = reach{allowed: true, at: []Place{h.at}}
		}
	}
	return nil
}

// wire writes the calls of a marble, each with a loopback port of its own.
func (j *job) wire(from *marble, ends []end, why map[end]reach) {
	slices.SortFunc(ends, func(a, b end) int {
		return cmp.Or(cmp.Compare(a.m.name, b.m.name), cmp.Compare(a.port, b.port))
	})
	for _, e := range ends {
		r, path := why[e], from.path("calls")+" "+e.m.name+":"+e.m.served[e.port]
		if e.m == from {
			j.note(r.at[0], importer.NoCounterpart, "", "instances of one marble have one identity and do not call each other through the mesh")
			continue
		}
		if len(from.made.Calls) == maxCalls {
			j.note(from.runs[0].at, importer.Dropped, path, "a marble calls at most %d ports", maxCalls)
			return
		}
		call := manifest.Call{Marble: e.m.name, Port: e.m.served[e.port]}
		if listen := from.listen(e.port); listen != e.port {
			call.Listen = listen
		}
		from.made.Calls = append(from.made.Calls, call)
		slices.SortFunc(r.at, func(a, b Place) int { return cmp.Compare(a.String(), b.String()) })
		for _, at := range slices.Compact(r.at) {
			if r.named {
				j.note(at, importer.Maps, path, "")
			} else {
				j.note(at, Guess, path, "only a name speaks for it")
			}
		}
	}
}

// unnamed tells of a marble that anybody may call: nobody may here.
func (j *job) unnamed(m *marble) {
	for _, w := range m.runs {
		switch {
		case len(m.served) == 0:
		case !j.net.isolated[w.index]:
			j.note(w.at, importer.Stricter, m.path("serves"), "no NetworkPolicy says who may call it: here nobody may whom no call names")
		default:
			for _, r := range j.net.ingress[w.index] {
				if r.anon {
					j.note(r.at, importer.Stricter, m.path("serves"), "the rule lets anybody: here nobody may whom no call names")
				}
			}
		}
	}
}

// denials writes a test for each pair that policies keep apart and that no chain
// of calls joins.
func (j *job) denials() error {
	next := map[string][]string{}
	for _, m := range j.marbles {
		for _, c := range m.made.Calls {
			next[m.name] = append(next[m.name], c.Marble)
		}
	}
	left := 0
	for _, from := range j.marbles {
		joined := chain(next, from.name)
		for _, to := range j.marbles {
			if from == to || len(to.served) == 0 || joined[to.name] {
				continue
			}
			at, kept, err := j.apart(from, to)
			switch {
			case err != nil:
				return err
			case !kept:
			case len(j.tests) == maxTests:
				left++
			default:
				j.tests = append(j.tests, manifest.Test{From: from.name, To: to.name})
				j.note(at, importer.Maps, "tests", "%s must not reach %s", from.name, to.name)
			}
		}
	}
	if left > 0 {
		j.decide("tests", "%d further pairs are kept apart by NetworkPolicies and have no test", left)
	}
	return nil
}

// apart reports whether policies refuse every connection between two marbles,
// and one of them.
func (j *job) apart(from, to *marble) (Place, bool, error) {
	for _, number := range to.numbers() {
		r, err := j.reach(from, to, number)
		if err != nil || r.allowed {
			return Place{}, false, err
		}
	}
	a, b := from.runs[0], to.runs[0]
	if j.net.isolated[b.index] {
		return j.net.byIngress[b.index], true, nil
	}
	return j.net.byEgress[a.index], true, nil
}

// chain returns all that a marble reaches.
func chain(next map[string][]string, from string) map[string]bool {
	seen := map[string]bool{from: true}
	for todo := []string{from}; len(todo) > 0; todo = todo[1:] {
		for _, n := range next[todo[0]] {
			if !seen[n] {
				seen[n] = true
				todo = append(todo, n)
			}
		}
	}
	return seen
}
