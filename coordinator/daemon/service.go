package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/api"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/mesh"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/alarm"
)

const tickEvery = 10 * time.Second // housekeeping of the core

// parts run side by side, and the first that fails is heard.
type parts struct {
	work   sync.WaitGroup
	failed chan error
}

func newParts() *parts { return &parts{failed: make(chan error, 1)} }

// run runs one part until it is told to end.
func (p *parts) run(part string, run func() error) {
	p.work.Go(func() {
		if err := run(); err != nil {
			select {
			case p.failed <- fmt.Errorf("%s: %w", part, err):
			default: // another part failed first
			}
		}
	})
}

// service is an open state that is served: the core and its servers.
type service struct {
	*parts
	d         *daemon
	store     *store.Store
	core      *coordinator.Coordinator
	mesh      *mesh.Distributor
	witnesses *witnesses

	client     *http.Server
	clientGate *api.Gate
	marble     *api.MarbleServer
	stopping   atomic.Bool
	cancel     context.CancelFunc // ends distribution and housekeeping
}

// newService opens the core of a state. If that fails, it closes the state.
func (d *daemon) newService(ctx context.Context, o *openedState) (*service, error) {
	var distributor atomic.Pointer[mesh.Distributor]
	config := d.config
	config.Changed = func() {
		if m := distributor.Load(); m != nil {
			m.Changed()
		}
	}
	v := &service{parts: newParts(), d: d, store: o.store, witnesses: newWitnesses(d.s.Now, d.s.Log)}
	config.Keeper, config.Opening = o.keeper, o.opening
	config.Warnings = func() []apiv1.Attention { return append(d.s.endorsements.warnings(), v.witnesses.warnings()...) }
	var err error
	if v.core, err = coordinator.Open(ctx, o.store, config); err != nil {
		return nil, errors.Join(err, o.store.Close())
	}
	v.witnesses.core = v.core
	err = o.finish(ctx)
	if err == nil {
		err = v.core.Judged(ctx, d.s.endorsements.learn)
	}
	if err != nil {
		return nil, errors.Join(err, v.close())
	}
	v.mesh = mesh.NewDistributor(mesh.Config{View: v.core.View, Identify: v.core.Identify, Now: d.s.Now,
		Event: func(e coordinator.ProxyEvent) {
			d.metrics.ProxyEvent(e)
			v.core.ProxyEvent(e)
		}})
	distributor.Store(v.mesh)
	return v, nil
}

// prepare makes the servers, each for so many connections at most.
func (v *service) prepare(most int) {
	d := v.d
	v.clientGate = api.NewGate(most)
	meshGate := api.NewGate(most)
	d.metrics.Watch("client", v.clientGate)
	d.metrics.WatchLapses(v.core.Lapses)
	d.metrics.Watch("mesh", meshGate)
	config := api.Config{Coordinator: v.core, Gate: v.clientGate, Times: d.s.Times, Metrics: d.metrics, Log: d.s.Log, Now: d.s.Now,
		Endorsements: d.s.endorsements}
	v.client = api.NewClient(config)
	config.Gate = meshGate
	v.marble = api.NewMarble(config, v.mesh.Register)
}

// probe says where the service stands.
func (v *service) probe() api.Probe {
	ready, stage, reason := v.core.Ready()
	if v.stopping.Load() {
		return api.Probe{Stage: coordinator.Stopping.String(), Reason: "running requests are being finished"}
	}
	return api.Probe{Ready: ready, Stage: stage, Reason: reason}
}

// start serves on two ports until stop.
func (v *service) start(client, marbles net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	v.cancel = cancel
	v.run("client API", func() error { return api.ServeClient(v.client, client, v.clientGate) })
	v.run("marble API", func() error { return v.marble.Serve(marbles) })
	v.run("distributor", func() error {
		if err := v.mesh.Run(ctx); ctx.Err() == nil {
			return err
		}
		return nil
	})
	v.work.Go(func() { v.tick(ctx) })
	v.work.Go(func() {
		v.core.Watch(ctx, func(err error) { v.d.s.Log.Error("instances whose lease has ended stay", "error", err) })
	})
	v.work.Go(func() { v.witnesses.run(ctx) })
}

func (v *service) tick(ctx context.Context) {
	due := alarm.New(v.d.s.Now, v.d.s.Times.Look)
	defer due.Stop()
	for due.In(tickEvery); ; {
		select {
		case <-due.C():
			if !due.Ringing() {
				continue
			}
			due.In(tickEvery)
			if err := v.core.Tick(ctx); err != nil && ctx.Err() == nil {
				v.d.s.Log.Error("housekeeping failed", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the servers: no new work, running requests within the grace.
func (v *service) stop(grace time.Duration) {
	v.stopping.Store(true)
	v.d.s.Log.Info("stopping", "grace", grace.String())
	within, end := context.WithTimeout(context.Background(), grace)
	defer end()
	var ending sync.WaitGroup
	ending.Go(func() { v.marble.Stop(within) })
	ending.Go(func() { api.StopClient(within, v.client, v.clientGate) })
	v.cancel() // ends the proxies' streams
	done := make(chan struct{})
	go func() {
		ending.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-v.d.s.Force: // never, if nil
		v.d.s.Log.Warn("running requests are cut")
		end()
		<-done
	}
	v.work.Wait()
}

// head is that of the newest durable state.
func (v *service) head() (h store.Head) {
	_ = v.store.View(context.Background(), func(tx *store.Tx) error { // from memory: it does not fail
		h = store.HeadOf(tx)
		return nil
	})
	return h
}

// close closes the core and the state.
func (v *service) close() error { return errors.Join(v.core.Close(), v.store.Close()) }
