package coordinator

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// maxFloors bounds the platforms with a floor.
const maxFloors = 64

// floorsTable has the floors in force under "current", and all versions of them
// by number in 8 digits.
var floorsTable = store.NewTable[floorsRecord]("floors")

// floorsRecord are the floors of all platforms. They outlive manifests. A value
// in use is never modified.
type floorsRecord struct {
	Version   int                    `json:"version"` // how often one was raised
	Platforms map[string]floorRecord `json:"platforms,omitempty"`
}

type floorRecord struct {
	Floor    attest.Floor `json:"floor"`
	RaisedBy string       `json:"raisedBy"`
	RaisedAt time.Time    `json:"raisedAt"`
	Record   uint64       `json:"record"` // in the audit log
}

// policyFor returns what a marble's evidence is judged by: its package, and its
// platform with the floor in force.
func (f floorsRecord) policyFor(rev *revision, marble string) (attest.Policy, bool) {
	p, ok := rev.policyFor(marble)
	if !ok {
		return p, false
	}
	return f.raise(p, nil), true
}

// raise is a policy under the floors in force, while break-glass has its platform
// accept more TCB statuses than the manifest does; floors count all the same.
func (f floorsRecord) raise(p attest.Policy, more []attest.TCBStatus) attest.Policy {
	p.Platform = accepting(p.Platform, more)
	if floor, raised := f.Platforms[p.PlatformName]; raised {
		p.Platform, _ = p.Platform.Raise(floor.Floor)
	}
	return p
}

// policyFor is false where there is no manifest or no such marble.
func (r *revision) policyFor(marble string) (attest.Policy, bool) {
	if r.m == nil {
		return attest.Policy{}, false
	}
	return r.m.PolicyFor(marble)
}

// policyAs is policyFor of a marble, or for the purpose replica that of further
// coordinators.
func (r *revision) policyAs(purpose binding.Purpose, marble string) (attest.Policy, bool) {
	if purpose != binding.Replica {
		return r.policyFor(marble)
	}
	if r.m == nil {
		return attest.Policy{}, false
	}
	return r.m.CoordinatorPolicy()
}

// document is the floors as the client API shows them, and as a statement's
// evidence binds them; nil before the first.
func (f floorsRecord) document() ([]byte, error) {
	if f.Version == 0 {
		return nil, nil
	}
	return json.Marshal(f.public())
}

func (f floorsRecord) public() apiv1.Floors {
	all := apiv1.Floors{Version: f.Version, Floors: []apiv1.PlatformFloor{}}
	for _, name := range slices.Sorted(maps.Keys(f.Platforms)) {
		all.Floors = append(all.Floors, f.Platforms[name].public(name))
	}
	return all
}

func (r floorRecord) public(platform string) apiv1.PlatformFloor {
	digest := floorDigest(r.Floor)
	return apiv1.PlatformFloor{Platform: platform, Floor: r.Floor, Digest: digest[:], RaisedBy: r.RaisedBy, RaisedAt: r.RaisedAt, Record: r.Record}
}

func floorDigest(f attest.Floor) [32]byte {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // only for a type that JSON has no form for
	}
	return sha256.Sum256(b)
}

// Floors returns the floors in force.
func (c *Coordinator) Floors() apiv1.Floors { return c.floors.Load().public() }

// Floor returns the floor of a platform: the zero one if none was raised yet.
// It is CRD-067 if neither the manifest nor the floors have the platform.
func (c *Coordinator) Floor(platform string) (apiv1.PlatformFloor, error) {
	if r, ok := c.floors.Load().Platforms[platform]; ok {
		return r.public(platform), nil
	}
	return apiv1.PlatformFloor{Platform: platform}, knownPlatform(c.current.Load(), platform)
}

// RaiseRequest asks for a higher floor of a platform.
type RaiseRequest struct {
	Platform string
	Floor    attest.Floor
	// IfMatch is the digest of the floor that this one replaces, hex; empty only
	// for the platform's first.
	IfMatch   string
	Principal *Principal // the authenticated user
}

