package attest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// platform judges the hardware's patch level and what the vendor says of it.
func (k *check) platform(c Claims, p *Platform) {
	unchecked := p.Endorsements.AllowUncheckedRevocation
	switch {
	case pluggedIn(c.TEE):
		k.pluginPlatform(c)
	case c.TEE == TPM:
		k.tpmPlatform(c, p.TPM, unchecked)
	case beneath(c.TEE) == SNP:
		k.snpPlatform(c, p.SNP)
		k.revocation(c.TCB, unchecked, "supply the CRL of AMD's product root (crl.der)")
	default:
		k.dcap(c, p.rules(c.TEE))
		k.revocation(c.TCB, unchecked, "supply the CRLs of the root CA and of the PCK CA")
	}
}

// rules returns the rules for a TEE of Intel's family; the zero rules where none
// are given.
func (p *Platform) rules(t TEE) *DCAPPlatform {
	r := p.Sim
	if !t.Simulated() {
		switch beneath(t) {
		case SGX:
			r = p.SGX
		case TDX:
			r = p.TDX
		default:
			r = nil
		}
	}
	if r == nil {
		return &DCAPPlatform{}
	}
	return r
}

// dcap judges a platform of Intel's family.
func (k *check) dcap(c Claims, rules *DCAPPlatform) {
	g := rules.Grace
	if g == nil {
		g = &DCAPGrace{}
	}
	k.status(c, rules, g)
	k.advisories(c.TCB, rules, g)
	if rules.MinTCBEvaluation > 0 {
		s := Step{Code: CodeTCBEvaluation, Field: "tcb.evaluationNumber", OK: c.TCB.EvaluationNumber >= rules.MinTCBEvaluation,
			Want: fmt.Sprintf("%d or higher", rules.MinTCBEvaluation), Got: fmt.Sprint(c.TCB.EvaluationNumber),
			Fix: Fix{Operator, "fetch newer endorsements"}}
		if g.MinTCBEvaluation == nil {
			k.add(s)
		} else {
			k.graced(s, g.Until, c.TCB.EvaluationNumber >= *g.MinTCBEvaluation, fmt.Sprint(*g.MinTCBEvaluation))
		}
	}
	if !rules.MinTCBDate.IsZero() {
		s := Step{Code: CodeTCBDate, Field: "tcb.levelDate", OK: !c.TCB.LevelDate.IsZero() && !c.TCB.LevelDate.Before(rules.MinTCBDate),
			Want: dated(rules.MinTCBDate) + " or later", Got: dated(c.TCB.LevelDate),
			Fix: Fix{HostOwner, "update BIOS and microcode: the level that the platform meets is of an older recovery"}}
		enough := !g.MinTCBDate.IsZero() && !c.TCB.LevelDate.IsZero() && !c.TCB.LevelDate.Before(g.MinTCBDate)
		k.graced(s, g.Until, enough, dated(g.MinTCBDate))
	}
	k.modules(c, rules)
	k.listed("tcb.fmspc", rules.FMSPCs, c.TCB.FMSPC)
	k.listed("tcb.ppid", rules.PPIDs, c.TCB.PPID)
	k.listed("tcb.platformInstanceID", rules.PlatformInstanceIDs, c.TCB.PlatformInstance)
}

// graceOver stands between what is there and when the grace for it ended.
const graceOver = "; the grace for it ended "

// graced adds a step and reports whether it holds. If it does not by itself, but
// what lower says does, it holds until the grace ends, and says so.
func (k *check) graced(s Step, until time.Time, enough bool, lower string) bool {
	if !s.OK && enough && !until.IsZero() && !k.at.IsZero() {
		if k.at.After(until) {
			s.Got += graceOver + dated(until)
		} else {
			s.OK, s.Grace = true, until
			s.Want += ", or " + lower + " in the grace until " + dated(until)
		}
	}
	k.add(s)
	return s.OK
}

// status judges the converged status; one that is not accepted is broken down to
// the parts that are behind.
func (k *check) status(c Claims, rules *DCAPPlatform, g *DCAPGrace) {
	t := c.TCB
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
	enough := t.Status != "" && t.Status != Revoked && slices.Contains(g.AcceptedTCBStatuses, t.Status)
	if k.graced(s, g.Until, enough, string(t.Status)) {
		return
	}
	for _, gap := range t.Gaps {
		if len(gap.Below) > 0 {
			k.steps = append(k.steps, gap.step(c.TEE))
		}
	}
}

func (k *check) advisories(t TCBClaims, rules *DCAPPlatform, g *DCAPGrace) {
	if rules.AcceptedAdvisories == nil && len(rules.RefusedAdvisories) == 0 {
		return
	}
	var open []string
	enough := true
	for _, a := range t.Advisories {
		refused := slices.Contains(rules.RefusedAdvisories, a)
		if refused || rules.AcceptedAdvisories != nil && !slices.Contains(rules.AcceptedAdvisories, a) {
			open = append(open, a)
			enough = enough && !refused && slices.Contains(g.AcceptedAdvisories, a)
		}
	}
	want, got := "none", "none"
	switch {
	case rules.AcceptedAdvisories == nil:
		want = "none of " + strings.Join(rules.RefusedAdvisories, ", ")
	case len(rules.AcceptedAdvisories) > 0:
		want = "none besides " + strings.Join(rules.AcceptedAdvisories, ", ")
	}
	if len(t.Advisories) > 0 {
		got = strings.Join(t.Advisories, ", ")
	}
	if len(open) > 0 {
		got = strings.Join(open, ", ")
	}
	k.graced(Step{Code: CodeAdvisory, Field: "tcb.advisories", OK: len(open) == 0, Want: want, Got: got,
		Fix: Fix{HostOwner, "apply the vendor's mitigation, or have the manifest's author accept the advisory"}}, g.Until, enough, got)
}

