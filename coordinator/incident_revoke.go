package coordinator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// riskLockOut is accepted by name when nobody would be left to set a manifest.
const riskLockOut = manifest.RiskLockOut

func init() {
	acts["revoke"] = func() act { return &revocation{} }
	acts["lift"] = func() act { return &lifting{} }
}

// revocation is the act of revoking somebody, or putting somebody in quarantine.
type revocation struct {
	Kind    string        `json:"kind"`
	Subject apiv1.Subject `json:"subject"`
	Reason  string        `json:"reason"`
	Accepts []string      `json:"accepts,omitempty"`

	done apiv1.Incident // what commit wrote
}

// plural is the manifest's section of a kind of subject.
var plural = map[string]string{
	apiv1.MarbleSubject: "marbles", apiv1.PackageSubject: "packages", apiv1.PlatformSubject: "platforms", apiv1.UserSubject: "users",
}

func revokeRight(s apiv1.Subject) string {
	right := manifest.Revoke + plural[s.Kind] + "/" + s.Name
	if s.Instance != "" {
		right += "/" + s.Instance
	}
	return right
}

func (r *revocation) right() string { return revokeRight(r.Subject) }

func (r *revocation) text() string {
	return r.Kind + " of " + subjectText(r.Subject) + ": " + r.Reason
}

// commit writes the incident, and drops the secrets of the instances that it is
// about alone.
func (r *revocation) commit(c *Coordinator, tx *store.Tx, by origin) error {
	in := apiv1.Incident{Kind: r.Kind, Subject: r.Subject, Reason: r.Reason, By: by.user, ApprovedBy: by.agreed, At: by.at}
	for _, old := range c.incidents.Load().all {
		if old.Kind == r.Kind && barOf(old.Subject) == barOf(r.Subject) && old.Kind != apiv1.BreakGlass {
			r.done = old
			return nil
		}
	}
	if err := c.keepsGovernors(r, slices.Concat(r.Accepts, by.accepted)); err != nil {
		return err
	}
	kind := map[string]audit.Kind{apiv1.Revocation: audit.Revoked, apiv1.Quarantine: audit.Quarantined}[r.Kind]
	if err := c.keepIncident(tx, &in, kind, by); err != nil {
		return err
	}
	r.done = in
	if r.Kind != apiv1.Revocation {
		return nil
	}
	for key := range c.struck(tx, in) {
		marble, id, _ := strings.Cut(key, "/")
		secrets.Drop(tx, secrets.Asker{Marble: marble, Instance: id})
	}
	return nil
}

func (r *revocation) publish(c *Coordinator) { c.publishIncidents() }

// keepIncident gives an incident its number and writes it with its audit record.
func (c *Coordinator) keepIncident(tx *store.Tx, in *apiv1.Incident, kind audit.Kind, by origin) error {
	if n := incidentsTable.Len(tx); n >= maxIncidents {
		return problem.New("INC-014", "%d stand, which is the limit", n)
	}
	head, _ := incidentHeads.Get(tx, keyCurrent)
	head.Version, head.Last = head.Version+1, head.Last+1
	in.ID = head.Last
	details := by.details(map[string]string{"incident": fmt.Sprint(in.ID), "kind": in.Kind, "reason": in.Reason})
	if !in.Until.IsZero() {
		details["until"] = stamp(in.Until)
	}
	entry, err := c.log.Append(tx, audit.Record{Time: in.At, Kind: kind, Subject: aboutText(*in), Actor: in.By,
		Text: fmt.Sprintf("%s of %s by %s: %s", in.Kind, aboutText(*in), in.By, in.Reason), Details: details})
	if err != nil {
		return err
	}
	in.Record = entry.Seq
	if err := incidentHeads.Put(tx, keyCurrent, head); err != nil {
		return err
	}
	return incidentsTable.Put(tx, numbered(in.ID), *in)
}

// aboutText is what an incident is about.
func aboutText(in apiv1.Incident) string {
	if in.Lifts != nil {
		return exceptionText(*in.Lifts)
	}
	return subjectText(in.Subject)
}

