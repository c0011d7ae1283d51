package coordinator

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// First is who set a manifest that anybody could have set.
const First = "first"

// Manifest returns the manifest in force; CRD-010 before the first.
func (c *Coordinator) Manifest(ctx context.Context) (apiv1.Manifest, error) {
	if err := ctx.Err(); err != nil {
		return apiv1.Manifest{}, err
	}
	rev := c.current.Load()
	if rev.m == nil {
		return apiv1.Manifest{}, problem.New("CRD-010", "no manifest was set yet")
	}
	r := rev.record
	return apiv1.Manifest{Digest: r.Digest, Revision: r.Number, SetBy: r.SetBy, SetAt: r.SetAt, Raw: rev.m.Raw()}, nil
}

// SetManifest puts a manifest in force. The first may be set by anybody unless
// Config.Owner is set; every later one needs a user with the right to it, and
// the digest of the manifest that it replaces. The same manifest again changes
// nothing and succeeds.
//
// Where the manifest in force wants more users than the one who asks, the
// result is a proposal, which Approve puts in force.
//
// Errors are those of manifest.Parse, CRD-012 and CRD-013 (IfMatch), CRD-014
// (trust domain), CRD-015 to CRD-017 and GOV-001 (rights), GOV-002 (nobody can),
// GOV-003 (too many proposals), GOV-009 (risks), CRD-019 (a name of the
// coordinator's).
func (c *Coordinator) SetManifest(ctx context.Context, req SetManifestRequest) (apiv1.SetResult, error) {
	done, err := c.begin(ctx)
	if err != nil {
		return apiv1.SetResult{}, err
	}
	defer done()
	// Who may not set one is told so before megabytes are parsed for him.
	if err := c.maySet(c.current.Load(), req); err != nil {
		return apiv1.SetResult{}, c.refuseSet(ctx, req, err)
	}
	m, problems := manifest.Parse(req.Raw)
	if err := problems.Err(); err != nil {
		return apiv1.SetResult{}, c.refuseSet(ctx, req, err)
	}
	if err := errors.Join(identities(m), c.claimed(m)); err != nil {
		return apiv1.SetResult{}, c.refuseSet(ctx, req, err)
	}
	c.setting.Lock()
	defer c.setting.Unlock()
	old := c.current.Load()
	if old.m != nil && old.m.Digest() == m.Digest() {
		return apiv1.SetResult{Digest: old.record.Digest, Revision: old.record.Number, Effects: []string{"nothing changes: this manifest is in force"}, Risks: []string{}}, nil
	}
	if err := errors.Join(c.maySet(old, req), replaces(old, m, req.IfMatch)); err != nil {
		return apiv1.SetResult{}, c.refuseSet(ctx, req, problem.From(err))
	}
	result, err := c.decide(ctx, old, m, req)
	if err != nil {
		return apiv1.SetResult{}, c.refuseSet(ctx, req, err)
	}
	return result, nil
}

// following is m as the revision after old.
func following(old *revision, m *manifest.Manifest, by origin) (*revision, error) {
	digest := m.Digest()
	return newRevision(revisionRecord{
		Number: old.record.Number + 1, Digest: digest[:], Previous: old.record.Digest, SetAt: by.at,
		SetBy: by.user, Open: by.open, ApprovedBy: by.agreed, Accepted: by.accepted, Proposal: by.proposal,
	}, m)
}

// put makes next, which follows the revision in force, the one in force. result
// says what that does; also writes what goes with it in the same Update, if it is
// not nil. The caller holds c.setting.
func (c *Coordinator) put(ctx context.Context, next *revision, result apiv1.SetResult, also func(*store.Tx) error) (apiv1.SetResult, error) {
	old, m := c.current.Load(), next.m
	change, err := c.prepareKeys(ctx, m)
	if err != nil {
		return apiv1.SetResult{}, err
	}
	err = c.update(ctx, func(tx *store.Tx) error {
		if also != nil {
			if err := also(tx); err != nil {
				return err
			}
		}
		if err := c.commitKeys(tx, change, m); err != nil {
			return err
		}
		if err := c.endStale(tx, next.record.SetAt); err != nil {
			return err
		}
		return c.commitRevision(tx, next, m.Raw())
	})
	if err != nil {
		change.Abort()
		return apiv1.SetResult{}, err
	}
	result.Recovery = c.followKeys(ctx, change)
	c.current.Store(next.without(c.incidents.Load()))
	c.outdated.mark(otherRules(old, next), next.record.SetAt)
	c.live.keepMarbles(next)
	if err := c.become(Serving); err != nil {
		return apiv1.SetResult{}, err
	}
	c.changed()
	c.followManifest(ctx)
	return result, nil
}

// commitRevision writes everything that a new manifest changes. It writes the
// revision's places in both logs into it.
func (c *Coordinator) commitRevision(tx *store.Tx, next *revision, raw []byte) error {
	current, _ := heads.Get(tx, keyCurrent)
	if current.Number != next.record.Number-1 {
		return problem.New("STO-018", "revision %d is there already", current.Number)
	}
	var err error
	if next.record.Place, err = manifests.Append(tx, raw); err != nil {
		return err
	}
	details := map[string]string{"revision": fmt.Sprint(next.record.Number), "previous": next.record.Previous.String()}
	changed := secrets.Update(tx, next.m)
	for key, names := range map[string][]string{"droppedSecrets": changed.Dropped, "staleSecrets": changed.Stale} {
		if len(names) > 0 {
			details[key] = strings.Join(names, " ")
		}
	}
	details = next.record.origin().details(details)
	text := fmt.Sprintf("manifest %s is revision %d, set by %s", next.m.Digest().Short(), next.record.Number, next.record.SetBy)
	if next.record.ApprovedBy != nil {
		text += ", approved by " + strings.Join(next.record.ApprovedBy, ", ")
	}
	if next.record.Open {
		details["open"] = "true"
		text += "; ANYBODY who reached the coordinator could have set it"
	}
	entry, err := c.log.Append(tx, audit.Record{
		Time: next.record.SetAt, Kind: audit.ManifestSet, Subject: next.digest(), Actor: next.record.SetBy, Text: text, Details: details,
	})
	if err != nil {
		return err
	}
	next.record.Record = entry.Seq
	if err := heads.Put(tx, keyCurrent, next.record); err != nil {
		return err
	}
	return revisions.Put(tx, fmt.Sprintf("%08d", next.record.Number), next.record)
}

