package manifest

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Risks that a change can have; somebody has to accept each by its name.
const (
	RiskDropSecrets   = "drop-secrets"   // values are destroyed and can't be recovered
	RiskLockOut       = "lock-out"       // nobody may set the next manifest any more
	RiskNewIdentities = "new-identities" // every marble gets another SPIFFE ID
)

// Effect is what a change does to a running deployment.
type Effect struct {
	Subject string `json:"subject"` // a marble, secret or user; "mesh" for all
	Text    string `json:"text"`
	Risk    string `json:"risk,omitempty"` // what has to be accepted by name
}

func (d *Diff) effect(subject, risk, format string, args ...any) {
	d.Effects = append(d.Effects, Effect{Subject: subject, Text: fmt.Sprintf(format, args...), Risk: risk})
}

// first sums a first manifest up.
func (d *Diff) first(b *Manifest) {
	d.effect("mesh", "", "first manifest: trust domain %s, %s, %s", b.TrustDomain, plural(len(b.Marbles), "marble"), plural(len(Edges(b)), "allowed call"))
	if owners := updaters(b); len(owners) > 0 {
		d.effect("mesh", "", "%s may set the next one", strings.Join(owners, ", "))
	} else {
		d.effect("mesh", "", "nobody may set the next one: this one stays")
	}
}

func (d *Diff) effects(a, b *Manifest) {
	if a.TrustDomain != b.TrustDomain {
		d.effect("mesh", RiskNewIdentities, "every SPIFFE ID changes from %s to %s; all marbles have to attest again", a.TrustDomain, b.TrustDomain)
	}
	for _, name := range union(a.Platforms, b.Platforms) {
		d.platformEffects(name, a, b)
	}
	for _, name := range union(a.Marbles, b.Marbles) {
		d.marbleEffects(name, a, b)
	}
	d.edgeEffects(a, b)
	for _, name := range union(a.Secrets, b.Secrets) {
		d.secretEffects(name, a, b)
	}
	for _, name := range union(a.Users, b.Users) {
		d.userEffects(name, a, b)
	}
	if len(updaters(a)) > 0 && len(updaters(b)) == 0 {
		d.effect("mesh", RiskLockOut, "nobody may set the next manifest: this one stays")
	}
}

func (d *Diff) marbleEffects(name string, a, b *Manifest) {
	old, was := a.Marbles[name]
	now, is := b.Marbles[name]
	switch {
	case !was:
		d.effect(name, "", "new marble: may join once its evidence meets package %s", now.Package)
		return
	case !is:
		d.effect(name, "", "no marble any more: running instances are refused at their next renewal (≤ %s)", within(old))
		return
	}
	pa, _ := a.PolicyFor(name)
	pb, _ := b.PolicyFor(name)
	if !reflect.DeepEqual(pa.Package, pb.Package) {
		d.effect(name, "", "must meet other reference values: instances that don't are refused at their next renewal (≤ %s)", within(old))
	}
	if !reflect.DeepEqual(pa.Platform, pb.Platform) {
		d.effect(name, "", "must meet other platform rules at its next renewal (≤ %s)", within(old))
	}
	if old.Lease != now.Lease || !slices.Equal(old.DNSNames, now.DNSNames) {
		d.effect(name, "", "gets the changed certificate at its next renewal (≤ %s)", within(old))
	}
	if limit(now) < limit(old) {
		d.effect(name, "", "may have %s at most; further ones are refused", plural(limit(now), "instance"))
	}
	if !reflect.DeepEqual(old.Parameters, now.Parameters) {
		d.effect(name, "", "gets the new parameters when it starts the next time")
	}
	if !maps.Equal(old.Serves, now.Serves) || !reflect.DeepEqual(old.Calls, now.Calls) {
		d.effect(name, "", "Envoy gets another configuration, no restart")
	}
}

// within is when a marble attests again at the latest.
func within(m Marble) string { return short(time.Duration(m.Lease) / 2) }

func limit(m Marble) int {
	if m.MaxInstances == 0 {
		return MaxInstances
	}
	return m.MaxInstances
}

// edgeEffects names the hops that open, close or change.
func (d *Diff) edgeEffects(a, b *Manifest) {
	old, now := edgeMap(a), edgeMap(b)
	for _, key := range union(old, now) {
		was, had := old[key]
		is, has := now[key]
		switch {
		case !had:
			d.effect(is.From, "", "hop opens: %s%s", is, only(is.Routes))
		case !has:
			d.effect(was.From, "", "hop closes: %s", was)
		case !slices.Equal(was.Routes, is.Routes):
			d.effect(is.From, "", "hop changes: %s now allows %s", is, allowed(is.Routes))
		}
	}
}

