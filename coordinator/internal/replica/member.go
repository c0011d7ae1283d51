// Package replica is one of several coordinators that share a state: who of them
// is active, who is there, and ports that pass connections on to the active one.
//
// It owns the lease, the elections, the registry of replicas and the listening
// sockets. Everything that it reads from etcd is the host's word: it says whom to
// ask, and proves nothing. It refuses to decide about trust: an election says only
// who tries to write (the store's compare-and-swap says who does), and bytes that
// are passed on are not read.
package replica

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	namePatience = 2*leaseTime + 2*time.Second // how long Open waits for a name that an old instance may hold
	nameEvery    = 250 * time.Millisecond      // and how often it looks
	leaveTime    = 2 * time.Second             // to give everything up when a member closes
)

// Self is what a replica says of itself.
type Self struct {
	Name    string // of no other replica of this deployment
	Client  string // HOST:PORT by which other replicas reach its client port,
	Mesh    string // and its mesh port
	Version string
	TEE     string
	Now     func() time.Time // for what others are shown; leases go by the process's own clock
}

// Member is a replica that is known to the others. It is safe for concurrent use.
type Member struct {
	cluster *etcd.Cluster
	client  *clientv3.Client
	self    Self
	cancel  context.CancelFunc
	work    sync.WaitGroup // keep, watch, and the watchers of terms
	left    error          // what keep could not give up; for after work
	said    chan struct{}  // rings when the entry is to be written
	look    chan struct{}  // rings when the copy is to be read

	mu        sync.Mutex // guards what follows
	lease     *lease     // nil while there is none
	entry     entry      // what others are to see of this replica
	copy      copied
	changed   chan struct{} // closes at the next change of the lease or the copy
	trouble   error         // why others do not see this replica
	campaigns map[Election]bool
}

// Open makes a replica known to the others, in the role joining, and keeps it so
// until Close. A name that another instance holds is REP-001, after the time that
// an instance which died needs to be forgotten; a cluster that does not answer
// REP-002, and a Self that others could not use REP-003.
func Open(ctx context.Context, cluster *etcd.Cluster, self Self) (*Member, error) {
	if err := self.check(); err != nil {
		return nil, err
	}
	m := &Member{cluster: cluster, client: cluster.Client(), self: self, said: make(chan struct{}, 1), look: make(chan struct{}, 1),
		changed: make(chan struct{}), campaigns: map[Election]bool{}}
	m.entry = entry{Client: self.Client, Mesh: self.Mesh, Replica: apiv1.Replica{Name: self.Name, Role: apiv1.ReplicaJoining,
		Version: self.Version, TEE: self.TEE, Since: self.Now().UTC()}}
	l, err := m.enrolPatiently(ctx)
	if err != nil {
		return nil, err
	}
	m.begin(l)
	if err := m.read(ctx); err != nil {
		l.end(errLeft)
		return nil, errors.Join(problem.Because(err, "REP-002", "reading who is there"), m.revoke(l.id))
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	m.work.Go(func() { m.left = m.keep(background, l) })
	m.work.Go(func() { m.watch(background) })
	return m, nil
}

// enrolPatiently waits for the name while an instance that died may still hold it.
func (m *Member) enrolPatiently(ctx context.Context) (*lease, error) {
	for end := time.Now().Add(namePatience); ; {
		l, err := m.enrol(ctx)
		if problem.CodeOf(err) != "REP-001" || time.Now().After(end) {
			return l, err
		}
		if !pause.For(ctx, nameEvery) {
			return nil, ctx.Err()
		}
	}
}

// Close gives up what this replica holds, so that another one is elected at once,
// and leaves the registry. If etcd does not answer, that happens when the lease
// ends. Campaigns are to have ended.
func (m *Member) Close() error {
	m.cancel()
	m.work.Wait()
	return m.left
}

// Say tells the others the role of this replica, and the reason for it. It does
// not wait until they see it.
func (m *Member) Say(role, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.entry.Replica
	if r.Role == role && r.Reason == reason {
		return
	}
	if r.Role != role {
		r.Since = m.self.Now().UTC()
	}
	r.Role, r.Reason = role, reason
	ring(m.said)
}

// ring rings a bell of which one ring at a time counts.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it has not been heard yet
	}
}

// List returns the replicas that are known, by name, as of the last contact with
// etcd.
func (m *Member) List() []apiv1.Replica {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.copy.replicas)
}

// Current returns who holds an election, as far as this replica is in contact with
// etcd.
func (m *Member) Current(e Election) (Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current(e)
}

func (m *Member) current(e Election) (Record, bool) {
	if s := m.copy.seats[e]; s.taken && m.lease.alive() {
		return s.record, true
	}
	return Record{}, false
}

// Changed closes at the next change of what Current, List or Problem return. Ask
// for it before them.
func (m *Member) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// change lets everybody look again. The caller holds m.mu.
func (m *Member) change() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Problem says why others do not see this replica, or nil: REP-001 if another one
// took its name meanwhile, REP-002 while etcd does not answer.
func (m *Member) Problem() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lease != nil && !m.lease.alive() {
		return m.lost(m.lease)
	}
	return m.trouble
}

// lost says why a lease is.
func (m *Member) lost(l *lease) error { return problem.Because(l.why, "REP-002", "%s", m.self.Name) }

// Client is the Target of the client port: the active replica, else the one at the
// desk.
func (m *Member) Client() (string, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range []Election{Leader, Desk} {
		if r, ok := m.current(e); ok {
			return m.unlessOwn(r, r.Client), m.changed
		}
	}
	return "", m.changed
}

// Mesh is the Target of the mesh port: the active replica.
func (m *Member) Mesh() (string, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, _ := m.current(Leader)
	return m.unlessOwn(r, r.Mesh), m.changed
}

// unlessOwn is an address of another replica, or "".
func (m *Member) unlessOwn(r Record, addr string) string {
	if r.Name == m.self.Name || addr == m.self.Client || addr == m.self.Mesh {
		return ""
	}
	return addr
}
