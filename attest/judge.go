package attest

import (
	"crypto/subtle"
	"fmt"
	"slices"
	"time"
)

// Judge makes the one decision: is this evidence genuine, does it bind what we
// asked it to bind, and does it meet the policy? It is pure.
//
// Order: size and parse, signatures and chains, revocation, windows, TCB status
// as data, binding, debug, policy. Every check that can still be made is made.
// The report data must equal want in every byte; the zero Binding is no
// wildcard.
func Judge(v Verifiers, e Evidence, want Binding, en Endorsements, p Policy, at time.Time) Verdict {
	return judge(v, e, en, p, at, func(c Claims) Step { return bindingStep(c, want) })
}

// JudgeUnbound judges evidence of which nobody knows what it should bind, such
// as an archived quote. Whoever holds a copy of such evidence can present it:
// never give anything to a peer on this verdict.
func JudgeUnbound(v Verifiers, e Evidence, en Endorsements, p Policy, at time.Time) Verdict {
	return judge(v, e, en, p, at, func(c Claims) Step {
		return Step{Code: CodeBinding, Field: "reportData", OK: true,
			Want: "not checked: no binding was asked for", Got: shown(c.ReportData), Source: "quote"}
	})
}

func judge(v Verifiers, e Evidence, en Endorsements, p Policy, at time.Time, binding func(Claims) Step) Verdict {
	out := Verdict{TEE: e.TEE, Advisories: []string{}, Verdict: Refused}
	out.Claims = Claims{TEE: e.TEE, TCB: TCBClaims{Advisories: []string{}}}
	verifier, known := v[e.TEE]
	if !known || verifier == nil {
		out.Steps = []Step{noVerifierStep(e.TEE)}
		return out
	}
	size := sizeStep(e)
	if !size.OK {
		out.Steps = []Step{size}
		return out
	}
	c, steps := verifier.Verify(e, en, at)
	c.TEE = e.TEE
	if c.TCB.Advisories == nil {
		c.TCB.Advisories = []string{}
	}
	p.Platform.Endorsements.accept(steps, at)
	out.Genuine = genuine(steps)
	out.Claims, out.Debug = c, c.Debug
	out.TCBStatus, out.Advisories = c.TCB.Status, c.TCB.Advisories
	const more = 16 // of binding and policy, usually
	out.Steps = append(append(make([]Step, 0, 1+len(steps)+more), size), steps...)
	if len(e.EventLog) > MaxEventLog {
		out.Steps = append(out.Steps, Step{Code: CodeSize, Field: "evidence.eventLog", Want: fmt.Sprintf("at most %d bytes", MaxEventLog),
			Got: fmt.Sprintf("%d bytes", len(e.EventLog)), Source: "evidence", Fix: Fix{ServiceOwner, "leave the event log out: only a policy with events needs it"}})
	}
	if parsed(c) {
		out.Steps = append(out.Steps, binding(c))
		out.Steps = append(out.Steps, p.checkAt(c, at)...)
		out.Genuine = out.Genuine && trusted(out.Steps)
		out.Claims.TCB.graces(out.Steps)
	}
	out.judgeDevices(v, e, en, p, at)
	if out.Genuine && parsed(c) && len(out.Failed()) == 0 {
		out.Verdict = Accepted
	}
	return out
}

// parsed reports whether the verifier could read the evidence at all.
func parsed(c Claims) bool { return len(c.ReportData) == len(Binding{}) }

// genuine reports whether the verifier's steps hold. A platform that matches no
// TCB level is as genuine as one that is out of date: its patch level is
// unknown, and policy refuses it.
func genuine(steps []Step) bool {
	for _, s := range steps {
		if !s.OK && s.Code != CodeTCBLevel {
			return false
		}
	}
	return len(steps) > 0
}

// trusted reports whether somebody stands for the key of a TPM: by itself a quote
// under any key at all is well formed.
func trusted(steps []Step) bool {
	return !slices.ContainsFunc(steps, func(s Step) bool { return !s.OK && s.Code == CodeTPMTrust })
}

func sizeStep(e Evidence) Step {
	s := Step{Code: CodeSize, Field: "evidence.size", OK: true,
		Want: fmt.Sprintf("1 to %d bytes", MaxEvidence), Got: fmt.Sprintf("%d bytes", len(e.Raw)), Source: "evidence"}
	if len(e.Raw) == 0 || len(e.Raw) > MaxEvidence {
		s.OK, s.Fix = false, Fix{Nobody, "no hardware makes evidence of this size"}
	}
	return s
}

func bindingStep(c Claims, want Binding) Step {
	s := Step{Code: CodeBinding, Field: "reportData", Want: Hex(want[:]).String(), Got: shown(c.ReportData), Source: "request"}
	s.OK = subtle.ConstantTimeCompare(c.ReportData, want[:]) == 1
	if !s.OK {
		s.Fix = Fix{Nobody, "the evidence was made for another request, key or session: ask for fresh evidence"}
	}
	return s
}

// shown renders claim bytes for a step; a missing claim is named as such.
func shown(h Hex) string {
	if len(h) == 0 {
		return "absent"
	}
	return h.String()
}
