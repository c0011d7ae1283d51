package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/api"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/mesh"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal/token"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/internal/alarm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const tickEvery = 10 * time.Second // housekeeping of the core

// Init makes the state of a new coordinator. Where there is one already, or a
// part of one, it refuses (STO-001).
func Init(ctx context.Context, c Config) error {
	s, err := c.check()
	if err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(s.State, 0o700); err != nil {
		return problem.Because(err, "STO-007", "creating %s", s.State)
	}
	if err := checkMapping(s.State, mapShared); err != nil {
		return err
	}
	config, err := s.core(nil)
	if err != nil {
		return err
	}
	if s.token != nil {
		if err := token.MakeKey(*s.token); err != nil {
			return err
		}
	}
	db, err := bolt.Create(ctx, bolt.Config{Dir: s.State, Source: s.source(""), Random: rand.Reader})
	if err != nil {
		return err
	}
	core, err := coordinator.Create(ctx, db, config)
	if err == nil {
		err = core.Close()
	}
	return errors.Join(err, db.Close())
}

// core returns the configuration of the decisions.
func (s *settings) core(changed func()) (coordinator.Config, error) {
	verifiers, err := s.verifiers()
	if err == nil {
		s.endorsements, err = s.openEndorsements(verifiers)
	}
	if err != nil {
		return coordinator.Config{}, err
	}
	return coordinator.Config{Issuer: s.issuer, Verifiers: verifiers, Endorse: s.endorsements.endorse, Warnings: s.endorsements.warnings, Now: s.Now, Rand: rand.Reader,
		Changed: changed, ServerNames: s.names(), Owner: s.owner, Version: Version}, nil
}

// daemon is a running coordinator.
type daemon struct {
	s       settings
	store   *store.Store
	core    *coordinator.Coordinator
	mesh    *mesh.Distributor
	metrics *api.Metrics

	witnesses *witnesses
	commits   func(time.Duration, error) // observes those of the store

	client         *http.Server
	clientGate     *api.Gate
	marble         *api.MarbleServer
	operations     *http.Server
	operationsGate *api.Gate
	listeners      struct{ client, mesh, metrics net.Listener }

	stopping atomic.Bool
	work     sync.WaitGroup // servers, distributor, housekeeping
	failed   chan error     // the first failure of a server
}

// Run opens the state and serves until ctx ends; then it takes no new work,
// lets running requests finish within the grace, and closes the state. State
// that is missing is STO-002.
func Run(ctx context.Context, c Config) error {
	held := floor()
	defer runtime.KeepAlive(held)
	s, err := c.check()
	if err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := checkMapping(s.State, mapShared); err != nil {
		return err
	}
	d := &daemon{s: s, failed: make(chan error, 1)}
	if err := d.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // it was told to end before it served
		}
		return err
	}
	if err := d.listen(); err != nil {
		return errors.Join(err, d.closeState())
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.start(background)
	d.announce()
	select {
	case <-ctx.Done():
		err = nil
	case err = <-d.failed:
	}
	d.shutdown(cancel)
	return errors.Join(err, d.closeState())
}

// open opens the state and the core.
func (d *daemon) open(ctx context.Context) error {
	var distributor atomic.Pointer[mesh.Distributor]
	config, err := d.s.core(func() {
		if m := distributor.Load(); m != nil {
			m.Changed()
		}
	})
	if err != nil {
		return err
	}
	d.metrics = api.NewMetrics(Version, d.s.simulated())
	d.metrics.WatchEndorsements(d.s.endorsements.States, d.s.endorsements.Outcomes, d.s.Now)
	d.commits = d.metrics.Commits()
	o, err := d.openState(ctx, seal.Key{})
	if err != nil && d.s.recoverable(err) {
		o, err = d.await(ctx, config, err)
	}
	if err != nil {
		return err
	}
	d.store, config.Keeper, config.Opening = o.store, o.keeper, o.opening
	d.witnesses = newWitnesses(d.s.Now, d.s.Log)
	config.Warnings = func() []apiv1.Attention { return append(d.s.endorsements.warnings(), d.witnesses.warnings()...) }
	if d.core, err = coordinator.Open(ctx, d.store, config); err != nil {
		return errors.Join(err, d.store.Close())
	}
	d.witnesses.core = d.core
	if err := o.finish(); err != nil {
		return errors.Join(err, d.closeState())
	}
	d.mesh = mesh.NewDistributor(mesh.Config{View: d.core.View, Identify: d.core.Identify, Now: d.s.Now,
		Event: func(e coordinator.ProxyEvent) {
			d.metrics.ProxyEvent(e)
			d.core.ProxyEvent(e)
		}})
	distributor.Store(d.mesh)
	return nil
}

