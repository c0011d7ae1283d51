package api

import (
	"context"
	"crypto/x509"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/alarm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

const (
	sendQueue     = 8                // answers that a marble has not taken yet
	answerTime    = 50 * time.Second // for a demand; its nonce lives 60 s
	maxRetry      = 30 * time.Second // between demands after a refused renewal
	minRetry      = time.Second
	maxText       = 256 // bytes of a stage, a reason
	reportsPerSec = 5
	reportsBurst  = 50
	renewalsBurst = 10
)

// Session implements marblepb.MarbleServer. It lasts until the leaf ends, the
// marble goes, or the coordinator stops. A marble that does not take what it is
// sent loses its session, and delays nobody.
func (s *MarbleServer) Session(stream grpc.BidiStreamingServer[marblepb.SessionRequest, marblepb.SessionResponse]) error {
	sess, g, err := session(stream.Context())
	if err != nil {
		return err
	}
	_, state, err := connection(stream.Context())
	if err != nil {
		return err
	}
	if len(state.VerifiedChains) == 0 {
		return problem.New("CRD-118", "the connection has no client certificate")
	}
	leaf := state.PeerCertificates[0]
	p, err := s.c.Identify(leaf)
	if err != nil {
		return err
	}
	l := &live{s: s, sess: sess, peer: p, in: make(chan *marblepb.SessionRequest), out: make(chan *marblepb.SessionResponse, sendQueue),
		lost: make(chan struct{}), superseded: make(chan struct{}), refresh: make(chan struct{}, 1), reports: newRate(reportsPerSec, reportsBurst, s.now), renewals: newRate(1/minRetry.Seconds(), renewalsBurst, s.now), conn: g}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	s.running.Add(2)
	go l.receive(ctx, stream)
	go l.send(ctx, stream)
	if err := l.hello(ctx); err != nil {
		return err
	}
	s.metrics.sessions.Inc()
	defer s.metrics.sessions.Dec()
	l.join()
	defer l.leave()
	return l.run(ctx, s.c.DemandAt(p))
}

// live is one session. All but receive and send run in the handler's goroutine.
type live struct {
	s    *MarbleServer
	sess coordinator.Session
	peer coordinator.Peer
	conn *gated
	in   chan *marblepb.SessionRequest
	out  chan *marblepb.SessionResponse
	lost chan struct{} // closed by receive when the marble is gone
	// superseded is closed when the instance opens another session.
	superseded chan struct{}
	// refresh has a token when secrets of the marble may have other versions.
	refresh  chan struct{}
	reports  *rate
	renewals *rate

	demanded bool // a demand is unanswered
	// hurried says that evidence is demanded early, since other rules hold than it
	// was judged by.
	hurried  bool
	refusals int // in a row
	// sent are the versions of secrets that were pushed under this leaf; nil
	// before.
	sent     map[string]uint64
	revision string // digest of the manifest that its parameters are of, as it says; may be empty
}

// join makes this the session of its instance, and ends an older one: after a
// renewal a marble opens the next session under its new leaf.
func (l *live) join() {
	key := coordinator.Peer{Marble: l.peer.Marble, Instance: l.peer.Instance}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if old := l.s.sessions[key]; old != nil {
		close(old.superseded)
	}
	l.s.sessions[key] = l
	l.refresh <- struct{}{} // what changed since the leaf was issued
}

// leave reports the end of the session, unless a newer one has begun.
func (l *live) leave() {
	key := coordinator.Peer{Marble: l.peer.Marble, Instance: l.peer.Instance}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.sessions[key] == l {
		delete(l.s.sessions, key)
		l.s.c.Disconnected(l.peer)
	}
}

// receive passes messages on. It ends with the stream: when the handler has
// returned, gRPC ends Recv.
func (l *live) receive(ctx context.Context, stream grpc.BidiStreamingServer[marblepb.SessionRequest, marblepb.SessionResponse]) {
	defer l.s.running.Done()
	defer close(l.lost)
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		select {
		case l.in <- m:
		case <-ctx.Done():
			return
		}
	}
}

