package coordinator

import (
	"context"
	"fmt"
	"slices"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// What makes a touched value count no more.
const (
	remedyRotate = "rotate"
	remedySupply = "supply"
	remedyEnd    = "end"
)

// touched are the touches of a subject that count at now.
func (c *Coordinator) touched(tx *store.Tx, s apiv1.Subject) []secrets.Touch {
	at := c.config.Now()
	switch {
	case s.Kind == apiv1.MarbleSubject:
		return secrets.Touched(tx, secrets.Filter{Marble: s.Name, Instance: s.Instance, At: at})
	case s.Kind == apiv1.PackageSubject:
		return secrets.Touched(tx, secrets.Filter{Package: s.Name, At: at})
	case s.Kind == apiv1.UserSubject:
		return secrets.Touched(tx, secrets.Filter{User: s.Name, At: at})
	case !machineID(s.Name):
		return secrets.Touched(tx, secrets.Filter{Platform: s.Name, At: at})
	}
	return secrets.Touched(tx, secrets.Filter{Machine: s.Name, At: at})
}

// lineageSubject judges what a request about lineage names. It need not be in the
// manifest any more.
func lineageSubject(s apiv1.Subject) error {
	if plural[s.Kind] == "" || s.Name == "" || s.Instance != "" && s.Kind != apiv1.MarbleSubject || len(s.Measurement) > 0 {
		return problem.New("INC-012", "wanted a marble, package, platform or user by name, got %.40q %.80q", s.Kind, s.Name)
	}
	return nil
}

// Lineage returns every secret and leaf that somebody touched and that counts
// still, who else reads it, and what helps. Any user of the manifest may ask.
// Errors: CRD-010, CRD-015, INC-010 (nobody of that name), INC-012 (malformed).
func (c *Coordinator) Lineage(ctx context.Context, user *Principal, s apiv1.Subject) (apiv1.Lineage, error) {
	out := apiv1.Lineage{Subject: s, Secrets: []apiv1.TouchedItem{}, Leaves: []apiv1.TouchedItem{}}
	rev := c.current.Load()
	switch {
	case user == nil:
		return out, problem.New("CRD-015", "lineage is for users of the manifest")
	case rev.m == nil:
		return out, problem.New("CRD-010", "no manifest was set yet, so nobody has touched anything")
	}
	if err := lineageSubject(s); err != nil {
		return out, err
	}
	var touches []secrets.Touch
	err := c.store.View(ctx, func(tx *store.Tx) error {
		touches = c.touched(tx, s)
		return nil
	})
	if err != nil {
		return out, err
	}
	if len(touches) == 0 {
		known := s
		known.Instance = ""
		if _, err := c.subject(ctx, rev, apiv1.Revocation, known); err != nil {
			return out, err
		}
	}
	for _, t := range touches {
		if t.Secret == secrets.Leaf {
			out.Leaves = addTouch(out.Leaves, rev.m, t)
		} else {
			out.Secrets = addTouch(out.Secrets, rev.m, t)
		}
	}
	return out, nil
}

// addTouch adds a touch to the item of its version, or begins one. Leaves are not
// joined: each instance has its own.
func addTouch(items []apiv1.TouchedItem, m *manifest.Manifest, t secrets.Touch) []apiv1.TouchedItem {
	by := instanceKey(t.Origin.Marble, t.Origin.Instance)
	if t.Origin.User != "" {
		by = t.Origin.User
	}
	if n := len(items) - 1; n >= 0 && t.Secret != secrets.Leaf && items[n].Secret == t.Secret && items[n].Version == t.Version && items[n].Of == t.Of {
		it := &items[n]
		it.By, it.Ways = with(it.By, by), with(it.Ways, t.Ways...)
		if t.First.Before(it.First) {
			it.First = t.First
		}
		if t.Last.After(it.Last) {
			it.Last = t.Last
		}
		return items
	}
	it := apiv1.TouchedItem{By: []string{by}, Ways: with(nil, t.Ways...), Of: t.Of, Serial: t.Serial, NotAfter: t.NotAfter, First: t.First, Last: t.Last, Remedy: remedyEnd}
	if t.Secret != secrets.Leaf {
		it.Secret, it.Version = t.Secret, t.Version
		it.Readers, it.Remedy = m.Secrets[t.Secret].Readers, remedy(m.Secrets[t.Secret])
	}
	return append(items, it)
}

// with is a sorted list with further items.
func with(list []string, items ...string) []string {
	list = append(slices.Clip(list), items...)
	slices.Sort(list)
	return slices.Compact(list)
}

// remedy says what makes a value that somebody may know count no more.
func remedy(s manifest.Secret) string {
	switch s.Type {
	case manifest.Opaque:
		return remedySupply
	case manifest.Counter, "":
		return ""
	}
	return remedyRotate
}

// RotateTouched gives every secret that somebody touched, and no other, its next
// version, without an overlap: what was touched is destroyed. Opaque ones are
// listed, since somebody has to supply them. The user needs the right
// rotateSecret for each, or nothing is done. Errors: those of Lineage, and of
// RotateSecret.
func (c *Coordinator) RotateTouched(ctx context.Context, user *Principal, req apiv1.RotateTouchedRequest) (apiv1.RotateTouchedResult, error) {
	out := apiv1.RotateTouchedResult{Rotated: []apiv1.RotatedSecret{}, Supply: []string{}}
	if _, err := c.Lineage(ctx, user, req.Subject); err != nil {
		return out, err
	}
	done, err := c.begin(ctx)
	if err != nil {
		return out, err
	}
	defer done()
	rev := c.current.Load()
	var targets []secrets.Target
	err = c.store.View(ctx, func(tx *store.Tx) error {
		targets = secrets.Targets(c.touched(tx, req.Subject))
		return nil
	})
	if err != nil {
		return out, err
	}
	for _, t := range targets {
		switch remedy(rev.m.Secrets[t.Name]) {
		case remedySupply:
			out.Supply = with(out.Supply, t.Name)
		case remedyRotate:
			if err := c.mayHandle(user, manifest.RotateSecret, t.Name); err != nil {
				return out, c.refuseSecret(ctx, user, t.Name, err)
			}
		}
	}
	for _, t := range targets {
		if remedy(rev.m.Secrets[t.Name]) != remedyRotate {
			continue
		}
		one := apiv1.RotatedSecret{Name: t.Name}
		if t.Asker.Marble != "" {
			one.Name = fmt.Sprintf("%s of %s/%s", t.Name, t.Asker.Marble, t.Asker.Instance)
		}
		if !req.DryRun {
			rotated, err := c.rotateTarget(ctx, t, rotation{actor: user.Name, reason: "touched by " + subjectText(req.Subject), destroy: true})
			if err != nil {
				return out, err
			}
			one.Values = len(rotated)
			for _, r := range rotated {
				one.Version = max(one.Version, r.Version)
			}
		}
		out.Rotated = append(out.Rotated, one)
	}
	return out, nil
}