// maySet judges who asks.
func (c *Coordinator) maySet(old *revision, req SetManifestRequest) error {
	p := req.Principal
	switch {
	case old.m == nil && c.config.Owner == nil:
		return nil
	case old.m == nil && p == nil, old.m == nil && p.Name != Owner:
		return problem.New("CRD-017", "this coordinator was started with an owner, and the request is not the owner's")
	case old.m == nil:
		return nil
	case old.m.Digest() == manifest.DigestOf(req.Raw):
		return nil // it is there already: nothing to permit
	case p == nil:
		return problem.New("CRD-015", "manifest %s is in force, and the request is nobody's", old.m.Digest().Short())
	case c.outcast(p) != nil:
		return c.outcast(p)
	case !old.mayPropose(p.Name):
		return problem.New("CRD-016", "%s has no role with the action %s, nor one for a part of the manifest", p.Name, manifest.UpdateManifest)
	}
	return nil
}

// replaces judges whether m may follow the manifest in force.
func replaces(old *revision, m *manifest.Manifest, ifMatch string) error {
	want := old.digest()
	switch {
	case old.m == nil && ifMatch != "":
		return problem.New("CRD-013", "the request replaces %.64s, but no manifest is in force", ifMatch)
	case old.m == nil:
		return nil
	case ifMatch == "":
		return problem.New("CRD-012", "manifest %s is in force", want)
	case !strings.EqualFold(ifMatch, want):
		return problem.New("CRD-013", "the request replaces %.64s, but %s is in force", ifMatch, want)
	case m.TrustDomain != old.m.TrustDomain:
		return problem.New("CRD-014", "the trust domain is %s, the new manifest says %s", old.m.TrustDomain, m.TrustDomain)
	}
	return nil
}

// identities checks that a leaf can be made out for every marble, so that no
// accepted manifest has one that cannot be admitted.
func identities(m *manifest.Manifest) error {
	for name, mb := range m.Marbles {
		if err := authority.CheckNames(m.TrustDomain, name, mb.DNSNames); err != nil {
			return problem.Because(err, "CRD-002", "no certificate can be made out for marble %s", name)
		}
	}
	return nil
}

// claimed refuses a manifest that gives a name of the coordinator's own to a
// marble or to a secret: whoever trusts the root alone, as TLS clients with the
// bundle do, would take that one for the coordinator.
func (c *Coordinator) claimed(m *manifest.Manifest) error {
	names := map[string][]string{}
	for name, mb := range m.Marbles {
		names["marbles."+name] = mb.DNSNames
	}
	for name, secret := range m.Secrets {
		names["secrets."+name] = secret.DNSNames
	}
	for _, who := range slices.Sorted(maps.Keys(names)) {
		for _, name := range names[who] {
			if i := slices.IndexFunc(c.config.ServerNames, func(own string) bool { return covers(name, own) }); i >= 0 {
				return problem.New("CRD-019", "%s has the DNS name %q, and this coordinator is %s", who, name, c.config.ServerNames[i])
			}
		}
	}
	return nil
}

// covers reports whether a certificate for a DNS name, which may begin with "*.",
// is one for host (RFC 9525, section 6.3).
func covers(name, host string) bool {
	name, host = strings.ToLower(name), strings.ToLower(strings.TrimSuffix(host, "."))
	if below, wildcard := strings.CutPrefix(name, "*."); wildcard {
		_, host, _ = strings.Cut(host, ".")
		return host != "" && host == below
	}
	return name == host
}

// refuseSet records a refusal and returns it. A medium that fails is none.
func (c *Coordinator) refuseSet(ctx context.Context, req SetManifestRequest, refusal error) error {
	if strings.HasPrefix(string(problem.CodeOf(refusal)), "STO-") {
		return refusal
	}
	digest := manifest.DigestOf(req.Raw)
	return c.refuseUser(ctx, req.Principal, audit.Record{
		Kind: audit.ManifestRefused, Subject: hex.EncodeToString(digest[:]), Details: map[string]string{"ifMatch": req.IfMatch},
	}, refusal)
}

// refuseUser completes and writes the record of what a user, or nobody, was
// refused, as far as the two may fill the log, and returns the refusal. A state
// that is behind stays as it is: holders are signing for it.
func (c *Coordinator) refuseUser(ctx context.Context, user *Principal, r audit.Record, refusal error) error {
	p := problem.From(refusal)
	if c.behind.Load() != nil {
		return p
	}
	r.Time, r.Code, r.Text = c.config.Now(), string(p.Code), p.Detail
	var err error
	if user == nil {
		err = c.log.AppendAnonymous(ctx, r)
	} else if c.log.AdmitUser(r.Kind, user.Name, r.Time) {
		r.Actor = user.Name
		err = c.update(ctx, func(tx *store.Tx) error { _, err := c.log.Append(tx, r); return err })
	}
	if err != nil {
		return errors.Join(p, err)
	}
	return p
}

// stamp writes a moment for people.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
