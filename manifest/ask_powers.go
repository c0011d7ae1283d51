package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// powers answers what users could bring about under a manifest, one revision
// after the other. It keeps which role has which right.
type powers struct {
	m     *Manifest
	cover map[string]map[string]bool // by right: the roles that have it
}

func newPowers(m *Manifest) *powers { return &powers{m: m, cover: make(map[string]map[string]bool)} }

// roles are the roles that give a right.
func (p *powers) roles(right string) map[string]bool {
	if found, done := p.cover[right]; done {
		return found
	}
	found := make(map[string]bool)
	for name, role := range p.m.Roles {
		if slices.ContainsFunc(role.Actions, func(action string) bool { return covers(action, right) }) {
			found[name] = true
		}
	}
	p.cover[right] = found
	return found
}

// holders are the users who have a right, sorted.
func (p *powers) holders(right string) []string {
	var who []string
	roles := p.roles(right)
	for _, user := range sortedKeys(p.m.Users) {
		if slices.ContainsFunc(p.m.Users[user].Roles, func(role string) bool { return roles[role] }) {
			who = append(who, user)
		}
	}
	return who
}

// needed is Needed with numbers that may have been lowered.
func needed(numbers map[string]int, right string) int {
	return Needed(&Manifest{Approvals: numbers}, right)
}

// alliance is what some users act as, when they act together and use every right
// that they have to get further ones: they replace the certificates of users, add
// users, give roles actions, and lower numbers.
type alliance struct {
	*powers
	held    map[string]map[string]bool // roles, by who they act as
	full    map[string]bool            // roles to which they gave every right
	numbers map[string]int             // of approvals that they could not lower
	by      string                     // the first right by which they got others; "" if they got none
}

// maxNumber is the highest number that approvals can have: as many users added
// are as good as any.
const maxNumber = 16

// ally returns what users act as at first.
func (p *powers) ally(users ...string) *alliance {
	a := &alliance{powers: p, held: make(map[string]map[string]bool), full: make(map[string]bool), numbers: p.m.Approvals}
	for _, user := range users {
		a.held[user] = make(map[string]bool)
		for _, role := range p.m.Users[user].Roles {
			a.held[user][role] = true
		}
	}
	return a
}

// grown returns what they act as at last.
func (a *alliance) grown() *alliance {
	g := &alliance{powers: a.powers, held: maps.Clone(a.held), full: make(map[string]bool), numbers: maps.Clone(a.numbers)}
	for g.grow() {
	}
	return g
}

// count is how many of those they act as have a right.
func (a *alliance) count(right string) int {
	n := 0
	roles := a.roles(right)
	for _, held := range a.held {
		for role := range held {
			if roles[role] || a.full[role] {
				n++
				break
			}
		}
	}
	return n
}

// can reports whether they settle a change of a path.
func (a *alliance) can(path string) bool {
	right := UpdateManifest + ":" + path
	return a.count(right) >= needed(a.numbers, right)
}

func (a *alliance) canAll(paths []string) bool {
	return !slices.ContainsFunc(paths, func(path string) bool { return !a.can(path) })
}

// may reports whether one of those they act as has a right that takes one user,
// or enough of them one that takes several.
func (a *alliance) may(right string) bool { return a.count(right) >= needed(a.numbers, right) }

// grow uses their rights for further ones, and reports whether it got any.
func (a *alliance) grow() bool {
	grew := false
	got := func(path string) {
		grew = true
		if a.by == "" {
			a.by = UpdateManifest + ":" + path
		}
	}
	for _, role := range a.entries("roles", a.m.Roles) {
		if !a.full[role] && a.can("roles/"+role) {
			a.full[role] = true
			got("roles/" + role)
		}
	}
	roles := slices.Sorted(maps.Keys(a.m.Roles))
	for role := range a.full {
		roles = append(roles, role)
	}
	for _, user := range a.entries("users", a.m.Users) {
		if !a.can("users/" + user) {
			continue
		}
		copies := []string{user}
		if user == "*" {
			for i := range maxNumber {
				copies = append(copies, fmt.Sprint("* ", i))
			}
		}
		for _, who := range copies {
			if a.held[who] == nil {
				a.held[who] = make(map[string]bool)
				got("users/" + user)
			}
			for _, role := range roles {
				if !a.held[who][role] {
					a.held[who] = maps.Clone(a.held[who])
					a.held[who][role] = true
					got("users/" + user)
				}
			}
		}
	}
	if n := a.count(UpdateManifest + ":approvals"); a.can("approvals") {
		for key, number := range a.numbers {
			if number > 1 && number <= n {
				delete(a.numbers, key)
				got("approvals")
			}
		}
	}
	return grew
}

// entries are the names of a section, those that some right speaks of, and * for
// any other.
func (a *alliance) entries(section string, known any) []string {
	names := map[string]bool{"*": true}
	switch known := known.(type) {
	case map[string]Role:
		for name := range known {
			names[name] = true
		}
	case map[string]User:
		for name := range known {
			names[name] = true
		}
	}
	for _, role := range a.m.Roles {
		for _, action := range role.Actions {
			if name, ok := strings.CutPrefix(action, UpdateManifest+":"+section+"/"); ok {
				names[name] = true
			}
		}
	}
	return sortedKeys(names)
}

// levers are the paths by which whoever may change one gets a secret to others:
// its readers, and for each reader what it runs, on what, and with which
// parameters; and who may hold the state itself, or open it.
func (a *asker) levers(secret string) []string {
	all := []string{"secrets/" + secret + "/readers"}
	seen := make(map[string]bool)
	add := func(paths ...string) {
		for _, path := range paths {
			if !seen[path] {
				seen[path] = true
				all = append(all, path)
			}
		}
	}
	for _, marble := range a.m.Secrets[secret].Readers {
		mb := a.m.Marbles[marble]
		add("marbles/"+marble+"/package", "marbles/"+marble+"/parameters", "marbles/"+marble+"/platform", "packages/"+mb.Package, "platforms/"+platformOf(mb))
	}
	if p, ok := a.m.CoordinatorPolicy(); ok {
		add("packages/"+p.PackageName, "platforms/"+p.PlatformName)
	}
	return append(all, "coordinators", "recovery")
}

// release tells by which right users could get a secret to others, and how; ""
// if they could not. Shares are not a right: they have no right, but a text.
func (a *asker) release(p *powers, secret string, levers []string, users ...string) (right, text string) {
	if r := a.m.Recovery; r != nil {
		shares := 0
		for _, user := range users {
			if _, holds := r.Keys[user]; holds {
				shares++
			}
		}
		if shares >= r.Threshold {
			return "", "opens the state with recovery shares"
		}
	}
	first := p.ally(users...)
	for _, stage := range []func() *alliance{func() *alliance { return first }, first.grown} {
		as := stage()
		if right := ReadSecret + secret; a.exported(secret) && as.may(right) {
			return byRight(as, right, "sees its value")
		}
		for _, path := range levers {
			if as.can(path) {
				return byRight(as, UpdateManifest+":"+path, "sets a manifest that changes "+path)
			}
		}
		if as.may(BreakGlass) {
			return byRight(as, BreakGlass, "lifts a rule, so that a reader may run on a machine that was refused")
		}
	}
	return "", ""
}

// exported reports whether a secret has a value that is given out at all.
func (a *asker) exported(secret string) bool { return a.m.Secrets[secret].Exported() }
