package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/replica"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	closeTime = 10 * time.Second // how long an active replica that ends waits for etcd
	openTries = 3                // while another one still writes
)

// standBy passes connections on and watches the state until this replica is
// elected. While the state is an older one than it has seen, or another, it does
// not stand for election, and watches on.
func (l *life) standBy(ctx context.Context) (*replica.Term, error) {
	l.pass()
	c := &candidacy{member: l.member, won: make(chan *replica.Term, 1)}
	defer c.stop()
	due := time.NewTicker(l.pace.look)
	defer due.Stop()
	for {
		switch err := l.watch(ctx); {
		case wentBack(err):
			c.stop()
			l.enter(role{name: apiv1.ReplicaStandby, stage: wentBackStage, reason: problem.From(err).Error()})
		case err == nil && l.unfit != nil && time.Now().Before(l.fitAt): // others may manage
		case err == nil:
			l.unfit = nil
			l.enter(role{name: apiv1.ReplicaStandby, stage: standbyStage, ready: true})
			c.start(ctx)
		case ctx.Err() == nil: // what is not known changes nothing
			l.s.Log.Warn("the state could not be looked at", "error", err)
		}
		select {
		case term := <-c.won:
			return term, nil
		case <-due.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// wentBack reports whether an error says that the state is an older one, or
// another, than this replica has seen.
func wentBack(err error) bool {
	code := problem.CodeOf(err)
	return code == "REP-031" || code == "REP-032"
}

// watch looks whether the state moved: then at its head, and at all of it if that
// was not looked at for a while, or if the head is not one that may come next.
func (l *life) watch(ctx context.Context) error {
	rev, err := l.cluster.Revision(ctx)
	if err != nil || rev == l.rev {
		return err
	}
	head, err := store.ReadHead(ctx, l.cluster.Engine(), l.key)
	if err != nil {
		return err
	}
	if head.Sequence > l.seen.Head.Sequence && l.role.Load().stage == standbyStage && time.Since(l.inspected) < l.pace.inspect {
		l.head.Store(head.Sequence)
		return nil
	}
	err = l.inspect(ctx, l.key, func(db *store.Store, st *coordinator.Standing) error {
		if err := st.Follows(ctx, db, l.seen); err != nil {
			return err
		}
		l.reseal(ctx, st)
		return l.remember(db, st)
	})
	if err == nil {
		l.rev = rev
	}
	return err
}

// reseal seals the key as the manifest that is in force now says.
func (l *life) reseal(ctx context.Context, st *coordinator.Standing) {
	source := l.s.source(sealMode(st))
	changed, err := seal.Rewrap(ctx, l.s.sealPath(), l.key, source, rand.Reader)
	switch {
	case err != nil:
		l.s.Log.Error("the key is not sealed here as the manifest says", "source", source.Name(), "error", err)
	case changed:
		l.s.Log.Info("the key is sealed anew", "source", source.Name())
	}
}

// candidacy stands for election while it is started.
type candidacy struct {
	member *replica.Member
	won    chan *replica.Term // has one place
	cancel context.CancelFunc // nil while it is not started
	work   sync.WaitGroup
}

func (c *candidacy) start(ctx context.Context) {
	if c.cancel != nil {
		return
	}
	ctx, c.cancel = context.WithCancel(ctx)
	c.work.Go(func() {
		if term, err := c.member.Campaign(ctx, replica.Leader); err == nil {
			c.won <- term
		}
	})
}

// stop withdraws, and gives up an election that nobody took notice of.
func (c *candidacy) stop() {
	if c.cancel == nil {
		return
	}
	c.cancel()
	c.work.Wait()
	c.cancel = nil
	select {
	case term := <-c.won:
		_ = term.Resign(context.Background()) // or its lease ends
	default:
	}
}

// tenure is one time of being active.
type tenure struct {
	term      *replica.Term
	engine    context.Context    // of all that is asked of etcd for the state
	cut       context.CancelFunc // ends that
	overtaken chan struct{}      // closes when a commit shows that another replica writes
}

// lead serves the state until ctx ends, the term is lost or another replica
// writes. It returns an error if this process cannot go on; that the state could
// not be opened is none, for another replica may manage.
func (l *life) lead(ctx context.Context, term *replica.Term) error {
	l.client.Hold()
	l.mesh.Hold()
	l.enter(role{name: apiv1.ReplicaActive, stage: electedStage, reason: "the state is being opened"})
	t := &tenure{term: term, overtaken: make(chan struct{})}
	t.engine, t.cut = context.WithCancel(context.WithoutCancel(ctx))
	defer t.cut()
	v, err := l.takeOver(ctx, t)
	if err == nil {
		l.recovered, l.unfit = nil, nil
		err = l.active(ctx, t, v)
	} else if err = l.notTaken(ctx, err); err != nil {
		return err
	}
	if rerr := term.Resign(context.WithoutCancel(ctx)); rerr != nil {
		l.s.Log.Warn("another replica is elected only when the lease ends", "error", rerr)
	}
	return err
}

// takeOver opens the core. Another replica may have written a last time meanwhile:
// then it opens what that left.
func (l *life) takeOver(ctx context.Context, t *tenure) (*service, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.work.Go(func() {
		select {
		case <-t.term.Lost():
			cancel()
		case <-ctx.Done():
		}
	})
	for try := 1; ; try++ {
		v, err := l.openCore(ctx, t)
		if err == nil || try == openTries || ctx.Err() != nil || problem.CodeOf(err) != "STO-018" {
			return v, err
		}
	}
}

func (l *life) openCore(ctx context.Context, t *tenure) (*service, error) {
	o, err := l.openShared(ctx, t, l.key)
	if err != nil {
		return nil, err
	}
	o.opening.Seen, o.opening.Recovered = l.seen, l.recovered
	v, err := l.newService(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := v.prepare(); err != nil {
		return nil, errors.Join(err, v.close())
	}
	return v, nil
}

// notTaken says why this replica did not become active.
func (l *life) notTaken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l.unfit, l.fitAt = err, time.Now().Add(l.pace.slowest)
	stage := standbyStage
	if wentBack(err) {
		stage = wentBackStage
	}
	l.enter(role{name: apiv1.ReplicaStandby, stage: stage, reason: "the state could not be opened: " + problem.From(err).Error()})
	return nil
}

// active serves until ctx ends or the tenure is over, and then closes the state.
func (l *life) active(ctx context.Context, t *tenure, v *service) (err error) {
	l.metrics.TakeOver()
	l.serving.Store(v)
	l.enter(role{name: apiv1.ReplicaActive, stage: electedStage, reason: "elected"})
	l.warnOpen(v)
	v.start(l.client.Serve(l.voucher), l.mesh.Serve(l.voucher))
	grace, lost := l.pace.cut, ""
	select {
	case <-ctx.Done():
		grace = l.s.Grace
	case <-t.term.Lost():
		lost = "the term was lost"
	case <-t.overtaken:
		lost = "another replica writes"
	case err = <-v.failed:
	}
	if lost != "" {
		l.s.Log.Warn("not active any more", "reason", lost)
	}
	v.stop(grace)
	l.serving.Store(nil)
	bounded := time.AfterFunc(closeTime, t.cut)
	defer bounded.Stop()
	if lost != "" {
		bounded.Reset(l.pace.cut)
	}
	if st, err := coordinator.Inspect(t.engine, v.store); err == nil {
		_ = l.remember(v.store, st)
	}
	if err := v.close(); err != nil {
		l.s.Log.Warn("what was only counted is not in the log", "error", err)
	}
	return err
}
