package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
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
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case wentBack(err):
			c.stop()
			l.enter(role{name: apiv1.ReplicaStandby, stage: wentBackStage, why: err})
		case err != nil: // what is not known changes nothing but the role
			l.enter(role{name: apiv1.ReplicaStandby, stage: stageOf(err, standbyStage), why: err})
		case l.unfit != nil && time.Now().Before(l.fitAt): // others may manage
			l.enter(role{name: apiv1.ReplicaStandby, stage: standbyStage, why: l.unfit})
		default:
			l.enter(role{name: apiv1.ReplicaStandby, stage: standbyStage, ready: true})
			c.start(ctx)
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
// was not looked at for a while, or if the head is not one that may come next. It
// returns REP-031 or REP-032 while the state went back.
func (l *life) watch(ctx context.Context) error {
	rev, err := l.cluster.Revision(ctx)
	if err != nil {
		return err
	}
	due := time.Since(l.looked) >= l.pace.inspect // also of a verdict
	if rev == l.rev && !(l.unsealed && due) || l.verdict != nil && !due {
		return l.verdict
	}
	head, err := store.ReadHead(ctx, l.cluster.Engine(), l.key)
	if problem.CodeOf(err) == "STO-012" {
		l.looked, l.verdict = time.Now(), problem.New("REP-031", "there is none any more; this replica has seen %s", l.seen.Position())
		return l.verdict
	}
	if err != nil {
		return err
	}
	switch {
	case l.verdict == nil && head == l.seen.Head && head == l.tip && !l.unsealed:
		l.rev = rev
		return nil
	case l.verdict == nil && !due && (head == l.tip || head.Sequence > l.tip.Sequence):
		l.see(head)
		return nil
	}
	err = l.inspect(ctx, l.key, func(db *store.Store, st *coordinator.Standing) error {
		if err := l.follows(ctx, db, st); err != nil {
			return err
		}
		if l.recovered != nil && st.Head != l.seen.Head {
			l.recovered = nil // another replica had the key after all, and no epoch begins
			l.s.Log.Warn("the shares were not needed: another replica was active")
		}
		l.reseal(ctx, st)
		return l.remember(db, st)
	})
	if err == nil || wentBack(err) {
		l.rev, l.verdict, l.looked = rev, err, time.Now()
	}
	return err
}

// reseal seals the key as the manifest that is in force now says.
func (l *life) reseal(ctx context.Context, st *coordinator.Standing) {
	source := l.s.source(sealMode(st))
	changed, err := seal.Rewrap(ctx, l.s.sealPath(), l.key, source, rand.Reader)
	switch l.unsealed = err != nil; {
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
	term   *replica.Term
	engine context.Context    // of all that is asked of etcd for the state
	cut    context.CancelFunc // ends that
	over   chan string        // why another one has to be looked for; has one place
}

// end lets the tenure end.
func (t *tenure) end(why string) {
	select {
	case t.over <- why:
	default: // it ends already
	}
}

// lead serves the state until ctx ends, the term is lost or another replica
// writes. It returns an error if this process cannot go on; that the state could
// not be opened is none, for another replica may manage.
func (l *life) lead(ctx context.Context, term *replica.Term) error {
	l.client.Hold()
	l.mesh.Hold()
	l.enter(role{name: apiv1.ReplicaActive, stage: electedStage})
	t := &tenure{term: term}
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
		t.over = make(chan string, 1)
		v, err := l.openCore(ctx, t)
		if err == nil || try == openTries || ctx.Err() != nil || problem.CodeOf(err) != "STO-018" {
			return v, err
		}
	}
}

func (l *life) openCore(ctx context.Context, t *tenure) (*service, error) {
	o, err := l.openShared(ctx, t)
	if err != nil {
		return nil, err
	}
	o.opening.Recovered = l.recovered
	l.s.endorsements.doubt()
	v, err := l.newService(ctx, o)
	if err == nil {
		v.prepare(l.most)
	}
	return v, err
}

// notTaken says why this replica did not become active.
func (l *life) notTaken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if wentBack(err) {
		l.verdict, l.looked = err, time.Now()
		return nil
	}
	l.unfit, l.fitAt = problem.Because(err, "REP-011", "opening the state as the active replica"), time.Now().Add(l.pace.slowest)
	return nil
}

// active serves until ctx ends or the tenure is over, and then closes the state.
func (l *life) active(ctx context.Context, t *tenure, v *service) (err error) {
	l.metrics.TakeOver()
	l.serving.Store(v)
	_, stage, _ := v.core.Ready()
	l.enter(role{name: apiv1.ReplicaActive, stage: stage})
	l.warnOpen(v)
	v.start(l.client.Serve(l.voucher), l.mesh.Serve(l.voucher))
	watching, enough := context.WithCancel(t.engine)
	defer enough()
	l.work.Go(func() { l.compare(watching, t, v) })
	grace, lost := l.pace.cut, ""
	select {
	case <-ctx.Done():
		grace = l.s.Grace
	case <-t.term.Lost():
		lost = "the term was lost"
	case lost = <-t.over:
	case err = <-v.failed:
	}
	if lost != "" {
		l.s.Log.Warn("not active any more", "reason", lost)
	}
	enough()
	v.stop(grace)
	within := closeTime
	if lost != "" {
		within = l.pace.cut
	}
	defer time.AfterFunc(within, t.cut).Stop()
	if err := v.core.Close(); err != nil {
		l.s.Log.Warn("what was only counted is not in the log", "error", err)
	}
	if st, err := v.core.Inspect(context.WithoutCancel(ctx)); err == nil {
		_ = l.remember(v.store, st)
	}
	l.metrics.WatchLapses(func() coordinator.Lapses { return coordinator.Lapses{} })
	l.enter(role{name: apiv1.ReplicaStandby, stage: coordinator.Stopping.String()})
	l.serving.Store(nil)
	if err := v.store.Close(); err != nil {
		l.s.Log.Warn("closing the state", "error", err)
	}
	return err
}

// compare ends the tenure when what is in etcd is not what this replica wrote: the
// host put something else there, and nothing that is decided would stay. Where the
// head is ahead, a commit that changes nothing waits for those that are being made,
// and is refused if they are another replica's.
func (l *life) compare(ctx context.Context, t *tenure, v *service) {
	for ctx.Err() == nil {
		pause(ctx, l.pace.look, nil)
		own := v.head()
		head, err := store.ReadHead(ctx, l.cluster.Engine(), l.key)
		switch code := problem.CodeOf(err); {
		case err == nil && (head.Sequence < own.Sequence || head.Sequence == own.Sequence && head != own):
			t.end(fmt.Sprintf("the head in etcd is %s, and was %s", head, own))
			return
		case err == nil && head.Sequence > v.head().Sequence:
			_ = coordinator.Claim(ctx, v.store) // its outcome is observed
		case code == "STO-012":
			t.end("the state in etcd is gone")
			return
		case code == "STO-003" || code == "STO-004" || code == "STO-005" || code == "STO-006":
			t.end("what is in etcd is not this state: " + problem.From(err).Error())
			return
		}
	}
}
