package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxRightPairs bounds how many pairs of a number and an action are looked at.
const maxRightPairs = 2000

// role checks that the actions of a role are for something.
func (c *checker) role(m *jsonpos.Member, p *path) {
	list := m.Value.Get("actions")
	if list == nil || c.bad[list] {
		return
	}
	for i, action := range c.m.Roles[m.Key].Actions {
		if n := list.Items[i]; !c.bad[n] {
			c.right(action, p.member("actions").item(i), spanOf(n), "role "+m.Key)
		}
	}
}

// target is what a right with a name behind its colon is for.
type target struct {
	code  problem.Code
	word  string
	names []string
}

func (c *checker) targets() map[string]target {
	packages, platforms := target{"MAN-015", "package", c.packageNames}, target{"MAN-016", "platform", c.platformNames}
	marbles, secrets := target{"MAN-017", "marble", c.marbleNames}, target{"MAN-034", "secret", c.secretNames}
	users := target{"MAN-067", "user", c.userNames}
	return map[string]target{
		"raiseFloor": platforms, "raiseSecurityVersion": packages, "writeSecret": secrets, "readSecret": secrets, "rotateSecret": secrets,
		"revoke:marbles": marbles, "revoke:packages": packages, "revoke:platforms": platforms, "revoke:users": users,
	}
}

// right checks one right: that what it names exists, and that some change
// demands it.
func (c *checker) right(right string, p *path, at span, who string) {
	kind, name, scoped := strings.Cut(right, ":")
	if !scoped || name == "*" {
		return
	}
	if kind == UpdateManifest {
		c.updatePath(right, name, p, at, who)
		return
	}
	if kind == "revoke" {
		var section string
		section, name, _ = strings.Cut(name, "/")
		kind += ":" + section
	}
	t, known := c.targets()[kind]
	if !known || name == "*" || kind == "revoke:platforms" && isMachine(name) {
		return
	}
	if _, exists := slices.BinarySearch(t.names, name); !exists {
		c.report(p, at, finding{code: t.code, message: fmt.Sprintf("%s has the right %s, but there is no %s %q", who, right, t.word, name), suggest: c.didYouMean(right, prefixed(strings.TrimSuffix(right, name), t.names))})
		return
	}
	if kind+":" == WriteSecret && c.m.Secrets[name].Type != Opaque && c.m.Secrets[name].Type != "" {
		c.report(p, at, finding{code: "MAN-066", warning: true, message: fmt.Sprintf("%s is of no use: secret %q is %s, and its values are made by the coordinator", right, name, c.m.Secrets[name].Type)})
	}
}

// isMachine reports whether a name is that of a machine as evidence has it, in
// hexadecimal: from an FMSPC of 6 bytes on.
func isMachine(name string) bool { return len(name) >= 12 && len(name)%2 == 0 && isHex(name) }

func prefixed(prefix string, names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = prefix + name
	}
	return all
}

// updatePath checks the path of a right to change the manifest.
func (c *checker) updatePath(right, path string, p *path, at span, who string) {
	steps := strings.Split(path, "/")
	refuse := func(suggest, format string, args ...any) {
		c.report(p, at, finding{code: "MAN-066", message: fmt.Sprintf("%s has the right %s, but ", who, right) + fmt.Sprintf(format, args...), suggest: suggest})
	}
	for _, step := range steps {
		if strings.Contains(step, "*") && step != "*" {
			refuse("", "%q is no name: * stands for one whole name", step)
			return
		}
	}
	sections := append(slices.DeleteFunc(fieldsOf(manifestType), func(s string) bool { return s == "$schema" }), NotesPath)
	slices.Sort(sections)
	section := steps[0]
	if section != "*" && !slices.Contains(sections, section) {
		refuse(c.didYouMean(section, sections), "a manifest has no part %q", section)
		return
	}
	fields, divided := split[section]
	depth := 1
	switch {
	case fields != nil || section == "*":
		depth = 3
	case divided:
		depth = 2
	}
	if len(steps) > depth {
		refuse(fmt.Sprintf("write updateManifest:%s", strings.Join(steps[:depth], "/")), "no change demands so long a path")
		return
	}
	if len(steps) == 3 && steps[2] != "*" && fields != nil {
		known := append(fieldsOf(fields), NotesPath)
		if slices.Sort(known); !slices.Contains(known, steps[2]) {
			refuse(c.didYouMean(steps[2], known), "a %s has no part %q", strings.TrimSuffix(section, "s"), steps[2])
			return
		}
	}
	if len(steps) > 1 && steps[1] != "*" && section != "*" {
		c.futureName(right, section, steps[1], p, at)
	}
}

