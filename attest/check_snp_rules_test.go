package attest

import (
	"reflect"
	"testing"
)

// snpRule changes a guest that meets snpPolicy, or the policy.
type snpRule struct {
	name   string
	change func(*SNPClaims, *SNPReference, *SNPPlatform)
	want   []string
}

// guestRules are about what the guest was launched with.
var guestRules = []snpRule{
	{"report ID", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.ReportID = []Hex{fill(11, 32)} }, nil},
	{"other report ID", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.ReportID = []Hex{fill(12, 32)} }, []string{"ATT-012 snp.reportID"}},
	{"no report ID accepted", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.ReportID = []Hex{} }, []string{"ATT-012 snp.reportID"}},
	{"report ID of the migration agent", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.ReportIDMA = []Hex{fill(255, 32)} }, nil},
	{"another migration agent", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.ReportIDMA = []Hex{fill(12, 32)} }, []string{"ATT-012 snp.reportIDMA"}},
	{"signed", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.RequireIDBlock, r.RequireAuthorKey = true, true }, nil},
	{"no ID block", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) {
		c.IDKeyDigest, r.IDKeyDigest, r.RequireIDBlock = make(Hex, 48), nil, true
	}, []string{"ATT-033 snp.idBlock"}},
	{"no author key", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) {
		c.AuthorKeyDigest, r.AuthorKeyDigest, r.RequireAuthorKey = make(Hex, 48), nil, true
	}, []string{"ATT-033 snp.authorKey"}},
	{"CXL", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.Policy.CXL = true }, []string{"ATT-033 snp.policy.cxl"}},
	{"CXL allowed", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) { c.Policy.CXL, r.AllowCXL = true, true }, nil},
	{"all demanded", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) {
		r.RequireSingleSocket, r.RequireAES256XTS, r.RequireRAPLDisabled, r.RequireCiphertextHiding, r.RequirePageSwapDisabled = true, true, true, true, true
	}, []string{"ATT-033 snp.policy.singleSocket", "ATT-033 snp.policy.aes256XTS", "ATT-033 snp.policy.raplDisabled", "ATT-033 snp.policy.ciphertextHiding", "ATT-033 snp.policy.pageSwapDisabled"}},
	{"all demanded and there", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) {
		r.RequireSingleSocket, r.RequireAES256XTS, r.RequireRAPLDisabled, r.RequireCiphertextHiding, r.RequirePageSwapDisabled = true, true, true, true, true
		c.Policy.SingleSocket, c.Policy.AES256XTS, c.Policy.RAPLDisabled, c.Policy.CiphertextHiding, c.Policy.PageSwapDisabled = true, true, true, true, true
	}, nil},
	{"ABI", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.MinABI = &SNPFirmware{1, 51, 0} }, nil},
	{"low ABI", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) { r.MinABI = &SNPFirmware{1, 52, 0} }, []string{"ATT-033 snp.policy.abi"}},
	{"no ABI", func(c *SNPClaims, r *SNPReference, _ *SNPPlatform) { c.Policy.ABI, r.MinABI = "", &SNPFirmware{} }, []string{"ATT-033 snp.policy.abi"}},
	{"policy bits", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) {
		r.GuestPolicy = &Bits{Value: hexOf("0000000000020133")}
	}, nil},
	{"other policy bits", func(_ *SNPClaims, r *SNPReference, _ *SNPPlatform) {
		r.GuestPolicy = &Bits{hexOf("0000000000100000"), hexOf("0000000000100000")}
	}, []string{"ATT-033 snp.policy.bits"}},
}