// listen opens the ports and makes their servers.
func (d *daemon) listen() error {
	most, err := api.ConnectionBudget()
	if err != nil {
		return err
	}
	open := func(flag, addr string, l *net.Listener) {
		if err != nil {
			return
		}
		if *l, err = net.Listen("tcp", addr); err != nil {
			err = problem.Because(err, "CRD-134", "--%s %s", flag, addr)
		}
	}
	open("client-addr", d.s.ClientAddr, &d.listeners.client)
	open("mesh-addr", d.s.MeshAddr, &d.listeners.mesh)
	open("metrics-addr", d.s.MetricsAddr, &d.listeners.metrics)
	if err != nil {
		for _, l := range []net.Listener{d.listeners.client, d.listeners.mesh, d.listeners.metrics} {
			if l != nil {
				_ = l.Close() // nothing was served
			}
		}
		return err
	}
	d.clientGate = api.NewGate(most)
	meshGate := api.NewGate(most)
	d.metrics.Watch("client", d.clientGate)
	d.metrics.WatchLapses(d.core.Lapses)
	d.metrics.Watch("mesh", meshGate)
	d.operationsGate = api.NewGate(api.OperationsConnections)
	d.metrics.Watch("operations", d.operationsGate)
	config := api.Config{Coordinator: d.core, Gate: d.clientGate, Times: d.s.Times, Metrics: d.metrics, Log: d.s.Log, Now: d.s.Now,
		Endorsements: d.s.endorsements}
	d.client = api.NewClient(config)
	config.Gate = meshGate
	d.marble = api.NewMarble(config, d.mesh.Register)
	d.operations = api.NewOperations(d.metrics, d.probe)
	return nil
}

func (d *daemon) probe() api.Probe {
	ready, stage, reason := d.core.Ready()
	if d.stopping.Load() {
		return api.Probe{Stage: coordinator.Stopping.String(), Reason: "running requests are being finished"}
	}
	return api.Probe{Ready: ready, Stage: stage, Reason: reason}
}

// start runs everything; ctx ends distribution and housekeeping.
func (d *daemon) start(ctx context.Context) {
	d.serve("client API", func() error { return api.ServeClient(d.client, d.listeners.client, d.clientGate) })
	d.serve("marble API", func() error { return d.marble.Serve(d.listeners.mesh) })
	d.serve("operations", func() error { return api.ServeOperations(d.operations, d.listeners.metrics, d.operationsGate) })
	d.serve("distributor", func() error {
		if err := d.mesh.Run(ctx); ctx.Err() == nil {
			return err
		}
		return nil
	})
	d.work.Go(func() { d.tick(ctx) })
	d.work.Go(func() {
		d.core.Watch(ctx, func(err error) { d.s.Log.Error("instances whose lease has ended stay", "error", err) })
	})
	d.work.Go(func() { d.s.endorsements.run(ctx) })
	d.work.Go(func() { d.witnesses.run(ctx) })
}

// serve runs one part; its failure ends the coordinator.
func (d *daemon) serve(part string, run func() error) {
	d.work.Go(func() {
		if err := run(); err != nil {
			select {
			case d.failed <- fmt.Errorf("%s: %w", part, err):
			default: // another part failed first
			}
		}
	})
}

func (d *daemon) tick(ctx context.Context) {
	due := alarm.New(d.s.Now, d.s.Times.Look)
	defer due.Stop()
	for due.In(tickEvery); ; {
		select {
		case <-due.C():
			if !due.Ringing() {
				continue
			}
			due.In(tickEvery)
			if err := d.core.Tick(ctx); err != nil && ctx.Err() == nil {
				d.s.Log.Error("housekeeping failed", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// announce says that every port answers, and loudly what is open.
func (d *daemon) announce() {
	_, stage, _ := d.core.Ready()
	a := Addresses{Client: d.listeners.client.Addr().String(), Mesh: d.listeners.mesh.Addr().String(), Metrics: d.listeners.metrics.Addr().String()}
	d.s.Log.Info("ready", "stage", stage, "client", a.Client, "mesh", a.Mesh, "metrics", a.Metrics, "version", Version)
	if d.s.simulated() {
		d.s.Log.Warn("SIMULATION: evidence is made and accepted without hardware; nothing here is confidential", "root", d.s.SimRoot)
	}
	if stage == coordinator.WaitingForManifest.String() && d.s.owner == nil {
		d.s.Log.Warn("the first manifest may be set by anybody who reaches the client API", "next", "ashlar manifest set, or restart with --owner")
	}
	if d.s.Ready != nil {
		d.s.Ready(a)
	}
}

// shutdown ends the servers: no new work, running requests within the grace.
func (d *daemon) shutdown(cancel context.CancelFunc) {
	d.stopping.Store(true)
	d.s.Log.Info("stopping", "grace", d.s.Grace.String())
	grace, end := context.WithTimeout(context.Background(), d.s.Grace)
	defer end()
	force := d.s.Force
	if force == nil {
		force = make(chan struct{})
	}
	var ending sync.WaitGroup
	ending.Go(func() { d.marble.Stop(grace) })
	ending.Go(func() { api.StopClient(grace, d.client, d.clientGate) })
	cancel() // ends the proxies' streams
	done := make(chan struct{})
	go func() {
		ending.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-force:
		d.s.Log.Warn("running requests are cut")
		end()
		<-done
	}
	_ = d.operations.Close()
	d.work.Wait()
}

func (d *daemon) closeState() error {
	d.s.endorsements.close()
	return errors.Join(d.core.Close(), d.store.Close())
}
