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
	RiskDropSecrets       = "drop-secrets"       // values are destroyed and can't be recovered
	RiskDropMarbles       = "drop-marbles"       // running instances lose their identity
	RiskLockOut           = "lock-out"           // a part of the manifest can be changed by nobody any more
	RiskNewIdentities     = "new-identities"     // every marble gets another SPIFFE ID
	RiskLowerApprovals    = "lower-approvals"    // fewer people suffice for what took more
	RiskLowerFloors       = "lower-floors"       // older firmware or software is accepted again
	RiskWeakenRecovery    = "weaken-recovery"    // fewer shares open the state, or none does
	RiskDropWitnesses     = "drop-witnesses"     // the log is co-signed by fewer
	RiskAdmitCoordinators = "admit-coordinators" // more software or hardware gets every key and secret
)

// AllRisks are the names of all risks, sorted.
func AllRisks() []string {
	return []string{RiskAdmitCoordinators, RiskDropMarbles, RiskDropSecrets, RiskDropWitnesses, RiskLockOut, RiskLowerApprovals, RiskLowerFloors, RiskNewIdentities, RiskWeakenRecovery}
}

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
	if b.Coordinators != nil {
		d.effect("coordinators", "", "%s", admitted(b))
	}
	if who := owners(b); who != "" {
		d.effect("mesh", "", "%s", who)
	} else {
		d.effect("mesh", "", "nobody may set the next one: this one stays")
	}
}

func (d *Diff) effects(a, b *Manifest) {
	if a.TrustDomain != b.TrustDomain {
		d.effect("mesh", RiskNewIdentities, "every SPIFFE ID changes from %s to %s; all marbles have to attest again", a.TrustDomain, b.TrustDomain)
	}
	for _, name := range union(a.Packages, b.Packages) {
		d.packageEffects(name, a, b)
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
	d.governanceEffects(a, b)
}

func (d *Diff) marbleEffects(name string, a, b *Manifest) {
	old, was := a.Marbles[name]
	now, is := b.Marbles[name]
	switch {
	case !was:
		d.effect(name, "", "new marble: may join once its evidence meets package %s", now.Package)
		return
	case !is:
		d.effect(name, RiskDropMarbles, "no marble any more: running instances are refused at their next renewal (≤ %s), and have no identity after %s", within(old), short(time.Duration(old.Lease)))
		return
	}
	pa, _ := a.PolicyFor(name)
	pb, _ := b.PolicyFor(name)
	if !reflect.DeepEqual(pa.Package, pb.Package) {
		d.effect(name, "", "must meet other reference values: instances that don't are refused at their next renewal (≤ %s), and have no identity after %s", within(old), short(time.Duration(old.Lease)))
	}
	if !reflect.DeepEqual(pa.Platform, pb.Platform) {
		d.effect(name, "", "must meet other platform rules at its next renewal (≤ %s): instances that don't have no identity after %s", within(old), short(time.Duration(old.Lease)))
	}
	if old.Lease != now.Lease || !slices.Equal(old.DNSNames, now.DNSNames) {
		d.effect(name, "", "gets the changed certificate at its next renewal (≤ %s)", within(old))
	}
	if limit(now) < limit(old) {
		d.effect(name, "", "may have %s at most; further ones are refused", plural(limit(now), "instance"))
	}
	if old.Renewal != now.Renewal {
		d.effect(name, "", "instances whose renewals fail are degraded, drained and cut at other times, from their next renewal on")
	}
	if !reflect.DeepEqual(old.Parameters, now.Parameters) {
		d.effect(name, "", "gets the new parameters when it starts the next time")
		d.referenceEffects(name, old.Parameters.References, now.Parameters.References)
	}
	if !maps.Equal(old.Serves, now.Serves) || !reflect.DeepEqual(old.Calls, now.Calls) {
		d.effect(name, "", "Envoy gets another configuration, no restart")
	}
}

// referenceEffects names the places in which the host may newly put a secret.
func (d *Diff) referenceEffects(name string, old, now References) {
	news := func(what string, old, now map[string][]string) {
		for _, place := range sortedKeys(now) {
			for _, secret := range now[place] {
				if !slices.Contains(old[place], secret) {
					d.effect(name, "", "the host may put a reference to %s into %s %s", secret, what, place)
				}
			}
		}
	}
	news("variable", old.Env, now.Env)
	news("file", old.Files, now.Files)
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
