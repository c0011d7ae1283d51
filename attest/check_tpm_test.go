package attest

import (
	"reflect"
	"testing"
	"time"
)

// vmPolicy is met by tpmClaims and, with azureClaims, by both of Azure's forms.
func vmPolicy() Policy {
	pcrs := map[string][]Hex{"4": {fill(4, 32)}, "11": {fill(9, 32), fill(11, 32)}}
	p := snpPolicy()
	p.PackageName, p.PlatformName = "web", "default"
	p.Package.Azure = &AzureReference{SNP: p.Package.SNP, TDX: &TDXReference{MRTD: []Hex{fill(1, 48)}}, PCRs: pcrs}
	p.Package.TPM = &TPMReference{PCRs: pcrs}
	p.Package.SNP = nil
	return p
}

func tpmClaims() Claims {
	return Claims{TEE: TPM, ReportData: fill(9, 64), TCB: TCBClaims{RevocationChecked: true}, TPM: &TPMClaims{
		PCRs: map[string]Hex{"0": fill(0, 32), "4": fill(4, 32), "11": fill(11, 32)}, AttestationKey: fill(7, 32), Vouched: "Root of TPMs", Safe: true}}
}

func azureClaims(tee TEE) Claims {
	c := snpGuest()
	if tee == TDXAzure {
		c = tdxClaims()
	}
	c.TEE, c.TPM = tee, tpmClaims().TPM
	c.TPM.Vouched = string(beneath(tee))
	return c
}

type vmCheck struct {
	name   string
	claims Claims
	change func(*Claims, *Policy)
	want   []string
}

