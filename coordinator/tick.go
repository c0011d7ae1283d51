package coordinator

import (
	"context"
	"errors"
)

// maxPruned bounds the instances that one Update removes.
const maxPruned = 500

// Tick does what is due: it drains and cuts instances whose renewals fail, as
// Watch does at the very time, removes what is kept for nothing, replaces CAs
// that are due, ends proposals that have expired, rotates and destroys secrets that are due, and records what the audit log has only counted. Call it every
// minute.
func (c *Coordinator) Tick(ctx context.Context) error {
	if c.behind.Load() != nil {
		return nil // nothing is issued, and nothing is changed
	}
	done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if c.unsealed.Load() != nil {
		if err := c.reseal(ctx); err != nil {
			return err
		}
	}
	return errors.Join(c.lapses(ctx), c.sweep(ctx), c.rotateDue(ctx), c.expire(ctx), c.endExceptions(ctx), c.tendSecrets(ctx), c.log.Flush(ctx, c.config.Now(), false), c.log.Keep(ctx))
}
