package coordinator

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// rule judges a matter as an activation or renewal would be.
func (p *planner) rule(it *planItem, m matter, policyFor func(binding.Purpose, string) (attest.Policy, bool)) ruled {
	policy, ok := policyFor(m.expected.Purpose, it.marble)
	switch {
	case ok:
	case m.expected.Purpose == binding.Replica:
		return ruled{denial: problem.New("REP-020", "the manifest has no section coordinators")}
	default:
		return ruled{denial: problem.New("CRD-030", "the manifest has no marble %s", it.marble)}
	}
	m.policy = policy
	r := ruled{verdict: m.judge(p.c.config.Verifiers)}
	if bar := p.bar(it, m, r.verdict); r.verdict.OK() && bar != nil {
		r.denial = bar
	}
	if end := r.verdict.Claims.TCB.ValidUntil(); r.verdict.OK() && !end.IsZero() && end.Sub(m.at) < minLife {
		r.denial = problem.New("CRD-032", "what the evidence rests on ends at %s", stamp(end))
	}
	return r
}

// compare judges an item as it is and as it is assumed to be, and notes what
// changes.
func (p *planner) compare(it *planItem, is, next matter, behind []attest.Step) {
	would := p.rule(it, next, p.policy)
	would.verdict = withSteps(would.verdict, behind)
	was := would
	if p.hypothesis {
		was = p.rule(it, is, func(purpose binding.Purpose, marble string) (attest.Policy, bool) {
			return p.policyOf(p.rev, purpose, marble, p.now)
		})
	}
	e := &apiv1.PlanEffect{Marble: it.marble, Instance: it.instance, Decision: it.record.Decision, TEE: is.evidence.TEE}
	switch {
	case it.live && !would.accepted():
		e.Outcome, e.Already = apiv1.Loses, !was.accepted()
		e.Code, e.Reason = would.reason()
		e.Failed = failedSteps(would.verdict.Steps)
		e.Failed = e.Failed[:min(len(e.Failed), maxFailed)]
	case would.accepted() && !was.accepted():
		e.Outcome = apiv1.Gains
		e.Code, e.Reason = was.reason()
	default:
		return
	}
	if it.live {
		e.Renewal, e.NotAfter = p.when(it)
	}
	it.effect = e
}

// when is the first renewal that is judged as assumed, and when the leaf before
// it ends at the latest.
func (p *planner) when(it *planItem) (renewal, notAfter time.Time) {
	renewal, notAfter = it.record.RenewAfter, it.record.NotAfter
	if renewal.Before(p.now) || p.changesRules(it.marble) { // then it is asked at once
		renewal = p.now
	}
	if p.at.After(renewal) { // until then it renews as it does today
		renewal = p.at
		if end := p.at.Add(time.Duration(p.rev.m.Marbles[it.marble].Lease)); end.After(notAfter) {
			notAfter = end
		}
	}
	return renewal.UTC(), notAfter.UTC()
}

// report sums up what became of the items.
func (p *planner) report(items []*planItem) apiv1.Plan {
	out := apiv1.Plan{At: p.at, Manifest: p.next.record.Digest, Effects: []apiv1.PlanEffect{}, Changes: p.changes}
	if out.Changes == nil {
		out.Changes = []string{}
	}
	for _, it := range items {
		switch {
		case it.gone:
			continue
		case it.live:
			out.Instances++
		default:
			out.Refusals++
		}
		switch {
		case it.missing && it.live && len(out.Unjudged) < maxUnjudged:
			out.Unjudged = append(out.Unjudged, instanceKey(it.marble, it.instance))
		case it.missing:
		case it.effect == nil || it.effect.Outcome == apiv1.Gains:
			if it.live {
				out.Keeps++
			}
		}
		if it.effect == nil {
			continue
		}
		if it.effect.Outcome == apiv1.Loses {
			out.Loses++
		} else {
			out.Gains++
		}
		out.Effects = append(out.Effects, *it.effect)
	}
	slices.SortFunc(out.Effects, func(a, b apiv1.PlanEffect) int {
		return cmp.Or(-strings.Compare(a.Outcome, b.Outcome), strings.Compare(a.Marble, b.Marble),
			strings.Compare(a.Instance, b.Instance), strings.Compare(a.Decision, b.Decision))
	})
	slices.Sort(out.Unjudged)
	out.More = max(0, len(out.Effects)-maxListed)
	out.Effects = out.Effects[:len(out.Effects)-out.More]
	unused := map[string]bool{}
	for _, name := range p.overlay.names() {
		unused[name] = !p.used[name]
	}
	maps.DeleteFunc(unused, func(_ string, yes bool) bool { return !yes })
	out.Unused = slices.Sorted(maps.Keys(unused))
	return out
}
