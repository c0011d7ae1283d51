package manifest

import "fmt"

// coordinator is the subject of facts about those that the manifest admits beside
// the one that set the state up. No marble and no user has such a name.
const coordinator = "a coordinator"

// holding adds that coordinators have a secret, whoever its readers are, and
// whether or not it is given out at all: they hold the whole state.
func (a *asker) holding(secret string) []string {
	p, ok := a.m.CoordinatorPolicy()
	if !ok {
		return nil
	}
	a.fact(Fact{Kind: FactReads, Subject: coordinator, Object: secret, Text: fmt.Sprintf("holds the whole state; runs package %s on platform %s", p.PackageName, p.PlatformName)},
		place{"coordinators", "package"})
	return []string{coordinator}
}

// stateHolders tells what a coordinator must run, and on what, to get the key of
// the state.
func (a *asker) stateHolders([]string) string {
	p, ok := a.m.CoordinatorPolicy()
	if !ok {
		return "the manifest admits no coordinator but the one that set the state up"
	}
	return a.running(coordinator, p, place{"coordinators", "package"}) + "; who holds the state has every CA key and secret"
}
