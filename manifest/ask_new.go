package manifest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// newly tells what a manifest allows that the one before it did not: calls and
// what they reach, readers, rights, software and platforms, names and counts.
// Where it cannot be told that something only became stricter, it is told.
func (a *asker) newly([]string) string {
	if a.before == nil {
		a.before = newAsker(&Manifest{TrustDomain: a.m.TrustDomain}, &jsonpos.Node{}, jsonpos.NewLines(nil))
	}
	var counts []string
	for _, part := range []struct {
		word string
		tell func()
	}{
		{"call", a.newCalls}, {"reach", a.newReach}, {"reader", a.newReaders}, {"right", a.newRights},
		{"rule of software or platforms", a.newSoftware}, {"further grant", a.newTerms},
	} {
		before := len(a.facts) + a.more
		part.tell()
		if n := len(a.facts) + a.more - before; n > 0 {
			counts = append(counts, fmt.Sprintf("%s: %d", part.word, n))
		}
	}
	if len(counts) == 0 {
		return "nothing is newly allowed"
	}
	return "newly allowed: " + strings.Join(counts, ", ")
}

func (a *asker) newCalls() {
	old := edgeMap(a.before.m)
	for _, e := range a.calls() {
		was, had := old[e.From+" "+e.To+" "+e.Port]
		f := Fact{Kind: FactCalls, Subject: e.From, Object: e.To + ":" + e.Port, Text: e.terms()}
		switch {
		case !had:
		case len(was.Routes) > 0 && len(e.Routes) == 0, slices.ContainsFunc(e.Routes, func(r string) bool { return len(was.Routes) > 0 && !slices.Contains(was.Routes, r) }),
			was.Number != e.Number, was.Protocol != e.Protocol:
			f.Text += "; was " + was.terms()
		default:
			continue
		}
		a.fact(f, e.place())
	}
}

// newReach tells which marbles are reached through others that were not before.
func (a *asker) newReach() {
	if !a.newPair() {
		return
	}
	now, old := a.graph(), a.before.graph()
	marbles := sortedKeys(a.m.Marbles)
	for _, from := range marbles {
		now.from, old.from = from, from
		now.search(now.index[from])
		if i, was := old.index[from]; was {
			old.search(i)
		} else {
			old.via = nil
		}
		for _, to := range marbles {
			by := now.via[now.index[to]]
			if by < 0 || now.edges[by].From == from {
				continue
			}
			if i, was := old.index[to]; was && old.via != nil && old.via[i] >= 0 {
				continue
			}
			last := now.edges[by]
			a.fact(Fact{Kind: FactReaches, Subject: from, Object: to, Text: "through " + last.From}, last.place())
		}
		if a.more > 0 {
			return
		}
	}
}

// newPair reports whether any marble calls one that it did not call.
func (a *asker) newPair() bool {
	old := make(map[[2]string]bool)
	for _, e := range a.before.calls() {
		old[[2]string{e.From, e.To}] = true
	}
	return slices.ContainsFunc(a.calls(), func(e Edge) bool { return !old[[2]string{e.From, e.To}] })
}

func (a *asker) newReaders() {
	for _, secret := range sortedKeys(a.m.Secrets) {
		now := a.m.Secrets[secret]
		was, had := a.before.m.Secrets[secret]
		for _, marble := range a.readersOf(secret) {
			if !slices.Contains(was.Readers, marble) || now.Exported() && !was.Exported() {
				a.reading(marble, secret)
			}
		}
		for i, marble := range now.Depositors {
			if !slices.Contains(was.Depositors, marble) {
				a.fact(Fact{Kind: FactGives, Subject: marble, Object: secret, Text: "deposits it"}, place{"secrets", secret, "depositors", i})
			}
		}
		for i, o := range now.Operations {
			if had && len(was.Operations) > 0 && !slices.Contains(was.Operations, o) {
				a.fact(Fact{Kind: FactNew, Subject: secret, Object: string(o), Text: "readers may have it done"}, place{"secrets", secret, "operations", i})
			}
		}
		if had && was.Scope == Instance && now.Scope == Shared {
			a.fact(Fact{Kind: FactNew, Subject: secret, Object: "secrets", Text: "one value for all readers; was one for each instance"}, place{"secrets", secret})
		}
	}
}

func (a *asker) newRights() {
	old := a.before.m
	for _, user := range sortedKeys(a.m.Users) {
		was, had := old.Users[user]
		if had && was.Certificate != a.m.Users[user].Certificate {
			a.fact(Fact{Kind: FactNew, Subject: user, Object: "users", Text: "is whoever holds the key of another certificate"}, place{"users", user, "certificate"})
		}
		for _, right := range actionsOf(a.m, user) {
			if len(holdings(old, user, right)) == 0 {
				a.has(user, right, Fact{Kind: FactHas, Subject: user, Object: right, Text: meaning(right)})
			}
		}
	}
}

