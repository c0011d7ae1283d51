package coordinator

import (
	"context"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// maxPruned bounds the instances that one Update removes.
const maxPruned = 500

// Tick does what is due: it removes instances whose lease has ended and what is
// kept for nothing, rotates the mesh CA before it would shorten leaves, and records what the audit log
// has only counted. Call it every minute.
func (c *Coordinator) Tick(ctx context.Context) error {
	done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return errors.Join(c.prune(ctx), c.sweep(ctx), c.rotate(ctx), c.log.Flush(ctx, c.config.Now(), false))
}

// prune removes instances whose lease has ended, in Updates of a bounded size.
func (c *Coordinator) prune(ctx context.Context) error {
	now := c.config.Now()
	var ended []string
	err := c.store.View(ctx, func(tx *store.Tx) error {
		for key, r := range instances.All(tx) {
			if !now.Before(r.NotAfter) {
				ended = append(ended, key)
			}
		}
		return nil
	})
	if err != nil || len(ended) == 0 {
		return err
	}
	for begin := 0; begin < len(ended); begin += maxPruned {
		batch := ended[begin:min(begin+maxPruned, len(ended))]
		err := c.update(ctx, func(tx *store.Tx) error {
			for _, key := range batch {
				if r, ok := instances.Get(tx, key); ok && !now.Before(r.NotAfter) {
					remove(tx, key)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("removing instances whose lease has ended: %w", err)
		}
		for _, key := range batch {
			if err := c.live.sync(ctx, c.store, key); err != nil {
				return err
			}
		}
	}
	c.changed()
	return nil
}

// rotate replaces the mesh CA when it is due. Its leaves stay valid: peers
// trust the root, and each leaf comes with the CA that signed it.
func (c *Coordinator) rotate(ctx context.Context) error {
	c.rotating.Lock()
	defer c.rotating.Unlock()
	old, now := c.authority.Load(), c.config.Now()
	if !old.RotateDue(now) {
		return nil
	}
	next, err := old.Rotated(now)
	if err != nil {
		return fmt.Errorf("rotating the mesh CA: %w", err)
	}
	state, err := next.State()
	if err != nil {
		return fmt.Errorf("rotating the mesh CA: %w", err)
	}
	err = c.update(ctx, func(tx *store.Tx) error {
		if err := keys.Put(tx, keyCA, keyRecord{State: state.Reveal()}); err != nil {
			return err
		}
		_, err := c.log.Append(tx, audit.Record{
			Time: now, Kind: audit.Rotation, Subject: "mesh CA", Text: "mesh CA replaced before its end",
			Details: map[string]string{"serial": next.MeshCA().Serial, "previous": old.MeshCA().Serial, "notAfter": stamp(next.MeshCA().NotAfter)},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("rotating the mesh CA: %w", err)
	}
	c.authority.Store(next)
	return nil
}