var vmChecks = []vmCheck{
	{"TPM", tpmClaims(), func(*Claims, *Policy) {}, nil},
	{"no reference", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM = nil }, []string{"ATT-029 tpm"}},
	{"other PCR", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM.PCRs["4"] = []Hex{fill(5, 32)} }, []string{"ATT-012 tpm.pcr4"}},
	{"PCR that the quote does not cover", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM.PCRs["7"] = []Hex{make(Hex, 32)} }, []string{"ATT-012 tpm.pcr7"}},
	{"PCR with no value", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM.PCRs["4"] = nil }, []string{"ATT-012 tpm.pcr4"}},
	{"PCR by another writing", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM.PCRs["04"] = []Hex{fill(4, 32)} }, []string{"ATT-012 tpm.pcr04"}},
	{"no PCRs", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM.PCRs = nil }, []string{"ATT-029 tpm.pcrs"}},
	{"empty PCRs", tpmClaims(), func(_ *Claims, p *Policy) {
		p.Package.TPM.PCRs, p.Package.TPM.AllowAny = map[string][]Hex{}, true
	}, []string{"ATT-029 tpm.pcrs"}},
	{"any PCRs", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM.PCRs, p.Package.TPM.AllowAny = nil, true }, nil},
	{"nobody vouches", tpmClaims(), func(c *Claims, _ *Policy) { c.TPM.Vouched = "" }, []string{"ATT-038 tpm.vouched"}},
	{"nobody vouches, any PCRs", tpmClaims(), func(c *Claims, p *Policy) { c.TPM.Vouched, p.Package.TPM = "", &TPMReference{AllowAny: true} }, []string{"ATT-038 tpm.vouched"}},
	{"listed key", tpmClaims(), func(c *Claims, p *Policy) { c.TPM.Vouched, p.Package.TPM.AttestationKeys = "", []Hex{fill(7, 32)} }, nil},
	{"key not listed", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM.AttestationKeys = []Hex{fill(8, 32)} }, []string{"ATT-038 tpm.attestationKey"}},
	{"no key listed", tpmClaims(), func(_ *Claims, p *Policy) { p.Package.TPM.AttestationKeys = []Hex{} }, []string{"ATT-038 tpm.attestationKey"}},
	{"claims missing", Claims{TEE: TPM, TCB: TCBClaims{RevocationChecked: true}}, func(*Claims, *Policy) {}, []string{"ATT-038 tpm.vouched", "ATT-012 tpm.pcr4", "ATT-012 tpm.pcr11"}},
	{"event", tpmClaims(), func(c *Claims, p *Policy) {
		c.Events = []Event{{Register: "pcr4", Name: "shim", Digest: fill(1, 32)}}
		p.Package.TPM.Events = map[string][]EventReference{"pcr4": {{"shim", []Hex{fill(1, 32)}}}}
	}, nil},
	{"event missing", tpmClaims(), func(_ *Claims, p *Policy) {
		p.Package.TPM.Events = map[string][]EventReference{"pcr4": {{"shim", []Hex{fill(1, 32)}}}}
	}, []string{"ATT-036 events.pcr4.shim"}},

	{"safe clock", tpmClaims(), func(_ *Claims, p *Policy) { p.Platform.TPM = &TPMPlatform{RequireSafeClock: true} }, nil},
	{"unsafe clock", tpmClaims(), func(c *Claims, p *Policy) { c.TPM.Safe, p.Platform.TPM = false, &TPMPlatform{RequireSafeClock: true} }, []string{"ATT-034 tpm.safe"}},
	{"unsafe clock not demanded", tpmClaims(), func(c *Claims, _ *Policy) { c.TPM.Safe = false }, nil},
	{"root", tpmClaims(), func(_ *Claims, p *Policy) { p.Platform.TPM = &TPMPlatform{VouchedBy: []string{"Root of TPMs"}} }, nil},
	{"other root", tpmClaims(), func(_ *Claims, p *Policy) { p.Platform.TPM = &TPMPlatform{VouchedBy: []string{"Another"}} }, []string{"ATT-034 tpm.vouchedBy"}},
	{"no root accepted", tpmClaims(), func(_ *Claims, p *Policy) { p.Platform.TPM = &TPMPlatform{VouchedBy: []string{}} }, []string{"ATT-034 tpm.vouchedBy"}},
	{"revocation not checked", tpmClaims(), func(c *Claims, _ *Policy) { c.TCB.RevocationChecked = false }, []string{"ATT-018 tcb.revocationChecked"}},
	{"revocation not checked, allowed", tpmClaims(), func(c *Claims, p *Policy) {
		c.TCB.RevocationChecked, p.Platform.TPM = false, &TPMPlatform{AllowUncheckedRevocation: true}
	}, nil},
	{"revocation of a listed key", tpmClaims(), func(c *Claims, p *Policy) {
		c.TCB.RevocationChecked, c.TPM.Vouched, p.Package.TPM.AttestationKeys = false, "", []Hex{fill(7, 32)}
	}, nil},

	{"snp:azure", azureClaims(SNPAzure), func(*Claims, *Policy) {}, nil},
	{"tdx:azure", azureClaims(TDXAzure), func(*Claims, *Policy) {}, nil},
	{"azure under a plain reference", azureClaims(SNPAzure), func(_ *Claims, p *Policy) { p.Package = Package{SNP: p.Package.Azure.SNP, TPM: p.Package.TPM} }, []string{"ATT-029 azure"}},
	{"plain under azure's reference", func() Claims { c := snpGuest(); c.TPM = azureClaims(SNPAzure).TPM; return c }(), func(*Claims, *Policy) {}, []string{"ATT-029 snp"}},
	{"azure without that hardware", azureClaims(SNPAzure), func(_ *Claims, p *Policy) { p.Package.Azure.SNP = nil }, []string{"ATT-029 azure.snp"}},
	{"azure measurement", azureClaims(SNPAzure), func(c *Claims, _ *Policy) { c.SNP.Measurement[0]++ }, []string{"ATT-012 snp.measurement"}},
	{"azure MRTD", azureClaims(TDXAzure), func(c *Claims, _ *Policy) { c.TDX.MRTD[0]++ }, []string{"ATT-012 tdx.mrtd"}},
	{"azure SEPT_VE", azureClaims(TDXAzure), func(c *Claims, _ *Policy) { c.TDX.TDAttributes[3] = 0 }, []string{"ATT-037 tdx.septVEDisable"}},
	{"azure PCR", azureClaims(TDXAzure), func(c *Claims, _ *Policy) { c.TPM.PCRs["4"][0]++ }, []string{"ATT-012 tpm.pcr4"}},
	{"azure no PCRs", azureClaims(SNPAzure), func(_ *Claims, p *Policy) { p.Package.Azure.PCRs = nil }, []string{"ATT-029 tpm.pcrs"}},
	{"azure any PCRs", azureClaims(SNPAzure), func(_ *Claims, p *Policy) { p.Package.Azure.PCRs, p.Package.Azure.AllowAny = nil, true }, nil},
	{"azure without a vTPM", azureClaims(SNPAzure), func(c *Claims, _ *Policy) { c.TPM = nil }, []string{"ATT-038 tpm.vouched", "ATT-012 tpm.pcr4", "ATT-012 tpm.pcr11"}},
	{"vTPM of other hardware", azureClaims(SNPAzure), func(c *Claims, _ *Policy) { c.TPM.Vouched = "tdx" }, []string{"ATT-038 tpm.vouched"}},
	{"azure floor", azureClaims(SNPAzure), func(c *Claims, _ *Policy) { c.SNP.ReportedTCB.SNP-- }, []string{"ATT-032 snp.reportedTCB"}},
	{"azure status", azureClaims(TDXAzure), func(c *Claims, _ *Policy) { c.TCB.Status = OutOfDate }, []string{"ATT-014 tcb.status"}},
	{"azure status accepted for tdx", azureClaims(TDXAzure), func(c *Claims, p *Policy) {
		c.TCB.Status, p.Platform.TDX = OutOfDate, &DCAPPlatform{AcceptedTCBStatuses: []TCBStatus{OutOfDate}}
	}, nil},
	{"azure debug", azureClaims(TDXAzure), func(c *Claims, _ *Policy) { c.Debug = true }, []string{"ATT-013 tdx.debug"}},
	{"azure migratable", azureClaims(TDXAzure), func(c *Claims, _ *Policy) { c.TDX.TDAttributes[3] |= tdMigratable }, []string{"ATT-013 tdx.migratable"}},
}