// send writes what is queued. It ends with ctx, or with the stream that it is
// blocked on.
func (l *live) send(ctx context.Context, stream grpc.BidiStreamingServer[marblepb.SessionRequest, marblepb.SessionResponse]) {
	defer l.s.running.Done()
	for {
		select {
		case m := <-l.out:
			if stream.Send(m) != nil {
				return // receive sees that the stream is gone
			}
		case <-ctx.Done():
			return
		}
	}
}

// queue hands an answer over, or ends the session of a marble that takes none.
func (l *live) queue(m *marblepb.SessionResponse) error {
	select {
	case l.out <- m:
		return nil
	default:
		return problem.New("CRD-120", "%d messages were not taken", sendQueue)
	}
}

func (l *live) hello(ctx context.Context) error {
	t := time.NewTimer(l.s.times.Handshake)
	defer t.Stop()
	select {
	case m := <-l.in:
		h := m.GetHello()
		if h == nil {
			return problem.New("CRD-119", "the first message of a session is Hello")
		}
		if i := h.GetInstance(); i.GetMarble() != l.peer.Marble || i.GetId() != l.peer.Instance {
			return problem.New("CRD-119", "Hello of %q, the leaf is of %s/%s",
				clip(i.GetMarble()+"/"+i.GetId(), 80), l.peer.Marble, l.peer.Instance)
		}
		l.revision = clip(h.GetRevision(), 128)
		return nil
	case <-l.lost:
		return ctx.Err()
	case <-t.C:
		return problem.New("CRD-120", "no Hello came")
	case <-l.s.stopping:
		return stopping()
	}
}

func stopping() error { return problem.New("CRD-003", "the session ends") }

// run demands evidence when it is due, and answers the marble.
func (l *live) run(ctx context.Context, due time.Time) error {
	demand, end := alarm.New(l.s.now, l.s.times.Look), alarm.New(l.s.now, l.s.times.Look)
	defer demand.Stop()
	defer end.Stop()
	demand.Set(due)
	end.Set(l.peer.NotAfter)
	for {
		incidents, gone := l.s.c.Standing(l.peer)
		if gone != nil {
			return l.tellRevoked(gone)
		}
		rules := l.outdated(ctx, demand)
		select {
		case <-incidents:
		case <-rules:
		case m := <-l.in:
			next, err := l.handle(ctx, m)
			if err != nil {
				return err
			}
			if next > 0 {
				demand.In(next)
				end.Set(l.peer.NotAfter)
			}
		case <-demand.C():
			if !demand.Ringing() {
				continue
			}
			if err := l.demand(ctx); err != nil {
				return err
			}
			demand.In(answerTime)
		case <-end.C():
			if !end.Ringing() {
				continue
			}
			return problem.New("CRD-033", "the leaf of %s/%s ended at %s", l.peer.Marble, l.peer.Instance, l.peer.NotAfter.UTC().Format(time.RFC3339))
		case <-l.refresh:
			if err := l.pushNews(ctx); err != nil {
				return err
			}
		case <-l.lost:
			return ctx.Err()
		case <-l.superseded:
			return problem.New("CRD-035", "%s/%s has opened another session", l.peer.Marble, l.peer.Instance)
		case <-l.s.stopping:
			return stopping()
		}
	}
}

// outdated has evidence demanded soon where the rules have changed since it was
// judged: not of all instances in the same instant. It returns a channel that is
// closed when they may have changed again.
func (l *live) outdated(ctx context.Context, demand *alarm.Alarm) <-chan struct{} {
	old, changed := l.s.c.Outdated(ctx, l.peer)
	if old && !l.hurried && !l.demanded && l.refusals == 0 {
		l.hurried = true
		left := l.s.c.DemandAt(l.peer).Sub(l.s.now())
		demand.In(min(rand.N(l.s.times.Spread), max(0, left)))
	}
	return changed
}