// RaiseFloor makes a platform demand more from now on, of activations and
// renewals, whatever manifest comes. A floor is never lowered. The same floor
// again changes nothing and succeeds. Errors: CRD-010 (no manifest), CRD-015
// and CRD-064 (rights), CRD-065 and CRD-069 (IfMatch), CRD-066 (lower), CRD-067
// (no such platform), CRD-070 (malformed).
func (c *Coordinator) RaiseFloor(ctx context.Context, req RaiseRequest) (apiv1.RaiseResult, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return apiv1.RaiseResult{}, err
	}
	defer done()
	c.setting.Lock()
	defer c.setting.Unlock()
	rev, old := c.current.Load(), *c.floors.Load()
	was, exists := old.Platforms[req.Platform]
	if err := cmp.Or(c.outcast(req.Principal), mayRaise(rev, exists, req)); err != nil {
		return apiv1.RaiseResult{}, c.refuseRaise(ctx, req, err)
	}
	if exists && floorDigest(was.Floor) == floorDigest(req.Floor) {
		return apiv1.RaiseResult{Floor: was.public(req.Platform), Effects: rev.raised(req.Platform, req.Floor)}, nil
	}
	if err := raises(old, was, exists, req); err != nil {
		return apiv1.RaiseResult{}, c.refuseRaise(ctx, req, err)
	}
	next := floorsRecord{Version: old.Version + 1, Platforms: maps.Clone(old.Platforms)}
	if next.Platforms == nil {
		next.Platforms = map[string]floorRecord{}
	}
	record := floorRecord{Floor: req.Floor, RaisedBy: req.Principal.Name, RaisedAt: c.config.Now().UTC()}
	err = c.update(ctx, func(tx *store.Tx) error { return c.commitFloor(tx, next, req.Platform, &record) })
	if err := errors.Join(err, c.loadFloors(context.WithoutCancel(ctx))); err != nil {
		return apiv1.RaiseResult{}, err
	}
	c.outdated.mark(rev.onPlatform(req.Platform), record.RaisedAt)
	return apiv1.RaiseResult{Floor: record.public(req.Platform), Effects: rev.raised(req.Platform, req.Floor)}, nil
}

// loadFloors takes in the floors that the store holds. A commit that failed may
// have been made all the same.
func (c *Coordinator) loadFloors(ctx context.Context) error {
	return c.store.View(ctx, func(tx *store.Tx) error {
		floors, _ := floorsTable.Get(tx, keyCurrent)
		c.floors.Store(&floors)
		return nil
	})
}

// mayRaise judges who asks, and for what. A platform with a floor may have left
// the manifest.
func mayRaise(rev *revision, exists bool, req RaiseRequest) error {
	switch {
	case rev.m == nil:
		return problem.New("CRD-010", "no manifest was set yet, so there is no platform")
	case req.Principal == nil:
		return problem.New("CRD-015", "raising a floor needs a user's certificate")
	case !rev.m.May(req.Principal.Name, manifest.RaiseFloor+req.Platform):
		return problem.New("CRD-064", "%s has no role with the action %s%.80s", req.Principal.Name, manifest.RaiseFloor, req.Platform)
	}
	if err := req.Floor.Validate(); err != nil {
		return problem.New("CRD-070", "%v", err)
	}
	if exists {
		return nil
	}
	return knownPlatform(rev, req.Platform)
}

// raises judges whether a floor may follow the one in force.
func raises(old floorsRecord, was floorRecord, exists bool, req RaiseRequest) error {
	digest := floorDigest(was.Floor)
	have := attest.Hex(digest[:]).String()
	switch {
	case !exists && req.IfMatch != "":
		return problem.New("CRD-065", "the request replaces %.64s, but platform %s has no floor", req.IfMatch, req.Platform)
	case exists && req.IfMatch == "":
		return problem.New("CRD-069", "platform %s has the floor %s", req.Platform, have)
	case exists && !strings.EqualFold(req.IfMatch, have):
		return problem.New("CRD-065", "the request replaces %.64s, but %s is in force", req.IfMatch, have)
	case !exists && len(old.Platforms) >= maxFloors:
		return problem.New("CRD-070", "%d platforms have a floor already", len(old.Platforms))
	}
	if lower := req.Floor.Lowers(was.Floor); len(lower) > 0 {
		return problem.New("CRD-066", "%s", strings.Join(lower, "; "))
	}
	return nil
}

