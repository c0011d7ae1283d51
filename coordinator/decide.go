package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// maxEffects bounds the effects of one answer.
const maxEffects = 1000

// decide says what becomes of a manifest that may replace the one in force: it is
// put in force, or waits for approvals. The caller holds c.setting.
func (c *Coordinator) decide(ctx context.Context, old *revision, m *manifest.Manifest, req SetManifestRequest) (apiv1.SetResult, error) {
	diff := manifest.Compare(old.m, m)
	by := origin{user: First, open: true, at: c.config.Now().UTC()}
	if req.Principal != nil {
		by.user, by.open = req.Principal.Name, false
	}
	var needs []need
	waits := false
	if old.m != nil {
		by.accepted = diff.Risks()
		demands := manifest.Demands(old.m, m)
		missing, err := old.judge(by.user, demands)
		if err == nil {
			err = accepted(diff, req.Accept)
		}
		if err != nil {
			return apiv1.SetResult{}, err
		}
		needs, waits = needsOf(old.m, demands), len(missing) > 0
	}
	next, err := following(old, m, by)
	if err != nil {
		return apiv1.SetResult{}, err
	}
	result := c.consequences(diff, old, next)
	proposed := proposalRecord{Needs: needs, Proposal: apiv1.Proposal{Kind: apiv1.ManifestProposal, Text: "manifest " + m.Digest().Short(), Accepts: result.Risks}}
	switch {
	case req.DryRun && waits:
		r, err := c.newProposal(old, req.Principal, req.Raw, proposed)
		shown := r.shown(old)
		result.DryRun, result.Proposal = true, &shown
		return result, err
	case req.DryRun:
		result.DryRun = true
		return result, nil
	case waits:
		result.Proposal, err = c.propose(ctx, old, req.Principal, req.Raw, proposed)
		return result, err
	}
	return c.put(ctx, next, result, nil)
}

// consequences says what next does to a deployment that has old, or nothing yet.
// d is what lies between them.
func (c *Coordinator) consequences(d manifest.Diff, old, next *revision) apiv1.SetResult {
	r := apiv1.SetResult{Digest: next.record.Digest, Revision: next.record.Number, OpenFirstSet: next.record.Open, Risks: slices.Concat([]string{}, d.Risks())}
	r.Effects = append(texts(d), floorEffects(*c.floors.Load(), old, next)...)
	if !next.governable() {
		r.Effects = append(r.Effects, "mesh: immutable: no users may set another manifest, so this one stays")
	}
	return r
}

// accepted demands that every risk of a change was accepted by its name.
func accepted(d manifest.Diff, names []string) error {
	var rows, missing []string
	for _, e := range d.Effects {
		if e.Risk == "" || slices.Contains(names, e.Risk) {
			continue
		}
		if !slices.Contains(missing, e.Risk) {
			missing = append(missing, e.Risk)
		}
		if len(rows) < maxRows {
			rows = append(rows, fmt.Sprintf("%s: %s %s", e.Risk, e.Subject, e.Text))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return problem.New("GOV-009", "%s", strings.Join(rows, "; ")).WithNext("accept by name what is meant: --accept=%s", strings.Join(missing, ","))
}

// effects says what m does to a deployment that has old, in words.
func effects(old, m *manifest.Manifest) []string { return texts(manifest.Compare(old, m)) }

func texts(d manifest.Diff) []string {
	lines := []string{}
	for i, e := range d.Effects {
		if i == maxEffects {
			return append(lines, fmt.Sprintf("and %d more effects", len(d.Effects)-i))
		}
		lines = append(lines, e.Subject+": "+e.Text)
	}
	return lines
}

// mayPropose reports whether a user has any right to change the manifest.
func (r *revision) mayPropose(user string) bool {
	for _, role := range r.m.Users[user].Roles {
		for _, action := range r.m.Roles[role].Actions {
			for _, right := range []string{manifest.UpdateManifest, manifest.RaiseSecurityVersion, manifest.RaiseFloor} {
				if name, _, _ := strings.Cut(action, ":"); name == strings.TrimSuffix(right, ":") {
					return true
				}
			}
		}
	}
	return false
}

// governable reports whether users could ever set another manifest.
func (r *revision) governable() bool {
	for user := range r.m.Users {
		if r.mayPropose(user) {
			return true
		}
	}
	return false
}
