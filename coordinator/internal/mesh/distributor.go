package mesh

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	delta "github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits of what proxies may ask for.
const (
	maxStreams       = 8      // of one instance at a time
	maxSubscriptions = 10_000 // names of one kind on one stream
	settleTimeout    = 10 * time.Second
	retryView        = time.Second
	lookAgain        = 10 * time.Second // a lease that just ends announces nothing
	defaultDebounce  = 50 * time.Millisecond
	maxPause         = time.Second // however long a push took
	pauseFactor      = 4           // times as long as a push took before the next: a large deployment that keeps changing costs a fifth of a core
)

// Config is what a Distributor is made of. All functions are needed, and are
// called from many goroutines.
type Config struct {
	// View returns the deployment as it is now.
	View func(ctx context.Context) (*coordinator.View, error)
	// Identify returns the instance that a leaf was issued to. The chain of the
	// leaf has been verified by the server's TLS before.
	Identify func(leaf *x509.Certificate) (coordinator.Peer, error)
	// Event is told what proxies do. It must not block, and not call back. State
	// is one of "sent", "applied", "refused", or "withheld" for configuration that
	// could not be compiled and was not sent; Names is set for refusals. Connected
	// is true when an instance's first stream opens, false when its last closes.
	Event func(coordinator.ProxyEvent)
	// Now is the clock that leases are judged by.
	Now func() time.Time
	// Debounce is the shortest time between two pushes; 50 ms if 0.
	Debounce time.Duration
}

// Distributor serves each proxy its resources over delta ADS.
type Distributor struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	config  Config
	changed chan struct{} // holds one token while a change waits

	mu       sync.Mutex // guards what follows; never held while sending or compiling
	snap     *snapshot
	advanced chan struct{} // closed when snap is replaced
	subs     map[*subscriber]struct{}
	streams  map[instanceKey]int
	stopped  bool
}

// NewDistributor returns a Distributor that serves nothing until Run.
func NewDistributor(config Config) *Distributor {
	if config.Debounce <= 0 {
		config.Debounce = defaultDebounce
	}
	d := &Distributor{
		config: config, changed: make(chan struct{}, 1), advanced: make(chan struct{}),
		snap: &snapshot{}, subs: map[*subscriber]struct{}{}, streams: map[instanceKey]int{},
	}
	d.Changed()
	return d
}

// Register adds the ADS service to a server whose TLS verifies client
// certificates.
func (d *Distributor) Register(s grpc.ServiceRegistrar) {
	discovery.RegisterAggregatedDiscoveryServiceServer(s, d)
}

// Changed says that the View may have changed. It never blocks; changes in
// quick succession become one push.
func (d *Distributor) Changed() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Run pushes changes until ctx ends, then closes all streams. It fails only
// with ctx's error.
func (d *Distributor) Run(ctx context.Context) error {
	defer d.shutdown()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	var last time.Time
	var took time.Duration
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.changed:
		case <-again.C:
		}
		wait := max(d.config.Debounce, min(pauseFactor*took, maxPause)) - time.Since(last)
		if !pause.For(ctx, wait) {
			return ctx.Err()
		}
		begun := time.Now()
		if err := d.push(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d.Changed()
			if !pause.For(ctx, retryView) {
				return ctx.Err()
			}
		}
		last, took = time.Now(), time.Since(begun)
	}
}

// push takes the View as it is now, and hands it to every stream. No stream can
// hold it up: each takes what it can when it can.
func (d *Distributor) push(ctx context.Context) error {
	select {
	case <-d.changed: // served by the View that follows
	default:
	}
	v, err := d.config.View(ctx)
	if err != nil {
		return err
	}
	n := d.snap.next(v) // only Run replaces snap
	d.mu.Lock()
	d.snap = n
	close(d.advanced)
	d.advanced = make(chan struct{})
	subs := make([]*subscriber, 0, len(d.subs))
	for s := range d.subs {
		subs = append(subs, s)
	}
	d.mu.Unlock()
	// Who accepted an instance learns that it is gone before the instance does.
	for _, gone := range []bool{false, true} {
		for _, s := range subs {
			if to := n.sets[s.key]; (to == nil) == gone {
				s.update(to)
			}
		}
	}
	return nil
}

func (d *Distributor) shutdown() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for s := range d.subs {
		s.end(problem.New("MSH-007", "the coordinator is stopping"))
	}
}

// StreamAggregatedResources refuses state-of-the-world ADS: a proxy that refuses
// a resource would be sent it again without end.
func (d *Distributor) StreamAggregatedResources(discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return toStatus(problem.New("MSH-004", "wanted delta ADS, got state-of-the-world"))
}