// publishIncidents shows what was committed to requests, to sessions and to
// proxies. The caller holds c.setting.
func (c *Coordinator) publishIncidents() {
	if err := c.loadIncidents(context.Background()); err != nil {
		panic("coordinator: reading what was just written: " + err.Error()) // the store's reads are of memory
	}
	c.changed()
}

// struck are the live instances that an incident is about.
func (c *Coordinator) struck(tx *store.Tx, in apiv1.Incident) map[string]instanceRecord {
	alone := newIncidents(incidentHead{}, []apiv1.Incident{in})
	rev := c.current.Load()
	hit := map[string]instanceRecord{}
	for key, r := range instances.All(tx) {
		if c.config.Now().Before(r.NotAfter) && alone.barred(suspectOf(rev, key, r.Provenances)) != nil {
			hit[key] = r
		}
	}
	return hit
}

// keepsGovernors refuses to revoke the last users who can set a manifest, unless
// that is accepted by name.
func (c *Coordinator) keepsGovernors(r *revocation, accepted []string) error {
	rev := c.current.Load()
	if r.Subject.Kind != apiv1.UserSubject || r.Kind != apiv1.Revocation || slices.Contains(accepted, riskLockOut) {
		return nil
	}
	left, before := 0, 0
	for name := range rev.m.Users {
		if !rev.m.May(name, manifest.UpdateManifest) || c.incidents.Load().barred(suspect{user: name}) != nil {
			continue
		}
		before++
		if name != r.Subject.Name {
			left++
		}
	}
	need := max(1, rev.m.Approvals[manifest.UpdateManifest])
	if left < need && left < before {
		return problem.New("INC-013", "%d users with the action %s would be left, and %d are needed", left, manifest.UpdateManifest, need)
	}
	return nil
}

// IncidentRequest is a request of a user about incidents.
type IncidentRequest struct {
	Principal *Principal
}

// Revoke takes an identity away, or puts its bearer in quarantine, as kind says.
// It counts from the moment that it is durable: no lease is issued after, no
// secret released, no user's request done; proxies are told at once. The same
// again changes nothing and gives the incident that stands.
//
// Errors: INC-010 (nothing of that name), INC-012 (malformed), INC-013 (lock-out),
// INC-014 (too many), GOV-001 (rights).
func (c *Coordinator) Revoke(ctx context.Context, user *Principal, kind string, req apiv1.RevokeRequest) (apiv1.RevokeResult, error) {
	result, err := c.revoke(ctx, user, kind, req)
	if err != nil {
		return apiv1.RevokeResult{}, c.refuseIncident(ctx, user, req.Subject, err)
	}
	return result, nil
}

func (c *Coordinator) revoke(ctx context.Context, user *Principal, kind string, req apiv1.RevokeRequest) (apiv1.RevokeResult, error) {
	if err := checkReason(req.Reason); err != nil {
		return apiv1.RevokeResult{}, err
	}
	rev := c.current.Load()
	if rev.m == nil {
		return apiv1.RevokeResult{}, problem.New("CRD-010", "no manifest was set yet, so nobody has an identity")
	}
	a := &revocation{Kind: kind, Reason: req.Reason, Accepts: req.Accepts}
	var err error
	if a.Subject, err = c.subject(ctx, rev, kind, req.Subject); err != nil {
		return apiv1.RevokeResult{}, err
	}
	result, err := c.toll(ctx, rev, a)
	if err != nil || req.DryRun {
		return result, err
	}
	result.Proposal, err = c.perform(ctx, user, "revoke", a)
	if err == nil && result.Proposal == nil {
		result.Incident = &a.done
	}
	return result, err
}

func checkReason(reason string) error {
	if n := len(strings.TrimSpace(reason)); n == 0 || len(reason) > maxReasonText || strings.ContainsFunc(reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return problem.New("INC-012", "wanted a reason of 1 to %d bytes on one line, all of which can be seen, got %d", maxReasonText, len(reason))
	}
	return nil
}

