package coordinator

import (
	"context"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// MayManageEndorsements judges whether a user may import endorsements: CRD-010
// without a manifest, CRD-040 for nobody, CRD-135 without the right.
func (c *Coordinator) MayManageEndorsements(p *Principal) error {
	rev := c.current.Load()
	switch {
	case rev.m == nil:
		return problem.New("CRD-010", "no manifest was set yet, so nobody has the right to import endorsements")
	case p == nil:
		return problem.New("CRD-040", "importing endorsements needs a user's certificate")
	case c.outcast(p) != nil:
		return c.outcast(p)
	case !rev.m.May(p.Name, manifest.ManageEndorsements):
		return problem.New("CRD-135", "%s has no role with the action %s", p.Name, manifest.ManageEndorsements)
	}
	return nil
}

// RecordImport puts into the log that a user imported a bundle of endorsements:
// its SHA-256, and how many of its sets were new and refused.
func (c *Coordinator) RecordImport(ctx context.Context, p *Principal, bundle [32]byte, taken, refused int) error {
	return c.update(ctx, func(tx *store.Tx) error {
		_, err := c.log.Append(tx, audit.Record{
			Time: c.config.Now(), Kind: audit.EndorsementsSet, Subject: "endorsements", Actor: p.Name,
			Text:    fmt.Sprintf("endorsements imported by %s: %d new sets, %d refused", p.Name, taken, refused),
			Details: map[string]string{"bundle": attest.Hex(bundle[:]).String()},
		})
		return err
	})
}

// Marks returns the newest endorsements and the latest time that decisions ever
// rested on.
func (c *Coordinator) Marks() endorse.Marks {
	c.marks.mu.Lock()
	defer c.marks.mu.Unlock()
	return c.marks.current
}
