package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/api"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal/token"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

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
	config, err := s.core()
	if err != nil {
		return err
	}
	if s.Store == "" {
		err = checkMapping(s.State, mapShared)
	}
	if err == nil && s.token != nil {
		err = token.MakeKey(*s.token)
	}
	if err != nil {
		return err
	}
	if s.Store != "" {
		return s.initShared(ctx, config)
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

// core returns the configuration of the decisions, without what a state brings.
func (s *settings) core() (coordinator.Config, error) {
	verifiers, err := s.verifiers()
	if err == nil {
		s.endorsements, err = s.openEndorsements(verifiers)
	}
	if err != nil {
		return coordinator.Config{}, err
	}
	return coordinator.Config{Issuer: s.issuer, Verifiers: verifiers, Endorse: s.endorsements.endorse, Warnings: s.endorsements.warnings, Now: s.Now, Rand: rand.Reader,
		ServerNames: s.names(), Owner: s.owner, Version: Version}, nil
}

// daemon is a coordinator's process: what lives as long as that does.
type daemon struct {
	*parts
	s       settings
	config  coordinator.Config // of each service
	metrics *api.Metrics
	commits func(time.Duration, error) // observes those of the store
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
	d := &daemon{s: s, parts: newParts()}
	if d.config, err = d.s.core(); err != nil {
		return err
	}
	defer d.s.endorsements.close()
	d.metrics = api.NewMetrics(Version, d.s.simulated())
	d.metrics.WatchEndorsements(d.s.endorsements.States, d.s.endorsements.Outcomes, d.s.Now)
	d.commits = d.metrics.Commits()
	if d.s.Store != "" {
		return d.replicate(ctx)
	}
	return d.alone(ctx)
}

// alone runs the one coordinator of a state in its folder.
func (d *daemon) alone(ctx context.Context) error {
	if err := checkMapping(d.s.State, mapShared); err != nil {
		return err
	}
	o, err := d.openState(ctx, seal.Key{})
	if err != nil && d.s.recoverable(ctx, err) {
		o, err = d.await(ctx, err)
	}
	var v *service
	if err == nil {
		v, err = d.newService(ctx, o)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil // it was told to end before it served
		}
		return err
	}
	most, err := api.ConnectionBudget()
	if err != nil {
		return errors.Join(err, v.close())
	}
	l, err := d.listen()
	if err != nil {
		return errors.Join(err, v.close())
	}
	v.prepare(most)
	operations := d.operate(l.metrics, v.probe)
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.work.Go(func() { d.s.endorsements.run(background) })
	v.start(l.client, l.mesh)
	d.announce(v, l.addresses())
	select {
	case <-ctx.Done():
		err = nil
	case err = <-d.failed:
	case err = <-v.failed:
	}
	v.stop(d.s.Grace)
	cancel()
	_ = operations.Close()
	d.work.Wait()
	return errors.Join(err, v.close())
}

// listeners are the ports.
type listeners struct{ client, mesh, metrics net.Listener }

// listen opens the ports, or none.
func (d *daemon) listen() (l listeners, err error) {
	for _, port := range []struct {
		flag, addr string
		into       *net.Listener
	}{{"client-addr", d.s.ClientAddr, &l.client}, {"mesh-addr", d.s.MeshAddr, &l.mesh}, {"metrics-addr", d.s.MetricsAddr, &l.metrics}} {
		if *port.into, err = listen(port.flag, port.addr); err != nil {
			l.close()
			return listeners{}, err
		}
	}
	return l, nil
}

func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, problem.Because(err, "CRD-134", "--%s %s", flag, addr)
	}
	return l, nil
}

// close closes ports that nothing was served on.
func (l listeners) close() {
	for _, open := range []net.Listener{l.client, l.mesh, l.metrics} {
		if open != nil {
			_ = open.Close() // nothing was served
		}
	}
}

func (l listeners) addresses() Addresses {
	return Addresses{Client: l.client.Addr().String(), Mesh: l.mesh.Addr().String(), Metrics: l.metrics.Addr().String()}
}

// operate serves metrics and probes on l.
func (d *daemon) operate(l net.Listener, probe func() api.Probe) *http.Server {
	gate := api.NewGate(api.OperationsConnections)
	d.metrics.Watch("operations", gate)
	server := api.NewOperations(d.metrics, probe)
	d.run("operations", func() error { return api.ServeOperations(server, l, gate) })
	return server
}

// announce says that every port answers, and loudly what is open.
func (d *daemon) announce(v *service, a Addresses) {
	_, stage, _ := v.core.Ready()
	d.s.Log.Info("ready", "stage", stage, "client", a.Client, "mesh", a.Mesh, "metrics", a.Metrics, "version", Version)
	d.warnSimulation()
	d.warnOpen(v)
	if d.s.Ready != nil {
		d.s.Ready(a)
	}
}

func (d *daemon) warnSimulation() {
	if d.s.simulated() {
		d.s.Log.Warn("SIMULATION: evidence is made and accepted without hardware; nothing here is confidential", "root", d.s.SimRoot)
	}
}

// warnOpen says loudly who may set the first manifest.
func (d *daemon) warnOpen(v *service) {
	if _, stage, _ := v.core.Ready(); stage == coordinator.WaitingForManifest.String() && d.s.owner == nil {
		d.s.Log.Warn("the first manifest may be set by anybody who reaches the client API", "next", "ashlar manifest set, or restart with --owner")
	}
}
