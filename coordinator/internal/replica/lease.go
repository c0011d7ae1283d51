package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	leaseTime   = 5 * time.Second // after which etcd forgets a replica that is silent
	leaseMargin = time.Second     // how much earlier the replica takes it for lost
	renewEvery  = time.Second
	callTime    = time.Second // of one call; etcd elects a leader in less, mostly
	readTime    = 3 * time.Second

	retryFirst = 100 * time.Millisecond // between attempts that fail,
	retryMost  = 2 * time.Second        // doubling up to this
)

// Why a lease is lost.
var (
	errSilent   = fmt.Errorf("the lease could not be renewed for %s", leaseTime-leaseMargin)
	errEnded    = errors.New("etcd ended the lease")
	errReplaced = errors.New("the entry in the registry is not this replica's any more")
	errUnheard  = errors.New("a campaign was ended before etcd said whether it had begun")
	errLeft     = errors.New("the replica gave it up")
)

// lease is what everything that this replica holds in etcd is bound to. Once lost
// it stays lost.
type lease struct {
	id    clientv3.LeaseID
	lost  chan struct{} // closes before etcd may give away what the lease holds
	once  sync.Once
	why   error // for after lost
	alarm *time.Timer
}

// newLease returns a lease for which was asked at a moment of this process's clock:
// etcd counts from later on.
func newLease(id clientv3.LeaseID, asked time.Time, ttl int64) *lease {
	l := &lease{id: id, lost: make(chan struct{})}
	l.alarm = time.AfterFunc(remains(asked, ttl), func() { l.end(errSilent) })
	return l
}

// remains is how long a lease that was asked for then can be relied on. A longer
// one than was wanted counts as what was wanted.
func remains(asked time.Time, ttl int64) time.Duration {
	return time.Until(asked.Add(min(time.Duration(min(ttl, 3600))*time.Second, leaseTime) - leaseMargin))
}

// renewed moves the end of the lease, unless it has passed.
func (l *lease) renewed(asked time.Time, ttl int64) {
	if l.alarm.Stop() {
		l.alarm.Reset(remains(asked, ttl))
	}
}

// end ends the lease as far as this replica is concerned.
func (l *lease) end(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.lost)
	})
}

func (l *lease) alive() bool {
	if l == nil {
		return false
	}
	select {
	case <-l.lost:
		return false
	default:
		return true
	}
}

// retry is the pause between attempts that fail.
type retry time.Duration

func (r *retry) wait(ctx context.Context) {
	*r = min(max(*r*2, retry(retryFirst)), retry(retryMost))
	pause.For(ctx, time.Duration(*r))
}

// keep renews the lease until ctx ends, and makes another one when it is lost.
// It returns what it could not give up in the end.
func (m *Member) keep(ctx context.Context, l *lease) error {
	for {
		m.renew(ctx, l)
		m.finish(l)
		err := m.revoke(l.id)
		if ctx.Err() != nil {
			return err
		}
		for rest := retry(0); ; rest.wait(ctx) {
			if err != nil {
				err = m.revoke(l.id)
			}
			next, failed := m.enrol(ctx)
			if failed == nil {
				l = next
				break
			}
			if ctx.Err() != nil {
				return err
			}
			m.troubled(failed)
			m.client.ActiveConnection().ResetConnectBackoff() // it would wait for up to two minutes
		}
		m.begin(l)
	}
}

func (m *Member) begin(l *lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lease, m.trouble = l, nil
	m.copy.seats, m.copy.revision = nil, 0 // of before: read again
	m.change()
	ring(m.look)
}

func (m *Member) finish(l *lease) {
	l.end(errLeft)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lease, m.trouble = nil, m.lost(l)
	m.change()
}

func (m *Member) troubled(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trouble = err
	m.change()
}

// renew keeps a lease until it is lost or ctx ends, and writes the entry when
// something was said.
func (m *Member) renew(ctx context.Context, l *lease) {
	due := time.NewTicker(renewEvery)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.lost:
			return
		case <-m.said:
			if m.write(ctx, l) != nil {
				continue // the lease tells whether etcd is there
			}
		case <-due.C:
			asked := time.Now()
			ttl, err := m.prolong(ctx, l.id)
			if gone(err) {
				l.end(errEnded)
				return
			}
			if err == nil {
				l.renewed(asked, ttl)
			}
		}
	}
}