// DeltaAggregatedResources serves one proxy until it leaves, its leaf expires,
// its instance loses its lease, or Run ends.
func (d *Distributor) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	who, err := d.identify(stream.Context())
	if err != nil {
		return toStatus(err)
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := &subscriber{peer: who, key: instanceKey{who.Marble, who.Instance}, event: d.config.Event, end: cancel}
	expiry := time.AfterFunc(who.NotAfter.Sub(d.config.Now()), func() {
		cancel(problem.New("MSH-005", "the leaf of %s/%s expired at %s", who.Marble, who.Instance, who.NotAfter.UTC().Format(time.RFC3339)))
	})
	defer expiry.Stop()
	if err := d.join(ctx, s); err != nil {
		return toStatus(err)
	}
	err = delta.NewServer(ctx, s, s).DeltaStreamHandler(stream, resource.AnyType)
	d.leave(s)
	if cause := context.Cause(ctx); problem.CodeOf(cause) != "" {
		err = cause
	}
	return toStatus(err)
}

// identify returns who is at the other end, by the certificate of the
// connection and nothing else.
func (d *Distributor) identify(ctx context.Context) (coordinator.Peer, error) {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return coordinator.Peer{}, problem.New("MSH-001", "the stream has no peer")
	}
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	if len(info.State.VerifiedChains) == 0 {
		return coordinator.Peer{}, problem.New("MSH-001", "wanted a verified client certificate, got none")
	}
	leaf := info.State.PeerCertificates[0]
	who, err := d.config.Identify(leaf)
	if err != nil {
		return coordinator.Peer{}, problem.Because(err, "MSH-001", "the certificate %s is of no marble", leaf.SerialNumber.Text(16))
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].Scheme != "spiffe" || leaf.URIs[0].Path != "/"+who.Marble {
		return coordinator.Peer{}, problem.New("MSH-001", "wanted exactly the identity of %s, got %v", who.Marble, leaf.URIs)
	}
	if leaf.NotAfter.Before(who.NotAfter) {
		who.NotAfter = leaf.NotAfter
	}
	if now := d.config.Now(); !now.Before(who.NotAfter) {
		return coordinator.Peer{}, problem.New("MSH-002", "the leaf of %s/%s expired at %s", who.Marble, who.Instance, who.NotAfter.UTC().Format(time.RFC3339))
	}
	return who, nil
}

// join adds a stream. An instance that is newer than the last push waits for
// the next one.
func (d *Distributor) join(ctx context.Context, s *subscriber) error {
	deadline := time.NewTimer(settleTimeout)
	defer deadline.Stop()
	for asked := false; ; {
		advanced, joined, err := d.tryJoin(s)
		if joined || err != nil {
			return err
		}
		if !asked {
			if err := d.mustBeLive(ctx, s.key); err != nil {
				return err
			}
			asked = true
			d.Changed()
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return problem.New("MSH-007", "no configuration for %s/%s within %s", s.key.marble, s.key.id, settleTimeout)
		}
	}
}

func (d *Distributor) tryJoin(s *subscriber) (advanced <-chan struct{}, joined bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return nil, false, problem.New("MSH-007", "the coordinator is stopping")
	}
	cur := d.snap.sets[s.key]
	if cur == nil {
		return d.advanced, false, nil
	}
	if d.streams[s.key] >= maxStreams {
		return nil, false, problem.New("MSH-006", "%s/%s has %d streams already", s.key.marble, s.key.id, maxStreams)
	}
	if d.streams[s.key]++; d.streams[s.key] == 1 {
		s.connected(true)
	}
	d.subs[s] = struct{}{}
	s.set = cur
	s.reportWithheld(nil)
	return nil, true, nil
}

func (d *Distributor) mustBeLive(ctx context.Context, key instanceKey) error {
	v, err := d.config.View(ctx)
	if err != nil {
		return problem.Because(err, "MSH-007", "reading the deployment")
	}
	for _, in := range v.Instances {
		if in.Marble == key.marble && in.ID == key.id {
			return nil
		}
	}
	return problem.New("MSH-002", "%s/%s has no live lease", key.marble, key.id)
}

func (d *Distributor) leave(s *subscriber) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.subs, s)
	if d.streams[s.key]--; d.streams[s.key] == 0 {
		delete(d.streams, s.key)
		s.connected(false)
	}
}

var grpcCodes = map[problem.Kind]codes.Code{
	problem.Usage: codes.InvalidArgument, problem.NotPermitted: codes.PermissionDenied,
	problem.Busy: codes.ResourceExhausted, problem.Unavailable: codes.Unavailable, problem.Internal: codes.Internal,
}

// toStatus gives a coded error the gRPC code of its kind, and its text.
func toStatus(err error) error {
	var coded *problem.Error
	if !errors.As(err, &coded) {
		return err
	}
	return status.Error(grpcCodes[coded.Kind()], coded.Error())
}
