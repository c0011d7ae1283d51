package manifest

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// secretEffects says what becomes of a secret's values, and of who has them.
func (d *Diff) secretEffects(name string, a, b *Manifest) {
	old, was := a.Secrets[name]
	now, is := b.Secrets[name]
	switch {
	case !was:
		return
	case !is:
		d.effect(name, RiskDropSecrets, "is destroyed and cannot be recovered")
		return
	case old.Type != now.Type || old.Bits != now.Bits || old.Scope != now.Scope:
		d.effect(name, RiskDropSecrets, "is destroyed and made anew: its type, size or scope changes")
	case (len(old.Operations) > 0) != (len(now.Operations) > 0):
		d.effect(name, RiskDropSecrets, "is destroyed and made anew: what was handed out can't become use-only, nor the other way round")
	case now.OnUpdate == "discard", now.OnUpdate == "rederive" && now.Type != Opaque && now.Type != Counter:
		d.effect(name, "", "gets a new value, as onUpdate %s says", now.OnUpdate)
	case !sameCertificate(old, now):
		d.effect(name, "", "gets a new certificate for the same key")
	}
	d.listed(name, old.Readers, now.Readers, "may be read by %s", "is released to %s no more; what it has already stays with it")
	d.listed(name, old.Depositors, now.Depositors, "may be deposited by %s", "may be deposited by %s no more")
	if len(old.Operations) > 0 && len(now.Operations) > 0 {
		d.listed(name, wordsOf(old.Operations), wordsOf(now.Operations), "readers may have it %s", "readers may not have it %s any more")
	}
	d.rotationEffects(name, old.Rotation, now.Rotation)
}

func sameCertificate(old, now Secret) bool {
	names := func(s Secret) Secret {
		return Secret{CommonName: s.CommonName, Validity: s.Validity, DNSNames: s.DNSNames, Organization: s.Organization, IPAddresses: s.IPAddresses, ExtendedKeyUsages: s.ExtendedKeyUsages}
	}
	return reflect.DeepEqual(names(old), names(now))
}

func (d *Diff) rotationEffects(name string, old, now Rotation) {
	switch {
	case old.Every == now.Every:
	case now.Every == 0:
		d.effect(name, "", "rotates on demand only; every %s before", short(time.Duration(old.Every)))
	case old.Every == 0:
		d.effect(name, "", "rotates every %s", short(time.Duration(now.Every)))
	default:
		d.effect(name, "", "rotates every %s; %s before", short(time.Duration(now.Every)), short(time.Duration(old.Every)))
	}
	if old.Overlap != now.Overlap {
		d.effect(name, "", "the version before stays for %s after a rotation; %s before", short(time.Duration(now.Overlap)), short(time.Duration(old.Overlap)))
	}
}

// listed tells of items that join a list, and of those that leave it.
func (d *Diff) listed(subject string, before, after []string, joins, leaves string) {
	for _, item := range after {
		if !slices.Contains(before, item) {
			d.effect(subject, "", joins, item)
		}
	}
	for _, item := range before {
		if !slices.Contains(after, item) {
			d.effect(subject, "", leaves, item)
		}
	}
}

func wordsOf(operations []Operation) []string {
	words := make([]string, len(operations))
	for i, o := range operations {
		words[i] = string(o)
	}
	return words
}

// userEffects says who becomes a user, and what a user may newly do or not any
// more.
func (d *Diff) userEffects(name string, a, b *Manifest) {
	old, was := a.Users[name]
	now, is := b.Users[name]
	switch {
	case !was:
		d.effect(name, "", "new user with role %s", strings.Join(now.Roles, ", "))
	case !is:
		d.effect(name, "", "is no user any more")
		return
	case old.Certificate != now.Certificate:
		d.effect(name, "", "has another certificate; the old one is refused")
	}
	for _, right := range actionsOf(b, name) {
		if was && !a.May(name, right) {
			d.effect(name, "", "may now: %s", right)
		}
	}
	for _, right := range actionsOf(a, name) {
		if !b.May(name, right) {
			d.effect(name, "", "may no longer: %s", right)
		}
	}
}
