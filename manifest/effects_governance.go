package manifest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// governanceEffects says what changes of who decides: numbers of approvals,
// recovery, witnesses, sealing and CAs, and what nobody may change any more.
func (d *Diff) governanceEffects(a, b *Manifest) {
	for _, right := range union(a.Approvals, b.Approvals) {
		old, now := max(1, a.Approvals[right]), max(1, b.Approvals[right])
		switch {
		case now > old:
			d.effect("approvals", "", "%s needs %s; %d before", right, plural(now, "user"), old)
		case now < old:
			d.effect("approvals", RiskLowerApprovals, "%s needs %s; %d before", right, plural(now, "user"), old)
		}
	}
	if a.ProposalLifetime != b.ProposalLifetime {
		d.effect("approvals", "", "new proposals wait %s for their approvals", short(time.Duration(b.ProposalLifetime)))
	}
	d.recoveryEffects(a.Recovery, b.Recovery)
	d.coordinatorEffects(a, b)
	for _, name := range union(a.Witnesses, b.Witnesses) {
		old, was := a.Witnesses[name]
		now, is := b.Witnesses[name]
		switch {
		case !was:
			d.effect("witness "+name, "", "may co-sign the log")
		case !is:
			d.effect("witness "+name, RiskDropWitnesses, "its co-signatures count no more")
		case old.Key != now.Key:
			d.effect("witness "+name, RiskDropWitnesses, "has another key; co-signatures by the old one count no more")
		}
	}
	if a.Seal != b.Seal {
		d.effect("state", "", "is sealed %s", sealed(b.Seal))
	}
	if a.CA != b.CA {
		d.effect("mesh", "", "mesh CA every %s, root %s, both roots trusted for %s", short(time.Duration(b.CA.MeshRotation)), every(time.Duration(b.CA.RootRotation)), short(time.Duration(b.CA.Overlap)))
	}
	for _, t := range a.Tests {
		if !slices.Contains(b.Tests, t) {
			d.effect("tests", "", "%s: is demanded no more", t)
		}
	}
	d.lockOut(a, b)
}

func every(period time.Duration) string {
	if period == 0 {
		return "on demand"
	}
	return "every " + short(period)
}

func sealed(mode SealMode) string {
	switch mode {
	case SealProduct:
		return "to releases of the same signer and product"
	case SealUnique:
		return "to this very program"
	case SealNone:
		return "by no platform: recovery shares or an external KMS alone open it after a restart"
	}
	return "as the coordinator was started"
}

func (d *Diff) recoveryEffects(old, now *Recovery) {
	switch {
	case old == nil && now == nil:
	case old == nil:
		d.effect("recovery", "", "%d of %s open the state; each gets a share", now.Threshold, plural(len(now.Keys), "holder"))
	case now == nil:
		d.effect("recovery", RiskWeakenRecovery, "nobody can open the state where sealing cannot; shares that were given out open nothing more")
	default:
		d.holderEffects(old, now)
	}
}

func (d *Diff) holderEffects(old, now *Recovery) {
	changed := now.Threshold != old.Threshold
	for _, name := range union(old.Keys, now.Keys) {
		was, had := old.Keys[name]
		is, has := now.Keys[name]
		switch {
		case !had:
			d.effect("recovery", "", "%s is a holder", name)
		case !has:
			d.effect("recovery", "", "%s is no holder any more", name)
		case was != is:
			d.effect("recovery", "", "%s has another key", name)
		default:
			continue
		}
		changed = true
	}
	switch {
	case now.Threshold < old.Threshold:
		d.effect("recovery", RiskWeakenRecovery, "shares that open the state: %d; %d before", now.Threshold, old.Threshold)
	case now.Threshold > old.Threshold:
		d.effect("recovery", "", "shares that open the state: %d; %d before", now.Threshold, old.Threshold)
	}
	if changed {
		d.effect("recovery", "", "new shares are made; those that were given out open nothing more")
	}
}

// lockOut names the kinds of change that enough people could agree on before,
// and cannot any more.
func (d *Diff) lockOut(a, b *Manifest) {
	var closed []string
	open, before, after := false, newPowers(a), newPowers(b)
	for _, path := range kindsOfPath() {
		right := UpdateManifest + ":" + path
		still := after.changeable(right)
		open = open || still
		if before.changeable(right) && !still {
			closed = append(closed, path)
		}
	}
	switch {
	case len(closed) == 0:
	case !open && len(updaters(b)) == 0:
		d.effect("mesh", RiskLockOut, "nobody may set the next manifest: this one stays")
	default:
		d.effect("mesh", RiskLockOut, "not enough users may change %s any more", some(closed))
	}
}

// changeable reports whether enough users hold a right for it to be used.
func (p *powers) changeable(right string) bool { return len(p.holders(right)) >= Needed(p.m, right) }

// kindsOfPath are the paths that demands can have, with * for names.
func kindsOfPath() []string {
	var all []string
	for _, section := range fieldsOf(manifestType) {
		fields, divided := split[section]
		switch {
		case section == "$schema" || section == "version" || section == "trustDomain":
		case !divided:
			all = append(all, section)
		case fields == nil:
			all = append(all, section+"/*")
		default:
			for _, field := range fieldsOf(fields) {
				all = append(all, section+"/*/"+field)
			}
		}
	}
	return all
}

// updaters are the users who may change anything of the manifest, sorted.
func updaters(m *Manifest) []string {
	var names []string
	for _, name := range sortedKeys(m.Users) {
		if slices.ContainsFunc(actionsOf(m, name), isUpdate) {
			names = append(names, name)
		}
	}
	return names
}

// isUpdate reports whether an action is a right to change the manifest, or a
// part of it.
func isUpdate(action string) bool {
	kind, _, _ := strings.Cut(action, ":")
	return kind == UpdateManifest
}

// owners says who may set the manifest that follows a first one.
func owners(m *Manifest) string {
	var all, parts []string
	for _, name := range updaters(m) {
		if m.May(name, UpdateManifest+":*") {
			all = append(all, name)
		} else {
			parts = append(parts, name)
		}
	}
	text := ""
	switch n := Needed(m, UpdateManifest+":*"); {
	case len(all) > 0 && n > 1:
		text = fmt.Sprintf("%d of %s may set the next one", n, strings.Join(all, ", "))
	case len(all) > 0:
		text = strings.Join(all, ", ") + " may set the next one"
	}
	if len(parts) > 0 {
		text = strings.TrimPrefix(text+"; "+some(parts)+" may change parts of it", "; ")
	}
	return text
}
