package coordinator

import (
	"context"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Acceptance returns what leads from the audit record of the manifest in force
// to the checkpoint over size records. CRD-010 if there is no manifest, CRD-125
// if the record is not before that checkpoint or too far before it.
func (c *Coordinator) Acceptance(ctx context.Context, size uint64) (apiv1.Acceptance, error) {
	rev := c.current.Load()
	if rev.m == nil {
		return apiv1.Acceptance{}, problem.New("CRD-010", "no manifest was set yet")
	}
	record, after, err := c.log.Proof(ctx, rev.record.Record, size)
	return apiv1.Acceptance{Record: record, After: after}, err
}
