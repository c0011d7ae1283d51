package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// bar says why accepted evidence gets no lease. An instance that lives and is in
// quarantine gets its next leaf, without secrets.
func (r *ruling) bar() *problem.Error {
	in := r.incidents.barred(r.suspect())
	if in == nil || in.Kind == apiv1.Quarantine && r.asked.renews() {
		return nil
	}
	return refusalOf(in)
}

// released are the secrets that go with a lease: none in quarantine.
func (r *ruling) released() []string {
	if r.incidents.barred(r.suspect()) != nil {
		return nil
	}
	return r.rev.m.SecretsOf(r.asked.info.Marble)
}

// recheck judges once more whether a leaf that was just signed may leave: no
// lease is given after a revocation is durable.
func (c *Coordinator) recheck(ctx context.Context, r *ruling) error {
	if err := c.syncIncidents(ctx); err != nil {
		return err
	}
	now := *r
	now.incidents = c.incidents.Load()
	if bar := now.bar(); bar != nil {
		return bar
	}
	if len(now.released()) < len(r.released()) {
		return errAgain
	}
	return nil
}

// syncIncidents takes in incidents that are durable and not published yet.
func (c *Coordinator) syncIncidents(ctx context.Context) error {
	var head incidentHead
	err := c.store.View(ctx, func(tx *store.Tx) error {
		head, _ = incidentHeads.Get(tx, keyCurrent)
		return nil
	})
	if err != nil || head.Version == c.incidents.Load().head.Version {
		return err
	}
	c.setting.Lock()
	defer c.setting.Unlock()
	return c.loadIncidents(ctx)
}

// barOfPeer is what bars an instance that lives; nil if nothing does.
func (c *Coordinator) barOfPeer(key string) *apiv1.Incident {
	i := c.incidents.Load()
	if len(i.bars) == 0 {
		return nil
	}
	return i.barred(suspectOf(c.current.Load(), key, c.live.provenances(key)))
}

func (l *live) provenances(key string) []provenance {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if r := l.runs[key]; r != nil {
		return r.provenances
	}
	return nil
}

// Standing returns a channel that is closed when what follows may have changed,
// and an error if an instance was revoked, which is for telling it.
func (c *Coordinator) Standing(p Peer) (<-chan struct{}, error) {
	changed := c.incidents.Load().changed
	if in := c.barOfPeer(instanceKey(p.Marble, p.Instance)); in != nil && in.Kind == apiv1.Revocation {
		return changed, refusalOf(in)
	}
	return changed, nil
}

// outcast refuses a user who was revoked since the request was authenticated: a
// body may take long to come. Nobody is none.
func (c *Coordinator) outcast(user *Principal) error {
	if user == nil {
		return nil
	}
	if in := c.incidents.Load().barred(suspect{user: user.Name}); in != nil {
		return refusalOf(in)
	}
	return nil
}

// moved reports whether the manifest or the incidents that are durable are others
// than those that a request rests on.
func (c *Coordinator) moved(tx *store.Tx, rev *revision) bool {
	head, _ := heads.Get(tx, keyCurrent)
	happened, _ := incidentHeads.Get(tx, keyCurrent)
	return head.Number != rev.record.Number || happened.Version != c.incidents.Load().head.Version
}

// withheld says why an instance gets and uses no secret, though it lives; nil if
// it may.
func (c *Coordinator) withheld(p Peer) error {
	if in := c.barOfPeer(instanceKey(p.Marble, p.Instance)); in != nil {
		return refusalOf(in)
	}
	return nil
}

// bar says that an instance would get no lease for who it is.
func (p *planner) bar(it *planItem, m matter, v attest.Verdict) *problem.Error {
	s := suspect{packageName: m.policy.PackageName, platform: m.policy.PlatformName}
	if m.expected.Purpose != binding.Replica {
		s.marble, s.instance = it.marble, it.instance
	}
	s.add(provenanceOf(v.Claims, p.at))
	if in := p.c.incidents.Load().barred(s); in != nil && (in.Kind == apiv1.Revocation || !it.live) {
		return refusalOf(in)
	}
	return nil
}

// showBar has an instance show that it is barred, whatever it says of itself.
func (c *Coordinator) showBar(rev *revision, key string, r instanceRecord, in apiv1.Instance) apiv1.Instance {
	bar := c.incidents.Load().barred(suspectOf(rev, key, r.Provenances))
	if bar == nil {
		return in
	}
	in.Stage = map[string]string{apiv1.Revocation: "revoked", apiv1.Quarantine: "quarantined"}[bar.Kind]
	in.Reason = refusalOf(bar).Detail
	return in
}

// revokedFor is how long a leaf of an instance that was barred counts for its peers
// at the most: clocks differ by less than an hour.
const revokedFor = longestLease + time.Hour

// bar completes a View: who is revoked is in it no more, and who is in quarantine
// has no hops. An instance stays barred for as long as a leaf of it may count for
// peers, whose clocks may be behind: its record may be gone before.
func (c *Coordinator) bar(tx *store.Tx, rev *revision, v *View) {
	i := c.incidents.Load()
	if len(i.bars) == 0 || rev.m == nil {
		return
	}
	shut, gone := map[string]bool{}, map[string]bool{}
	for _, name := range rev.marbles {
		if in := i.barred(rev.suspect(instanceKey(name, ""))); in != nil {
			shut[name] = true
			v.Barred = append(v.Barred, BarredPeer{Marble: name})
		}
	}
	for key, r := range instances.All(tx) {
		in := i.barred(suspectOf(rev, key, r.Provenances))
		if in == nil {
			continue
		}
		gone[key] = in.Kind == apiv1.Revocation
	}
	for key, in := range i.bars {
		if _, ok := rev.m.Marbles[key.name]; ok && key.kind == barInstance && c.config.Now().Before(in.At.Add(revokedFor)) {
			gone[instanceKey(key.name, key.of)] = in.Kind == apiv1.Revocation
		}
	}
	for key := range gone {
		if marble, id, _ := strings.Cut(key, "/"); !shut[marble] {
			v.Barred = append(v.Barred, BarredPeer{Marble: marble, Instance: id})
		}
	}
	v.Instances = slices.DeleteFunc(v.Instances, func(in ViewInstance) bool { return gone[instanceKey(in.Marble, in.ID)] })
	slices.SortFunc(v.Barred, func(a, b BarredPeer) int {
		return slices.Compare([]string{a.Marble, a.Instance}, []string{b.Marble, b.Instance})
	})
}

// maxShown bounds the incidents of a status.
const maxShown = 32

// incidentAttention is what stands, newest first.
func (c *Coordinator) incidentAttention() []apiv1.Attention {
	var all []apiv1.Attention
	list := c.incidents.Load().all
	for n, in := range slices.Backward(list) {
		if len(all) == maxShown {
			all = append(all, apiv1.Attention{Code: "INC-014", Subject: "incidents", Text: fmt.Sprintf("and %d more", n+1), Next: "ashlar revoke list", Since: in.At})
			break
		}
		if in.Kind == apiv1.BreakGlass {
			if c.config.Now().Before(in.Until) {
				all = append(all, breakGlassAttention(in))
			}
			continue
		}
		e := refusalOf(&in)
		all = append(all, apiv1.Attention{Code: string(e.Code), Subject: subjectText(in.Subject), Text: e.Detail, Next: e.Next, Since: in.At})
	}
	return all
}
