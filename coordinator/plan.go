package coordinator

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds of plans.
const (
	maxPlans    = 1    // made at once
	maxListed   = 1000 // effects of one answer
	maxUnjudged = 100
	maxFailed   = 16  // failed checks of one effect
	maxPlanSets = 256 // endorsement sets in memory at once
	anyPlatform = "*"
	planBefore  = 10 * 365 * 24 * time.Hour // how far a plan looks back and ahead
)

// Plan judges the fleet's kept evidence once more, with something assumed: who
// would lose the identity that it has, who would get one, and why. Nothing is
// changed, and nothing is asked of any marble.
//
// Errors: CRD-010 (no manifest), CRD-014 (trust domain), CRD-063 (busy), CRD-067
// (no such platform), CRD-068 (malformed), and those of manifest.Parse.
func (c *Coordinator) Plan(ctx context.Context, req apiv1.PlanRequest) (apiv1.Plan, error) {
	if err := c.open(ctx); err != nil {
		return apiv1.Plan{}, err
	}
	select {
	case c.planning <- struct{}{}:
		defer func() { <-c.planning }()
	default:
		return apiv1.Plan{}, problem.New("CRD-063", "%d at a time are made", maxPlans)
	}
	p, err := c.newPlanner(req)
	if err != nil {
		return apiv1.Plan{}, err
	}
	p.changes = append(p.changes, p.planGiver(ctx)...)
	items, err := p.collect(ctx)
	if err != nil {
		return apiv1.Plan{}, err
	}
	if err := p.run(ctx, items); err != nil {
		return apiv1.Plan{}, err
	}
	return p.report(items), nil
}

// planner makes one plan.
type planner struct {
	c          *Coordinator
	now, at    time.Time
	rev, next  *revision // in force, and assumed
	floors     *floorsRecord
	assumed    map[string]attest.Floor
	overlay    *overlay
	hypothesis bool // anything is assumed
	changes    []string

	mu   sync.Mutex // guards what follows
	sets map[string]*planSet
	used map[string]bool // of the overlay
}

// planSet is an endorsement set as it is, and as it is assumed to be.
type planSet struct {
	once     sync.Once
	is, next attest.Endorsements
	behind   []attest.Step // failed checks of the marks, for what is assumed
	err      error
}

// planItem is one instance or refusal, and what became of it.
type planItem struct {
	key      string // of the evidence's blob
	marble   string
	instance string
	live     bool // an instance
	basis    basis
	record   instanceRecord

	gone    bool // removed meanwhile
	missing bool // its evidence is not at hand
	effect  *apiv1.PlanEffect
}

func (c *Coordinator) newPlanner(req apiv1.PlanRequest) (*planner, error) {
	p := &planner{c: c, now: c.config.Now().UTC(), rev: c.current.Load(), floors: c.floors.Load(), assumed: req.Floors,
		sets: map[string]*planSet{}, used: map[string]bool{}}
	if p.rev.m == nil {
		return nil, problem.New("CRD-010", "no manifest was set yet, so there is nothing to plan with")
	}
	p.at, p.next = p.now, p.rev
	if !req.At.IsZero() {
		if d := req.At.Sub(p.now); d > planBefore || d < -planBefore {
			return nil, problem.New("CRD-068", "the time %s is over ten years from now", stamp(req.At))
		}
		p.at = req.At.UTC()
	}
	p.hypothesis = !req.At.IsZero() || len(req.Manifest)+len(req.Endorsements)+len(req.Floors) > 0
	var err error
	if p.overlay, err = newOverlay(req.Endorsements); err != nil {
		return nil, err
	}
	if req.Manifest != nil {
		if err := p.assume(req.Manifest); err != nil {
			return nil, err
		}
	}
	return p, p.assumeFloors()
}

// assume takes in another manifest.
func (p *planner) assume(raw []byte) error {
	m, problems := manifest.Parse(raw)
	if err := problems.Err(); err != nil {
		return err
	}
	if m.TrustDomain != p.rev.m.TrustDomain {
		return problem.New("CRD-014", "the trust domain is %s, the other manifest says %s", p.rev.m.TrustDomain, m.TrustDomain)
	}
	digest := m.Digest()
	next, err := newRevision(revisionRecord{Digest: digest[:]}, m)
	if err != nil {
		return err
	}
	p.changes = append(p.changes, effects(p.rev.m, m)...)
	p.changes = append(p.changes, floorEffects(*p.floors, p.rev, next)...)
	p.next = next
	return nil
}

func (p *planner) assumeFloors() error {
	for _, name := range slices.Sorted(maps.Keys(p.assumed)) {
		if err := p.assumed[name].Validate(); err != nil {
			return problem.New("CRD-070", "%v", err)
		}
		names := []string{name}
		if name == anyPlatform {
			names = append(slices.Sorted(maps.Keys(p.next.m.Platforms)), manifest.DefaultPlatform)
			slices.Sort(names)
			names = slices.Compact(names)
		} else if err := knownPlatform(p.next, name); err != nil {
			return err
		}
		for _, n := range names {
			is, _ := p.next.m.Platforms[n].Raise(p.floors.Platforms[n].Floor)
			_, raised := is.Raise(p.assumed[name])
			for _, line := range raised {
				p.changes = append(p.changes, "platform "+n+": "+line)
			}
		}
	}
	return nil
}