func edgeMap(m *Manifest) map[string]Edge {
	all := make(map[string]Edge)
	for _, e := range Edges(m) {
		all[e.From+" "+e.To+" "+e.Port] = e
	}
	return all
}

func only(routes []string) string {
	if len(routes) == 0 {
		return ""
	}
	return " for " + allowed(routes)
}

func allowed(routes []string) string {
	if len(routes) == 0 {
		return "everything"
	}
	return clip(strings.Join(routes, ", ")) + " only"
}

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
	case now.OnUpdate != "keep" && now.OnUpdate != "":
		d.effect(name, "", "gets a new value, as onUpdate %s says", now.OnUpdate)
	case old.CommonName != now.CommonName || old.Validity != now.Validity || !slices.Equal(old.DNSNames, now.DNSNames):
		d.effect(name, "", "gets a new certificate for the same key")
	}
	for _, r := range now.Readers {
		if !slices.Contains(old.Readers, r) {
			d.effect(name, "", "may be read by %s", r)
		}
	}
	for _, r := range old.Readers {
		if !slices.Contains(now.Readers, r) {
			d.effect(name, "", "is released to %s no more; what it has already stays with it", r)
		}
	}
}

func (d *Diff) userEffects(name string, a, b *Manifest) {
	old, was := a.Users[name]
	now, is := b.Users[name]
	switch {
	case !was:
		d.effect(name, "", "new user with role %s", strings.Join(now.Roles, ", "))
	case !is:
		d.effect(name, "", "is no user any more")
	case old.Certificate != now.Certificate:
		d.effect(name, "", "has another certificate; the old one is refused")
	}
	if was && is && mayUpdate(a, old) != mayUpdate(b, now) {
		verb := "may"
		if mayUpdate(a, old) {
			verb = "may no longer"
		}
		d.effect(name, "", "%s set manifests", verb)
	}
	before, after := floorsOf(a, old), floorsOf(b, now)
	for _, platform := range after {
		if !slices.Contains(before, platform) {
			d.effect(name, "", "may raise the floor of platform %s", platform)
		}
	}
	for _, platform := range before {
		if is && !slices.Contains(after, platform) {
			d.effect(name, "", "may no longer raise the floor of platform %s", platform)
		}
	}
}

// floorsOf lists the platforms whose floor a user may raise, sorted; "*" is all.
func floorsOf(m *Manifest, u User) []string {
	var all []string
	for _, role := range u.Roles {
		for _, action := range m.Roles[role].Actions {
			if platform, ok := strings.CutPrefix(action, RaiseFloor); ok {
				all = append(all, platform)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func mayUpdate(m *Manifest, u User) bool {
	return slices.ContainsFunc(u.Roles, func(r string) bool { return slices.Contains(m.Roles[r].Actions, UpdateManifest) })
}

func updaters(m *Manifest) []string {
	var names []string
	for _, name := range sortedKeys(m.Users) {
		if mayUpdate(m, m.Users[name]) {
			names = append(names, name)
		}
	}
	return names
}

// union returns the keys of both maps, sorted.
func union[V any](a, b map[string]V) []string {
	keys := append(sortedKeys(a), sortedKeys(b)...)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Render writes the diff for people: changes, then effects, with ! before those
// that need to be accepted by name.
func (d Diff) Render(w io.Writer, color bool) {
	var b strings.Builder
	paint := func(sgr, s string) string {
		if !color {
			return s
		}
		return sgr + s + plain
	}
	tones := map[string]string{Added: "\x1b[32m", Removed: red, Altered: yellow}
	wide := 0
	for _, c := range d.Changes {
		wide = max(wide, min(len(c.Path), 32))
	}
	for _, c := range d.Changes {
		what := c.New
		switch c.Op {
		case Altered:
			what = c.Old + " → " + c.New
		case Removed:
			what = c.Old
		}
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %s %-*s  %s", paint(tones[c.Op], c.Op), wide, printable(c.Path), printable(what)), " ") + "\n")
	}
	if len(d.Effects) > 0 {
		b.WriteString("effects\n")
	}
	wide = 0
	for _, e := range d.Effects {
		wide = max(wide, min(len(e.Subject), 16))
	}
	for _, e := range d.Effects {
		if e.Risk == "" {
			fmt.Fprintf(&b, "  %-*s  %s\n", wide, e.Subject, printable(e.Text))
		} else {
			fmt.Fprintf(&b, "  %s %s %s  needs --accept=%s\n", paint(red, "!"), e.Subject, printable(e.Text), e.Risk)
		}
	}
	_, _ = io.WriteString(w, b.String())
}
