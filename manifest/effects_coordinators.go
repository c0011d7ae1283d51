package manifest

import "github.com/ashlar-mesh/ashlar/attest"

// coordinatorEffects says who may newly hold the state, and who may not any more.
// Whoever has its key keeps it: what was admitted is never taken back.
func (d *Diff) coordinatorEffects(a, b *Manifest) {
	const subject = "coordinators"
	old, was := a.CoordinatorPolicy()
	now, is := b.CoordinatorPolicy()
	switch {
	case !was && is:
		d.effect(subject, RiskAdmitCoordinators, "%s", admitted(b))
	case was && !is:
		d.effect(subject, "", "none is admitted any more; those that have the key of the state keep it")
	case was && is:
		more := admits(old, now)
		if len(more) > 0 {
			d.effect(subject, RiskAdmitCoordinators, "more may hold the state: %s", some(more))
		}
		if len(admits(now, old)) > 0 {
			d.effect(subject, "", "those that do not meet package %s on platform %s are refused the next time they join; what they hold they keep", now.PackageName, now.PlatformName)
		}
	}
}

// admitted says what a manifest that admits coordinators lets hold the state.
func admitted(m *Manifest) string {
	p, _ := m.CoordinatorPolicy()
	return "every coordinator that runs package " + p.PackageName + " on platform " + p.PlatformName + " may hold the state, with every CA key and secret"
}

// admits returns by what a policy accepts what another does not.
func admits(old, now attest.Policy) []string {
	var all []string
	for _, l := range loosened(asTree(old.Package), asTree(now.Package)) {
		all = append(all, "package "+now.PackageName+": "+l.text)
	}
	for _, l := range loosened(full(old.Platform), full(now.Platform)) {
		all = append(all, "platform "+now.PlatformName+": "+l.text)
	}
	return all
}
