package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// holding is one way in which a user has a right: the index of the role among
// the user's, and of the action among the role's.
type holding struct {
	role           string
	roleAt, action int
}

func (h holding) places(user string) []place {
	return []place{{"users", user, "roles", h.roleAt}, {"roles", h.role, "actions", h.action}}
}

// holdings are all ways in which a user has a right.
func holdings(m *Manifest, user, right string) []holding {
	var all []holding
	for i, role := range m.Users[user].Roles {
		for j, action := range m.Roles[role].Actions {
			if covers(action, right) {
				all = append(all, holding{role, i, j})
			}
		}
	}
	return all
}

// has adds a fact if a user has a right, and reports it.
func (a *asker) has(user, right string, f Fact) bool {
	var grants []place
	for _, h := range holdings(a.m, user, right) {
		grants = append(grants, h.places(user)...)
	}
	if grants != nil {
		a.fact(f, grants...)
	}
	return grants != nil
}

// raisers tells which single person could raise a platform's floor.
func (a *asker) raisers(names []string) string {
	p, path := newPowers(a.m), "platforms/"+names[0]
	var who []string
	for _, user := range sortedKeys(a.m.Users) {
		first := p.ally(user)
		last := first
		if !first.may(RaiseFloor+names[0]) && !first.can(path) {
			last = first.grown()
		}
		switch {
		case first.may(RaiseFloor + names[0]):
			a.could(names[0], RaiseFloor+names[0], "raises the floor, without a manifest", user)
		case first.can(path):
			a.could(names[0], UpdateManifest+":"+path, "sets a manifest with a higher floor", user)
		case last.can(path), last.may(RaiseFloor + names[0]):
			right, text := byRight(last, "", "raises the floor")
			a.could(names[0], right, text, user)
		default:
			continue
		}
		who = append(who, user)
	}
	if len(who) == 0 {
		return fmt.Sprintf("no single person could raise the floor of %s", names[0])
	}
	return fmt.Sprintf("%s could raise the floor of %s alone", some(who), names[0])
}

// meanings of rights, for people: by what stands before the colon.
var meanings = map[string]string{
	UpdateManifest:       "sets the next manifest: every call, reader, right and reference value in it",
	ManageEndorsements:   "imports endorsements",
	RotateCA:             "replaces the mesh CA or the root before their time",
	BreakGlass:           "lifts a rule for a while: one more call, or one more TCB status",
	Backup:               "fetches the sealed state",
	RaiseFloor:           "raises what %s demands at least",
	RaiseSecurityVersion: "sets a manifest that only raises the least security versions of %s",
	WriteSecret:          "gives %s its value",
	ReadSecret:           "sees the value of %s",
	RotateSecret:         "has %s replaced",
	Revoke:               "revokes or quarantines %s, and lifts both",
}

// everything is what "*" means behind the colon.
var everything = map[string]string{
	RaiseFloor: "every platform", RaiseSecurityVersion: "every package", WriteSecret: "every opaque secret", ReadSecret: "every secret", RotateSecret: "every secret",
	Revoke: "every marble, package, platform and user",
}

func meaning(right string) string {
	kind, name, scoped := strings.Cut(right, ":")
	switch {
	case !scoped, kind == UpdateManifest && name == "*":
		return meanings[kind]
	case kind == UpdateManifest:
		return "changes " + name + " of the manifest"
	case name == "*":
		name = everything[kind+":"]
	}
	return fmt.Sprintf(meanings[kind+":"], name)
}

// everyRight is all rights that a question can be about by themselves, sorted.
func (a *asker) everyRight() []string {
	all := []string{UpdateManifest, ManageEndorsements, RotateCA, BreakGlass, Backup}
	for kind := range everything {
		all = append(all, kind+"*")
	}
	for platform := range a.m.Platforms {
		all = append(all, RaiseFloor+platform)
	}
	for _, role := range a.m.Roles {
		all = append(all, role.Actions...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// isRight reports whether a name is a right to something that the manifest has.
func (a *asker) isRight(name string) bool {
	kind, of, scoped := strings.Cut(name, ":")
	if !scoped {
		return false
	}
	if kind == UpdateManifest {
		_, known := split[strings.Split(of, "/")[0]]
		return known || slices.Contains(kindsOfPath(), of) || of == NotesPath
	}
	section, ok := map[string]string{RaiseFloor: "platforms", RaiseSecurityVersion: "packages", WriteSecret: "secrets", ReadSecret: "secrets", RotateSecret: "secrets"}[kind+":"]
	if kind+":" == Revoke {
		section, of, ok = strings.Cut(of, "/")
	}
	names := map[string][]string{"platforms": sortedKeys(a.m.Platforms), "packages": sortedKeys(a.m.Packages), "secrets": sortedKeys(a.m.Secrets), "marbles": sortedKeys(a.m.Marbles), "users": sortedKeys(a.m.Users)}
	return ok && (of == "*" || slices.Contains(names[section], of) || kind+":" == Revoke && section == "platforms" && isMachine(of))
}

// may judges whether a user has a right.
func (a *asker) may(names []string) (bool, string) {
	user, right := names[0], names[1]
	if a.has(user, right, Fact{Kind: FactHas, Subject: user, Object: right, Text: meaning(right)}) {
		return true, fmt.Sprintf("%s has %s", user, right)
	}
	return false, fmt.Sprintf("no role of %s has %s", user, right)
}

// rights tells what a user may do.
func (a *asker) rights(names []string) string {
	var all []string
	for _, right := range actionsOf(a.m, names[0]) {
		if a.has(names[0], right, Fact{Kind: FactHas, Subject: names[0], Object: right, Text: meaning(right)}) {
			all = append(all, right)
		}
	}
	if len(all) == 0 {
		return fmt.Sprintf("%s can do nothing", names[0])
	}
	return fmt.Sprintf("%s can do %s", names[0], some(all))
}

// actionsOf are the actions of all of a user's roles, sorted, each once.
func actionsOf(m *Manifest, user string) []string {
	var all []string
	for _, role := range m.Users[user].Roles {
		all = append(all, m.Roles[role].Actions...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// holders tells which users have a right.
func (a *asker) holders(names []string) string {
	var who []string
	for _, user := range sortedKeys(a.m.Users) {
		if a.has(user, names[0], Fact{Kind: FactHas, Subject: user, Object: names[0], Text: meaning(names[0])}) {
			who = append(who, user)
		}
	}
	verb := "have"
	if len(who) < 2 {
		verb = "has"
	}
	text := fmt.Sprintf("%s %s %s", some(who), verb, names[0])
	if n := Needed(a.m, names[0]); n > 1 {
		text += fmt.Sprintf("; %d have to agree", n)
	}
	return text
}
