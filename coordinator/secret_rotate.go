package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds of one Tick: what is left is done by the next.
const (
	maxRotated        = 256 // values that one Update rotates or destroys
	maxRotatedPerTick = 16 * maxRotated
	rotationTime      = 20 * time.Second // in which keys are made
)

// tendSecrets does what is due for secrets: versions whose overlap has ended are
// destroyed, values are rotated on schedule, after a manifest made them stale
// and before their certificates end, uses are summed up in the log, and lineage
// is folded.
func (c *Coordinator) tendSecrets(ctx context.Context) error {
	return errors.Join(c.destroyEnded(ctx), c.rotateStale(ctx), c.flushUses(ctx), c.foldLineage(ctx))
}

// rotateStale rotates what is due. A reader who asks first has the same done.
func (c *Coordinator) rotateStale(ctx context.Context) error {
	c.secret.rotating.Lock()
	defer c.secret.rotating.Unlock()
	making, cancel := context.WithTimeout(ctx, rotationTime)
	defer cancel()
	for all, n := false, 0; !all && n < maxRotatedPerTick; n += maxRotated {
		rev := c.current.Load()
		if rev.m == nil || c.State() == Stopping {
			return nil
		}
		var due []secrets.Missing
		err := c.store.View(ctx, func(tx *store.Tx) error {
			due, all = secrets.Due(tx, rev.m, c.config.Now(), maxRotated)
			return nil
		})
		if err != nil || len(due) == 0 {
			return err
		}
		_, err = c.rotateValues(making, rev, due, rotation{reason: "due"})
		switch {
		case errors.Is(err, errAgain), making.Err() != nil && ctx.Err() == nil:
			return nil // the next Tick goes on
		case err != nil:
			return fmt.Errorf("rotating secrets: %w", err)
		}
	}
	return nil
}

// followManifest begins to make what a new manifest has made stale, and has
// running readers see what they get now. The caller is at work; Close waits.
func (c *Coordinator) followManifest(ctx context.Context) {
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*rotationTime)
		defer cancel()
		_ = c.rotateStale(ctx) // Tick tries again, and reports
		if f, m := c.secret.watcher.Load(), c.current.Load().m; f != nil && m != nil {
			marbles := map[string]bool{}
			for marble := range m.Marbles {
				marbles[marble] = true
			}
			(*f)(marbles)
		}
	}()
}

// rotation says why values are rotated.
type rotation struct {
	actor  string // user; empty for the schedule
	reason string
	// destroy has the version before destroyed at once, without an overlap.
	destroy bool
}

// rotateValues makes the next versions and puts them in with their log entries,
// in one Update. The caller holds c.secret.rotating.
func (c *Coordinator) rotateValues(ctx context.Context, rev *revision, due []secrets.Missing, why rotation) ([]secrets.Rotated, error) {
	at := c.config.Now()
	made, err := c.maker.Make(ctx, c.authority.Load(), due, at)
	if err != nil {
		return nil, err
	}
	var done []secrets.Rotated
	err = c.update(ctx, func(tx *store.Tx) error {
		head, _ := heads.Get(tx, keyCurrent)
		if head.Number != rev.record.Number {
			return errAgain
		}
		var err error
		if done, err = secrets.Rotate(tx, due, made, at); err != nil {
			return err
		}
		if why.destroy {
			if len(done) < len(due) {
				return errAgain // somebody else made a version, and kept the one that was touched
			}
			if err := destroyBefore(tx, rev, done); err != nil {
				return err
			}
		}
		return c.logRotations(tx, audit.SecretRotated, done, why)
	})
	if err != nil {
		return nil, err
	}
	c.rotated(done)
	return done, nil
}

// destroyBefore destroys the versions before of what was rotated, and notes that
// in it.
func destroyBefore(tx *store.Tx, rev *revision, done []secrets.Rotated) error {
	for i := range done {
		gone, err := secrets.DestroyBefore(tx, rev.m, secrets.Target{Name: done[i].Name, Asker: done[i].Asker})
		if err != nil {
			return err
		}
		for _, g := range gone {
			done[i].Destroyed = append(done[i].Destroyed, g.Destroyed...)
		}
		done[i].Until = time.Time{}
	}
	return nil
}

// rotated has everybody notice what has other versions now.
func (c *Coordinator) rotated(done []secrets.Rotated) {
	names := map[string]bool{}
	for _, r := range done {
		names[r.Name] = true
	}
	c.secret.keys.Forget()
	c.secretsChanged(slices.Collect(maps.Keys(names))...)
}

