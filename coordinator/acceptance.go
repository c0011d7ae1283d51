package coordinator

import (
	"context"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Acceptance returns what shows that the log of the first size entries holds
// the acceptance of the manifest in force. CRD-010 if there is no manifest,
// LOG-010 if the log is shorter, or the manifest was accepted later.
func (c *Coordinator) Acceptance(ctx context.Context, size uint64) (apiv1.Acceptance, error) {
	rev := c.current.Load()
	if rev.m == nil {
		return apiv1.Acceptance{}, problem.New("CRD-010", "no manifest was set yet")
	}
	return c.Prove(ctx, rev.record.Record, size)
}

// Prove returns entry index of the log and the proof that the log of the first
// size entries holds it. LOG-010 if it does not.
func (c *Coordinator) Prove(ctx context.Context, index, size uint64) (apiv1.Acceptance, error) {
	proof, err := c.log.Inclusion(ctx, index, size)
	if err != nil {
		return apiv1.Acceptance{}, err
	}
	entries, err := c.log.Read(ctx, index, 1)
	if err != nil {
		return apiv1.Acceptance{}, err
	}
	return apiv1.Acceptance{Entry: entries[0].Public, Proof: proof}, nil
}
