package marble

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/internal/alarm"
	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// The source of the trouble that this package reports.
const troubleLease = "lease"

// keep holds the session open and the lease fresh until ctx ends or the identity
// is revoked: retry with back-off while the lease holds, then ask for a new
// activation.
func (m *Marble) keep(ctx context.Context) {
	retry := retrier{backoff: m.cfg.Backoff}
	over := false // the coordinator no longer takes the leaf
	for ctx.Err() == nil && m.Revoked() == nil {
		lease, _ := m.Lease()
		started := m.cfg.Now()
		var err error
		if started.Before(lease.NotAfter) && !over {
			err = m.session(ctx, lease)
		} else {
			err = m.activate(ctx, func(stage.Status) {})
		}
		if err == nil { // there is a new lease
			over = false
			retry.reset()
			m.tracker.Clear(troubleLease)
			continue
		}
		if ctx.Err() != nil || m.Revoked() != nil {
			return
		}
		over = over || leafIsOver(problem.From(err))
		if m.cfg.Now().Sub(started) > m.cfg.Backoff.Max {
			retry.reset()
		}
		if !m.wait(ctx, lease, err, min(retry.next(), m.longest(lease))) {
			return
		}
	}
}

// longest returns the longest wait between attempts, and timeout the longest of
// one exchange with the coordinator, while a lease is in hand: short leases leave
// less time.
func (m *Marble) longest(l *Lease) time.Duration {
	return min(m.cfg.Backoff.Max, max(m.cfg.Backoff.Min, l.NotAfter.Sub(l.RenewAfter)/4))
}

func (m *Marble) timeout() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lease == nil {
		return m.cfg.CallTimeout
	}
	return min(m.cfg.CallTimeout, max(leastTimeout, m.lease.NotAfter.Sub(m.lease.RenewAfter)/2))
}

// leastTimeout is what an exchange with the coordinator may take at least.
const leastTimeout = 2 * time.Second

// wait reports the trouble and waits, but not beyond the end of the lease. What
// becomes of the marble meanwhile is watch's to say.
func (m *Marble) wait(ctx context.Context, lease *Lease, err error, wait time.Duration) bool {
	e := problem.From(err)
	now := m.cfg.Now()
	code, reason := e.Code, e.Detail
	if left := lease.NotAfter.Sub(now); left <= 0 {
		code, reason = "MRB-021", "the lease ended at "+stamp(lease.NotAfter)+"; "+e.Error()
	} else if left < wait {
		wait = left
	}
	m.tracker.Trouble(troubleLease, stage.Trouble{Code: string(code), Reason: reason, NextRetry: now.Add(wait), Mild: true})
	return pause.For(ctx, wait)
}

// session is one Session stream under one leaf.
type session struct {
	m        *Marble
	link     *link
	lease    *Lease
	outgoing chan *marblepb.SessionRequest
	pending  *ecdsa.PrivateKey // key of a renewal that was offered; nil: none
	timeout  *time.Timer       // of pending
	renew    *alarm.Alarm      // when to offer a renewal unasked
	retry    retrier           // of refused renewals
}