// knownPlatform refuses a name that the manifest does not have.
func knownPlatform(rev *revision, name string) error {
	if rev.m == nil {
		return problem.New("CRD-010", "no manifest was set yet, so there is no platform")
	}
	if _, ok := rev.m.Platforms[name]; ok || name == manifest.DefaultPlatform {
		return nil
	}
	p := problem.New("CRD-067", "the manifest has no platform %.80q", name)
	if best := nearest.Word(name, append(slices.Sorted(maps.Keys(rev.m.Platforms)), manifest.DefaultPlatform)); best != "" {
		p.Detail += fmt.Sprintf("; did you mean %q?", best)
	}
	return p
}

// commitFloor writes everything that a raised floor changes. It writes the place
// of the audit record into record.
func (c *Coordinator) commitFloor(tx *store.Tx, next floorsRecord, platform string, record *floorRecord) error {
	if current, _ := floorsTable.Get(tx, keyCurrent); current.Version != next.Version-1 {
		return problem.New("STO-018", "version %d of the floors is there already", current.Version)
	}
	digest := floorDigest(record.Floor)
	raised, err := json.Marshal(record.Floor)
	if err != nil {
		return fmt.Errorf("encoding a floor: %w", err)
	}
	entry, err := c.log.Append(tx, audit.Record{
		Time: record.RaisedAt, Kind: audit.FloorRaised, Subject: platform, Actor: record.RaisedBy,
		Text:    fmt.Sprintf("floor of platform %s raised by %s", platform, record.RaisedBy),
		Details: map[string]string{"floor": string(raised), "digest": attest.Hex(digest[:]).String(), "version": fmt.Sprint(next.Version)},
	})
	if err != nil {
		return err
	}
	record.Record = entry.Seq
	next.Platforms[platform] = *record
	if err := floorsTable.Put(tx, numbered(next.Version), next); err != nil {
		return err
	}
	return floorsTable.Put(tx, keyCurrent, next)
}

// refuseRaise records a refusal and returns it.
func (c *Coordinator) refuseRaise(ctx context.Context, req RaiseRequest, refusal error) error {
	return c.refuseUser(ctx, req.Principal, audit.Record{Kind: audit.FloorRefused, Subject: req.Platform}, refusal)
}

// raised says what a floor makes a platform demand beyond the manifest.
func (r *revision) raised(platform string, floor attest.Floor) []string {
	_, lines := r.m.Platforms[platform].Raise(floor)
	if lines == nil {
		lines = []string{}
	}
	return lines
}

// floorEffects says where floors demand more than a new manifest does, and which
// marbles leave a platform with a floor.
func floorEffects(f floorsRecord, old, next *revision) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(f.Platforms)) {
		for _, line := range next.raised(name, f.Platforms[name].Floor) {
			lines = append(lines, fmt.Sprintf("platform %s: the floor in force demands more: %s", name, line))
		}
	}
	leaves := func(who string, was, now attest.Policy) {
		_, covered := f.Platforms[was.PlatformName]
		if _, covers := f.Platforms[now.PlatformName]; covered && !covers {
			lines = append(lines, fmt.Sprintf("%s: leaves platform %s, which has a floor, for %s, which has none", who, was.PlatformName, now.PlatformName))
		}
	}
	for _, marble := range next.marbles {
		now, _ := next.policyFor(marble)
		if was, ok := old.policyFor(marble); ok {
			leaves(marble, was, now)
		}
	}
	if now, is := next.m.CoordinatorPolicy(); is && old.m != nil {
		if was, ok := old.m.CoordinatorPolicy(); ok {
			leaves("coordinators", was, now)
		}
	}
	return lines
}
