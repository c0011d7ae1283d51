package coordinator

import (
	"context"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits of one answer.
const (
	maxPage          = 100  // marbles
	maxPageInstances = 1000 // of all marbles of a page, before the last
)

// Status returns how the deployment stands. Its cost does not depend on how
// many marbles and instances there are, and it waits for no writer. Instances
// whose lease has ended count until the next Tick.
func (c *Coordinator) Status(ctx context.Context) (apiv1.Status, error) {
	s := apiv1.Status{
		State: c.State().String(), Simulation: c.config.Issuer.TEE().Simulated(), Refused: c.refused.Load(),
		Version: c.config.Version, StartedAt: c.started.UTC(), Attention: []apiv1.Attention{},
	}
	var live int
	var rev *revision
	var waiting []apiv1.Attention
	var missing, holders []apiv1.Attention
	err := c.store.View(ctx, func(tx *store.Tx) error {
		live = instances.Len(tx)
		rev = c.current.Load()
		waiting = waitingAttention(tx, c.config.Now())
		missing = secretAttention(tx, rev)
		holders = c.holderAttention(tx)
		at, err := c.log.Checkpoint(tx)
		s.Checkpoint = shown(at)
		return err
	})
	if err != nil {
		return s, err
	}
	if c.behind.Load() != nil {
		s.State = "behind"
	}
	ca := c.authority.Load().MeshCA()
	s.CA = apiv1.CA{Serial: ca.Serial, NotAfter: ca.NotAfter}
	s.TrustDomain, s.Manifest, s.Revision = rev.trustDomain(), rev.record.Digest, rev.record.Number
	s.Marbles, s.Instances = len(rev.marbles), live
	s.Floors = c.Floors().Floors
	s.Attention = append(s.Attention, slices.Concat(c.behindAttention(), c.sealingAttention(), c.health.attention())...)
	if c.config.Warnings != nil {
		s.Attention = append(s.Attention, c.config.Warnings()...)
	}
	s.Attention = append(s.Attention, c.incidentAttention()...)
	replicas, joining := c.knownReplicas()
	s.Replicas = replicas
	s.Attention = append(s.Attention, slices.Concat(holders, joining, waiting)...)
	refused, refusing, proxies := c.live.attention()
	s.Proxies = proxies
	lapses := c.Lapses()
	s.Degraded, s.Drained = lapses.Degraded, lapses.Drained
	s.Attention = append(s.Attention, c.live.lapseAttention()...)
	s.Attention = append(s.Attention, missing...)
	for _, d := range refused {
		s.Attention = append(s.Attention, apiv1.Attention{
			Code: d.Code, Subject: d.Marble, Text: d.Redacted().Reason, Next: "ashlar explain " + d.ID, Since: d.Time,
		})
	}
	for _, a := range refusing {
		a.Next = problem.Lookup(problem.Code(a.Code)).Next
		s.Attention = append(s.Attention, a)
	}
	if rev.record.Open {
		e := problem.Lookup("CRD-061")
		s.Attention = append(s.Attention, apiv1.Attention{Code: string(e.Code), Subject: "manifest", Text: e.Title, Next: e.Next, Since: rev.record.SetAt})
	}
	return s, nil
}

// Marbles returns up to limit (at most 100, the default) marbles in the order
// of their names, beginning after one. A page ends early once it has 1,000
// instances.
func (c *Coordinator) Marbles(ctx context.Context, after string, limit int) (apiv1.Marbles, error) {
	page := apiv1.Marbles{Marbles: []apiv1.Marble{}}
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		rev := c.current.Load()
		i, found := slices.BinarySearch(rev.marbles, after)
		if found {
			i++
		}
		n := 0
		for ; i < len(rev.marbles) && len(page.Marbles) < limit && n < maxPageInstances; i++ {
			m := c.marble(tx, rev, rev.marbles[i])
			n += len(m.Instances)
			page.Marbles = append(page.Marbles, m)
		}
		if i < len(rev.marbles) {
			page.Next = rev.marbles[i-1]
		}
		return nil
	})
	return page, err
}

// Marble returns one marble; CRD-030 if the manifest has none of that name.
func (c *Coordinator) Marble(ctx context.Context, name string) (apiv1.Marble, error) {
	var m apiv1.Marble
	err := c.store.View(ctx, func(tx *store.Tx) error {
		rev := c.current.Load()
		if rev.m == nil {
			return problem.New("CRD-010", "no manifest was set yet")
		}
		if _, ok := rev.m.Marbles[name]; !ok {
			return unknownMarble(rev, name)
		}
		m = c.marble(tx, rev, name)
		return nil
	})
	return m, err
}

func (c *Coordinator) marble(tx *store.Tx, rev *revision, name string) apiv1.Marble {
	mb := rev.m.Marbles[name]
	m := apiv1.Marble{Name: name, Package: mb.Package, Calls: []string{}, Instances: []apiv1.Instance{}, LastRefusal: c.live.refusal(name)}
	for _, call := range mb.Calls {
		if !slices.Contains(m.Calls, call.Marble) {
			m.Calls = append(m.Calls, call.Marble)
		}
	}
	now := c.config.Now()
	for key, r := range instances.Prefix(tx, name+"/") {
		if !now.Before(r.NotAfter) {
			continue
		}
		_, id, _ := strings.Cut(key, "/")
		run := c.live.report(key)
		m.Instances = append(m.Instances, c.showBar(rev, key, r, run.lapsed(apiv1.Instance{
			ID: id, TEE: r.TEE, Address: r.Address, SPIFFEID: authority.SPIFFEID(rev.m.TrustDomain, name),
			Stage: run.stage, Reason: run.reason, TCBStatus: r.TCBStatus, ActivatedAt: r.ActivatedAt, AttestedAt: r.AttestedAt,
			NotAfter: r.NotAfter, Serial: r.Serial, Decision: r.Decision, Proxy: run.proxy,
		}, now)))
	}
	return m
}

// View returns a picture of the deployment for compiling configuration. It is
// the caller's, but the manifest in it must not be changed.
func (c *Coordinator) View(ctx context.Context) (*View, error) {
	v := &View{}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		rev := c.current.Load()
		v.Revision, v.TrustDomain, v.Manifest = rev.digest(), rev.trustDomain(), c.hops(rev)
		now := c.config.Now()
		for key, r := range instances.All(tx) {
			marble, id, _ := strings.Cut(key, "/")
			if rev.m == nil || !now.Before(r.NotAfter) {
				continue
			}
			if _, ok := rev.m.Marbles[marble]; ok {
				v.Instances = append(v.Instances, ViewInstance{Marble: marble, ID: id, Address: r.Address, Loopback: r.Loopback,
					Drained: r.lapse().phase(now) >= isDrained || c.live.isLeaving(key)})
			}
		}
		c.bar(tx, rev, v)
		return nil
	})
	slices.SortFunc(v.Instances, func(a, b ViewInstance) int {
		if n := strings.Compare(a.Marble, b.Marble); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	return v, err
}
