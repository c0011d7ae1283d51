package coordinator

import (
	"context"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// The CAs that can be rotated.
const (
	MeshCA = "mesh"
	RootCA = "root"
)

const (
	// rootLead is how long before its end the root is replaced in any case.
	rootLead = 365 * 24 * time.Hour
	// settleTime covers leaves that are being issued while a root is replaced.
	settleTime = time.Minute
)

// RotateCA replaces a CA before its time: MeshCA, or RootCA and with it the mesh
// CA. No certificate loses its validity by it. Errors: CRD-080 (no such CA),
// CRD-081 (no right), CRD-082 (too many roots are still trusted).
func (c *Coordinator) RotateCA(ctx context.Context, user *Principal, which string) (apiv1.CAs, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return apiv1.CAs{}, err
	}
	defer done()
	if which != MeshCA && which != RootCA {
		return apiv1.CAs{}, problem.New("CRD-080", "wanted %s or %s, got %.40q", MeshCA, RootCA, which)
	}
	if err := c.mayRotate(user); err != nil {
		return apiv1.CAs{}, c.refuseUser(ctx, user, audit.Record{Kind: audit.UserRefused, Subject: which + " CA"}, err)
	}
	c.rotating.Lock()
	defer c.rotating.Unlock()
	if err := c.rotate(ctx, which, user.Name, "on demand"); err != nil {
		return apiv1.CAs{}, err
	}
	return c.CAs(), nil
}

// mayRotate judges who asks for another CA.
func (c *Coordinator) mayRotate(user *Principal) error {
	if err := c.outcast(user); err != nil {
		return err
	}
	if m := c.current.Load().m; m == nil || user == nil || !m.May(user.Name, manifest.RotateCA) {
		name := "nobody"
		if user != nil {
			name = user.Name
		}
		return problem.New("CRD-081", "%s has no role with the action %s", name, manifest.RotateCA)
	}
	return nil
}

// CAs describes the CAs in use and when they are replaced.
func (c *Coordinator) CAs() apiv1.CAs {
	a, s := c.authority.Load(), c.schedule()
	all := apiv1.CAs{
		Root: caState(a.RootCA(), rootDue(a, s)), Mesh: caState(a.MeshCA(), meshDue(a, s)), Older: []apiv1.CAState{},
	}
	for _, o := range a.OlderRoots() {
		all.Older = append(all.Older, caState(o.CAInfo, o.Until))
	}
	return all
}

func caState(ca authority.CAInfo, next time.Time) apiv1.CAState {
	return apiv1.CAState{Serial: ca.Serial, NotBefore: ca.NotBefore.UTC(), NotAfter: ca.NotAfter.UTC(), Next: next.UTC()}
}

// RootSteps returns the root and the signed steps that led to it.
func (c *Coordinator) RootSteps() apiv1.Roots {
	a := c.authority.Load()
	steps := a.RootSteps()
	if steps == nil {
		steps = []apiv1.RootStep{}
	}
	return apiv1.Roots{Root: a.Root(), Steps: steps}
}

// schedule is how old CAs become by the manifest in force; zero before the first.
func (c *Coordinator) schedule() manifest.CA {
	if m := c.current.Load().m; m != nil {
		return m.CA
	}
	return manifest.CA{}
}

func meshDue(a *authority.Authority, s manifest.CA) time.Time {
	return dueAt(a.MeshCA(), s.MeshRotation, authority.RotateBefore)
}

func rootDue(a *authority.Authority, s manifest.CA) time.Time {
	return dueAt(a.RootCA(), s.RootRotation, rootLead)
}

// dueAt is when a CA is replaced: at its age, if it has one, and in any case lead
// before its end.
func dueAt(ca authority.CAInfo, age attest.Duration, lead time.Duration) time.Time {
	due := ca.NotAfter.Add(-lead)
	if aged := ca.NotBefore.Add(authority.Backdate + time.Duration(age)); age > 0 && aged.Before(due) {
		return aged
	}
	return due
}