func (l *live) demand(ctx context.Context) error {
	nonce, err := l.s.c.NewDemand(ctx, l.peer, l.sess)
	if err != nil {
		return err
	}
	reason := "the leaf is past half its life"
	if l.demanded {
		reason = "the last demand was not answered"
	} else if l.refusals > 0 {
		reason = "the last renewal was refused"
	} else if l.hurried {
		reason = "the evidence was judged by other rules than hold now"
	}
	l.demanded = true
	return l.queue(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Demand{Demand: &marblepb.Demand{Nonce: nonce, Reason: reason}}})
}

// handle answers one message. It returns when to demand evidence next; zero
// leaves that as it was.
func (l *live) handle(ctx context.Context, m *marblepb.SessionRequest) (time.Duration, error) {
	switch m := m.GetMessage().(type) {
	case *marblepb.SessionRequest_Renewal:
		return l.renew(ctx, m.Renewal)
	case *marblepb.SessionRequest_Stage:
		if err := l.mayReport(); err != nil {
			return 0, err
		}
		l.s.c.Report(ctx, l.peer, text(m.Stage.GetStage()), text(m.Stage.GetReason()))
		return 0, nil
	case *marblepb.SessionRequest_Proxy:
		if err := l.mayReport(); err != nil {
			return 0, err
		}
		if !m.Proxy.GetUp() {
			l.s.c.Report(ctx, l.peer, "degraded", text("proxy: "+m.Proxy.GetReason()))
		}
		return 0, nil
	}
	return 0, problem.New("CRD-119", "a message that no session has at this place")
}

func (l *live) mayReport() error {
	if ok, _ := l.reports.take(l.conn.host); !ok {
		return problem.New("CRD-115", "too many reports")
	}
	return nil
}

// text makes a marble's words fit for a log and a table.
func text(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return clip(s, maxText)
}

func (l *live) renew(ctx context.Context, r *marblepb.Renewal) (time.Duration, error) {
	if ok, _ := l.renewals.take(l.conn.host); !ok {
		return 0, problem.New("CRD-115", "too many renewals")
	}
	l.demanded = false
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, l.s.times.Request)
	defer cancel()
	next, err := l.s.c.Renew(ctx, coordinator.RenewRequest{Session: l.sess, Peer: l.peer, Evidence: evidence(r.GetEvidence()),
		ClaimsBuffer: r.GetEvidence().GetClaimsBuffer(), PublicKey: r.GetPublicKey(), Nonce: r.GetNonce()})
	l.s.decided("renewal", l.peer.Marble+"/"+l.peer.Instance, err)
	l.s.metrics.decision("renew", r.GetEvidence().GetTee(), err, time.Since(started))
	if err != nil {
		l.refusals++
		refusal := marblepb.NewRefusal(public(err, newID(), l.s.log))
		if err := l.queue(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Refusal{Refusal: refusal}}); err != nil {
			return 0, err
		}
		return l.retry(), nil
	}
	l.refusals, l.sent, l.hurried, l.revision = 0, nil, false, next.Revision
	leaf, err := x509.ParseCertificate(next.Certificates[0])
	if err != nil {
		return 0, err
	}
	if l.peer, err = l.s.c.Identify(leaf); err != nil {
		return 0, err
	}
	if err := l.queue(pushes(next)); err != nil {
		return 0, err
	}
	return max(minRetry, l.s.c.DemandAt(l.peer).Sub(l.s.now())), nil
}

// retry returns when to demand evidence after a refusal: an eighth of what is
// left of the leaf, within bounds.
func (l *live) retry() time.Duration {
	left := l.peer.NotAfter.Sub(l.s.now())
	return min(maxRetry, max(minRetry, left/8))
}
