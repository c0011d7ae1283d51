package attest

import (
	"bytes"
	"fmt"
	"sort"
	"strings"
)

// snp judges the software of an SEV-SNP guest.
func (k *check) snp(c Claims, r *SNPReference) {
	var got SNPClaims
	if c.SNP != nil {
		got = *c.SNP
	}
	switch {
	case r.AllowAny && r.Measurement == nil:
		k.any("snp.measurement", got.Measurement)
	case r.Measurement == nil:
		k.incomplete("snp.measurement", "at least one accepted launch digest")
	}
	k.oneOf("snp.measurement", r.Measurement, got.Measurement)
	k.oneOf("snp.hostData", r.HostData, got.HostData)
	k.oneOf("snp.idKeyDigest", r.IDKeyDigest, got.IDKeyDigest)
	k.oneOf("snp.authorKeyDigest", r.AuthorKeyDigest, got.AuthorKeyDigest)
	k.oneOf("snp.familyID", r.FamilyID, got.FamilyID)
	k.oneOf("snp.imageID", r.ImageID, got.ImageID)
	k.vmpl(c, r)
	if r.MinGuestSVN != nil {
		k.add(Step{Code: CodeSecurityVersion, Field: "snp.guestSVN", OK: c.SNP != nil && got.GuestSVN >= *r.MinGuestSVN,
			Want: fmt.Sprintf("%d or higher", *r.MinGuestSVN), Got: fmt.Sprint(got.GuestSVN),
			Fix: Fix{ServiceOwner, "deploy a release with a higher guest SVN"}})
	}
	migration := Step{Code: CodeGuestPolicy, Field: "snp.policy.migrateMA", OK: c.SNP != nil && (!got.Policy.MigrateMA || r.AllowMigration),
		Want: "false", Got: fmt.Sprint(got.Policy.MigrateMA),
		Fix: Fix{ServiceOwner, "launch the guest without a migration agent, or have the manifest's author allow migration"}}
	if r.AllowMigration {
		migration.Want = "any (allowMigration)"
	}
	k.add(migration)
}

func (k *check) vmpl(c Claims, r *SNPReference) {
	if c.SNP == nil {
		return
	}
	s := Step{Code: CodeGuestPolicy, Field: "snp.vmpl", Want: "0", Got: fmt.Sprint(c.SNP.VMPL), OK: c.SNP.VMPL == 0,
		Fix: Fix{ServiceOwner, "ask for the report at this privilege level, or have the manifest's author name the other"}}
	switch {
	case r.VMPL != nil:
		s.Want, s.OK = fmt.Sprint(*r.VMPL), c.SNP.VMPL == *r.VMPL
	case r.AllowAny:
		s.Want, s.OK = "any (allowAnyMeasurement)", true
	}
	k.add(s)
}

// snpPlatform judges an SEV-SNP machine. AMD's certificates vouch for a patch
// level and say nothing of its worth, so the floor is the policy's alone.
func (k *check) snpPlatform(c Claims, rules *SNPPlatform) {
	if rules == nil {
		rules = &SNPPlatform{}
	}
	var got SNPClaims
	if c.SNP != nil {
		got = *c.SNP
	}
	k.floors(got, rules.MinTCB)
	if rules.MinFirmware != nil {
		k.add(Step{Code: CodeTCBFloor, Field: "snp.committedFirmware", OK: c.SNP != nil && !got.CommittedFirmware.Less(*rules.MinFirmware),
			Want: rules.MinFirmware.String() + " or higher", Got: got.CommittedFirmware.String(),
			Fix: Fix{HostOwner, "update the SNP firmware and commit it"}})
	}
	k.machine(Step{Field: "snp.smt", OK: c.SNP != nil && !got.Policy.SMT && !got.Platform.SMT, Want: "false",
		Got: fmt.Sprintf("%t by the guest's policy, %t on this machine", got.Policy.SMT, got.Platform.SMT),
		Fix: Fix{HostOwner, "launch the guest with a policy that forbids SMT, or have the manifest's author allow it"}}, rules.AllowSMT, "allowSMT")
	firmware := "committed"
	if got.ProvisionalFirmware {
		firmware = fmt.Sprintf("provisional: %s (%s) runs, %s (%s) is committed", got.CurrentFirmware, got.CurrentTCB, got.CommittedFirmware, got.CommittedTCB)
	}
	k.machine(Step{Field: "snp.provisionalFirmware", OK: c.SNP != nil && !got.ProvisionalFirmware, Want: "committed", Got: firmware,
		Fix: Fix{HostOwner, "commit the firmware that runs, or have the manifest's author allow provisional firmware"}},
		rules.AllowProvisionalFirmware, "allowProvisionalFirmware")
	if rules.ChipIDs == nil {
		return
	}
	s := Step{Code: CodeMachine, Field: "snp.chipID", Want: list(rules.ChipIDs), Got: shown(got.ChipID),
		Fix: Fix{ManifestAuthor, "name the machine's chip ID, if the service may run there"}}
	masked := len(bytes.Trim(got.ChipID, "\x00")) == 0
	for _, id := range rules.ChipIDs {
		s.OK = s.OK || !masked && bytes.Equal(id, got.ChipID)
	}
	k.add(s)
}

// machine adds a step about the machine; the rule may allow what s does not want.
func (k *check) machine(s Step, allowed bool, rule string) {
	s.Code = CodeMachine
	if allowed {
		s.OK, s.Want = true, "any ("+rule+")"
	}
	k.add(s)
}

// floors compares the reported TCB, which the signing key stands for, and the
// TCB under which the guest was launched.
func (k *check) floors(c SNPClaims, floors map[string]SNPTCB) {
	floor, ok := floors[c.Product]
	if !ok || c.Product == "" {
		names := make([]string, 0, len(floors))
		for name := range floors {
			names = append(names, name)
		}
		sort.Strings(names)
		s := Step{Code: CodeTCBFloor, Field: "snp.product", Want: strings.Join(names, " or "), Got: c.Product,
			Fix: Fix{ManifestAuthor, "give the platform's snp rules a minTCB for this product, if services may run on it"}}
		if len(names) == 0 {
			s.Want = "none: minTCB names no product"
		}
		if c.Product == "" {
			s.Got, s.Fix = "not known", Fix{Operator, "supply the key's certificate: a report of version 2 does not say on what it was made"}
		}
		k.add(s)
		return
	}
	for _, level := range []struct {
		field string
		tcb   SNPTCB
		fix   string
	}{
		{"snp.reportedTCB", c.ReportedTCB, "update BIOS, firmware and microcode; fetch the new VCEK certificate"},
		{"snp.launchTCB", c.LaunchTCB, "start the guest again on updated firmware"},
	} {
		s := Step{Code: CodeTCBFloor, Field: level.field, Want: c.Product + " at " + floor.String() + " or higher", Got: level.tcb.String(), Fix: Fix{HostOwner, level.fix}}
		low := level.tcb.Below(floor)
		if s.OK = len(low) == 0; !s.OK {
			s.Got = strings.Join(low, "; ")
		}
		if floor == (SNPTCB{}) {
			s.Want = c.Product + " at any level (the floor is zero)"
		}
		k.add(s)
	}
}