// prolong renews a lease once. The client's own attempts follow each other without
// a pause while the connection is broken: that ends them.
func (m *Member) prolong(ctx context.Context, id clientv3.LeaseID) (ttl int64, err error) {
	bounded, cancel := context.WithTimeout(ctx, callTime)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	conn := m.client.ActiveConnection()
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if !conn.WaitForStateChange(bounded, s) {
			return 0, bounded.Err()
		}
	}
	watcher.Go(func() {
		if conn.WaitForStateChange(bounded, connectivity.Ready) {
			cancel()
		}
	})
	answer, err := m.client.KeepAliveOnce(bounded, id)
	if err != nil {
		return 0, err
	}
	return answer.TTL, nil
}

// gone reports whether etcd knows a lease no more.
func gone(err error) bool {
	var coded interface{ Code() codes.Code }
	return errors.As(err, &coded) && coded.Code() == codes.NotFound
}

// revoke ends a lease in etcd, with all that is bound to it.
func (m *Member) revoke(id clientv3.LeaseID) error {
	bounded, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if _, err := m.client.Revoke(bounded, id); err != nil && !gone(err) {
		return problem.Because(err, "REP-002", "giving up what this replica holds")
	}
	return nil
}

// enrol takes a lease and the name: REP-001 and REP-002.
func (m *Member) enrol(ctx context.Context) (*lease, error) {
	bounded, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	key := m.key(registry, m.self.Name)
	if held, err := m.client.Get(bounded, key); err != nil {
		return nil, problem.Because(err, "REP-002", "looking whether the name is free")
	} else if len(held.Kvs) > 0 {
		return nil, m.heldBy(held.Kvs[0].Lease, held.Kvs[0].Value)
	}
	asked := time.Now()
	granted, err := m.client.Grant(bounded, int64(leaseTime/time.Second))
	if err != nil {
		return nil, problem.Because(err, "REP-002", "asking for a lease")
	}
	l := newLease(granted.ID, asked, granted.TTL)
	value, err := m.value()
	if err == nil {
		var done *clientv3.TxnResponse
		done, err = m.client.Txn(bounded).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, value, clientv3.WithLease(l.id))).Else(clientv3.OpGet(key)).Commit()
		if err == nil && done.Succeeded {
			return l, nil
		}
		if err == nil {
			err = m.heldByFirst(done)
		}
	}
	l.end(errLeft)
	if problem.CodeOf(err) == "" {
		err = problem.Because(err, "REP-002", "taking the name")
	}
	return nil, errors.Join(err, m.revoke(l.id))
}

// write puts the entry as it is now. An entry that is no longer this lease's ends
// the lease: who holds the name then, enrol finds out.
func (m *Member) write(ctx context.Context, l *lease) error {
	value, err := m.value()
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	key := m.key(registry, m.self.Name)
	done, err := m.client.Txn(bounded).If(clientv3.Compare(clientv3.LeaseValue(key), "=", l.id)).
		Then(clientv3.OpPut(key, value, clientv3.WithLease(l.id))).Commit()
	if err != nil {
		ring(m.said)
		return err
	}
	if !done.Succeeded {
		l.end(errReplaced)
	}
	return nil
}

// value is the entry as it is now.
func (m *Member) value() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.entry.encode()
}

// heldBy says who has the name.
func (m *Member) heldBy(id int64, value []byte) error {
	e, err := parseEntry(m.self.Name, value)
	if err != nil {
		return problem.New("REP-001", "%s: wanted it for %s, but what holds it (lease %x) does not parse", m.self.Name, m.self.Client, id)
	}
	return problem.New("REP-001", "%s: wanted it for %s, but the replica at %s holds it (lease %x, %s since %s)", m.self.Name, m.self.Client, e.Client, id,
		e.Role, e.Since.UTC().Format(time.RFC3339))
}

func (m *Member) heldByFirst(done *clientv3.TxnResponse) error {
	if kvs := done.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		return m.heldBy(kvs[0].Lease, kvs[0].Value)
	}
	return errors.New("the name changed hands meanwhile")
}