// newSoftware tells what can run as a marble or hold the state that could not
// before.
func (a *asker) newSoftware() {
	type pair struct{ old, now string }
	packages, platforms := make(map[pair][]looser), make(map[pair][]looser)
	tell := func(name string, old, now attest.Policy) {
		key := pair{old.PackageName, now.PackageName}
		if _, known := packages[key]; !known {
			packages[key] = loosened(asTree(old.Package), asTree(now.Package))
		}
		for _, l := range packages[key] {
			a.fact(Fact{Kind: FactNew, Subject: name, Object: now.PackageName, Text: l.text}, append(place{"packages", now.PackageName}, l.at...))
		}
		key = pair{old.PlatformName, now.PlatformName}
		if _, known := platforms[key]; !known {
			platforms[key] = loosened(full(old.Platform), full(now.Platform))
		}
		for _, l := range platforms[key] {
			a.fact(Fact{Kind: FactNew, Subject: name, Object: now.PlatformName, Text: l.text}, append(place{"platforms", now.PlatformName}, l.at...))
		}
	}
	for _, name := range sortedKeys(a.m.Marbles) {
		now, _ := a.m.PolicyFor(name)
		if old, was := a.before.m.PolicyFor(name); was {
			tell(name, old, now)
		} else {
			a.software([]string{name})
		}
	}
	if now, is := a.m.CoordinatorPolicy(); is {
		if old, was := a.before.m.CoordinatorPolicy(); was {
			tell(coordinator, old, now)
		} else {
			a.stateHolders(nil)
		}
	}
}

// newTerms tells of names, counts and times that a marble did not have, and of
// tests that no longer hold others back.
func (a *asker) newTerms() {
	if was := a.before.m.TrustDomain; was != a.m.TrustDomain {
		a.fact(Fact{Kind: FactNew, Subject: "mesh", Object: a.m.TrustDomain, Text: "identities of this trust domain; was " + was}, place{"trustDomain"})
	}
	for _, name := range sortedKeys(a.m.Marbles) {
		now := a.m.Marbles[name]
		was, had := a.before.m.Marbles[name]
		for i, dns := range now.DNSNames {
			if !slices.Contains(was.DNSNames, dns) {
				a.fact(Fact{Kind: FactNew, Subject: name, Object: dns, Text: "may go by this DNS name"}, place{"marbles", name, "dnsNames", i})
			}
		}
		if had && limit(now) > limit(was) {
			a.fact(Fact{Kind: FactNew, Subject: name, Object: "maxInstances", Text: fmt.Sprintf("may have %s; was %d", plural(limit(now), "instance"), limit(was))}, place{"marbles", name, "maxInstances"})
		}
		if had && now.Renewal != was.Renewal {
			a.fact(Fact{Kind: FactNew, Subject: name, Object: "renewal", Text: "may go on for another time where renewals fail"}, place{"marbles", name, "renewal"})
		}
		if had && now.Lease > was.Lease {
			a.fact(Fact{Kind: FactNew, Subject: name, Object: "lease", Text: fmt.Sprintf("keeps an identity for %s; was %s", short(time.Duration(now.Lease)), short(time.Duration(was.Lease)))}, place{"marbles", name, "lease"})
		}
	}
	a.newGovernance()
	for _, t := range a.before.m.Tests {
		if !slices.Contains(a.m.Tests, t) {
			a.fact(Fact{Kind: FactNew, Subject: "tests", Object: t.String(), Text: "is demanded no more"}, place{"tests"})
		}
	}
}

// newGovernance tells of numbers that sink, of holders and thresholds of recovery
// and of seals that more software opens.
func (a *asker) newGovernance() {
	old, now := a.before.m, a.m
	for _, right := range sortedKeys(old.Approvals) {
		if was, is := old.Approvals[right], max(1, now.Approvals[right]); is < was {
			a.fact(Fact{Kind: FactNew, Subject: "approvals", Object: right, Text: fmt.Sprintf("%s suffices; was %d", plural(is, "user"), was)}, place{"approvals", right})
		}
	}
	for _, name := range sortedKeys(old.Witnesses) {
		if w, stays := now.Witnesses[name]; !stays || w.Key != old.Witnesses[name].Key {
			a.fact(Fact{Kind: FactNew, Subject: "witnesses", Object: name, Text: "need not see the log any more"}, place{"witnesses", name})
		}
	}
	if now.Seal != old.Seal && now.Seal != SealNone && old.Seal != "" {
		a.fact(Fact{Kind: FactNew, Subject: "state", Object: "seal", Text: "is sealed " + sealed(now.Seal) + "; was " + string(old.Seal)}, place{"seal"})
	}
	if now.Recovery == nil {
		return
	}
	before := old.Recovery
	if before == nil {
		before = &Recovery{Threshold: maxNumber + 1}
	}
	for _, name := range sortedKeys(now.Recovery.Keys) {
		if before.Keys[name] != now.Recovery.Keys[name] {
			a.fact(Fact{Kind: FactNew, Subject: name, Object: "recovery", Text: "has a share of the key that opens the state"}, place{"recovery", "keys", name})
		}
	}
	if now.Recovery.Threshold < before.Threshold {
		a.fact(Fact{Kind: FactNew, Subject: "state", Object: "recovery", Text: fmt.Sprintf("is opened by %s", plural(now.Recovery.Threshold, "share"))}, place{"recovery", "threshold"})
	}
}

// full is a platform with rules for every TEE that has a default.
func full(p attest.Platform) *jsonpos.Node {
	for _, rules := range []**attest.DCAPPlatform{&p.SGX, &p.TDX, &p.Sim} {
		if *rules == nil {
			*rules = &attest.DCAPPlatform{}
		}
	}
	if p.TPM == nil {
		p.TPM = &attest.TPMPlatform{}
	}
	return asTree(p)
}
