package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// maxPairing bounds how many users are paired.
const maxPairing = 64

// could adds what users could bring about, by a right that they have or by
// shares.
func (a *asker) could(object, right, text string, users ...string) {
	f := Fact{Kind: FactCould, Subject: strings.Join(users, " and "), Object: object, Text: text}
	var grants []place
	for _, user := range users {
		if right == "" {
			if _, holds := a.m.Recovery.Keys[user]; holds {
				grants = append(grants, place{"recovery", "keys", user})
			}
			continue
		}
		for _, h := range holdings(a.m, user, right) {
			grants = append(grants, h.places(user)...)
		}
	}
	if right == "" {
		grants = append(grants, place{"recovery", "threshold"})
	}
	a.fact(f, grants...)
}

// releasing adds the users who could alone give a secret to others.
func (a *asker) releasing(secret string) []string {
	p, levers := newPowers(a.m), a.levers(secret)
	var who []string
	for _, user := range sortedKeys(a.m.Users) {
		if right, text := a.release(p, secret, levers, user); text != "" {
			a.could(secret, right, text, user)
			who = append(who, user)
		}
	}
	return who
}

// releasers tells which single person could release a secret.
func (a *asker) releasers(names []string) string {
	secret := names[0]
	open := a.posing(secret)
	users := a.releasing(secret)
	switch {
	case open:
		return fmt.Sprintf("anybody who poses as one of its readers could release %s alone", secret)
	case len(users) == 0:
		return fmt.Sprintf("no single person could release %s", secret)
	}
	return fmt.Sprintf("%s could release %s alone", some(users), secret)
}

// pairs tells which two people could release a secret together, and neither of
// them alone.
func (a *asker) pairs(names []string) string {
	secret := names[0]
	p, levers := newPowers(a.m), a.levers(secret)
	var alone, others, found []string
	for _, user := range sortedKeys(a.m.Users) {
		if _, text := a.release(p, secret, levers, user); text != "" {
			alone = append(alone, user)
		} else if a.holds(user) {
			others = append(others, user)
		}
	}
	left := ""
	if len(others) > maxPairing {
		left = fmt.Sprintf("; of %d users, pairs of the first %d were looked at", len(others), maxPairing)
		others = others[:maxPairing]
	}
	for i, one := range others {
		for _, other := range others[i+1:] {
			if right, text := a.release(p, secret, levers, one, other); text != "" {
				a.could(secret, right, text, one, other)
				found = append(found, one+" with "+other)
			}
		}
	}
	text := fmt.Sprintf("no two people could release %s together", secret)
	if len(found) > 0 {
		text = fmt.Sprintf("%s could release %s together", some(found), secret)
	}
	if len(alone) > 0 {
		text += fmt.Sprintf("; %s could alone", some(alone))
	}
	return text + left
}

// holds reports whether a user has any right, or a share.
func (a *asker) holds(user string) bool {
	if a.m.Recovery != nil {
		if _, holder := a.m.Recovery.Keys[user]; holder {
			return true
		}
	}
	return len(actionsOf(a.m, user)) > 0
}

// changers tells which single person could change the manifest, or parts of it.
func (a *asker) changers([]string) string {
	p, kinds := newPowers(a.m), kindsOfPath()
	var whole, parts []string
	for _, user := range sortedKeys(a.m.Users) {
		alone := a.changesAlone(user, kinds)
		if len(alone) == 0 {
			continue
		}
		first := p.ally(user)
		text := "sets a manifest that changes " + some(alone)
		switch {
		case first.canAll(kinds):
			text = meanings[UpdateManifest]
			whole = append(whole, user)
		case first.grown().canAll(kinds):
			text += ", and so gets the right to every change"
			whole = append(whole, user)
		default:
			parts = append(parts, user)
		}
		a.could("manifest", UpdateManifest+":"+alone[0], text, user)
	}
	switch {
	case len(whole)+len(parts) == 0:
		return "no single person could change the manifest"
	case len(parts) == 0:
		return fmt.Sprintf("%s could change the manifest alone", some(whole))
	case len(whole) == 0:
		return fmt.Sprintf("%s could change parts of the manifest alone", some(parts))
	}
	return fmt.Sprintf("%s could change the manifest alone, %s parts of it", some(whole), some(parts))
}

// changesAlone are the paths that a user has the right to change without anybody
// else, sorted; * stands for names.
func (a *asker) changesAlone(user string, kinds []string) []string {
	var paths []string
	for _, action := range actionsOf(a.m, user) {
		if !isUpdate(action) {
			continue
		}
		for _, kind := range kinds {
			if right, overlap := intersection(action, UpdateManifest+":"+kind); overlap && Needed(a.m, right) == 1 {
				paths = append(paths, strings.TrimPrefix(right, UpdateManifest+":"))
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// openers tells which single person could let traffic from one marble arrive at
// another, where it does not.
func (a *asker) openers(names []string) string {
	from, to := names[0], names[1]
	if route := a.graph().route(from, to); route != nil {
		_, why := a.chain(names, route)
		return fmt.Sprintf("it does already: %s", why)
	}
	p, g := newPowers(a.m), a.gap(from, to)
	var who []string
	for _, user := range sortedKeys(a.m.Users) {
		right, text := a.opens(p, user, g)
		if text != "" {
			a.could(from+" → "+to, right, text, user)
			who = append(who, user)
		}
	}
	if len(who) == 0 {
		return fmt.Sprintf("no single person could let %s reach %s", from, to)
	}
	return fmt.Sprintf("%s could let %s reach %s alone", some(who), from, to)
}

// gap is between two marbles: where traffic gets to from the one, and from where
// it gets to the other. One call between the two closes it.
type gap struct{ sources, targets []string }

func (a *asker) gap(from, to string) gap {
	g := gap{[]string{from}, []string{to}}
	for _, marble := range sortedKeys(a.m.Marbles) {
		if marble != from && a.graph().route(from, marble) != nil {
			g.sources = append(g.sources, marble)
		}
	}
	for _, marble := range sortedKeys(a.m.Marbles) {
		if marble != to && a.graph().route(marble, to) != nil {
			g.targets = append(g.targets, marble)
		}
	}
	return g
}

// opens tells by which right a user could close a gap.
func (a *asker) opens(p *powers, user string, g gap) (right, text string) {
	first := p.ally(user)
	for _, stage := range []func() *alliance{func() *alliance { return first }, first.grown} {
		as := stage()
		for _, target := range g.targets {
			served := len(a.m.Marbles[target].Serves) > 0
			if served && as.may(BreakGlass) {
				return byRight(as, BreakGlass, "lifts a rule, so that "+g.sources[0]+" may call "+target)
			}
			if !served && !as.can("marbles/"+target+"/serves") {
				continue
			}
			for _, source := range g.sources {
				if path := "marbles/" + source + "/calls"; source != target && as.can(path) {
					return byRight(as, UpdateManifest+":"+path, "sets a manifest that changes "+path)
				}
			}
		}
	}
	return "", ""
}

// byRight is the right by which something is done, and what is done: for who gets
// the right first, that by which it is got.
func byRight(as *alliance, right, text string) (string, string) {
	if as.by == "" {
		return right, text
	}
	return as.by, fmt.Sprintf("sets a manifest that changes %s, and then %s", strings.TrimPrefix(as.by, UpdateManifest+":"), text)
}
