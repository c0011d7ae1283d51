package replica

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

const (
	registry   = "replicas" // folder of the entries
	maxMembers = 64         // entries and candidates that count
	lookEvery  = 5 * time.Second
)

// copied is what stands in etcd, as of one revision.
type copied struct {
	revision int64
	seats    map[Election]seat
	replicas []apiv1.Replica
}

// seat is an election: whose candidates' keys, first come first.
type seat struct {
	keys   []string
	record Record // of the first
	taken  bool   // the first has a record that parses
}

func (m *Member) key(folder, name string) string { return m.cluster.Key(folder + "/" + name) }

// watch keeps the copy until ctx ends.
func (m *Member) watch(ctx context.Context) {
	for rest := retry(0); ctx.Err() == nil; rest.wait(ctx) {
		if m.read(ctx) == nil {
			m.follow(ctx)
			rest = 0
		}
	}
}

// follow reads again whenever something changes, until that fails.
func (m *Member) follow(ctx context.Context) {
	m.mu.Lock()
	after := m.copy.revision + 1
	m.mu.Unlock()
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	bell := func(folder string) clientv3.WatchChan {
		return m.client.Watch(watching, m.key(folder, ""), clientv3.WithPrefix(), clientv3.WithRev(after))
	}
	leader, desk, entries := bell(string(Leader)), bell(string(Desk)), bell(registry)
	again := time.NewTicker(lookEvery)
	defer again.Stop()
	for {
		var rung clientv3.WatchResponse
		open := true
		select {
		case rung, open = <-leader:
		case rung, open = <-desk:
		case rung, open = <-entries:
		case <-m.look:
		case <-again.C: // should a watch have fallen silent
		}
		if !open || rung.Err() != nil || m.read(ctx) != nil {
			return
		}
	}
}

// read takes a copy of everything at one revision.
func (m *Member) read(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	first := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(maxMembers), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend)}
	done, err := m.client.Txn(bounded).Then(clientv3.OpGet(m.key(string(Leader), ""), first...), clientv3.OpGet(m.key(string(Desk), ""), first...),
		clientv3.OpGet(m.key(registry, ""), clientv3.WithPrefix(), clientv3.WithLimit(maxMembers))).Commit()
	if err != nil {
		return fmt.Errorf("reading the replicas: %w", err)
	}
	if len(done.Responses) != 3 {
		return fmt.Errorf("reading the replicas: wanted 3 answers, got %d", len(done.Responses))
	}
	c := copied{revision: done.Header.GetRevision(), seats: map[Election]seat{}}
	for i, e := range []Election{Leader, Desk} {
		var s seat
		for j, kv := range done.Responses[i].GetResponseRange().GetKvs() {
			s.keys = append(s.keys, string(kv.Key))
			if j == 0 {
				r, err := parseRecord(kv.Value)
				s.record, s.taken = r, err == nil
			}
		}
		c.seats[e] = s
	}
	for _, kv := range done.Responses[2].GetResponseRange().GetKvs() {
		if e, err := parseEntry(strings.TrimPrefix(string(kv.Key), m.key(registry, "")), kv.Value); err == nil {
			c.replicas = append(c.replicas, e.Replica)
		}
	}
	slices.SortFunc(c.replicas, byName)
	m.take(c)
	return nil
}

// take replaces the copy.
func (m *Member) take(c copied) {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := reflect.DeepEqual(c.seats, m.copy.seats) && reflect.DeepEqual(c.replicas, m.copy.replicas)
	m.copy = c
	if !same {
		m.change()
	}
}
