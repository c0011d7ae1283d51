package coordinator

import (
	"context"
	"io"

	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// MayBackup judges whether a user may fetch the sealed state; the refusal is
// recorded. CRD-015 for nobody, CRD-016 without the right.
func (c *Coordinator) MayBackup(ctx context.Context, user *Principal) error {
	rev := c.current.Load()
	switch {
	case c.config.Keeper == nil:
		return problem.New("STO-024", "this coordinator keeps no files")
	case user == nil:
		return problem.New("CRD-015", "a backup needs a user's certificate")
	case c.outcast(user) != nil:
		return c.outcast(user)
	case rev.m == nil || !rev.m.May(user.Name, manifest.Backup):
		return c.refuseUser(ctx, user, audit.Record{Kind: audit.UserRefused, Subject: "state"},
			problem.New("CRD-016", "%s has no role with the action %s", user.Name, manifest.Backup).WithNext("ashlar manifest who-can backup names who has it"))
	}
	return nil
}

// Backup records that a user fetches the state and writes it to w, sealed as it
// is. The caller has asked MayBackup.
func (c *Coordinator) Backup(ctx context.Context, user *Principal, w io.Writer) error {
	err := c.update(ctx, func(tx *store.Tx) error {
		_, err := c.log.Append(tx, audit.Record{
			Time: c.config.Now(), Kind: audit.BackupTaken, Subject: "state", Actor: user.Name, Text: user.Name + " fetched the sealed state",
			Details: map[string]string{"head": store.HeadOf(tx).String()},
		})
		return err
	})
	if err != nil {
		return err
	}
	return c.config.Keeper.Backup(ctx, c.store, backup.NewWriter(w, c.config.Now()))
}