// modules compares the TDX module and what loads it with their floors. Byte 0
// of TEE_TCB_SVN is the module's security version, byte 1 its major version
// (Intel TDX Module, TEE_TCB_SVN).
func (k *check) modules(c Claims, rules *DCAPPlatform) {
	if rules.MinTEETCBSVN == nil && rules.MinModuleSVN == nil {
		return
	}
	var got TDXClaims
	if c.TDX != nil {
		got = *c.TDX
	}
	for _, svn := range [...]struct {
		field, module string
		got           Hex
	}{{"tdx.teeTCBSVN", "tdx.module", got.TEETCBSVN}, {"tdx.teeTCBSVN2", "tdx.module2", got.TEETCBSVN2}} {
		if svn.got == nil && svn.field == "tdx.teeTCBSVN2" {
			continue // version 4
		}
		if rules.MinTEETCBSVN != nil {
			low := below(svn.got, rules.MinTEETCBSVN)
			s := Step{Code: CodeTCBFloor, Field: svn.field, OK: low == "", Want: "each component at least that of " + rules.MinTEETCBSVN.String(), Got: low, Fix: fixModule}
			if s.OK {
				s.Got = svn.got.String()
			}
			k.add(s)
		}
		if rules.MinModuleSVN != nil {
			k.moduleSVN(svn.module, svn.got, rules.MinModuleSVN)
		}
	}
}

var fixModule = Fix{HostOwner, "load a newer TDX module, and its loader (BIOS)"}

// below names the first component that is lower than the floor's.
func below(svn, floor Hex) string {
	if len(svn) != len(floor) {
		return shown(svn)
	}
	for i := range svn {
		if svn[i] < floor[i] {
			return fmt.Sprintf("component %d is %d%s%d", i, svn[i], floorIs, floor[i])
		}
	}
	return ""
}

func (k *check) moduleSVN(field string, svn Hex, floors map[string]uint8) {
	s := Step{Code: CodeTCBFloor, Field: field, Got: "absent", Fix: fixModule}
	for _, id := range sortedKeys(floors) {
		s.Want += fmt.Sprintf("%s at %d or higher, ", id, floors[id])
	}
	if s.Want = strings.TrimSuffix(s.Want, ", "); s.Want == "" {
		s.Want = "none: minModuleSVN names no module"
	}
	if len(svn) >= 2 {
		id := "TDX"
		if svn[1] > 0 {
			id = fmt.Sprintf("TDX_%02x", svn[1])
		}
		floor, known := floors[id]
		s.OK, s.Got = known && svn[0] >= floor, fmt.Sprintf("%s at %d", id, svn[0])
	}
	k.add(s)
}

// listed demands that a machine is in a list; nil accepts any.
func (k *check) listed(field string, accepted []Hex, got Hex) {
	if accepted == nil {
		return
	}
	s := Step{Code: CodeMachine, Field: field, Want: list(accepted), Got: shown(got), Fix: Fix{ManifestAuthor, "name the machine in the platform, if services may run there"}}
	for _, a := range accepted {
		s.OK = s.OK || len(got) > 0 && string(a) == string(got)
	}
	k.add(s)
}

func (k *check) revocation(t TCBClaims, allowUnchecked bool, fix string) {
	s := Step{Code: CodeNoRevocation, Field: "tcb.revocationChecked", OK: t.RevocationChecked,
		Want: "true", Got: fmt.Sprint(t.RevocationChecked), Fix: Fix{Operator, fix}}
	if allowUnchecked && !t.RevocationChecked {
		s.OK, s.Want, s.Got = true, "true, unless no CRL is at hand", "false: revocation was NOT checked"
	}
	k.graced(s, k.ended, t.CRLsEnded, "by a CRL that has ended")
}

// ages judges how old the endorsements are.
func (k *check) ages(c Claims, rules EndorsementRules) {
	age := func(field string, limit Duration, issued time.Time) {
		if limit <= 0 {
			return
		}
		old, got := k.at.Sub(issued), "no endorsement says when it was issued"
		if !issued.IsZero() {
			got = fmt.Sprintf("%s (issued %s)", old.Truncate(time.Second), dated(issued))
		}
		k.graced(Step{Code: CodeEndorsementAge, Field: field, OK: !issued.IsZero() && old <= time.Duration(limit),
			Want: "at most " + limit.String(), Got: got, Fix: Fix{Operator, "fetch newer endorsements"}},
			rules.GraceUntil, !issued.IsZero(), "older")
	}
	if noVendor := pluggedIn(c.TEE) || c.TEE == TPM; noVendor && c.TCB.OldestIssue.IsZero() {
		return // no vendor says anything that could age
	}
	age("endorsements.age", rules.MaxAge, c.TCB.OldestIssue)
	kinds := rules.MaxAgeByKind
	if hardware := beneath(c.TEE); hardware == SGX || hardware == TDX {
		age("endorsements.age.tcbInfo", kinds.TCBInfo, c.TCB.Issued.TCBInfo)
		age("endorsements.age.qeIdentity", kinds.QEIdentity, c.TCB.Issued.QEIdentity)
	}
	age("endorsements.age.crl", kinds.CRL, c.TCB.Issued.CRL)
}