// machineRules are about the machine.
var machineRules = []snpRule{
	{"launch floor of its own", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		c.LaunchTCB.SNP, p.MinLaunchTCB = 20, map[string]SNPTCB{"Milan": {SNP: 20}}
	}, nil},
	{"below the launch floor", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		c.LaunchTCB.SNP, p.MinLaunchTCB = 19, map[string]SNPTCB{"Milan": {SNP: 20}}
	}, []string{"ATT-032 snp.launchTCB"}},
	{"launch floor of another product", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		c.LaunchTCB.SNP, p.MinLaunchTCB = 20, map[string]SNPTCB{"Genoa": {}}
	}, []string{"ATT-032 snp.launchTCB"}},
	{"launch floor names a product that is not accepted", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		c.Product, p.MinLaunchTCB = "Genoa", map[string]SNPTCB{"Genoa": {}}
	}, []string{"ATT-032 snp.product"}},
	{"mitigations", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		p.LaunchMitigations, p.CurrentMitigations = hexOf("0000000000000001"), hexOf("0000000000000003")
	}, nil},
	{"mitigation missing at launch", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) { p.LaunchMitigations = hexOf("0000000000000003") }, []string{"ATT-032 snp.launchMitigations"}},
	{"mitigation missing now", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) { p.CurrentMitigations = hexOf("8000000000000001") }, []string{"ATT-032 snp.currentMitigations"}},
	{"mitigations in version 3", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		c.Version, p.LaunchMitigations, p.CurrentMitigations = 3, hexOf("0000000000000000"), hexOf("0000000000000001")
	}, []string{"ATT-032 snp.launchMitigations", "ATT-032 snp.currentMitigations"}},
	{"empty mitigations", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) { p.LaunchMitigations = Hex{} }, []string{"ATT-032 snp.launchMitigations"}},
	{"all demanded", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		p.RequireECC, p.RequireTSME, p.RequireRAPLDisabled, p.RequireCiphertextHiding, p.RequireAliasCheck = true, true, true, true, true
	}, []string{"ATT-034 snp.platform.ecc", "ATT-034 snp.platform.tsme", "ATT-034 snp.platform.raplDisabled", "ATT-034 snp.platform.ciphertextHiding", "ATT-034 snp.platform.aliasCheck"}},
	{"all demanded and there", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		p.RequireECC, p.RequireTSME, p.RequireRAPLDisabled, p.RequireCiphertextHiding, p.RequireAliasCheck, p.RefuseTIO = true, true, true, true, true, true
		c.Platform.ECC, c.Platform.TSME, c.Platform.RAPLDisabled, c.Platform.CiphertextHiding, c.Platform.AliasCheck = true, true, true, true, true
	}, nil},
	{"TIO", func(c *SNPClaims, _ *SNPReference, _ *SNPPlatform) { c.Platform.TIO = true }, nil},
	{"TIO refused", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) { c.Platform.TIO, p.RefuseTIO = true, true }, []string{"ATT-034 snp.platform.tio"}},
	{"platform bits", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		p.PlatformInfo = &Bits{hexOf("0000000000000000"), hexOf("0000000000000001")}
	}, nil},
	{"other platform bits", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		p.PlatformInfo = &Bits{Value: hexOf("0000000000000000")}
	}, []string{"ATT-034 snp.platform.bits"}},
	{"signer", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) { p.Signers = []string{"VLEK", "VCEK"} }, nil},
	{"other signer", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) { p.Signers = []string{"VLEK"} }, []string{"ATT-034 snp.signer"}},
	{"no signer accepted", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) { p.Signers = []string{} }, []string{"ATT-034 snp.signer"}},
	{"provider", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		c.Signer, c.Provider, p.Providers = "VLEK", "Cloud", []string{"Other", "Cloud"}
	}, nil},
	{"other provider", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		c.Signer, c.Provider, p.Providers = "VLEK", "Cloud", []string{"Other"}
	}, []string{"ATT-034 snp.provider"}},
	{"VLEK without a provider", func(c *SNPClaims, _ *SNPReference, p *SNPPlatform) {
		c.Signer, p.Providers = "VLEK", []string{"", "Other"}
	}, []string{"ATT-034 snp.provider"}},
	{"providers with a chip's key", func(_ *SNPClaims, _ *SNPReference, p *SNPPlatform) { p.Providers = []string{"Other"} }, nil},
}

func TestCheckSNPRules(t *testing.T) {
	for _, rules := range [][]snpRule{guestRules, machineRules} {
		for _, c := range rules {
			t.Run(c.name, func(t *testing.T) {
				claims, p := snpGuest(), snpPolicy()
				claims.SNP.Version, claims.SNP.ReportID, claims.SNP.ReportIDMA = 5, fill(11, 32), fill(255, 32)
				claims.SNP.Policy.ABI, claims.SNP.Policy.Bits = "1.51", hexOf("0000000000020133")
				claims.SNP.Platform.Bits, claims.SNP.LaunchMitigations, claims.SNP.CurrentMitigations = hexOf("0000000000000024"), 1, 3
				c.change(claims.SNP, p.Package.SNP, p.Platform.SNP)
				if got := failed(p.Check(claims)); !reflect.DeepEqual(got, c.want) {
					t.Errorf("got %v, want %v", got, c.want)
				}
				for _, s := range p.Check(claims) {
					if s.Code == "" || s.Field == "" || s.Want == "" || s.Got == "" || s.Source == "" || s.OK != (s.Fix == Fix{}) {
						t.Errorf("incomplete step %+v", s)
					}
				}
			})
		}
	}
}