func TestCheckVM(t *testing.T) {
	for _, c := range vmChecks {
		t.Run(c.name, func(t *testing.T) {
			p := vmPolicy()
			claims := c.claims
			c.change(&claims, &p)
			if got := failed(p.Check(claims)); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestCheckPlugin(t *testing.T) {
	claims := func() Claims {
		return Claims{TEE: CCA, Registers: map[string]Hex{"rim": fill(1, 32), "rem0": fill(2, 32)}}
	}
	for _, c := range []struct {
		name   string
		change func(*Claims, map[TEE]*RegisterReference)
		want   []string
	}{
		{"good", func(*Claims, map[TEE]*RegisterReference) {}, nil},
		{"other register", func(_ *Claims, p map[TEE]*RegisterReference) { p[CCA].Registers["rim"] = []Hex{fill(2, 32)} }, []string{"ATT-012 cca.rim"}},
		{"register missing", func(c *Claims, _ map[TEE]*RegisterReference) { delete(c.Registers, "rem0") }, []string{"ATT-012 cca.rem0"}},
		{"register without values", func(_ *Claims, p map[TEE]*RegisterReference) { p[CCA].Registers["rim"] = nil }, []string{"ATT-012 cca.rim"}},
		{"no registers", func(_ *Claims, p map[TEE]*RegisterReference) { *p[CCA] = RegisterReference{} }, []string{"ATT-029 cca.registers"}},
		{"empty registers", func(_ *Claims, p map[TEE]*RegisterReference) {
			*p[CCA] = RegisterReference{AllowAny: true, Registers: map[string][]Hex{}}
		}, []string{"ATT-029 cca.registers"}},
		{"any", func(_ *Claims, p map[TEE]*RegisterReference) { *p[CCA] = RegisterReference{AllowAny: true} }, nil},
		{"no reference", func(_ *Claims, p map[TEE]*RegisterReference) { delete(p, CCA) }, []string{"ATT-029 plugins.cca"}},
		{"nil reference", func(_ *Claims, p map[TEE]*RegisterReference) { p[CCA] = nil }, []string{"ATT-029 plugins.cca"}},
		{"debug", func(c *Claims, _ map[TEE]*RegisterReference) { c.Debug = true }, []string{"ATT-013 cca.debug"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			plugins := map[TEE]*RegisterReference{CCA: {Registers: map[string][]Hex{"rim": {fill(1, 32)}, "rem0": {fill(3, 32), fill(2, 32)}}}}
			claims := claims()
			c.change(&claims, plugins)
			if got := failed(Policy{Package: Package{Plugins: plugins}}.Check(claims)); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	for _, tee := range []TEE{SGX, TDX, SNP, SNPAzure, TDXAzure, TPM, NVIDIA, SimSGX, SimTDX} {
		p := Policy{Package: Package{Plugins: map[TEE]*RegisterReference{tee: {AllowAny: true}}}}
		if got := failed(p.packageSteps(Claims{TEE: tee})); len(got) != 1 || got[0] != "ATT-029 "+referenceKey(tee) {
			t.Errorf("%s as a plug-in: got %v, want no reference values", tee, got)
		}
	}
}

// TestGenuineTPM checks that a quote which nobody stands for is not called
// genuine, nor offered as reference values.
func TestGenuineTPM(t *testing.T) {
	for name, c := range map[string]struct {
		vouched string
		keys    []Hex
		genuine bool
	}{
		"a root":      {"Root of TPMs", nil, true},
		"a list":      {"", []Hex{fill(7, 32)}, true},
		"nobody":      {"", nil, false},
		"another key": {"", []Hex{fill(8, 32)}, false},
	} {
		p, claims := vmPolicy(), tpmClaims()
		p.Package.TPM.AttestationKeys, claims.TPM.Vouched = c.keys, c.vouched
		p.Package.TPM.PCRs = map[string][]Hex{"4": {fill(5, 32)}}
		v := JudgeUnbound(NewVerifiers(fakeVerifier{TPM, claims, []Step{{Code: CodeTPMQuote, OK: true}}}), Evidence{TEE: TPM, Raw: []byte{1}}, Endorsements{}, p, time.Time{})
		if v.Genuine != c.genuine || v.OK() || (len(v.Changes()) > 0) != c.genuine {
			t.Errorf("%s: got genuine %t, %s, changes %v; want genuine %t, refused", name, v.Genuine, v.Verdict, v.Changes(), c.genuine)
		}
	}
}