// logRotations appends one record for each secret.
func (c *Coordinator) logRotations(tx *store.Tx, kind audit.Kind, done []secrets.Rotated, why rotation) error {
	byName := map[string][]secrets.Rotated{}
	for _, r := range done {
		byName[r.Name] = append(byName[r.Name], r)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all := byName[name]
		r := audit.Record{Time: c.config.Now(), Kind: kind, Subject: name, Actor: why.actor, Details: map[string]string{}}
		one := all[len(all)-1]
		r.Details["version"] = fmt.Sprint(one.Version)
		set := func(key, value string) {
			if value != "" {
				r.Details[key] = value
			}
		}
		set("reason", why.reason)
		set("destroyed", numbers(one.Destroyed))
		switch {
		case kind == audit.SecretDestroyed:
			r.Text = fmt.Sprintf("version %s is destroyed", numbers(one.Destroyed))
			r.Details["version"] = numbers(one.Destroyed)
			delete(r.Details, "destroyed")
		default:
			r.Text = fmt.Sprintf("has version %d", one.Version)
			set("until", until(one))
		}
		if one.Asker != (secrets.Asker{}) {
			// Of instance secrets the numbers are those of the last value.
			r.Text += fmt.Sprintf(", of %s", short(instanceKey(one.Asker.Marble, one.Asker.Instance)))
			if len(all) > 1 {
				r.Text += fmt.Sprintf(" and %d more", len(all)-1)
			}
			r.Details["values"] = fmt.Sprint(len(all))
		}
		if _, err := c.log.Append(tx, r); err != nil {
			return err
		}
	}
	return nil
}

func numbers(list []uint64) string {
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = fmt.Sprint(n)
	}
	return strings.Join(texts, " ")
}

// until is the end of an overlap as the log has it; empty if there is none.
func until(r secrets.Rotated) string {
	if r.Until.IsZero() {
		return ""
	}
	return stamp(r.Until)
}

// destroyEnded destroys versions whose overlap has ended.
func (c *Coordinator) destroyEnded(ctx context.Context) error {
	for n := 0; n < maxRotatedPerTick; n += maxRotated {
		at := c.config.Now()
		var ended []string
		err := c.store.View(ctx, func(tx *store.Tx) error {
			ended = secrets.Ended(tx, at, maxRotated)
			return nil
		})
		if err != nil || len(ended) == 0 {
			return err
		}
		err = c.update(ctx, func(tx *store.Tx) error {
			done, err := secrets.Destroy(tx, ended, at)
			if err != nil {
				return err
			}
			return c.logRotations(tx, audit.SecretDestroyed, done, rotation{})
		})
		if err != nil {
			return fmt.Errorf("destroying versions of secrets: %w", err)
		}
		c.secret.keys.Forget()
	}
	return nil
}

func (c *Coordinator) foldLineage(ctx context.Context) error {
	at := c.config.Now()
	alive := func(tx *store.Tx) func(marble, instance string) bool {
		return func(marble, instance string) bool {
			_, ok := instances.Get(tx, instanceKey(marble, instance))
			return ok
		}
	}
	foldable := false
	err := c.store.View(ctx, func(tx *store.Tx) error {
		foldable = secrets.Foldable(tx, at, alive(tx))
		return nil
	})
	if err != nil || !foldable {
		return err
	}
	return c.update(ctx, func(tx *store.Tx) error {
		_, err := secrets.Fold(tx, at, alive(tx))
		return err
	})
}

// rotateTarget rotates the values of a target on demand, or because somebody may
// know them. Values that have no version yet are left alone (SEC-017 if none
// has). Each batch is one Update.
func (c *Coordinator) rotateTarget(ctx context.Context, t secrets.Target, why rotation) ([]secrets.Rotated, error) {
	c.secret.rotating.Lock()
	defer c.secret.rotating.Unlock()
	var done []secrets.Rotated
	after := ""
	for tries := 0; tries < maxTries; {
		rev := c.current.Load()
		if rev.m == nil {
			return nil, problem.New("CRD-010", "no manifest was set yet")
		}
		var due []secrets.Missing
		err := c.store.View(ctx, func(tx *store.Tx) (err error) {
			due, err = secrets.Select(tx, rev.m, t, maxRotated, after)
			return err
		})
		if err != nil || len(due) == 0 {
			return done, err
		}
		some, err := c.rotateValues(ctx, rev, due, why)
		if errors.Is(err, errAgain) {
			c.awaitManifest()
			tries++
			continue
		}
		if err != nil {
			return done, err
		}
		done, after = append(done, some...), due[len(due)-1].Key()
	}
	return done, problem.New("CRD-018", "it changed %d times", maxTries)
}

// RotateSecret gives a secret its next version now: of an instance secret that
// of one instance, named as marble/instance, or of all for "". Needs a user with
// the right rotateSecret. What reads it gets the new version at once; the version
// before counts until the end of the overlap. Errors: CRD-010, CRD-015, SEC-001,
// SEC-010, SEC-014, SEC-017.
func (c *Coordinator) RotateSecret(ctx context.Context, user *Principal, name, instance string) (apiv1.RotatedSecret, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return apiv1.RotatedSecret{}, err
	}
	defer done()
	if err := c.mayHandle(user, manifest.RotateSecret, name); err != nil {
		return apiv1.RotatedSecret{}, c.refuseSecret(ctx, user, name, err)
	}
	t := secrets.Target{Name: name}
	if instance != "" {
		t.Asker.Marble, t.Asker.Instance, _ = strings.Cut(instance, "/")
	}
	rotated, err := c.rotateTarget(ctx, t, rotation{actor: user.Name, reason: "on demand"})
	if err != nil {
		return apiv1.RotatedSecret{}, err
	}
	out := apiv1.RotatedSecret{Name: name, Values: len(rotated)}
	for _, r := range rotated {
		out.Version, out.Until = max(out.Version, r.Version), r.Until
	}
	return out, nil
}
