package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/replica"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// unlock gets the state's key: as it is sealed here, or from the active replica,
// or from the holders of shares. A state that does not exist is STO-002, and one of
// another key than is sealed here STO-004.
func (l *life) unlock(ctx context.Context) error {
	for wait := l.backoff(); ; wait.pause(ctx) {
		key, err := l.sealed(ctx)
		switch code := problem.CodeOf(err); {
		case err == nil:
			return l.hold(key)
		case keyless(err) || code == "STO-014":
			return l.join(ctx, err)
		case code == "STO-002" || code == "STO-004":
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		l.enter(role{name: apiv1.ReplicaJoining, stage: stageOf(err, joiningStage), why: err})
	}
}

// stageOf is the stage that an error keeps a replica in, or that it has anyway.
func stageOf(err error, otherwise string) string {
	switch problem.CodeOf(err) {
	case "STO-031", "REP-002":
		return noEtcdStage
	case "REP-031", "REP-032":
		return wentBackStage
	}
	return otherwise
}

// sealed opens the state by the key that is sealed here, and finishes what an
// interrupted init left. Without one it is STO-015.
func (l *life) sealed(ctx context.Context) (seal.Key, error) {
	if rev, err := l.cluster.Revision(ctx); err != nil || rev == 0 {
		if err == nil {
			err = problem.New("STO-002", "%s holds no state", l.s.shared)
		}
		return seal.Key{}, err
	}
	key, err := seal.Open(ctx, l.s.sealPath(), l.s.sources()...)
	if err == nil {
		return key, l.inspect(ctx, key, l.remember)
	}
	if problem.CodeOf(err) != "STO-002" {
		return key, err
	}
	none := problem.New("STO-015", "the key of the state was never sealed here")
	if key, err = seal.Open(ctx, l.s.sealPath()+unfinished, l.s.sources()...); err != nil {
		return key, none
	}
	err = l.inspect(ctx, key, l.remember)
	switch problem.CodeOf(err) {
	case "":
		if err == nil {
			err = l.s.nameKey()
		}
	case "STO-004":
		_ = os.Remove(l.s.sealPath() + unfinished) // another replica was faster to make the state
		return key, none
	}
	return key, err
}

// remember takes over what was seen of the state.
func (l *life) remember(_ *store.Store, st *coordinator.Standing) error {
	l.seen, l.looked = st, time.Now()
	l.see(st.Head)
	return nil
}

// see keeps the newest head of the state.
func (l *life) see(head store.Head) {
	l.tip = head
	l.head.Store(head.Sequence)
}

// follows refuses a state that does not go on from what this replica has seen of
// it. Of what came since all of it was looked at, that is the newest head.
func (l *life) follows(ctx context.Context, db *store.Store, st *coordinator.Standing) error {
	older := *l.seen
	older.Head = l.tip
	return st.Follows(ctx, db, &older)
}

// hold keeps the key of the state, which was inspected.
func (l *life) hold(key seal.Key) error {
	voucher, err := replica.NewVoucher(key, l.s.Now, rand.Reader)
	if err != nil {
		return err
	}
	l.key, l.voucher = key, voucher
	return nil
}

// join waits for the key. While nobody is active for a while and nothing here opens
// the state, this replica or another one takes the shares of holders.
func (l *life) join(ctx context.Context, why error) error {
	l.pass()
	alone := time.Now()
	for wait := l.backoff(); ctx.Err() == nil; {
		changed := l.member.Changed()
		if active, ok := l.member.Current(replica.Leader); ok {
			err := l.ask(ctx, active)
			if err == nil {
				return nil
			}
			l.waitFor(err)
			wait.pause(ctx)
			alone = time.Now()
			continue
		}
		if left := l.pace.desk - time.Since(alone); left > 0 {
			l.waitFor(problem.New("REP-010", "%s, and nobody is active who could give it", problem.From(why).Error()))
			pause(ctx, left, changed)
			continue
		}
		err := l.desk(ctx, why)
		if err == nil {
			return nil
		}
		l.waitFor(err)
		wait.pauseOr(ctx, changed)
	}
	return ctx.Err()
}

// waitFor is the role of a replica that has no key, and why. That nobody is admitted
// is how a deployment begins, and no failure of this replica.
func (l *life) waitFor(err error) {
	l.enter(role{name: apiv1.ReplicaJoining, stage: stageOf(err, joiningStage), why: err, ready: problem.CodeOf(err) == "REP-020"})
}

// ask asks the active replica for the key, judges who gave it by the state that it
// opens, and seals it.
func (l *life) ask(ctx context.Context, active replica.Record) error {
	got, err := client.JoinReplica(ctx, active.Client, client.JoinOptions{Name: l.s.Replica, Issue: l.issue, DialContext: l.client.DialContext})
	if err == nil {
		err = l.accept(ctx, got)
	}
	l.metrics.Join(err)
	if err != nil {
		return err
	}
	l.s.Log.Info("the key of the state came from the active replica", "active", active.Name, "decision", got.Decision)
	return nil
}

// accept takes a key over from who turns out to be admitted by the state.
func (l *life) accept(ctx context.Context, got client.Joined) error {
	key, err := seal.NewKey(got.Key.Reveal())
	if err != nil {
		return problem.Because(err, "REP-034", "what came")
	}
	giver := coordinator.Giver{Statement: got.Statement, Nonce: got.Nonce, TLSKey: got.TLSKey}
	return l.inspect(ctx, key, func(db *store.Store, st *coordinator.Standing) error {
		if err := st.JudgeGiver(ctx, db, l.config.Verifiers, giver, l.s.Now()); err != nil {
			return err
		}
		return l.take(ctx, key, db, st)
	})
}

// take keeps a key that was not sealed here, unless what it opens is older than
// what this replica has seen.
func (l *life) take(ctx context.Context, key seal.Key, db *store.Store, st *coordinator.Standing) error {
	if l.seen != nil {
		if err := l.follows(ctx, db, st); err != nil {
			return err
		}
	}
	if id, err := seal.KeyIDOf(l.s.sealPath()); err == nil && id != key.ID() {
		return problem.New("STO-004", "%s is of the key %.16q, and came for %s the key %s", l.s.sealPath(), id, l.s.shared, key.ID())
	}
	if err := os.MkdirAll(l.s.State, 0o700); err != nil {
		return problem.Because(err, "STO-007", "creating %s", l.s.State)
	}
	if err := seal.Keep(ctx, l.s.sealPath(), key, l.s.source(sealMode(st)), rand.Reader); err != nil {
		return err
	}
	return errors.Join(l.remember(db, st), l.hold(key))
}

// sealMode is the mode that the manifest in force seals by; "" before the first.
func sealMode(st *coordinator.Standing) manifest.SealMode {
	if st.Manifest == nil {
		return ""
	}
	return st.Manifest.Seal
}

// desk takes shares, until they open the state or a replica is active: this one, or
// another that was elected for it.
func (l *life) desk(ctx context.Context, why error) error {
	document, err := recovery.Read(ctx, l.cluster.Files())
	if err != nil {
		return err
	}
	if document == nil {
		return problem.New("REP-010", "%s; and nobody is active who could give it, nor holds a share", problem.From(why).Error())
	}
	vacant, cancel := l.vacant(ctx)
	defer cancel()
	l.enter(role{name: apiv1.ReplicaJoining, stage: waitingStage, why: why})
	term, err := l.member.Campaign(vacant, replica.Desk)
	if err != nil {
		return problem.New("REP-010", "%s, and another replica was asked for it", problem.From(why).Error())
	}
	defer func() { _ = term.Resign(context.WithoutCancel(ctx)) }() // or its lease ends
	l.work.Go(func() {
		select {
		case <-term.Lost():
			cancel()
		case <-vacant.Done():
		}
	})
	defer l.pass()
	w := &waiting{Desk: recovery.NewDesk(document, l.s.Now), reason: problem.From(why).Error(), open: l.readShared}
	o, err := l.takeShares(vacant, l.client.Serve(nil), w)
	if err != nil {
		return problem.New("REP-010", "%s, and the desk was closed: %v", problem.From(why).Error(), err)
	}
	return errors.Join(l.recover(ctx, o), o.store.Close())
}

// recover keeps the key that shares gave.
func (l *life) recover(ctx context.Context, o *openedState) error {
	ctx = context.WithoutCancel(ctx)
	st, err := coordinator.Inspect(ctx, o.store)
	if err != nil {
		return err
	}
	if err := l.take(ctx, o.opening.Recovered.Key, o.store, st); err != nil {
		return err
	}
	l.recovered = o.opening.Recovered
	return nil
}

// vacant returns a context that ends when a replica is active.
func (l *life) vacant(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	l.work.Go(func() {
		for {
			changed := l.member.Changed()
			if _, ok := l.member.Current(replica.Leader); ok {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, cancel
}
