package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// relay implements ADS by passing delta messages between Envoy and the
// coordinator.
type relay struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	agent *Agent
}

type (
	request    = discovery.DeltaDiscoveryRequest
	response   = discovery.DeltaDiscoveryResponse
	downstream = grpc.BidiStreamingServer[request, response]
	upstream   = grpc.BidiStreamingClient[request, response]
)

// StreamAggregatedResources refuses: in the state-of-the-world protocol one bad
// resource makes Envoy and the coordinator repeat themselves without end.
func (r *relay) StreamAggregatedResources(grpc.BidiStreamingServer[discovery.DiscoveryRequest, discovery.DiscoveryResponse]) error {
	return status.Error(codes.Unimplemented, problem.New("MRB-026", "state-of-the-world ADS is not relayed").Error())
}

// DeltaAggregatedResources relays one stream. It ends, and Envoy opens another
// while it keeps what it has, when the coordinator ends it or the leaf is
// renewed. Without an identity Envoy keeps nothing.
func (r *relay) DeltaAggregatedResources(down downstream) error {
	ctx, cancel := r.agent.stopping(down.Context())
	defer cancel()
	l, err := r.connect(ctx)
	if errors.Is(err, errNoIdentity) {
		return r.withdraw(ctx, down)
	}
	if err != nil {
		return err
	}
	defer l.release()
	up, err := discovery.NewAggregatedDiscoveryServiceClient(l.conn).DeltaAggregatedResources(ctx, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return err
	}
	p := &pump{agent: r.agent, down: down, up: up}
	ended := make(chan error, 2)
	var workers sync.WaitGroup
	// Recv of the stream to Envoy ends only when this handler has returned.
	go func() { ended <- p.toCoordinator() }()
	workers.Go(func() { ended <- p.toEnvoy() })
	err = r.until(ctx, l, ended)
	cancel()
	workers.Wait()
	return err
}

// until waits for the end of either direction, or for another leaf.
func (r *relay) until(ctx context.Context, l link, ended <-chan error) error {
	for changed := l.changed; ; {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case err := <-ended:
			return err
		case <-changed:
			next, again := r.agent.cfg.Source.Identity()
			if !bytes.Equal(next.ChainPEM, l.id.ChainPEM) {
				return nil
			}
			changed = again
		}
	}
}

// link is a connection to the coordinator, under id or a newer identity.
type link struct {
	conn    *grpc.ClientConn
	release func()
	id      Identity
	changed <-chan struct{} // closed when another identity takes its place
}

// errNoIdentity says that there is nothing to connect with.
var errNoIdentity = errors.New("the marble has no identity")

// connect tries until the coordinator is there or Envoy goes away; at once when
// the marble has a new leaf, since it was the old one that may have been refused.
// It fails with errNoIdentity if the marble has none.
func (r *relay) connect(ctx context.Context) (link, error) {
	wait := r.agent.cfg.BackoffMin
	for {
		var l link
		var err error
		if l.id, l.changed = r.agent.cfg.Source.Identity(); l.id.none() {
			return link{}, errNoIdentity
		}
		if l.conn, l.release, err = r.agent.cfg.Upstream(ctx); err == nil {
			return l, nil
		}
		r.agent.cfg.Log.Debug("coordinator is away; Envoy keeps what it has", "reason", err, "wait", wait)
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
		wait = min(2*wait, r.agent.cfg.BackoffMax)
		select {
		case <-timer.C:
		case <-l.changed:
			timer.Stop()
			wait = r.agent.cfg.BackoffMin
		case <-ctx.Done():
			timer.Stop()
			return link{}, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// pump moves messages of one stream.
type pump struct {
	agent *Agent
	down  downstream

	mu sync.Mutex // Send is for one caller at a time
	up upstream   // Send guarded by mu
}

func (p *pump) send(r *request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up.Send(r)
}

// toCoordinator passes Envoy's requests on. What asks for secrets is dropped.
func (p *pump) toCoordinator() error {
	for {
		r, err := p.down.Recv()
		if err != nil {
			_ = p.up.CloseSend()
			return ending(err)
		}
		if r.GetTypeUrl() == SecretType {
			p.agent.cfg.Log.Warn("request dropped", "reason", problem.New("MRB-026", "Envoy asked the coordinator for secrets %.8q", r.GetResourceNamesSubscribe()))
			continue
		}
		if e := r.GetErrorDetail(); e != nil {
			p.agent.refused(r.GetTypeUrl(), e.GetMessage())
		}
		if err := p.send(r); err != nil && !errors.Is(err, io.EOF) { // EOF: the reason comes from Recv
			return err
		}
	}
}

// toEnvoy passes the coordinator's answers on, without any secret.
func (p *pump) toEnvoy() error {
	for {
		r, err := p.up.Recv()
		if err != nil {
			return ending(err)
		}
		if holdsSecret(r) {
			if err := p.accuse(r); err != nil {
				return err
			}
			continue
		}
		if err := p.down.Send(r); err != nil {
			return err
		}
	}
}

// holdsSecret reports whether a message is of secrets, or holds one under
// another type's name.
func holdsSecret(r *response) bool {
	if r.GetTypeUrl() == SecretType {
		return true
	}
	for _, res := range r.GetResources() {
		if res.GetResource().GetTypeUrl() == SecretType {
			return true
		}
	}
	return false
}

// accuse drops a whole message with a secret in it and refuses it upstream.
func (p *pump) accuse(r *response) error {
	e := problem.New("MRB-019", "a message of type %.128q held a secret and was dropped", r.GetTypeUrl())
	p.agent.refused(r.GetTypeUrl(), e.Error())
	err := p.send(&request{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(),
		ErrorDetail: status.New(codes.PermissionDenied, e.Error()).Proto()})
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// ending turns the regular end of a stream into no error.
func ending(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