// policy is what a marble, or a further coordinator, would be judged by.
func (p *planner) policy(purpose binding.Purpose, marble string) (attest.Policy, bool) {
	policy, ok := p.policyOf(p.next, purpose, marble, p.at)
	for _, name := range []string{policy.PlatformName, anyPlatform} {
		if floor, assumed := p.assumed[name]; assumed {
			policy.Platform, _ = policy.Platform.Raise(floor)
		}
	}
	return policy, ok
}

// policyOf is what a revision has judged by, with nothing else assumed.
func (p *planner) policyOf(rev *revision, purpose binding.Purpose, marble string, at time.Time) (attest.Policy, bool) {
	policy, ok := rev.policyAs(purpose, marble)
	if !ok {
		return policy, false
	}
	return p.floors.raise(policy, p.c.incidents.Load().statusesOn(policy.PlatformName, at)), true
}

// collect lists what is to be judged, those with one endorsement set together.
func (p *planner) collect(ctx context.Context) ([]*planItem, error) {
	var items []*planItem
	err := p.c.store.View(ctx, func(tx *store.Tx) error {
		for key, r := range instances.All(tx) {
			if p.now.Before(r.NotAfter) {
				items = append(items, p.instance(key, r))
			}
		}
		for id, r := range refusals.All(tx) {
			marble, _, _ := strings.Cut(id, "/")
			items = append(items, &planItem{key: decisionKey(id), marble: marble, instance: r.Instance, basis: r.Basis,
				record: instanceRecord{Decision: id}})
		}
		return nil
	})
	slices.SortStableFunc(items, func(a, b *planItem) int { return slices.Compare(a.basis.Set, b.basis.Set) })
	return items, err
}

func (p *planner) instance(key string, r instanceRecord) *planItem {
	marble, id, _ := strings.Cut(key, "/")
	return &planItem{key: instanceEvidence(key), marble: marble, instance: id, live: true, basis: r.Basis, record: r}
}

// run judges all items, on every processor.
func (p *planner) run(ctx context.Context, items []*planItem) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for w := range errs {
		wg.Go(func() {
			for ctx.Err() == nil && errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= len(items) {
					return
				}
				errs[w] = p.judge(ctx, items[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// judge finds out what becomes of one item. An instance that attests meanwhile
// is looked at again.
func (p *planner) judge(ctx context.Context, it *planItem) error {
	for range maxTries {
		is, m, behind, err := p.matters(ctx, it)
		if err == nil {
			p.compare(it, is, m, behind)
			return nil
		}
		if ctx.Err() != nil || problem.CodeOf(err) == "STO-007" {
			return err
		}
		before := it.basis
		if err := p.refresh(ctx, it); err != nil || it.gone {
			return err
		}
		if slices.Equal(before.Evidence, it.basis.Evidence) {
			break
		}
	}
	it.missing = true
	return nil
}

// refresh looks an item up again.
func (p *planner) refresh(ctx context.Context, it *planItem) error {
	return p.c.store.View(ctx, func(tx *store.Tx) error {
		if it.live {
			r, ok := instances.Get(tx, instanceKey(it.marble, it.instance))
			it.record, it.basis, it.gone = r, r.Basis, !ok
		} else {
			_, ok := refusals.Get(tx, it.record.Decision)
			it.gone = !ok
		}
		return nil
	})
}

// matters returns what an item's verdict is made from: as it is, and as it is
// assumed to be, and which checks of the marks would fail then.
func (p *planner) matters(ctx context.Context, it *planItem) (is, next matter, behind []attest.Step, err error) {
	if it.basis.Evidence == nil {
		return is, next, nil, errors.New("no evidence is kept")
	}
	k, err := p.c.readKept(ctx, it.key, it.basis)
	if err != nil {
		return is, next, nil, err
	}
	if is, err = k.matter(it.key); err != nil {
		return is, next, nil, err
	}
	set, err := p.set(ctx, it.basis.Set)
	if err != nil {
		return is, next, nil, err
	}
	next = is
	is.endorsements, is.at = set.is, p.now
	next.endorsements, next.at = set.next, p.at
	return is, next, set.behind, nil
}

// set returns an endorsement set; one that several ask for is read once.
func (p *planner) set(ctx context.Context, digest attest.Hex) (*planSet, error) {
	p.mu.Lock()
	s := p.sets[string(digest)]
	if s == nil {
		if len(p.sets) >= maxPlanSets {
			clear(p.sets)
		}
		s = &planSet{}
		p.sets[string(digest)] = s
	}
	p.mu.Unlock()
	s.once.Do(func() {
		if s.is, s.err = p.c.readSet(ctx, digest); s.err != nil {
			return
		}
		var used []string
		s.next, used = p.overlay.apply(s.is)
		if len(used) > 0 {
			s.behind = p.c.marks.failed(s.next)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, name := range used {
			p.used[name] = true
		}
	})
	return s, s.err
}
