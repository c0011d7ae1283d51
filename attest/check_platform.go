package attest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// platformSteps judges the hardware's patch level and what the vendor says of
// it, except what depends on the time.
func (p Policy) platformSteps(c Claims) []Step {
	k := check{source: section("platforms", p.PlatformName)}
	unchecked := p.Platform.Endorsements.AllowUncheckedRevocation
	if c.TEE == SNP {
		k.snpPlatform(c, p.Platform.SNP)
		k.revocation(c.TCB, unchecked, "supply the CRL of AMD's product root (crl.der)")
		return k.steps
	}
	rules := p.Platform.rules(c.TEE)
	k.status(c.TEE, c.TCB, rules)
	k.advisories(c.TCB, rules)
	if rules.MinTCBEvaluation > 0 {
		k.add(Step{Code: CodeTCBEvaluation, Field: "tcb.evaluationNumber", OK: c.TCB.EvaluationNumber >= rules.MinTCBEvaluation,
			Want: fmt.Sprintf("%d or higher", rules.MinTCBEvaluation), Got: fmt.Sprint(c.TCB.EvaluationNumber),
			Fix: Fix{Operator, "fetch newer endorsements"}})
	}
	k.revocation(c.TCB, unchecked, "supply the CRLs of the root CA and of the PCK CA")
	return k.steps
}

// rules returns the rules for a TEE; the zero rules where none are given.
func (p Platform) rules(t TEE) DCAPPlatform {
	r := map[bool]*DCAPPlatform{t == SGX: p.SGX, t == TDX: p.TDX, t.Simulated(): p.Sim}[true]
	if r == nil {
		return DCAPPlatform{}
	}
	return *r
}

// status judges the converged status; one that is not accepted is broken down to
// the parts that are behind.
func (k *check) status(tee TEE, t TCBClaims, rules DCAPPlatform) {
	accepted := []string{string(UpToDate)}
	for _, s := range rules.AcceptedTCBStatuses {
		if s != Revoked && s != "" && !slices.Contains(accepted, string(s)) {
			accepted = append(accepted, string(s))
		}
	}
	s := Step{Code: CodeTCBStatus, Field: "tcb.status", OK: slices.Contains(accepted, string(t.Status)),
		Want: strings.Join(accepted, " or "), Got: string(t.Status),
		Fix: statusFix(t.Status)}
	if t.Status == "" {
		s.Got = "not known"
	}
	k.add(s)
	for _, g := range t.Gaps {
		if !s.OK && len(g.Below) > 0 {
			k.steps = append(k.steps, g.step(tee))
		}
	}
}

func (k *check) advisories(t TCBClaims, rules DCAPPlatform) {
	if rules.AcceptedAdvisories == nil {
		return
	}
	var open []string
	for _, a := range t.Advisories {
		if !slices.Contains(rules.AcceptedAdvisories, a) {
			open = append(open, a)
		}
	}
	want := "none"
	if len(rules.AcceptedAdvisories) > 0 {
		want = "none besides " + strings.Join(rules.AcceptedAdvisories, ", ")
	}
	got := "none"
	if len(t.Advisories) > 0 {
		got = strings.Join(t.Advisories, ", ")
	}
	if len(open) > 0 {
		got = strings.Join(open, ", ")
	}
	k.add(Step{Code: CodeAdvisory, Field: "tcb.advisories", OK: len(open) == 0, Want: want, Got: got,
		Fix: Fix{HostOwner, "apply the vendor's mitigation, or have the manifest's author accept the advisory"}})
}

func (k *check) revocation(t TCBClaims, allowUnchecked bool, fix string) {
	s := Step{Code: CodeNoRevocation, Field: "tcb.revocationChecked", OK: t.RevocationChecked,
		Want: "true", Got: fmt.Sprint(t.RevocationChecked), Fix: Fix{Operator, fix}}
	if allowUnchecked && !t.RevocationChecked {
		s.OK, s.Want, s.Got = true, "true, unless no CRL is at hand", "false: revocation was NOT checked"
	}
	k.add(s)
}

// ageSteps judges how old the endorsements are.
func (p Policy) ageSteps(c Claims, at time.Time) []Step {
	limit := time.Duration(p.Platform.Endorsements.MaxAge)
	if limit <= 0 {
		return nil
	}
	k := check{source: section("platforms", p.PlatformName)}
	age, got := at.Sub(c.TCB.OldestIssue), "no endorsement says when it was issued"
	if !c.TCB.OldestIssue.IsZero() {
		got = fmt.Sprintf("%s (issued %s)", age.Truncate(time.Second), c.TCB.OldestIssue.UTC().Format(time.RFC3339))
	}
	k.add(Step{Code: CodeEndorsementAge, Field: "endorsements.age", OK: !c.TCB.OldestIssue.IsZero() && age <= limit,
		Want: "at most " + limit.String(), Got: got, Fix: Fix{Operator, "fetch newer endorsements"}})
	return k.steps
}
