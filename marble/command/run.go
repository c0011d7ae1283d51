package command

import (
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/agent"
	"github.com/ashlar-mesh/ashlar/marble/envoy"
	"github.com/ashlar-mesh/ashlar/marble/files"
	"github.com/ashlar-mesh/ashlar/marble/localapi"
	"github.com/ashlar-mesh/ashlar/marble/program"
	"github.com/ashlar-mesh/ashlar/marble/reference"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// noEnvoy is the value of --envoy for a program that needs no proxy.
const noEnvoy = "none"

const (
	reapInterval  = 2 * time.Second
	proxyInterval = 500 * time.Millisecond // how often Envoy is looked at

	listenInterval = 25 * time.Millisecond // how often a port of the program is tried
)

// runner is one run of a program. Its fields are set once, by the step of run
// that makes them.
type runner struct {
	o       options
	log     *slog.Logger
	stderr  io.Writer
	tracker *stage.Tracker
	files   files.Writer
	host    reference.Host
	written map[string][32]byte // SHA-256 of each file in place; owned by whoever calls place
	signal  syscall.Signal      // that ended the run before the program started
	started *marble.Rendered    // what the program was started with
	env     []string            // of the program
	runs    atomic.Bool         // the program does
	stopped int                 // exit code, if it was the marble that stopped the program; obey's

	simulated *simulated // nil: hardware vouches

	cleanup []func() // last first
}

func newRunner(o options, log *slog.Logger, stderr io.Writer) *runner {
	return &runner{o: o, log: log, stderr: stderr, tracker: stage.NewTracker(log, time.Now), written: map[string][32]byte{},
		host: reference.Host{Marble: o.marble, Environ: os.Environ(), Folder: o.references}}
}

func (r *runner) later(f func()) { r.cleanup = append(r.cleanup, f) }

// run does every step in order, and undoes all in the opposite order.
func (r *runner) run() (code int, err error) {
	defer func() {
		r.tracker.Enter(stage.Status{Stage: stage.Stopping})
		for i := len(r.cleanup) - 1; i >= 0; i-- {
			r.cleanup[i]()
		}
	}()
	signals, stop := program.Notify()
	r.later(stop)
	stopProbes, err := r.serveProbes()
	if err != nil {
		return 0, err
	}
	r.later(stopProbes)
	if err := program.Subreaper(); err != nil {
		r.log.Warn("orphans of the program will not be seen", "reason", err)
	}
	r.later(func() { program.KillOrphans(func(int) bool { return false }) }) // when Envoy has been stopped
	p, err := program.Open(r.o.command[0])
	if err != nil {
		return 0, err
	}
	r.later(func() { _ = p.Close() }) // read only

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	starting := make(chan struct{})
	watched := make(chan struct{})
	go func() { defer close(watched); r.watchStart(signals, starting, cancel) }()
	m, spec, err := r.prepare(ctx, p)
	close(starting)
	<-watched
	if err == nil && r.signal != 0 {
		err = problem.New("MRB-024", "signal %s came first", r.signal)
	}
	if err != nil {
		return 0, err
	}
	return r.supervise(ctx, m, p, spec, signals)
}

// watchStart ends a start that is under way when a signal asks for it.
func (r *runner) watchStart(signals <-chan os.Signal, starting <-chan struct{}, cancel func()) {
	for {
		select {
		case <-starting:
			return
		case s := <-signals:
			if s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGQUIT {
				r.signal, _ = s.(syscall.Signal)
				cancel()
				return
			}
		}
	}
}

// prepare does all that must succeed before the program starts.
func (r *runner) prepare(ctx context.Context, p *program.Program) (*marble.Marble, program.Spec, error) {
	dir, removeDir, err := r.o.runtimeFolder()
	if err != nil {
		return nil, program.Spec{}, err
	}
	r.later(removeDir)
	r.files.Keep(dir)
	m, err := r.activate(ctx, p, dir)
	if err != nil {
		return nil, program.Spec{}, err
	}
	r.later(m.Close)
	r.tracker.Enter(stage.Status{Stage: stage.Rendering})
	rendered, err := m.RenderFound(r.host.Find)
	if err != nil {
		return nil, program.Spec{}, err
	}
	r.later(func() {
		if err := r.files.RemoveAll(); err != nil {
			r.log.Error("a rendered file stays", "reason", err)
		}
	})
	if _, err := r.place(rendered); err != nil {
		return nil, program.Spec{}, err
	}
	socket := filepath.Join(dir, apiSocket)
	api, err := localapi.Start(socket, m, r.log)
	if err != nil {
		return nil, program.Spec{}, err
	}
	r.later(api.Close)
	if r.o.envoy != noEnvoy {
		if err := r.startProxy(ctx, m, dir); err != nil {
			return nil, program.Spec{}, err
		}
	}
	r.started = rendered
	env, dropped := environment(os.Environ(), rendered.Env)
	if len(dropped) > 0 {
		r.log.Warn("variables that steer loaders or runtimes are not passed on; set them in the manifest", "names", dropped)
	}
	r.env = append(env, envSocket+"="+socket, r.tellStage(dir))
	spec := program.Spec{Argv: r.o.command, Env: r.env}
	if len(rendered.Argv) > 0 {
		spec.Argv = rendered.Argv
	}
	return m, spec, nil
}

func (r *runner) activate(ctx context.Context, p *program.Program, dir string) (*marble.Marble, error) {
	trust, err := r.o.trust()
	if err != nil {
		return nil, err
	}
	id, err := r.o.instanceID(dir)
	if err != nil {
		return nil, err
	}
	if err := r.o.addresses(); err != nil {
		return nil, err
	}
	devices, err := r.o.devices.issuers()
	if err != nil {
		return nil, err
	}
	vouching, err := r.vouching(ctx, p)
	if err != nil {
		return nil, err
	}
	return marble.Run(ctx, marble.Config{
		Marble: r.o.marble, ID: id, Address: r.o.address, Loopback: r.o.loopback, Coordinator: r.o.coordinator,
		Trust: trust, Issuer: vouching, Devices: devices, Tracker: r.tracker, Log: r.log,
	})
}

// place writes the files whose content is new, and reports whether any was.
func (r *runner) place(rendered *marble.Rendered) (changed bool, err error) {
	fresh, plain := r.fresh(rendered.Files), r.fresh(rendered.Plain)
	if len(fresh)+len(plain) == 0 {
		return false, nil
	}
	for _, path := range rendered.Referred {
		if err := files.Confine(path); err != nil {
			return false, err
		}
	}
	onDisk, err := r.files.Write(fresh)
	if err != nil {
		return false, err
	}
	r.wrote(fresh)
	if len(onDisk) > 0 {
		r.log.Warn("rendered files lie on a disk, not in memory; tmpfs is better", "paths", onDisk)
	}
	if err := r.files.Copy(plain); err != nil {
		return false, err
	}
	r.wrote(plain)
	return true, nil
}

// fresh returns what is not in place.
func (r *runner) fresh(content map[string][]byte) map[string][]byte {
	fresh := make(map[string][]byte)
	for path, b := range content {
		if sum, ok := r.written[path]; !ok || sum != sha256.Sum256(b) {
			fresh[path] = b
		}
	}
	return fresh
}

func (r *runner) wrote(content map[string][]byte) {
	for path, b := range content {
		r.written[path] = sha256.Sum256(b)
	}
}

// identity lets the agent read the marble's lease.
type identity struct{ m *marble.Marble }

// Identity implements agent.Source. A lease that has ended is none.
func (i identity) Identity() (agent.Identity, <-chan struct{}) {
	lease, live, changed := i.m.Live()
	if !live {
		return agent.Identity{}, changed
	}
	return agent.Identity{SPIFFEID: lease.SPIFFEID, TrustDomain: lease.TrustDomain(),
		ChainPEM: lease.ChainPEM(), KeyPEM: lease.KeyPEM(), BundlePEM: lease.BundlePEM()}, changed
}

// startProxy starts the agent and Envoy behind it, and waits until Envoy has its
// configuration.
func (r *runner) startProxy(ctx context.Context, m *marble.Marble, dir string) error {
	r.tracker.Enter(stage.Status{Stage: stage.StartingProxy, Reason: "waiting until Envoy has its configuration"})
	socket := filepath.Join(dir, "agent.sock")
	a, err := agent.Start(agent.Config{
		Socket: socket, Source: identity{m}, Log: r.log,
		Upstream: func(ctx context.Context) (*grpc.ClientConn, func(), error) { return m.Upstream(ctx) },
		Refused:  func(n agent.Refusal) { m.ReportProxy(true, n.TypeURL+": "+n.Message) },
	})
	if err != nil {
		return err
	}
	r.later(a.Close)
	// Envoy outlives ctx: it is stopped after the program.
	proxy, err := envoy.Start(context.WithoutCancel(ctx), envoy.Config{Binary: r.o.envoy, Dir: dir, AgentSocket: socket,
		NodeID: r.o.marble, LogLevel: r.o.envoyLog, Stderr: r.stderr})
	if err != nil {
		return err
	}
	r.later(proxy.Stop)
	ready, cancel := context.WithTimeout(ctx, r.o.readyTimeout)
	defer cancel()
	if err := proxy.Ready(ready); err != nil {
		return err
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watcher sync.WaitGroup
	watcher.Go(func() { r.watchProxy(watch, m, proxy) })
	r.later(func() { stop(); watcher.Wait() })
	return nil
}

// watchProxy reports an Envoy that died until its successor is ready, and has it
// drain while the marble gets no new requests.
func (r *runner) watchProxy(ctx context.Context, m *marble.Marble, proxy *envoy.Proxy) {
	m.ReportProxy(true, "")
	tick := time.NewTicker(proxyInterval)
	defer tick.Stop()
	d := drain{proxy: proxy, log: r.log}
	for restarts := 0; ; {
		s, changed := r.tracker.Current()
		d.follow(ctx, s.Stage)
		select {
		case <-ctx.Done():
			return
		case <-changed:
			continue
		case <-tick.C:
		}
		n := proxy.Restarts()
		if n == restarts {
			continue
		}
		restarts, d.on = n, false
		const reason = "Envoy ended and was started again"
		r.tracker.Trouble("proxy", stage.Trouble{Code: "MSH-021", Reason: reason})
		m.ReportProxy(false, reason)
		if proxy.Ready(ctx) == nil {
			r.tracker.Clear("proxy")
			m.ReportProxy(true, "")
		}
	}
}

// supervise starts the program and stays until it has ended.
func (r *runner) supervise(ctx context.Context, m *marble.Marble, p *program.Program, spec program.Spec, signals <-chan os.Signal) (int, error) {
	process, err := p.Start(spec)
	if err != nil {
		return 0, err
	}
	r.runs.Store(true)
	if r.simulated != nil {
		r.simulated.pid.Store(int64(process.PID()))
	}
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	workers.Go(func() { r.awaitListening(ctx, m.Serves()) })
	workers.Go(func() { r.refresh(ctx, m, process) })
	workers.Go(func() { r.obey(ctx, m, process) })
	workers.Go(func() { program.Reap(ctx, reapInterval) })
	process.Forward(signals, r.o.grace)
	r.runs.Store(false)
	r.tracker.Enter(stage.Status{Stage: stage.Stopping, Reason: "the program ended"})
	cancel()
	workers.Wait()
	process.KillGroup()
	r.log.Info("program ended", "exitCode", process.ExitCode())
	if r.stopped != 0 {
		return r.stopped, nil
	}
	return process.ExitCode(), nil
}

// awaitListening enters Running when the program accepts connections on all
// ports that its marble serves.
func (r *runner) awaitListening(ctx context.Context, ports []uint16) {
	tick := time.NewTicker(listenInterval)
	defer tick.Stop()
	for _, port := range ports {
		addr := net.JoinHostPort(r.o.loopback, strconv.Itoa(int(port)))
		r.tracker.Enter(stage.Status{Stage: stage.StartingProgram, Reason: "waiting until the program listens on " + addr})
		for !listens(ctx, addr) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
	r.tracker.Enter(stage.Status{Stage: stage.Running})
}

func listens(ctx context.Context, addr string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}
