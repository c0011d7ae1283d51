package coordinator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Why an epoch began.
const (
	causeRecovery = "recovery"
	causeRestore  = "restore"
	causeRollback = "rollback"
)

var (
	// epochs has one record, under "current"; none in the first epoch.
	epochs = store.NewTable[epochRecord]("epochs")
	// recoveries has one record, under "current": what the state says of its
	// recovery document.
	recoveries = store.NewTable[recovery.Mark]("recovery")
	// behinds has one record, under "current", while the state is behind.
	behinds = store.NewTable[behindRecord]("behind")
)

// epochRecord is the epoch that the state is in.
type epochRecord struct {
	apiv1.Epoch
	// Restored names the restore that began it, so that an interrupted start
	// begins one epoch only.
	Restored string `json:"restored,omitempty"`
	// Accepted is when a rollback was accepted: older promises prove nothing
	// about this state since.
	Accepted time.Time `json:"accepted,omitzero"`
}

// document is the epoch as a statement has it; nil in the first.
func (r epochRecord) document() ([]byte, error) {
	if r.Number == 0 {
		return nil, nil
	}
	b, err := json.Marshal(r.Epoch)
	if err != nil {
		return nil, fmt.Errorf("encoding the epoch: %w", err)
	}
	return b, nil
}

// Opening says how the state came to be open, where that was not by its sealing.
type Opening struct {
	Recovered *recovery.Outcome // by the holders' shares
	Restored  string            // by the restore command: the mark that it left
}

// epoch returns the epoch that the state is in.
func (c *Coordinator) epoch(ctx context.Context) (r epochRecord, err error) {
	err = c.store.View(ctx, func(tx *store.Tx) error {
		r, _ = epochs.Get(tx, keyCurrent)
		return nil
	})
	return r, err
}

// enter begins the epochs that the opening of the state asks for.
func (c *Coordinator) enter(ctx context.Context) error {
	o := c.config.Opening
	if o.Restored != "" || o.Recovered != nil {
		err := c.update(ctx, func(tx *store.Tx) error {
			old, _ := epochs.Get(tx, keyCurrent)
			if o.Restored != "" && o.Restored != old.Restored {
				if err := c.beginRestored(tx, o.Restored); err != nil {
					return err
				}
			}
			if o.Recovered == nil {
				return nil
			}
			next, err := c.begins(tx, causeRecovery)
			if err != nil {
				return err
			}
			return c.logOutcome(tx, audit.Recovery, o.Recovered, fmt.Sprintf("the state was opened by %s; epoch %d begins", holders(o.Recovered), next.Number), next.Number)
		})
		if err != nil {
			return fmt.Errorf("beginning an epoch: %w", err)
		}
	}
	return c.store.View(ctx, func(tx *store.Tx) error {
		if b, ok := behinds.Get(tx, keyCurrent); ok {
			c.behind.Store(&b)
		}
		return nil
	})
}

func (c *Coordinator) beginRestored(tx *store.Tx, mark string) error {
	next, err := c.begins(tx, causeRestore)
	if err != nil {
		return err
	}
	next.Restored = mark
	if err := epochs.Put(tx, keyCurrent, next); err != nil {
		return err
	}
	_, err = c.log.Append(tx, audit.Record{
		Time: c.config.Now(), Kind: audit.Restored, Subject: "state", Text: fmt.Sprintf("the state was put back from a backup; epoch %d begins", next.Number),
		Details: map[string]string{"epoch": fmt.Sprint(next.Number)},
	})
	return err
}

// begins begins the next epoch.
func (c *Coordinator) begins(tx *store.Tx, cause string) (epochRecord, error) {
	next, _ := epochs.Get(tx, keyCurrent)
	at, err := c.log.Checkpoint(tx)
	if err != nil {
		return next, err
	}
	next.Epoch = apiv1.Epoch{Number: max(next.Number, 1) + 1, Cause: cause, Begun: c.config.Now().UTC().Truncate(time.Second), Size: at.Size}
	return next, epochs.Put(tx, keyCurrent, next)
}

// logOutcome records what shares were used for, and each holder's signature.
func (c *Coordinator) logOutcome(tx *store.Tx, kind audit.Kind, o *recovery.Outcome, text string, epoch int) error {
	session := recovery.Digest(o.Session)
	details := map[string]string{"session": session, "deployment": o.Document.Deployment.String(),
		"generation": fmt.Sprint(o.Document.Generation), "threshold": fmt.Sprint(o.Document.Threshold), "holders": holders(o)}
	if epoch > 0 {
		details["epoch"] = fmt.Sprint(epoch)
	}
	if _, err := c.log.Append(tx, audit.Record{Time: c.config.Now(), Kind: kind, Subject: "state", Text: text, Details: details}); err != nil {
		return err
	}
	for _, a := range o.Approvals {
		share, cert := sha256.Sum256(a.Message.Sealed), sha256.Sum256(o.Document.Holders[a.Index-1].Certificate)
		_, err := c.log.Append(tx, audit.Record{
			Time: c.config.Now(), Kind: audit.RecoveryApproval, Subject: a.User, Actor: a.User, Text: a.User + " gave a share",
			Details: map[string]string{"session": session, "index": fmt.Sprint(a.Index), "share": hex.EncodeToString(share[:]),
				"at": stamp(a.Message.Time), "signature": hex.EncodeToString(a.Message.Signature), "certificate": hex.EncodeToString(cert[:])},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// holders are the names of those who gave a share.
func holders(o *recovery.Outcome) string {
	var names []string
	for _, a := range o.Approvals {
		names = append(names, a.User)
	}
	return strings.Join(names, ", ")
}

// RecoveryMark returns what a state says of its recovery document, for
// recovery.Open.
func RecoveryMark(ctx context.Context, s *store.Store) (mark recovery.Mark, err error) {
	err = s.View(ctx, func(tx *store.Tx) error {
		mark, _ = recoveries.Get(tx, keyCurrent)
		return nil
	})
	if err != nil {
		return mark, problem.Because(err, "STO-007", "reading what the state says of its recovery document")
	}
	return mark, nil
}

// Claim makes a commit that changes nothing, for a replica that takes over and has
// seen that the state follows (Standing.Follows). Whoever else had the state open can
// write no more from then on, and what stands beside it is this one's to change.
func Claim(ctx context.Context, s *store.Store) error {
	return s.Update(ctx, func(tx *store.Tx) error {
		mark, _ := recoveries.Get(tx, keyCurrent)
		return recoveries.Put(tx, keyCurrent, mark)
	})
}
