// Package marble makes a program a member of the mesh: it makes the program's
// key inside the TEE, has the TEE vouch for it, trades the evidence for a lease
// (certificate, bundle, secrets, parameters), and keeps the lease fresh.
//
// A Go program calls Run; any other is wrapped by ashlar-marble (package
// command), which uses the same code. The private key and the secrets live in
// memory and go nowhere but to who asks this package for them. Nothing secret
// exists before the coordinator's verdict, and nothing is sent before the
// coordinator has been verified. The package starts no program, serves no
// socket and writes no file.
package marble

import (
	"context"
	"crypto/x509"
	"slices"
	"sync"

	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// Marble is an activated member of the mesh. It is safe for concurrent use.
// Close it when done.
type Marble struct {
	cfg     Config
	tracker *stage.Tracker

	cancel context.CancelFunc
	work   sync.WaitGroup // the renewal loop, and what watches the lease
	ended  chan struct{}  // closed at the revocation
	calls  calls

	mu         sync.Mutex // guards what follows
	roots      []*x509.Certificate
	lease      *Lease
	changed    chan struct{}  // closed and replaced with lease, and when it ends
	over       bool           // lease has ended, or was taken away
	revoked    *problem.Error // why there will be no other; nil while there may
	parameters manifest.Parameters
	serves     []uint16 // ports on which the program is to listen
	decision   string
	proxy      *marblepb.ProxyReport // newest; nil: nothing to report
	proxyNews  chan struct{}         // capacity 1
}

// Run activates the marble and keeps its lease fresh until Close. It waits, and
// says so through the tracker, while the coordinator cannot be reached or has no
// manifest, until ctx ends; ctx bounds the activation alone. What will not mend
// by itself is returned as a *problem.Error: a refusal (kind Refused, with the
// verdict) or an answer that makes no sense.
func Run(ctx context.Context, cfg Config) (*Marble, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	m := &Marble{cfg: cfg, tracker: cfg.Tracker, changed: make(chan struct{}), proxyNews: make(chan struct{}, 1), ended: make(chan struct{})}
	if cfg.Trust.Root != nil {
		m.roots = []*x509.Certificate{cfg.Trust.Root}
	}
	if err := m.firstActivation(ctx); err != nil {
		return nil, err
	}
	loop, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	m.work.Go(func() { m.keep(loop) })
	m.work.Go(func() { m.watch(loop) })
	return m, nil
}

// firstActivation tries until it works or will never work.
func (m *Marble) firstActivation(ctx context.Context) error {
	retry := retrier{backoff: m.cfg.Backoff}
	for {
		err := m.activate(ctx, m.tracker.Enter)
		if err == nil {
			return nil
		}
		e := problem.From(err)
		if ctx.Err() != nil {
			return problem.New("MRB-024", "%s", e.Detail)
		}
		if !retryable(e) {
			m.tracker.Enter(stage.Status{Stage: stage.Refused, Code: string(e.Code), Reason: e.Detail})
			return e
		}
		wait := retry.next()
		s, _ := m.tracker.Current()
		s.Code, s.Reason, s.NextRetry = string(e.Code), e.Detail, m.cfg.Now().Add(wait)
		if waiting(e) {
			s.Stage = stage.WaitingForManifest
		}
		m.tracker.Enter(s)
		if !pause.For(ctx, wait) {
			return problem.New("MRB-024", "%s", e.Detail)
		}
	}
}

// Close ends the renewals and waits for them. The lease in hand stays valid
// until it ends.
func (m *Marble) Close() {
	m.cancel()
	m.work.Wait()
	m.calls.close()
}

// Lease returns the lease in hand, and a channel that is closed when another
// takes its place, and when it ends. A lease that was revoked holds no key and no
// secret.
func (m *Marble) Lease() (*Lease, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lease, m.changed
}

// Live returns the lease in hand, whether it still counts, and a channel that is
// closed when either changes.
func (m *Marble) Live() (lease *Lease, live bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lease, !m.over && m.cfg.Now().Before(m.lease.NotAfter), m.changed
}

// Name returns the marble's role in the manifest.
func (m *Marble) Name() string { return m.cfg.Marble }

// Serves returns the ports on which the manifest says that the program listens,
// on its loopback IP, ascending.
func (m *Marble) Serves() []uint16 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.serves)
}

// Decision returns the id of the newest activation, for `ashlar explain`.
func (m *Marble) Decision() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.decision
}

// Secrets returns the secrets that the manifest lets this marble read.
func (m *Marble) Secrets() map[string]Secret {
	lease, _ := m.Lease()
	return lease.Secrets()
}

// Stage returns where the marble stands.
func (m *Marble) Stage() stage.Status {
	s, _ := m.tracker.Current()
	return s
}

// ReportProxy tells the coordinator how the marble's Envoy is: whether it runs,
// and the newest thing that it refused. Only the newest report is sent.
func (m *Marble) ReportProxy(up bool, reason string) {
	m.mu.Lock()
	m.proxy = &marblepb.ProxyReport{Up: up, Reason: short(reason)}
	m.mu.Unlock()
	select {
	case m.proxyNews <- struct{}{}:
	default: // whoever reads will see the newest
	}
}

// swap puts a new lease in place of the old.
func (m *Marble) swap(l *Lease) {
	m.mu.Lock()
	m.lease, m.over = l, false
	if l.parameters != nil {
		m.parameters = *l.parameters
	}
	m.announce()
	m.mu.Unlock()
	m.tracker.Leased(l.NotAfter)
	m.cfg.Log.Info("lease", "lease", l)
}