// subject finds whom a request means; the id of an instance may be given by its
// beginning.
func (c *Coordinator) subject(ctx context.Context, rev *revision, kind string, s apiv1.Subject) (apiv1.Subject, error) {
	names := map[string][]string{
		apiv1.MarbleSubject: rev.marbles, apiv1.PackageSubject: slices.Sorted(maps.Keys(rev.m.Packages)),
		apiv1.PlatformSubject: slices.Sorted(maps.Keys(rev.m.Platforms)), apiv1.UserSubject: slices.Sorted(maps.Keys(rev.m.Users)),
	}[s.Kind]
	switch {
	case plural[s.Kind] == "" || kind == apiv1.Quarantine && s.Kind != apiv1.MarbleSubject:
		return s, problem.New("INC-012", "%s of a %.40q", kind, s.Kind)
	case s.Instance != "" && s.Kind != apiv1.MarbleSubject, len(s.Measurement) > 0 && s.Kind != apiv1.PackageSubject, len(s.Measurement) > 64:
		return s, problem.New("INC-012", "a %s has no such part", s.Kind)
	case s.Kind == apiv1.PlatformSubject && machineID(s.Name) && !slices.Contains(names, s.Name):
		return s, nil
	case !slices.Contains(names, s.Name):
		p := problem.New("INC-010", "the manifest has no %s %.80q", s.Kind, s.Name)
		if best := nearest.Word(s.Name, names[:min(len(names), maxCandidates)]); best != "" {
			p.Detail += fmt.Sprintf("; did you mean %q?", best)
		}
		return s, p
	case s.Instance == "":
		return s, nil
	}
	return c.instanceSubject(ctx, s)
}

