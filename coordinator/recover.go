package coordinator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// unsealed is why the key is not sealed as the manifest says.
type unsealed struct {
	since time.Time
	err   error
}

// prepareKeys gets the keeper ready for a manifest; nil without a keeper.
func (c *Coordinator) prepareKeys(ctx context.Context, m *manifest.Manifest) (*recovery.Change, error) {
	if c.config.Keeper == nil {
		return nil, nil
	}
	mark, err := RecoveryMark(ctx, c.store)
	if err != nil {
		return nil, err
	}
	return c.config.Keeper.Prepare(ctx, m, mark)
}

// commitKeys writes what the state says of its recovery document.
func (c *Coordinator) commitKeys(tx *store.Tx, change *recovery.Change, m *manifest.Manifest) error {
	if change == nil {
		return nil
	}
	if old, _ := recoveries.Get(tx, keyCurrent); old.Generation == change.Mark.Generation {
		return nil
	}
	if err := recoveries.Put(tx, keyCurrent, change.Mark); err != nil {
		return err
	}
	text, details := "nobody holds a share any more", map[string]string{"generation": fmt.Sprint(change.Mark.Generation)}
	if m.Recovery != nil {
		text = fmt.Sprintf("shares of generation %d were given out, %d of %d open the state", change.Mark.Generation, m.Recovery.Threshold, len(m.Recovery.Keys))
		details["threshold"], details["holders"] = fmt.Sprint(m.Recovery.Threshold), strings.Join(slices.Sorted(maps.Keys(m.Recovery.Keys)), ", ")
	}
	_, err := c.log.Append(tx, audit.Record{Time: c.config.Now(), Kind: audit.RecoveryKeys, Subject: "state", Text: text, Details: details})
	return err
}

// followKeys changes the files after a manifest came in force. What fails is
// shown, and tried again by Tick: the state opens as it did.
func (c *Coordinator) followKeys(ctx context.Context, change *recovery.Change) *apiv1.RecoveryDocument {
	if change == nil {
		return nil
	}
	d, err := change.Commit(context.WithoutCancel(ctx))
	c.noteSealing(err)
	return d
}

func (c *Coordinator) noteSealing(err error) {
	if err == nil {
		c.unsealed.Store(nil)
		return
	}
	since := c.config.Now().UTC()
	if old := c.unsealed.Load(); old != nil {
		since = old.since
	}
	c.unsealed.Store(&unsealed{since: since, err: err})
}

// reseal seals the key as the manifest in force says, by the newest key that the
// source has: after an update of the TEE, and where an earlier try failed.
func (c *Coordinator) reseal(ctx context.Context) error {
	k := c.config.Keeper
	if k == nil {
		return nil
	}
	var mode manifest.SealMode
	if m := c.current.Load().m; m != nil {
		mode = m.Seal
	}
	changed, err := k.Reseal(ctx, mode)
	c.noteSealing(err)
	if err != nil || !changed {
		return err
	}
	name := k.Source(mode).Name()
	return c.update(ctx, func(tx *store.Tx) error {
		_, err := c.log.Append(tx, audit.Record{Time: c.config.Now(), Kind: audit.Resealed, Subject: "state",
			Text: "the data key is sealed by " + name, Details: map[string]string{"source": name}})
		return err
	})
}

func (c *Coordinator) sealingAttention() []apiv1.Attention {
	u := c.unsealed.Load()
	if u == nil {
		return nil
	}
	e := problem.Lookup("REC-033")
	return []apiv1.Attention{{Code: string(e.Code), Subject: "state", Text: problem.From(u.err).Detail, Next: e.Next, Since: u.since}}
}

// Recovery returns who holds shares, and how far sessions are.
func (c *Coordinator) Recovery(context.Context) (apiv1.Recovery, error) {
	r := apiv1.Recovery{State: c.State().String(), Sessions: []apiv1.RecoveryProgress{}}
	if b := c.behind.Load(); b != nil {
		r.State, r.Reason = "behind", b.Text
	}
	if k := c.config.Keeper; k != nil {
		r.Document, r.Sessions = k.Document(), k.Progress()
	}
	return r, nil
}

