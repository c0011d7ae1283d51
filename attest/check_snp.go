package attest

import (
	"bytes"
	"fmt"
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
	k.oneOf("snp.reportID", r.ReportID, got.ReportID)
	k.oneOf("snp.reportIDMA", r.ReportIDMA, got.ReportIDMA)
	k.launched("snp.idBlock", r.RequireIDBlock, got.IDKeyDigest)
	k.launched("snp.authorKey", r.RequireAuthorKey, got.AuthorKeyDigest)
	k.vmpl(c, r)
	if r.MinGuestSVN != nil {
		k.add(Step{Code: CodeSecurityVersion, Field: "snp.guestSVN", OK: c.SNP != nil && got.GuestSVN >= *r.MinGuestSVN,
			Want: fmt.Sprintf("%d or higher", *r.MinGuestSVN), Got: fmt.Sprint(got.GuestSVN),
			Fix: Fix{ServiceOwner, "deploy a release with a higher guest SVN"}})
	}
	k.guestPolicy(got.Policy, r, c.SNP != nil)
}

// launched demands that a key signed what the guest was launched with: its
// digest is then not zero.
func (k *check) launched(field string, required bool, digest Hex) {
	if !required {
		return
	}
	s := Step{Code: CodeGuestPolicy, Field: field, OK: len(bytes.Trim(digest, "\x00")) > 0, Want: "signed by some key", Got: shown(digest),
		Fix: Fix{ServiceOwner, "launch the guest with a signed ID block, and an author key where the package demands one"}}
	if !s.OK {
		s.Got = "none"
	}
	k.add(s)
}

// guestPolicy judges what the guest's policy forbids the host and demands of it.
func (k *check) guestPolicy(got SNPPolicy, r *SNPReference, present bool) {
	for _, p := range [...]struct {
		field, allow string
		on, allowed  bool
		fix          string
	}{
		{"snp.policy.migrateMA", "any (allowMigration)", got.MigrateMA, r.AllowMigration, "launch the guest without a migration agent, or have the manifest's author allow migration"},
		{"snp.policy.cxl", "any (allowCXL)", got.CXL, r.AllowCXL, "launch the guest with a policy that forbids CXL, or have the manifest's author allow it"},
	} {
		s := Step{Code: CodeGuestPolicy, Field: p.field, OK: present && (!p.on || p.allowed), Want: "false", Got: fmt.Sprint(p.on), Fix: Fix{ServiceOwner, p.fix}}
		if p.allowed {
			s.Want = p.allow
		}
		k.add(s)
	}
	for _, p := range [...]struct {
		field        string
		required, on bool
	}{
		{"snp.policy.singleSocket", r.RequireSingleSocket, got.SingleSocket},
		{"snp.policy.aes256XTS", r.RequireAES256XTS, got.AES256XTS},
		{"snp.policy.raplDisabled", r.RequireRAPLDisabled, got.RAPLDisabled},
		{"snp.policy.ciphertextHiding", r.RequireCiphertextHiding, got.CiphertextHiding},
		{"snp.policy.pageSwapDisabled", r.RequirePageSwapDisabled, got.PageSwapDisabled},
	} {
		if p.required {
			k.add(Step{Code: CodeGuestPolicy, Field: p.field, OK: present && p.on, Want: "true", Got: fmt.Sprint(p.on), Fix: fixPolicy})
		}
	}
	if r.MinABI != nil {
		var abi SNPFirmware
		err := abi.UnmarshalText([]byte(got.ABI))
		s := Step{Code: CodeGuestPolicy, Field: "snp.policy.abi", OK: present && err == nil && !abi.Less(*r.MinABI),
			Want: fmt.Sprintf("%d.%d or higher", r.MinABI.Major, r.MinABI.Minor), Got: got.ABI, Fix: fixPolicy}
		if s.Got == "" {
			s.Got = "absent"
		}
		k.add(s)
	}
	k.bits(CodeGuestPolicy, "snp.policy.bits", r.GuestPolicy, got.Bits, fixPolicy)
}

var fixPolicy = Fix{ServiceOwner, "launch the guest with the policy that the package demands"}

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
