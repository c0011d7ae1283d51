package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Election is one place that one replica at a time holds; it is also the folder
// of its candidates.
type Election string

// The elections.
const (
	Leader Election = "leader" // the active replica
	Desk   Election = "desk"   // the replica without a key that takes recovery shares
)

// Term is an election won. It belongs to the campaign's caller.
type Term struct {
	member   *Member
	election Election
	lease    *lease
	key      string
	revision int64 // at which the key was there

	lost chan struct{}
	once sync.Once
}

// Campaign waits until this replica is elected, or ctx ends. One campaign and one
// term of an election are a member's at a time.
func (m *Member) Campaign(ctx context.Context, e Election) (*Term, error) {
	if !m.stand(e) {
		return nil, fmt.Errorf("this replica is a candidate for %s already", e)
	}
	for rest := retry(0); ; rest.wait(ctx) {
		t, err := m.candidate(ctx, e)
		if err == nil {
			if err = t.await(ctx); err == nil {
				m.work.Go(t.watch)
				return t, nil
			}
			if t.lease.alive() {
				t.withdraw()
			}
		}
		if ctx.Err() != nil {
			m.retire(e)
			return nil, fmt.Errorf("standing for %s: %w", e, ctx.Err())
		}
	}
}

func (m *Member) stand(e Election) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.campaigns[e] {
		return false
	}
	m.campaigns[e] = true
	return true
}

func (m *Member) retire(e Election) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.campaigns, e)
}

// candidate queues up, once this replica has a lease.
func (m *Member) candidate(ctx context.Context, e Election) (*Term, error) {
	l, err := m.leased(ctx)
	if err != nil {
		return nil, err
	}
	value, err := json.Marshal(Record{Name: m.self.Name, Client: m.self.Client, Mesh: m.self.Mesh})
	if err != nil {
		return nil, fmt.Errorf("encoding the record: %w", err)
	}
	t := &Term{member: m, election: e, lease: l, key: m.key(string(e), fmt.Sprintf("%016x", uint64(l.id))), lost: make(chan struct{})}
	bounded, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	done, err := m.client.Txn(bounded).If(clientv3.Compare(clientv3.CreateRevision(t.key), "=", 0)).
		Then(clientv3.OpPut(t.key, string(value), clientv3.WithLease(l.id))).Commit()
	if err != nil {
		if ctx.Err() != nil {
			l.end(errUnheard) // nobody is left who would withdraw
		}
		return nil, fmt.Errorf("standing for %s: %w", e, err)
	}
	// The key is there already if an answer was lost.
	t.revision = done.Header.GetRevision()
	return t, nil
}

// leased waits for a lease.
func (m *Member) leased(ctx context.Context) (*lease, error) {
	for {
		m.mu.Lock()
		l, changed := m.lease, m.changed
		m.mu.Unlock()
		if l.alive() {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

var errQueue = errors.New("the candidate is not in the queue any more")

// place returns the candidate's place in the queue, 0 for the first, -1 when it is
// not known yet; errQueue if it is in it no more.
func (t *Term) place() (int, <-chan struct{}, error) {
	m := t.member
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := m.copy.seats[t.election].keys
	i := slices.Index(keys, t.key)
	if i < 0 && m.copy.revision >= t.revision && len(keys) < maxMembers {
		return i, m.changed, errQueue
	}
	if m.copy.revision < t.revision {
		i = -1
	}
	return i, m.changed, nil
}

// await waits until the candidate is the first.
func (t *Term) await(ctx context.Context) error {
	for {
		i, changed, err := t.place()
		if err != nil {
			return err
		}
		if i == 0 && t.lease.alive() {
			return nil
		}
		select {
		case <-changed:
		case <-t.lease.lost:
			return errQueue
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Lost closes when another replica may be elected: before that can be, by the
// monotonic clock of this process, when the lease was not renewed; at once when it
// was given up. What a machine that was suspended did not notice in time, the
// store's compare-and-swap refuses.
func (t *Term) Lost() <-chan struct{} { return t.lost }

// watch closes lost.
func (t *Term) watch() {
	defer t.end()
	for {
		i, changed, err := t.place()
		if err != nil || i > 0 {
			return
		}
		select {
		case <-changed:
		case <-t.lease.lost:
			return
		case <-t.lost:
			return
		}
	}
}

func (t *Term) end() {
	t.once.Do(func() {
		t.member.retire(t.election) // first: whoever hears of it may stand again
		close(t.lost)
	})
}

// Resign ends the term: another replica is elected at once, or where etcd does not
// answer when this replica's lease ends.
func (t *Term) Resign(ctx context.Context) error {
	t.end()
	return t.leave(ctx)
}

// withdraw gives up a candidacy.
func (t *Term) withdraw() { _ = t.leave(context.Background()) } // or the lease ends

// leave takes the key away; if that fails, the lease is given up.
func (t *Term) leave(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if _, err := t.member.client.Delete(bounded, t.key); err != nil {
		t.lease.end(errLeft)
		return fmt.Errorf("resigning from %s: %w", t.election, err)
	}
	return nil
}
