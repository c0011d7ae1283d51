package api

import (
	"context"
	"crypto/sha256"
	"net/netip"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// What one instance may ask for, a second and at once.
const (
	usesPerSec, usesBurst         = 200, 400
	fetchesPerSec, fetchesBurst   = 20, 100
	depositsPerSec, depositsBurst = 1, 10
	// maxUsesAtOnce bounds the operations that run; more wait.
	maxUsesAtOnce = 64
)

// secretLimits are the limits of what marbles do with secrets.
type secretLimits struct {
	uses, fetches, deposits *rate // by instance
	running                 chan struct{}
}

func newSecretLimits(c Config) secretLimits {
	return secretLimits{uses: newRate(usesPerSec, usesBurst, c.Now), fetches: newRate(fetchesPerSec, fetchesBurst, c.Now),
		deposits: newRate(depositsPerSec, depositsBurst, c.Now), running: make(chan struct{}, maxUsesAtOnce)}
}

// caller returns the live instance that a call is of.
func (s *MarbleServer) caller(ctx context.Context) (coordinator.Peer, error) {
	_, state, err := connection(ctx)
	if err != nil {
		return coordinator.Peer{}, err
	}
	if len(state.VerifiedChains) == 0 {
		return coordinator.Peer{}, problem.New("CRD-118", "the connection has no client certificate")
	}
	return s.c.Identify(state.PeerCertificates[0])
}

// allowed is caller, within a rate.
func (s *MarbleServer) allowed(ctx context.Context, r *rate) (coordinator.Peer, error) {
	p, err := s.caller(ctx)
	if err != nil {
		return p, err
	}
	// The buckets are by address: an instance has one that is a hash of its name.
	sum := sha256.Sum256([]byte(p.Marble + "/" + p.Instance))
	if ok, _ := r.take(netip.AddrFrom16([16]byte(sum[:16]))); !ok {
		return p, problem.New("SEC-009", "%s/%s asks more than %g times a second", p.Marble, p.Instance, r.perSecond)
	}
	return p, nil
}

// Fetch implements marblepb.MarbleServer.
func (s *MarbleServer) Fetch(ctx context.Context, req *marblepb.FetchRequest) (*marblepb.FetchResponse, error) {
	p, err := s.allowed(ctx, s.secrets.fetches)
	if err != nil {
		return nil, err
	}
	v, err := s.c.FetchSecret(ctx, p, req.GetName())
	if err != nil {
		return nil, err
	}
	return &marblepb.FetchResponse{Secret: secret(v)}, nil
}

// Use implements marblepb.MarbleServer.
func (s *MarbleServer) Use(ctx context.Context, req *marblepb.UseRequest) (*marblepb.UseResponse, error) {
	p, err := s.allowed(ctx, s.secrets.uses)
	if err != nil {
		return nil, err
	}
	select {
	case s.secrets.running <- struct{}{}:
		defer func() { <-s.secrets.running }()
	case <-ctx.Done():
		return nil, problem.New("CRD-115", "%d operations are running", cap(s.secrets.running))
	}
	used, err := s.c.UseSecret(ctx, coordinator.UseSecretRequest{Peer: p, Name: req.GetName(), Operation: req.GetOperation(), Input: req.GetInput(),
		Associated: req.GetAssociated(), Version: req.GetVersion(), Hash: req.GetHash()})
	if err != nil {
		return nil, err
	}
	return &marblepb.UseResponse{Output: used.Output, Version: used.Version, Count: used.Count}, nil
}

// Deposit implements marblepb.MarbleServer.
func (s *MarbleServer) Deposit(ctx context.Context, req *marblepb.DepositRequest) (*marblepb.DepositResponse, error) {
	p, err := s.allowed(ctx, s.secrets.deposits)
	if err != nil {
		return nil, err
	}
	version, err := s.c.DepositSecret(ctx, p, req.GetName(), req.GetValue())
	if err != nil {
		return nil, err
	}
	return &marblepb.DepositResponse{Version: version}, nil
}

func secret(v secrets.Value) *marblepb.Secret {
	out := &marblepb.Secret{Value: v.Bytes, PrivateKey: v.PrivateKey, PublicKey: v.PublicKey, Certificates: v.Certificates, Version: v.Version}
	if v.Previous != nil {
		out.Previous = secret(*v.Previous)
	}
	return out
}

// refreshSecrets has the sessions of marbles look whether a secret of theirs has
// another version, or their parameters are of an older manifest. Signals that come while a session is busy become one.
func (s *MarbleServer) refreshSecrets(marbles map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.sessions {
		if !marbles[key.Marble] {
			continue
		}
		select {
		case l.refresh <- struct{}{}:
		default:
		}
	}
}

// pushNews sends the marble what its secrets and parameters are now, if it has
// others. One that the manifest in force judges by other rules is asked for fresh
// evidence (outdated), and gets them with its next leaf.
func (l *live) pushNews(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.s.times.Request)
	defer cancel()
	next, changed, err := l.s.c.Refresh(ctx, l.peer, coordinator.Sent{Versions: l.sent, Revision: l.revision})
	if err != nil || !changed {
		if err != nil {
			public(err, newID(), l.s.log) // logs what nobody foresaw; the lease in hand goes on
		}
		return nil
	}
	l.sent, l.revision = make(map[string]uint64, len(next.Secrets)), next.Revision
	for name, v := range next.Secrets {
		l.sent[name] = v.Version
	}
	return l.queue(pushes(next))
}
