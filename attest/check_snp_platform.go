package attest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

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
	k.floors(got, rules)
	k.firmware(got, rules, c.SNP != nil)
	k.mitigations("snp.launchMitigations", rules.LaunchMitigations, got.LaunchMitigations, got.Version)
	k.mitigations("snp.currentMitigations", rules.CurrentMitigations, got.CurrentMitigations, got.Version)
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
	k.platformInfo(got.Platform, rules, c.SNP != nil)
	k.snpKey(got, rules)
}

// machine adds a step about the machine; the rule may allow what s does not want.
func (k *check) machine(s Step, allowed bool, rule string) {
	s.Code = CodeMachine
	if allowed {
		s.OK, s.Want = true, "any ("+rule+")"
	}
	k.add(s)
}

var fixBIOS = Fix{HostOwner, "configure the machine (BIOS) as the platform demands"}

// platformInfo judges what the machine must have switched on or off.
func (k *check) platformInfo(got SNPPlatformInfo, rules *SNPPlatform, present bool) {
	for _, p := range [...]struct {
		field           string
		ruled, want, on bool
	}{
		{"snp.platform.ecc", rules.RequireECC, true, got.ECC},
		{"snp.platform.tsme", rules.RequireTSME, true, got.TSME},
		{"snp.platform.raplDisabled", rules.RequireRAPLDisabled, true, got.RAPLDisabled},
		{"snp.platform.ciphertextHiding", rules.RequireCiphertextHiding, true, got.CiphertextHiding},
		{"snp.platform.aliasCheck", rules.RequireAliasCheck, true, got.AliasCheck},
		{"snp.platform.tio", rules.RefuseTIO, false, got.TIO},
	} {
		if p.ruled {
			k.switched(Step{Code: CodeMachine, Field: p.field, Fix: fixBIOS}, p.want, p.on, present)
		}
	}
	k.bits(CodeMachine, "snp.platform.bits", rules.PlatformInfo, got.Bits, fixBIOS)
}

// snpKey judges whose key signed, and of which chip.
func (k *check) snpKey(got SNPClaims, rules *SNPPlatform) {
	k.word(Step{Code: CodeMachine, Field: "snp.signer", Got: got.Signer, Fix: Fix{ManifestAuthor, "name the kind of key in signers, if it is accepted"}}, rules.Signers)
	if rules.Providers != nil {
		s := Step{Code: CodeMachine, Field: "snp.provider", Got: got.Provider, Fix: Fix{ManifestAuthor, "name the cloud in providers, if its key is accepted"}}
		if got.Signer == "VCEK" {
			s.OK, s.Want, s.Got = true, strings.Join(rules.Providers, " or ")+", or a chip's own key", "a chip's own key"
			k.add(s)
		} else {
			k.word(s, rules.Providers)
		}
	}
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

// firmware compares the committed firmware with its floor.
func (k *check) firmware(got SNPClaims, rules *SNPPlatform, present bool) {
	if rules.MinFirmware == nil {
		return
	}
	s := Step{Code: CodeTCBFloor, Field: "snp.committedFirmware", OK: present && !got.CommittedFirmware.Less(*rules.MinFirmware),
		Want: rules.MinFirmware.String() + " or higher", Got: got.CommittedFirmware.String(),
		Fix: Fix{HostOwner, "update the SNP firmware and commit it"}}
	var until time.Time
	enough, lower := false, ""
	if g := rules.Grace; g != nil && g.MinFirmware != nil {
		until, enough, lower = g.Until, present && !got.CommittedFirmware.Less(*g.MinFirmware), g.MinFirmware.String()
	}
	k.graced(s, until, enough, lower)
}

// mitigations demands bits of a mitigation vector, which reports have from
// version 5 on.
func (k *check) mitigations(field string, want Hex, got uint64, version uint32) {
	if want == nil {
		return
	}
	s := Step{Code: CodeTCBFloor, Field: field, Want: "all of " + shown(want), Got: fmt.Sprintf("%016x", got),
		Fix: Fix{HostOwner, "update the SNP firmware; for the vector at launch, start the guest again then"}}
	switch {
	case version < 5:
		s.Got = fmt.Sprintf("absent: the report is of version %d", version)
	case len(want) == 8:
		bits := binary.BigEndian.Uint64(want)
		s.OK = got&bits == bits
	}
	k.add(s)
}

// floors compares the reported TCB, which the signing key stands for, and the
// TCB under which the guest was launched.
func (k *check) floors(c SNPClaims, rules *SNPPlatform) {
	floor, ok := rules.MinTCB[c.Product]
	if !ok || c.Product == "" {
		k.noProduct(c, rules.MinTCB)
		return
	}
	var until time.Time
	var lower SNPTCB
	graced := false
	if g := rules.Grace; g != nil {
		until = g.Until
		lower, graced = g.MinTCB[c.Product]
	}
	launch, own := rules.MinLaunchTCB[c.Product]
	if !own {
		launch = floor
	}
	for _, level := range [...]struct {
		field      string
		tcb, floor SNPTCB
		fix        string
	}{
		{"snp.reportedTCB", c.ReportedTCB, floor, "update BIOS, firmware and microcode; fetch the new VCEK certificate"},
		{"snp.launchTCB", c.LaunchTCB, launch, "start the guest again on updated firmware"},
	} {
		s := Step{Code: CodeTCBFloor, Field: level.field, Want: c.Product + " at " + level.floor.String() + " or higher", Got: level.tcb.String(), Fix: Fix{HostOwner, level.fix}}
		low := level.tcb.Below(level.floor)
		if s.OK = len(low) == 0; !s.OK {
			s.Got = strings.Join(low, "; ")
		}
		if level.floor == (SNPTCB{}) {
			s.Want = c.Product + " at any level (the floor is zero)"
		}
		if s.OK || !graced {
			k.add(s)
			continue
		}
		k.graced(s, until, len(level.tcb.Below(lower)) == 0, lower.String())
	}
}

func (k *check) noProduct(c SNPClaims, floors map[string]SNPTCB) {
	names := sortedKeys(floors)
	s := Step{Code: CodeTCBFloor, Field: "snp.product", Want: strings.Join(names, " or "), Got: c.Product,
		Fix: Fix{ManifestAuthor, "give the platform's snp rules a minTCB for this product, if services may run on it"}}
	if len(names) == 0 {
		s.Want = "none: minTCB names no product"
	}
	if c.Product == "" {
		s.Got, s.Fix = "not known", Fix{Operator, "supply the key's certificate: a report of version 2 does not say on what it was made"}
	}
	k.add(s)
}
