package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/api"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/replica"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Stages of a replica, beside those of the coordinator that it is when active.
const (
	standbyStage  = "standby"
	joiningStage  = "joining"
	electedStage  = "taking over"
	wentBackStage = "state went back"
	noEtcdStage   = "no etcd"
)

// pace is how fast a replica does what it does again and again.
type pace struct {
	look    time.Duration // at the head of the state, for whether it moved
	inspect time.Duration // at the whole state, where it moved
	retry   time.Duration // first pause after what failed; doubled up to
	slowest time.Duration
	desk    time.Duration // without an active replica, until shares are asked for
	cut     time.Duration // for running requests when the term was lost
}

func (p pace) orDefault() pace {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&p.look, 5*time.Second)
	set(&p.inspect, 30*time.Second)
	set(&p.retry, 500*time.Millisecond)
	set(&p.slowest, 15*time.Second)
	set(&p.desk, 15*time.Second)
	set(&p.cut, time.Second)
	return p
}

// life is that of a replica: one of several coordinators that share a state. It
// is joining until it has the state's key, and then stands by or is active.
type life struct {
	*daemon
	pace         pace
	cluster      *etcd.Cluster
	member       *replica.Member
	client, mesh *replica.Port
	most         int              // connections of a port that are served; as many descriptors are left to pass them on
	voucher      *replica.Voucher // of the key

	// Of the goroutine that lives it alone:
	key       seal.Key
	seen      *coordinator.Standing // what was looked at last; nil before the first
	tip       store.Head            // the newest head that was seen
	looked    time.Time             // when the whole state was looked at,
	rev       store.Rev             // of the cluster before that,
	verdict   error                 // and what it is: nil, or that it went back
	unsealed  bool                  // the key could not be sealed as the manifest says
	recovered *recovery.Outcome     // what opened the state, until its epoch has begun
	unfit     error                 // why it could not be opened as the active one; nil if it can be
	fitAt     time.Time             // when that is tried again

	role    atomic.Pointer[role]
	serving atomic.Pointer[service] // while active
	head    atomic.Uint64           // sequence of the newest head that was seen
}

// role is where a replica stands.
type role struct {
	name, stage string
	ready       bool
	why         error // why it is not another one; nil for nothing worth saying
}

func (r role) reason() string {
	if r.why == nil {
		return ""
	}
	return problem.From(r.why).Error()
}

// same reports whether there is nothing new to say. The words of a reason may change
// with each attempt.
func (r role) same(o *role) bool {
	return r.name == o.name && r.stage == o.stage && r.ready == o.ready && problem.CodeOf(r.why) == problem.CodeOf(o.why)
}

// replicate runs one of several coordinators of a state.
func (d *daemon) replicate(ctx context.Context) error {
	if d.s.Reach == "" {
		return invalid("reach", "name how other replicas reach this one: --client-addr %s and --mesh-addr %s do not say", d.s.ClientAddr, d.s.MeshAddr)
	}
	l := &life{daemon: d, pace: d.s.pace.orDefault()}
	l.role.Store(&role{name: apiv1.ReplicaJoining, stage: coordinator.Starting.String()})
	operations, err := l.open()
	if err != nil {
		return err
	}
	d.metrics.WatchReplica(l.figures())
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.work.Go(func() { d.s.endorsements.run(background) })
	living, end := context.WithCancelCause(ctx)
	d.work.Go(func() {
		select {
		case err := <-d.failed:
			end(err)
		case <-living.Done():
		}
	})
	err = l.connect(living)
	if err == nil {
		err = l.live(living)
	}
	if cause := context.Cause(living); cause != nil {
		if err = cause; ctx.Err() != nil {
			err = nil // it was told to end
		}
	}
	end(nil)
	err = errors.Join(err, l.close())
	cancel()
	_ = operations.Close()
	d.work.Wait()
	return err
}

// open opens the ports. Metrics and probes are served from now on, and
// connections wait at the others.
func (l *life) open() (*http.Server, error) {
	most, err := api.ConnectionBudget()
	if err != nil {
		return nil, err
	}
	l.most = most / 2
	metrics, err := listen("metrics-addr", l.s.MetricsAddr)
	if err != nil {
		return nil, err
	}
	for _, port := range []struct {
		flag string
		addr *string
		into **replica.Port
	}{{"client-addr", &l.s.ClientAddr, &l.client}, {"mesh-addr", &l.s.MeshAddr, &l.mesh}} {
		// One that is passed on takes two descriptors.
		if *port.into, err = replica.Listen(*port.addr, most/4); err != nil {
			err = problem.Because(err, "CRD-134", "--%s %s", port.flag, *port.addr)
			return nil, errors.Join(err, metrics.Close(), l.close())
		}
		*port.addr = (*port.into).Addr().String()
	}
	l.s.MetricsAddr = metrics.Addr().String()
	return l.operate(metrics, l.probe), nil
}

