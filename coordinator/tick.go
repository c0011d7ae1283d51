package coordinator

import (
	"context"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// maxPruned bounds the instances that one Update removes.
const maxPruned = 500

// Tick does what is due: it removes instances whose lease has ended and what is
// kept for nothing, replaces CAs that are due, and records what the audit log
// has only counted. Call it every minute.
func (c *Coordinator) Tick(ctx context.Context) error {
	done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return errors.Join(c.prune(ctx), c.sweep(ctx), c.rotateDue(ctx), c.expire(ctx), c.log.Flush(ctx, c.config.Now(), false))
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