// futureName warns of an entry that is not there yet.
func (c *checker) futureName(right, section, name string, p *path, at span) {
	names := map[string][]string{"packages": c.packageNames, "platforms": c.platformNames, "marbles": c.marbleNames, "secrets": c.secretNames,
		"users": c.userNames, "roles": c.roleNames, "witnesses": sortedKeys(c.m.Witnesses)}[section]
	if _, exists := slices.BinarySearch(names, name); !exists {
		c.report(p, at, finding{code: "MAN-066", warning: true, message: fmt.Sprintf("%s is for nothing that is there: %s has no %q", right, section, name), suggest: c.didYouMean(name, names)})
	}
}

// approvals checks that enough users hold each right that takes several, and
// warns where fewer could get around a number.
func (c *checker) approvals() {
	pairs, held := maxRightPairs, newPowers(c.m)
	given := make(map[string]bool)
	for _, user := range c.userNames {
		for _, role := range c.m.Users[user].Roles {
			for _, action := range c.m.Roles[role].Actions {
				given[action] = true
			}
		}
	}
	actions := sortedKeys(given)
	c.section("approvals", func(m *jsonpos.Member, p *path) {
		c.right(m.Key, p, keySpan(m), "approvals")
		number := c.m.Approvals[m.Key]
		if number < 2 || !c.rightsKnown() {
			return
		}
		if !held.reachable(m.Key, actions, &pairs) {
			c.report(p, spanOf(m.Value), finding{code: "MAN-064", message: fmt.Sprintf("%s needs %d users, and no so many have it", m.Key, number), suggest: "give more users the right, or lower the number"})
			return
		}
		for _, path := range []string{"users/*", "roles/*"} {
			right := UpdateManifest + ":" + path
			if need := Needed(c.m, right); isUpdate(m.Key) && need < number && len(held.holders(right)) >= need {
				c.report(p, spanOf(m.Value), finding{code: "MAN-065", warning: true, message: fmt.Sprintf("%s needs %d users, but %s: who changes %s makes approvers", m.Key, number, agree(need), path),
					suggest: fmt.Sprintf("add %q: %d to approvals", right, number)})
				return
			}
		}
	})
}

func agree(n int) string {
	if n == 1 {
		return "one is enough to get around it"
	}
	return fmt.Sprintf("%d are enough to get around it", n)
}

// rightsKnown reports whether users and roles are whole enough to count on.
func (c *checker) rightsKnown() bool {
	for _, section := range []string{"users", "roles"} {
		if n := c.root.Get(section); n != nil && (c.bad[n] || c.incomplete(n)) {
			return false
		}
	}
	return true
}

// reachable reports whether there is anything that enough users may do of what a
// number is for, by these actions of theirs. Where it cannot be told within bounds
// it is taken to be.
func (p *powers) reachable(key string, actions []string, pairs *int) bool {
	seen := make(map[string]bool)
	for _, action := range actions {
		common, overlap := intersection(action, key)
		if !overlap || seen[common] {
			continue
		}
		seen[common] = true
		if *pairs--; *pairs < 0 || p.changeable(common) {
			return true
		}
	}
	return false
}

// intersection returns the right to what two rights have in common, with * where
// both have it.
func intersection(a, b string) (string, bool) {
	kind, above, scopedA := strings.Cut(a, ":")
	other, below, scopedB := strings.Cut(b, ":")
	switch {
	case kind != other:
		return "", false
	case !scopedA || above == "*":
		return b, true
	case !scopedB || below == "*":
		return a, true
	}
	x, y := strings.Split(above, "/"), strings.Split(below, "/")
	if len(x) < len(y) {
		x, y = y, x
	}
	common := slices.Clone(x)
	for i, name := range y {
		switch {
		case common[i] == "*":
			common[i] = name
		case name != "*" && name != common[i]:
			return "", false
		}
	}
	return kind + ":" + strings.Join(common, "/"), true
}