// rotateDue replaces the CAs that are due, and ends the trust in older roots
// whose overlap has passed.
func (c *Coordinator) rotateDue(ctx context.Context) error {
	c.rotating.Lock()
	defer c.rotating.Unlock()
	a, s, now := c.authority.Load(), c.schedule(), c.config.Now()
	if a.Retired(now) != a {
		if err := c.retireRoots(ctx, a, now); err != nil {
			return err
		}
		a = c.authority.Load()
	}
	switch {
	case !now.Before(rootDue(a, s)) && len(a.OlderRoots()) < authority.MaxOlderRoots:
		return c.rotate(ctx, RootCA, "", "as scheduled")
	case !now.Before(meshDue(a, s)) || a.RotateDue(now):
		return c.rotate(ctx, MeshCA, "", "as scheduled")
	}
	return nil
}

// rotate replaces a CA. The caller holds c.rotating. Its leaves stay valid:
// peers trust the roots, and each leaf comes with what leads to them.
func (c *Coordinator) rotate(ctx context.Context, which, actor, why string) error {
	old, now := c.authority.Load(), c.config.Now()
	var next *authority.Authority
	var err error
	details := map[string]string{"previous": old.MeshCA().Serial}
	if which == MeshCA {
		next, err = old.Rotated(now)
	} else {
		if len(old.OlderRoots()) >= authority.MaxOlderRoots {
			return problem.New("CRD-082", "%d roots are trusted beside the root, the next until %s", len(old.OlderRoots()), stamp(old.OlderRoots()[len(old.OlderRoots())-1].Until))
		}
		var until time.Time
		if until, err = c.overlapEnd(ctx, now); err != nil {
			return err
		}
		next, err = old.RootRotated(now, until.Sub(now))
		details["previousRoot"], details["overlapUntil"] = old.RootCA().Serial, stamp(until)
	}
	if err != nil {
		return problem.Because(err, "CRD-006", "making a new %s CA", which)
	}
	details["serial"], details["notAfter"], details["root"] = next.MeshCA().Serial, stamp(next.MeshCA().NotAfter), next.RootCA().Serial
	return c.adopt(ctx, next, audit.Record{Time: now, Kind: audit.Rotation, Subject: which + " CA", Actor: actor, Text: which + " CA replaced " + why, Details: details})
}

// overlapEnd is when no certificate that chains to the root of today is left, and
// not before the overlap that the manifest says.
func (c *Coordinator) overlapEnd(ctx context.Context, now time.Time) (time.Time, error) {
	m := c.current.Load().m
	overlap := authority.MeshLife
	longest := time.Duration(0)
	if m != nil {
		overlap = time.Duration(m.CA.Overlap)
		for _, mb := range m.Marbles {
			longest = max(longest, time.Duration(mb.Lease))
		}
	}
	until := now.Add(max(overlap, longest+settleTime))
	if mesh := c.authority.Load().MeshCA(); certifies(m) && mesh.NotAfter.After(until) {
		until = mesh.NotAfter // no certificate of a secret outlives it
	}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		for _, r := range instances.All(tx) {
			for _, end := range []time.Time{r.NotAfter, r.PreviousNotAfter} {
				if end.After(until) {
					until = end
				}
			}
		}
		return nil
	})
	return until, err
}

// certifies reports whether secrets have certificates.
func certifies(m *manifest.Manifest) bool {
	if m == nil {
		return false
	}
	for _, s := range m.Secrets {
		if s.Type.Certified() {
			return true
		}
	}
	return false
}

// retireRoots ends the trust in older roots.
func (c *Coordinator) retireRoots(ctx context.Context, a *authority.Authority, now time.Time) error {
	next := a.Retired(now)
	gone := a.OlderRoots()[len(next.OlderRoots()):]
	return c.adopt(ctx, next, audit.Record{Time: now, Kind: audit.Rotation, Subject: "root CA", Text: "an older root is not trusted any more",
		Details: map[string]string{"root": next.RootCA().Serial, "retired": gone[len(gone)-1].Serial}})
}

// adopt makes an authority the one in use, once that is durable and in the log.
func (c *Coordinator) adopt(ctx context.Context, next *authority.Authority, r audit.Record) error {
	state, err := next.State()
	if err != nil {
		return problem.Because(err, "CRD-006", "keeping the CAs")
	}
	err = c.update(ctx, func(tx *store.Tx) error {
		if err := keys.Put(tx, keyCA, keyRecord{State: state.Reveal()}); err != nil {
			return err
		}
		_, err := c.log.Append(tx, r)
		return err
	})
	if err != nil {
		return fmt.Errorf("replacing a CA: %w", err)
	}
	c.authority.Store(next)
	return nil
}
