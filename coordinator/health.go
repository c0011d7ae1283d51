package coordinator

import (
	"context"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// health remembers that changes cannot be stored, until one can again.
type health struct {
	mu    sync.Mutex
	since time.Time      // of the first failure; zero while changes are stored
	last  *problem.Error // the newest failure
}

// update is store.Update; a medium that fails becomes something that needs
// attention.
func (c *Coordinator) update(ctx context.Context, fn func(*store.Tx) error) error {
	err := c.store.Update(ctx, fn)
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	switch {
	case err == nil:
		c.health.since, c.health.last = time.Time{}, nil
	case problem.CodeOf(err) == "STO-007":
		c.health.last = problem.From(err)
		if c.health.since.IsZero() {
			c.health.since = c.config.Now()
		}
	}
	return err
}

// attention returns what the medium says, if it fails.
func (h *health) attention() []apiv1.Attention {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		return nil
	}
	return []apiv1.Attention{{Code: string(h.last.Code), Subject: "store", Text: h.last.Detail, Next: h.last.Next, Since: h.since.UTC()}}
}
