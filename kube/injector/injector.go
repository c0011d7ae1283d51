// Package injector is the mutating webhook of a cluster: it gives labelled pods
// what package inject says, judged by the manifest that the coordinator has in
// force, and runs package stage beside it.
//
// It owns the answers to the API server, the webhook's certificate and its CA,
// whose keys stay in memory, and the caBundle by which the API server knows
// them. It refuses labelled pods that it cannot judge and leaves all others
// alone. It protects nothing: it is as untrusted as the cluster it runs in, holds
// no secret of the mesh, and what it does wrong the coordinator refuses.
package injector

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"k8s.io/client-go/kubernetes"

	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/stage"
)

const (
	maxConnections = 256 // of the webhook
	maxStreams     = 32  // of one connection
	opsConnections = 16
	// drain is how long the webhook serves on after it was told to end: until then
	// API servers may not know that others are to be asked.
	drain     = 5 * time.Second
	grace     = 10 * time.Second // for running reviews after that
	keepAware = 10 * time.Second // between two looks at the manifest without pods
)

// Config is what Run needs. All of it must be set but what says otherwise.
type Config struct {
	Settings
	Addr, OpsAddr string
	Name          string // of this replica: no two that run at once have the same
	Cluster       kubernetes.Interface
	Log           *slog.Logger
	Now           func() time.Time          // time.Now if nil
	Drain         time.Duration             // 5 s if zero
	Times         Times                     // the usual ones if zero
	Listening     func(webhook, ops string) // told the addresses once; may be nil
}

// process is a running injector.
type process struct {
	Config
	source   *Source
	keeper   *keeper
	metrics  *metrics
	stopping atomic.Bool
	work     sync.WaitGroup
	failed   chan error // the first failure of a server
}

// Run serves until ctx ends. Then it is no longer ready, answers what still
// comes for a while, and takes its CA out of the configuration.
func Run(ctx context.Context, c Config) error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Drain == 0 {
		c.Drain = drain
	}
	if c.Times == (Times{}) {
		c.Times = usual
	}
	source, err := NewSource(c.Client, []byte(c.Policy), c.Now)
	if err != nil {
		return err
	}
	p := &process{Config: c, source: source, metrics: newMetrics(Version), failed: make(chan error, 3)}
	defer source.Close()
	p.keeper = &keeper{api: c.Cluster.AdmissionregistrationV1().MutatingWebhookConfigurations(), webhook: c.Webhook, host: c.Service,
		name: c.Name, times: c.Times, now: c.Now, log: c.Log, synced: p.metrics.bundle}
	p.metrics.watch(p.keeper, source, c.Now)
	webhook, ops, err := p.listen()
	if err != nil {
		return err
	}
	return p.run(ctx, webhook, ops)
}

func (p *process) listen() (webhook, ops net.Listener, err error) {
	if webhook, err = net.Listen("tcp", p.Addr); err != nil {
		return nil, nil, problem.Because(err, "KUB-079", "--addr %s", p.Addr)
	}
	if ops, err = net.Listen("tcp", p.OpsAddr); err != nil {
		return nil, nil, errors.Join(problem.Because(err, "KUB-079", "--ops-addr %s", p.OpsAddr), webhook.Close())
	}
	if p.Listening != nil {
		p.Listening(webhook.Addr().String(), ops.Addr().String())
	}
	return netutil.LimitListener(webhook, maxConnections), netutil.LimitListener(ops, opsConnections), nil
}

// run serves on the listeners, and waits at the end for all that it started.
func (p *process) run(ctx context.Context, webhook, ops net.Listener) error {
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	early, stop := context.WithCancel(ctx) // of what ends before the webhook: another replica can take over at once
	defer stop()
	hooks, probes := p.webhook(), p.operations()
	p.serve(func() error { return hooks.ServeTLS(webhook, "", "") })
	p.serve(func() error { return probes.Serve(ops) })
	kept := make(chan struct{})
	p.work.Go(func() {
		defer close(kept)
		p.keeper.Run(background)
	})
	p.work.Go(func() { p.stayAware(background) })
	p.work.Go(func() { p.stages(early) })
	p.Log.Info("started", "version", Version, "name", p.Name, "webhook", webhook.Addr().String(), "operations", ops.Addr().String())
	var err error
	select {
	case <-ctx.Done():
		p.stopping.Store(true)
		select {
		case <-time.After(p.Drain):
		case err = <-p.failed:
		}
	case err = <-p.failed:
	}
	stop()
	last, end := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer end()
	if e := hooks.Shutdown(last); e != nil {
		_ = hooks.Close() // the grace is over
	}
	cancel()
	<-kept
	if e := p.keeper.Remove(last); e != nil {
		p.Log.Warn("our CA stays in the webhook's configuration until it ends", "error", e)
	}
	_ = probes.Close() // nobody asks any more
	p.work.Wait()
	return err
}

// serve runs a server; its failure ends the injector.
func (p *process) serve(run func() error) {
	p.work.Go(func() {
		if err := run(); !errors.Is(err, http.ErrServerClosed) {
			p.failed <- problem.Because(err, "KUB-079", "serving")
		}
	})
}

func (p *process) webhook() *http.Server {
	a := &admitter{settings: p.Settings.Settings, manifests: p.source, now: p.Now}
	return &http.Server{
		Handler: p.part(newHandler(a, p.metrics, p.Log)), ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: p.keeper.Certificate, SessionTicketsDisabled: true},
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
}

// part has API servers leave their connections once the end was announced: at the
// end idle ones are closed at once, with a review that is just being sent.
func (p *process) part(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// operations serves /livez, /readyz and /metrics.
func (p *process) operations() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	answer := func(w http.ResponseWriter, status int) {
		ready, reason := p.ready()
		if ready {
			status = http.StatusOK
		}
		body, _ := json.Marshal(probe{Ready: ready, Reason: reason}) // a bool and a text always encode
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(body) // the prober went away
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusServiceUnavailable) })
	return &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
}

// probe is the answer of the probes.
type probe struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

// ready reports whether API servers may call: they know our CA. That the
// coordinator is away is no reason to be unready: the answer says so.
func (p *process) ready() (bool, string) {
	if p.stopping.Load() {
		return false, "running reviews are being finished"
	}
	cert, err := p.keeper.State()
	switch {
	case cert == nil && err != nil:
		return false, err.Error()
	case cert == nil:
		return false, "the API server is being told of our CA"
	case !p.Now().Before(cert.NotAfter):
		return false, "the certificate has ended"
	}
	return true, ""
}

// stayAware keeps the manifest in hand, so that there is one to judge by when
// the coordinator goes away.
func (p *process) stayAware(ctx context.Context) {
	for away := false; ; {
		seen, err := p.source.Manifest(ctx, keepAware/2)
		if err == nil {
			err = seen.Trouble
		}
		if (err != nil) != away {
			away = err != nil
			p.Log.Info("asking the coordinator for the manifest", "revision", seen.Revision, "error", err)
		}
		if !pause.For(ctx, keepAware) {
			return
		}
	}
}

// stages runs the controller of conditions until ctx ends.
func (p *process) stages(ctx context.Context) {
	lease, namespace := p.place()
	err := stage.Run(ctx, stage.Config{Cluster: p.Cluster, Namespace: namespace, Lease: lease, Name: p.Name, Port: p.ReadyPort, Coordinator: p.Coordinator,
		Marbles: p.source.Marbles, Now: p.Now, Log: p.Log, Leading: p.metrics.lead, Count: p.metrics.count})
	if err != nil {
		p.failed <- err
	}
}