// connect finds etcd, for as long as that takes, and becomes known to the others.
func (l *life) connect(ctx context.Context) error {
	self := replica.Self{Name: l.s.Replica, Client: l.reached(l.s.ClientAddr), Mesh: l.reached(l.s.MeshAddr), Version: Version,
		TEE: string(l.s.TEE), Now: l.s.Now}
	for wait := l.backoff(); ; wait.pause(ctx) {
		err := l.meet(ctx, self)
		switch code := problem.CodeOf(err); {
		case err == nil:
			l.config.Replica, l.config.Replicas = self.Name, l.member.List
			l.s.Log.Info("ready", "replica", self.Name, "client", l.s.ClientAddr, "mesh", l.s.MeshAddr, "metrics", l.s.MetricsAddr, "version", Version)
			l.warnSimulation()
			if l.s.Ready != nil {
				l.s.Ready(Addresses{Client: l.s.ClientAddr, Mesh: l.s.MeshAddr, Metrics: l.s.MetricsAddr})
			}
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case code != "STO-031" && code != "REP-002":
			return err
		}
		l.enter(role{name: apiv1.ReplicaJoining, stage: noEtcdStage, why: err})
	}
}

func (l *life) meet(ctx context.Context, self replica.Self) (err error) {
	if l.cluster == nil {
		if l.cluster, err = etcd.Dial(ctx, l.s.shared); err != nil {
			return err
		}
		l.cluster.Scratch = l.s.State
	}
	l.member, err = replica.Open(ctx, l.cluster, self)
	return err
}

// reached is an address of this replica, as others use it.
func (l *life) reached(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return net.JoinHostPort(l.s.Reach, port)
}

// live goes from role to role until ctx ends.
func (l *life) live(ctx context.Context) error {
	for ctx.Err() == nil {
		if !l.key.Valid() {
			if err := l.unlock(ctx); err != nil {
				return err
			}
		}
		term, err := l.standBy(ctx)
		if err != nil {
			return err
		}
		if err := l.lead(ctx, term); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// close gives everything up.
func (l *life) close() error {
	var errs []error
	for _, p := range []*replica.Port{l.client, l.mesh} {
		if p != nil {
			_ = p.Close() // nobody is served any more
		}
	}
	if l.member != nil {
		errs = append(errs, l.member.Close())
	}
	if l.cluster != nil {
		errs = append(errs, l.cluster.Close())
	}
	return errors.Join(errs...)
}

// enter takes a role, and says so where that is news.
func (l *life) enter(r role) {
	old := l.role.Swap(&r)
	reason := r.reason()
	if l.member != nil {
		l.member.Say(r.name, reason)
	}
	if r.same(old) {
		return
	}
	say := l.s.Log.Info
	if r.why != nil {
		say = l.s.Log.Warn
	}
	say("role", "role", r.name, "stage", r.stage, "reason", reason, "head", l.newest())
}

// newest is the sequence of the newest head that was seen.
func (l *life) newest() uint64 {
	if v := l.serving.Load(); v != nil {
		return v.head().Sequence
	}
	return l.head.Load()
}

// probe says where the replica stands.
func (l *life) probe() api.Probe {
	if v := l.serving.Load(); v != nil {
		return v.probe()
	}
	r := l.role.Load()
	p := api.Probe{Ready: r.ready, Stage: r.stage, Reason: r.reason()}
	if r.stage != standbyStage || r.why != nil {
		return p
	}
	if err := l.member.Problem(); err != nil {
		return api.Probe{Stage: stageOf(err, standbyStage), Reason: problem.From(err).Error()}
	}
	p.Reason = "nobody is active yet"
	if active, ok := l.member.Current(replica.Leader); ok {
		p.Reason = active.Name + " is active"
	}
	return p
}

// figures are what metrics show of this replica.
func (l *life) figures() api.ReplicaFigures {
	of := func(p *replica.Port) func() api.ReplicaPort {
		return func() api.ReplicaPort {
			c := p.Counts()
			return api.ReplicaPort{Passing: c.Passing, Passed: c.Passed, Refused: c.Refused, Unheard: c.Unheard, Forged: c.Forged}
		}
	}
	return api.ReplicaFigures{Role: func() string { return l.role.Load().name }, Head: l.newest,
		Ports: map[string]func() api.ReplicaPort{"client": of(l.client), "mesh": of(l.mesh)}}
}

// pass has the ports pass connections on to the active replica.
func (l *life) pass() {
	l.client.Forward(l.member.Client, l.voucher)
	l.mesh.Forward(l.member.Mesh, l.voucher)
}

// backoff is the pause between attempts, which grows.
type backoff struct{ next, most time.Duration }

func (l *life) backoff() *backoff { return &backoff{l.pace.retry, l.pace.slowest} }

// pause waits, or less if ctx ends.
func (b *backoff) pause(ctx context.Context) { b.pauseOr(ctx, nil) }

// pauseOr waits until its time, or earlier if something changed.
func (b *backoff) pauseOr(ctx context.Context, changed <-chan struct{}) {
	pause(ctx, b.next, changed)
	b.next = min(2*b.next, b.most)
}

// pause waits for a time, or until something changed or ctx ends.
func pause(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-ctx.Done():
	}
}