// RecoveryStatement returns a session for a drill, or to accept that the state is
// an older one, with evidence for a nonce and the connection's key. Errors are
// those of Attest, REC-005 and REC-031.
func (c *Coordinator) RecoveryStatement(ctx context.Context, purpose string, nonce, tlsKey []byte) (apiv1.RecoveryStatement, error) {
	if err := c.open(ctx); err != nil {
		return apiv1.RecoveryStatement{}, err
	}
	if c.config.Keeper == nil {
		return apiv1.RecoveryStatement{}, problem.New("REC-005", "this coordinator keeps no recovery document")
	}
	var at *apiv1.Checkpoint
	switch {
	case purpose == apiv1.PurposeDrill:
	case purpose == apiv1.PurposeRollback && c.behind.Load() != nil:
		now, err := c.log.Current(ctx)
		if err != nil {
			return apiv1.RecoveryStatement{}, err
		}
		shown := shown(now)
		at = &shown
	default:
		return apiv1.RecoveryStatement{}, problem.New("REC-031", "the state is open, and nothing is to be done for %.40q", purpose)
	}
	session, err := c.config.Keeper.Session(purpose, at)
	if err != nil {
		return apiv1.RecoveryStatement{}, err
	}
	return AttestSession(ctx, SessionConfig{Quote: c.quote, Endorse: c.config.Endorse, Now: c.config.Now}, session, nonce, tlsKey)
}

// SessionConfig is what evidence for a session is made with.
type SessionConfig struct {
	Quote   Quoter
	Endorse Endorser
	Now     func() time.Time
}

// AttestSession makes the statement about a recovery session.
func AttestSession(ctx context.Context, c SessionConfig, session, nonce, tlsKey []byte) (apiv1.RecoveryStatement, error) {
	s := apiv1.RecoveryStatement{Session: session, TLSKey: tlsKey, Time: c.Now().UTC()}
	if len(nonce) != apiv1.NonceSize || len(tlsKey) == 0 {
		return s, problem.New("CRD-002", "wanted a nonce of %d bytes and the key of the connection, got %d and %d bytes", apiv1.NonceSize, len(nonce), len(tlsKey))
	}
	sum := sha256.Sum256(session)
	claims := binding.Claims{Purpose: binding.Recovery, PublicKey: binding.KeyHash(tlsKey), Nonce: nonce, Session: sum[:]}
	s.ClaimsBuffer = claims.Encode()
	var err error
	if s.Evidence, err = c.Quote(ctx, claims.Binding()); err != nil {
		return s, err
	}
	s.Endorsements, err = c.Endorse(ctx, s.Evidence)
	var coded *problem.Error
	if err != nil && !errors.As(err, &coded) {
		err = problem.Because(err, "CRD-004", "looking for the coordinator's own endorsements")
	}
	return s, err
}

// TakeShare takes a holder's share. The last that is needed completes the
// session: a drill is recorded and changes nothing else, an accepted rollback
// begins an epoch. Errors are those of recovery.Desk.Take.
func (c *Coordinator) TakeShare(ctx context.Context, m apiv1.RecoveryShare) (apiv1.RecoveryProgress, error) {
	if err := c.open(ctx); err != nil {
		return apiv1.RecoveryProgress{}, err
	}
	k := c.config.Keeper
	if k == nil {
		return apiv1.RecoveryProgress{}, problem.New("REC-005", "this coordinator keeps no recovery document")
	}
	progress, o, err := k.Take(m)
	if err != nil || o == nil {
		return progress, err
	}
	if !k.Opens(o) {
		k.Forget(o.Session)
		return progress, problem.New("REC-021", "they give the key of another state")
	}
	if progress.Purpose == apiv1.PurposeRollback {
		progress.Epoch, err = c.acceptRollback(ctx, o)
	} else {
		err = c.update(ctx, func(tx *store.Tx) error {
			return c.logOutcome(tx, audit.RecoveryDrill, o, "a rehearsal: the shares of "+holders(o)+" would open the state", 0)
		})
	}
	if err != nil {
		k.Forget(o.Session)
	}
	return progress, err
}

// acceptRollback goes on with a state that is behind, in a new epoch.
func (c *Coordinator) acceptRollback(ctx context.Context, o *recovery.Outcome) (int, error) {
	var next epochRecord
	err := c.update(ctx, func(tx *store.Tx) (err error) {
		if _, ok := behinds.Get(tx, keyCurrent); !ok {
			return problem.New("REC-031", "the state is not behind")
		}
		if next, err = c.begins(tx, causeRollback); err != nil {
			return err
		}
		next.Accepted = next.Begun.Add(time.Second) // Begun has whole seconds
		if err := epochs.Put(tx, keyCurrent, next); err != nil {
			return err
		}
		behinds.Delete(tx, keyCurrent)
		return c.logOutcome(tx, audit.RollbackAccepted, o, fmt.Sprintf("%s accept that this state is an older one; epoch %d begins", holders(o), next.Number), next.Number)
	})
	if err != nil {
		return 0, err
	}
	c.behind.Store(nil)
	c.changed()
	return next.Number, nil
}