// session holds a Session stream open under lease. It returns nil when it has
// taken the next lease, which needs a new connection, and else why it ended.
func (m *Marble) session(ctx context.Context, lease *Lease) error {
	ctx, cancel := context.WithCancel(ctx)
	l, err := m.connect(ctx, lease)
	if err != nil {
		cancel()
		return err
	}
	s := &session{m: m, link: l, lease: lease, outgoing: make(chan *marblepb.SessionRequest, 8), retry: retrier{backoff: m.cfg.Backoff},
		timeout: stoppedTimer(), renew: alarm.New(m.cfg.Now, m.cfg.Look)}
	s.renew.Set(lease.RenewAfter)
	defer s.renew.Stop()
	defer s.timeout.Stop()
	stream, err := l.client.Session(ctx)
	if err != nil {
		cancel()
		l.close()
		return m.callError(err, "opening the session")
	}
	sent, in := make(chan error, 1), make(chan received)
	var workers sync.WaitGroup
	workers.Go(func() { sent <- s.send(ctx, stream) })
	workers.Go(func() { receive(ctx, stream, in) })
	err = s.run(ctx, in, sent)
	cancel() // ends both
	l.close()
	workers.Wait()
	return err
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// received is what one Recv gave.
type received struct {
	message *marblepb.SessionResponse
	err     error
}

func receive(ctx context.Context, stream grpc.BidiStreamingClient[marblepb.SessionRequest, marblepb.SessionResponse], out chan<- received) {
	defer close(out)
	for {
		message, err := stream.Recv()
		select {
		case out <- received{message, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// send writes what is put into outgoing, so that a coordinator that does not
// read delays nobody but this goroutine.
func (s *session) send(ctx context.Context, stream grpc.BidiStreamingClient[marblepb.SessionRequest, marblepb.SessionResponse]) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-s.outgoing:
			if err := stream.Send(r); err != nil {
				return err
			}
		}
	}
}

// put queues a message; if the coordinator reads none it is dropped, and false
// is returned.
func (s *session) put(r *marblepb.SessionRequest) bool {
	select {
	case s.outgoing <- r:
		return true
	default:
		return false
	}
}

func (s *session) run(ctx context.Context, in <-chan received, sent <-chan error) error {
	s.put(&marblepb.SessionRequest{Message: &marblepb.SessionRequest_Hello{
		Hello: &marblepb.Hello{Instance: s.m.instance(), Revision: s.lease.Revision}}})
	s.m.tracker.Clear(troubleLease) // the coordinator is there again
	changed := s.report()
	s.m.signalProxy()
	end := alarm.New(s.m.cfg.Now, s.m.cfg.Look)
	defer end.Stop()
	end.Set(s.lease.NotAfter)
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C():
			if !end.Ringing() {
				continue
			}
			return problem.New("MRB-021", "no renewal was granted in time")
		case <-s.timeout.C:
			return problem.New("MRB-020", "the coordinator did not answer a renewal within %s", s.m.timeout())
		case err = <-sent:
			if errors.Is(err, io.EOF) { // the reason comes from Recv
				sent = nil
				continue
			}
			return s.m.callError(err, "writing to the session")
		case <-changed:
			changed = s.report()
		case <-s.m.proxyNews:
			s.reportProxy()
		case <-s.renew.C():
			if s.renew.Ringing() && s.pending == nil { // else a demand was faster
				err = s.offer(ctx, nil)
			}
		case r, ok := <-in:
			if !ok {
				return problem.New("MRB-004", "the session ended")
			}
			var renewed bool
			if renewed, err = s.handle(ctx, r); renewed {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// report sends the stage and returns a channel that is closed at its change.
func (s *session) report() <-chan struct{} {
	status, changed := s.m.tracker.Current()
	s.put(&marblepb.SessionRequest{Message: &marblepb.SessionRequest_Stage{
		Stage: &marblepb.StageReport{Stage: string(status.Stage), Reason: short(status.Reason)}}})
	return changed
}

func (s *session) reportProxy() {
	s.m.mu.Lock()
	report := s.m.proxy
	s.m.mu.Unlock()
	if report != nil {
		s.put(&marblepb.SessionRequest{Message: &marblepb.SessionRequest_Proxy{Proxy: report}})
	}
}

// signalProxy has the newest proxy report sent again, on a new session.
func (m *Marble) signalProxy() {
	select {
	case m.proxyNews <- struct{}{}:
	default:
	}
}

// offer sends fresh evidence for a new key; a nil nonce is asked for.
func (s *session) offer(ctx context.Context, nonce []byte) error {
	o, err := s.m.vouch(ctx, s.link, binding.Renew, nonce)
	if err != nil {
		if e := problem.From(err); e.Code == "MRB-004" || ctx.Err() != nil {
			return err
		}
		s.postpone(err)
		return nil
	}
	renewal := &marblepb.Renewal{Evidence: o.evidence, PublicKey: o.public, Nonce: o.nonce}
	if !s.put(&marblepb.SessionRequest{Message: &marblepb.SessionRequest_Renewal{Renewal: renewal}}) {
		return problem.New("MRB-020", "the coordinator reads nothing from the session")
	}
	s.pending = o.key
	s.timeout.Reset(s.m.timeout())
	return nil
}

// postpone reports a failed renewal and plans the next.
func (s *session) postpone(err error) {
	e := problem.From(err)
	wait := min(s.retry.next(), s.m.longest(s.lease))
	s.pending = nil
	s.timeout.Stop()
	s.renew.In(wait)
	s.m.tracker.Trouble(troubleLease, stage.Trouble{Code: string(e.Code), Reason: "renewal failed: " + e.Detail, NextRetry: s.m.cfg.Now().Add(wait), Mild: true})
}

// handle acts on one message. It reports true when it has taken a new leaf.
func (s *session) handle(ctx context.Context, r received) (renewed bool, err error) {
	if r.err != nil {
		return false, s.m.callError(r.err, "the session")
	}
	switch message := r.message.GetMessage().(type) {
	case *marblepb.SessionResponse_Demand:
		if s.pending != nil {
			return false, nil // a renewal is on its way
		}
		s.m.cfg.Log.Info("fresh evidence is demanded", "reason", short(message.Demand.GetReason()))
		return false, s.offer(ctx, message.Demand.GetNonce())
	case *marblepb.SessionResponse_Refusal:
		e, ok := message.Refusal.Decode()
		if !ok {
			e = problem.New("MRB-008", "a renewal was refused with code %.16q", message.Refusal.GetCode())
		}
		if leafIsOver(e) {
			return false, e // no renewal mends it
		}
		s.m.cfg.Log.Warn("renewal refused", "code", string(e.Code), "detail", short(e.Detail), "next", short(e.Next), "decision", short(e.Instance))
		s.postpone(e)
		return false, nil
	case *marblepb.SessionResponse_Lease:
		return s.take(message.Lease)
	case *marblepb.SessionResponse_Revocation:
		s.m.cfg.Log.Error("the identity was revoked", "code", short(message.Revocation.GetCode()), "reason", short(message.Revocation.GetReason()))
		return false, s.m.revoke(message.Revocation)
	}
	return false, problem.New("MRB-009", "a session message of an unknown kind")
}

// take checks a lease that the coordinator sent and puts it in place. A malformed
// one ends the session; the lease in hand stays.
func (s *session) take(p *marblepb.Lease) (renewed bool, err error) {
	key := s.lease.key
	if s.pending != nil && isFor(p, s.pending) {
		key = s.pending
	}
	lease, err := newLease(p, expectation{marble: s.m.cfg.Marble, key: key, roots: s.lease.Bundle, now: s.m.cfg.Now(), previous: s.lease})
	if err != nil {
		return false, err
	}
	s.m.swap(lease)
	if key != s.lease.key {
		return true, nil
	}
	s.lease = lease
	if s.pending == nil {
		s.renew.Set(lease.RenewAfter)
	}
	return false, nil
}

// isFor reports whether the lease's leaf has this key.
func isFor(p *marblepb.Lease, key *ecdsa.PrivateKey) bool {
	if len(p.GetCertificates()) == 0 {
		return false
	}
	leaf, err := x509.ParseCertificate(p.GetCertificates()[0])
	return err == nil && key.PublicKey.Equal(leaf.PublicKey)
}
