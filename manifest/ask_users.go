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

// powers adds what the holders of a right could do alone, and returns them.
func (a *asker) powers(right, object, text string) []string {
	var who []string
	for _, user := range sortedKeys(a.m.Users) {
		if a.has(user, right, Fact{Kind: FactCould, Subject: user, Object: object, Text: text}) {
			who = append(who, user)
		}
	}
	return who
}

// changers tells which single person could change the manifest.
func (a *asker) changers([]string) string {
	who := a.powers(UpdateManifest, "manifest", meanings[UpdateManifest])
	if len(who) == 0 {
		return "no single person could change the manifest: nobody may set the next one"
	}
	return fmt.Sprintf("%s could change the manifest alone", some(who))
}

// raisers tells which single person could raise a platform's floor.
func (a *asker) raisers(names []string) string {
	who := a.powers(RaiseFloor+names[0], names[0], "raises the floor, without a manifest")
	who = append(who, a.powers(UpdateManifest, names[0], "sets a manifest with a higher floor")...)
	slices.Sort(who)
	if who = slices.Compact(who); len(who) == 0 {
		return fmt.Sprintf("no single person could raise the floor of %s", names[0])
	}
	return fmt.Sprintf("%s could raise the floor of %s alone", some(who), names[0])
}

// meanings of rights, for people.
var meanings = map[string]string{
	UpdateManifest:     "sets the next manifest: every call, reader, right and reference value in it",
	ManageEndorsements: "imports endorsements",
}

func meaning(right string) string {
	if platform, ok := strings.CutPrefix(right, RaiseFloor); ok {
		if platform == "*" {
			platform = "every platform"
		}
		return "raises what " + platform + " demands at least"
	}
	return meanings[right]
}

// everyRight is all rights that a question can be about, sorted.
func (a *asker) everyRight() []string {
	all := []string{UpdateManifest, ManageEndorsements, RaiseFloor + "*"}
	for platform := range a.m.Platforms {
		all = append(all, RaiseFloor+platform)
	}
	for _, role := range a.m.Roles {
		all = append(all, role.Actions...)
	}
	slices.Sort(all)
	return slices.Compact(all)
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
	return fmt.Sprintf("%s %s %s", some(who), verb, names[0])
}