// instanceSubject completes the id of an instance.
func (c *Coordinator) instanceSubject(ctx context.Context, s apiv1.Subject) (apiv1.Subject, error) {
	var found []string
	err := c.store.View(ctx, func(tx *store.Tx) error {
		for key := range instances.Prefix(tx, instanceKey(s.Name, s.Instance)) {
			_, id, _ := strings.Cut(key, "/")
			if id == s.Instance {
				found = []string{id}
				return nil
			}
			if found = append(found, id); len(found) > 2 {
				return nil
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return s, err
	case len(found) == 0:
		return s, problem.New("INC-010", "%s has no live instance %.80q", s.Name, s.Instance)
	case len(found) > 1:
		return s, problem.New("INC-010", "%s/%s, %s/%s and perhaps more begin with %.80q", s.Name, found[0], s.Name, found[1], s.Instance)
	}
	s.Instance = found[0]
	return s, nil
}

// toll says what a revocation is about to do: the instances and hops that end,
// and the secrets that were read.
func (c *Coordinator) toll(ctx context.Context, rev *revision, a *revocation) (apiv1.RevokeResult, error) {
	result := apiv1.RevokeResult{Instances: []string{}, Hops: []string{}, Secrets: []string{}}
	if a.Subject.Kind == apiv1.UserSubject {
		return result, nil
	}
	in := apiv1.Incident{Kind: a.Kind, Subject: a.Subject}
	roles := map[string]bool{}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		read := map[string]bool{}
		for key := range c.struck(tx, in) {
			marble, id, _ := strings.Cut(key, "/")
			roles[marble] = true
			result.Instances = append(result.Instances, key)
			for _, t := range secrets.Touched(tx, secrets.Filter{Marble: marble, Instance: id, At: c.config.Now()}) {
				if t.Secret != secrets.Leaf {
					read[t.Secret] = true
				}
			}
		}
		result.Secrets = append(result.Secrets, slices.Sorted(maps.Keys(read))...)
		return nil
	})
	alone := newIncidents(incidentHead{}, []apiv1.Incident{in})
	for _, name := range rev.marbles {
		if alone.barred(rev.suspect(instanceKey(name, ""))) != nil {
			roles[name] = true
		}
	}
	for _, from := range rev.marbles {
		for _, call := range rev.m.Marbles[from].Calls {
			if roles[from] || roles[call.Marble] {
				result.Hops = append(result.Hops, from+" → "+call.Marble+"/"+call.Port)
			}
		}
	}
	slices.Sort(result.Instances)
	result.Instances = result.Instances[:min(len(result.Instances), maxDecisions)]
	result.Hops = result.Hops[:min(len(result.Hops), maxDecisions)]
	return result, err
}

// refuseIncident records a refusal and returns it.
func (c *Coordinator) refuseIncident(ctx context.Context, user *Principal, s apiv1.Subject, refusal error) error {
	if problem.From(refusal).Kind() == problem.Internal || ctx.Err() != nil {
		return refusal
	}
	return c.refuseUser(ctx, user, audit.Record{Kind: audit.IncidentRefused, Subject: clip(subjectText(s), 256)}, refusal)
}

// lifting is the act of ending an incident.
type lifting struct {
	ID      int           `json:"id"`
	Kind    string        `json:"kind"`
	Subject apiv1.Subject `json:"subject"`
	Reason  string        `json:"reason"`

	done apiv1.Incident
}

func (l *lifting) right() string {
	if l.Kind == apiv1.BreakGlass {
		return manifest.BreakGlass
	}
	return revokeRight(l.Subject)
}

func (l *lifting) text() string {
	return fmt.Sprintf("end of incident %d (%s): %s", l.ID, l.Kind, l.Reason)
}

func (l *lifting) commit(c *Coordinator, tx *store.Tx, by origin) error {
	in, ok := incidentsTable.Get(tx, numbered(l.ID))
	if !ok || in.Kind != l.Kind {
		return problem.New("INC-011", "no %s has the number %d", l.Kind, l.ID)
	}
	l.done = in
	return c.endIncident(tx, in, audit.Record{Time: by.at, Kind: audit.IncidentLifted, Actor: by.user, Details: by.details(map[string]string{"reason": l.Reason}),
		Text: fmt.Sprintf("%s of %s (incident %d) lifted by %s: %s", in.Kind, aboutText(in), in.ID, by.user, l.Reason)})
}

func (l *lifting) publish(c *Coordinator) { c.publishIncidents() }

// endIncident removes an incident and completes the record of it.
func (c *Coordinator) endIncident(tx *store.Tx, in apiv1.Incident, r audit.Record) error {
	head, _ := incidentHeads.Get(tx, keyCurrent)
	head.Version++
	if err := incidentHeads.Put(tx, keyCurrent, head); err != nil {
		return err
	}
	incidentsTable.Delete(tx, numbered(in.ID))
	r.Subject = aboutText(in)
	r.Details["incident"], r.Details["kind"] = fmt.Sprint(in.ID), in.Kind
	_, err := c.log.Append(tx, r)
	return err
}

// Lift ends an incident of a kind, by its number. Errors: INC-011 (there is
// none), INC-012 (malformed), GOV-001 (rights).
func (c *Coordinator) Lift(ctx context.Context, user *Principal, kind string, id int, reason string) (apiv1.IncidentResult, error) {
	a := &lifting{ID: id, Kind: kind, Reason: reason}
	err := checkReason(reason)
	if err == nil {
		err = problem.New("INC-011", "no %s has the number %d", kind, id)
		for _, in := range c.incidents.Load().all {
			if in.ID == id && in.Kind == kind {
				a.Subject, err = in.Subject, nil
			}
		}
	}
	var result apiv1.IncidentResult
	if err == nil {
		result.Proposal, err = c.perform(ctx, user, "lift", a)
	}
	if err != nil {
		return result, c.refuseIncident(ctx, user, apiv1.Subject{Kind: kind, Name: fmt.Sprint(id)}, err)
	}
	if result.Proposal == nil {
		result.Incident = &a.done
	}
	return result, nil
}

// Incidents returns those of a kind that stand, by number.
func (c *Coordinator) Incidents(kind string) apiv1.Incidents {
	list := apiv1.Incidents{Incidents: []apiv1.Incident{}}
	now := c.config.Now()
	for _, in := range c.incidents.Load().all {
		if in.Kind == kind && (in.Until.IsZero() || now.Before(in.Until)) {
			list.Incidents = append(list.Incidents, in)
		}
	}
	return list
}
