package attest

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// floorChecks are about floors, allow-lists and the grace of a TDX platform, at
// day 10; the grace ends with day 20.
var floorChecks = []ruleCheck[Claims, DCAPPlatform]{
	{"nothing", func(*Claims, *DCAPPlatform) {}, nil},
	{"date", func(_ *Claims, p *DCAPPlatform) { p.MinTCBDate = day(5) }, nil},
	{"earlier date", func(_ *Claims, p *DCAPPlatform) { p.MinTCBDate = day(6) }, []string{"ATT-039 tcb.levelDate"}},
	{"no date", func(c *Claims, p *DCAPPlatform) { c.TCB.LevelDate, p.MinTCBDate = time.Time{}, day(1) }, []string{"ATT-039 tcb.levelDate"}},
	{"refused advisory", func(_ *Claims, p *DCAPPlatform) { p.RefusedAdvisories = []string{"SA-2"} }, []string{"ATT-015 tcb.advisories"}},
	{"refused though accepted", func(_ *Claims, p *DCAPPlatform) {
		p.AcceptedAdvisories, p.RefusedAdvisories = []string{"SA-1", "SA-2"}, []string{"SA-2"}
	}, []string{"ATT-015 tcb.advisories"}},
	{"another refused", func(_ *Claims, p *DCAPPlatform) { p.RefusedAdvisories = []string{"SA-3"} }, nil},
	{"FMSPC", func(_ *Claims, p *DCAPPlatform) { p.FMSPCs = []Hex{fill(1, 6), fill(2, 6)} }, nil},
	{"other FMSPC", func(_ *Claims, p *DCAPPlatform) { p.FMSPCs = []Hex{fill(1, 6)} }, []string{"ATT-034 tcb.fmspc"}},
	{"no FMSPC accepted", func(_ *Claims, p *DCAPPlatform) { p.FMSPCs = []Hex{} }, []string{"ATT-034 tcb.fmspc"}},
	{"no FMSPC known", func(c *Claims, p *DCAPPlatform) { c.TCB.FMSPC, p.FMSPCs = nil, []Hex{{}} }, []string{"ATT-034 tcb.fmspc"}},
	{"PPID", func(_ *Claims, p *DCAPPlatform) { p.PPIDs = []Hex{fill(3, 16)} }, nil},
	{"other PPID", func(_ *Claims, p *DCAPPlatform) { p.PPIDs = []Hex{fill(4, 16)} }, []string{"ATT-034 tcb.ppid"}},
	{"instance", func(_ *Claims, p *DCAPPlatform) { p.PlatformInstanceIDs = []Hex{fill(4, 16)} }, nil},
	{"other instance", func(_ *Claims, p *DCAPPlatform) { p.PlatformInstanceIDs = []Hex{fill(3, 16)} }, []string{"ATT-034 tcb.platformInstanceID"}},
	{"components", func(_ *Claims, p *DCAPPlatform) { p.MinTEETCBSVN = hexOf("05010200000000000000000000000000") }, nil},
	{"low component", func(_ *Claims, p *DCAPPlatform) { p.MinTEETCBSVN = hexOf("00000300000000000000000000000000") }, []string{"ATT-032 tdx.teeTCBSVN"}},
	{"short floor", func(_ *Claims, p *DCAPPlatform) { p.MinTEETCBSVN = Hex{1} }, []string{"ATT-032 tdx.teeTCBSVN"}},
	{"no components", func(c *Claims, p *DCAPPlatform) { c.TDX.TEETCBSVN, p.MinTEETCBSVN = nil, make(Hex, 16) }, []string{"ATT-032 tdx.teeTCBSVN"}},
	{"low component of a version 5 quote", func(c *Claims, p *DCAPPlatform) {
		c.TDX.TEETCBSVN2, p.MinTEETCBSVN = make(Hex, 16), hexOf("05010200000000000000000000000000")
	}, []string{"ATT-032 tdx.teeTCBSVN2"}},
	{"module", func(_ *Claims, p *DCAPPlatform) { p.MinModuleSVN = map[string]uint8{"TDX_01": 5, "TDX_03": 9} }, nil},
	{"low module", func(_ *Claims, p *DCAPPlatform) { p.MinModuleSVN = map[string]uint8{"TDX_01": 6} }, []string{"ATT-032 tdx.module"}},
	{"module not named", func(_ *Claims, p *DCAPPlatform) { p.MinModuleSVN = map[string]uint8{"TDX": 0, "TDX_03": 0} }, []string{"ATT-032 tdx.module"}},
	{"no module accepted", func(_ *Claims, p *DCAPPlatform) { p.MinModuleSVN = map[string]uint8{} }, []string{"ATT-032 tdx.module"}},
	{"module of major version 0", func(c *Claims, p *DCAPPlatform) {
		c.TDX.TEETCBSVN[1], p.MinModuleSVN = 0, map[string]uint8{"TDX": 5}
	}, nil},

	{"status in grace", func(c *Claims, p *DCAPPlatform) {
		c.TCB.Status, p.Grace.AcceptedTCBStatuses = OutOfDate, []TCBStatus{OutOfDate}
	}, nil},
	{"another status in grace", func(c *Claims, p *DCAPPlatform) {
		c.TCB.Status, p.Grace.AcceptedTCBStatuses = ConfigurationNeeded, []TCBStatus{OutOfDate}
	}, []string{"ATT-014 tcb.status"}},
	{"revoked in grace", func(c *Claims, p *DCAPPlatform) {
		c.TCB.Status, p.Grace.AcceptedTCBStatuses = Revoked, []TCBStatus{Revoked}
	}, []string{"ATT-014 tcb.status"}},
	{"no status in grace", func(c *Claims, p *DCAPPlatform) { c.TCB.Status, p.Grace.AcceptedTCBStatuses = "", []TCBStatus{""} }, []string{"ATT-014 tcb.status"}},
	{"status, grace over", func(c *Claims, p *DCAPPlatform) {
		c.TCB.Status, p.Grace.AcceptedTCBStatuses, p.Grace.Until = OutOfDate, []TCBStatus{OutOfDate}, day(9)
	}, []string{"ATT-014 tcb.status"}},
	{"status, grace without an end", func(c *Claims, p *DCAPPlatform) {
		c.TCB.Status, p.Grace.AcceptedTCBStatuses, p.Grace.Until = OutOfDate, []TCBStatus{OutOfDate}, time.Time{}
	}, []string{"ATT-014 tcb.status"}},
	{"advisory in grace", func(_ *Claims, p *DCAPPlatform) {
		p.AcceptedAdvisories, p.Grace.AcceptedAdvisories = []string{"SA-1"}, []string{"SA-2"}
	}, nil},
	{"refused advisory in grace", func(_ *Claims, p *DCAPPlatform) {
		p.RefusedAdvisories, p.Grace.AcceptedAdvisories = []string{"SA-2"}, []string{"SA-2"}
	}, []string{"ATT-015 tcb.advisories"}},
	{"evaluation in grace", func(_ *Claims, p *DCAPPlatform) {
		n := uint32(18)
		p.MinTCBEvaluation, p.Grace.MinTCBEvaluation = 19, &n
	}, nil},
	{"evaluation below grace", func(_ *Claims, p *DCAPPlatform) {
		n := uint32(19)
		p.MinTCBEvaluation, p.Grace.MinTCBEvaluation = 20, &n
	}, []string{"ATT-016 tcb.evaluationNumber"}},
	{"grace says nothing of it", func(_ *Claims, p *DCAPPlatform) { p.MinTCBEvaluation = 19 }, []string{"ATT-016 tcb.evaluationNumber"}},
	{"date in grace", func(_ *Claims, p *DCAPPlatform) { p.MinTCBDate, p.Grace.MinTCBDate = day(7), day(5) }, nil},
	{"date before grace", func(_ *Claims, p *DCAPPlatform) { p.MinTCBDate, p.Grace.MinTCBDate = day(8), day(6) }, []string{"ATT-039 tcb.levelDate"}},
}

func TestCheckFloors(t *testing.T) {
	for _, c := range floorChecks {
		t.Run(c.name, func(t *testing.T) {
			claims, rules := tdxClaims(), DCAPPlatform{Grace: &DCAPGrace{Until: day(20)}}
			claims.TCB.LevelDate, claims.TCB.FMSPC, claims.TCB.PPID, claims.TCB.PlatformInstance = day(5), fill(2, 6), fill(3, 16), fill(4, 16)
			claims.TDX.TEETCBSVN = hexOf("05010200000000000000000000000000")
			c.change(&claims, &rules)
			p := Policy{PlatformName: "default", Package: Package{TDX: &TDXReference{AllowAny: true}}, Platform: Platform{TDX: &rules}}
			steps := p.checkAt(claims, day(10))
			if got := failed(steps); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			for _, s := range steps {
				if s.Grace.Equal(day(20)) != strings.Contains(s.Want, "in the grace until 2026-01-20T00:00:00Z") {
					t.Errorf("grace in words and as data: %+v", s)
				}
				if strings.Contains(c.name, "grace over") && !s.OK && !strings.Contains(s.Got, "the grace for it ended 2026-01-09T00:00:00Z") {
					t.Errorf("got %q, want since when the grace is over", s.Got)
				}
				if !s.Grace.IsZero() && len(failed(p.Check(claims))) == 0 {
					t.Error("a grace counts where no time is known")
				}
			}
		})
	}
}

func TestSNPGrace(t *testing.T) {
	older := SNPFirmware{1, 50, 0}
	for _, c := range []struct {
		name   string
		change func(*SNPClaims, *SNPPlatform)
		want   []string
	}{
		{"reported", func(c *SNPClaims, _ *SNPPlatform) { c.ReportedTCB.SNP = 22 }, nil},
		{"below grace", func(c *SNPClaims, _ *SNPPlatform) { c.ReportedTCB.SNP = 21 }, []string{"ATT-032 snp.reportedTCB"}},
		{"launch", func(c *SNPClaims, _ *SNPPlatform) { c.LaunchTCB.Microcode = 1 }, nil},
		{"firmware", func(c *SNPClaims, _ *SNPPlatform) { c.CommittedFirmware = older }, nil},
		{"firmware below grace", func(c *SNPClaims, _ *SNPPlatform) { c.CommittedFirmware = SNPFirmware{1, 49, 9} }, []string{"ATT-032 snp.committedFirmware"}},
		{"over", func(c *SNPClaims, p *SNPPlatform) {
			c.ReportedTCB.SNP, c.CommittedFirmware, p.Grace.Until = 22, older, day(9)
		}, []string{"ATT-032 snp.reportedTCB", "ATT-032 snp.committedFirmware"}},
		{"a product that only the grace names", func(c *SNPClaims, p *SNPPlatform) {
			c.Product, p.Grace.MinTCB = "Genoa", map[string]SNPTCB{"Genoa": {}}
		}, []string{"ATT-032 snp.product"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims, p := snpGuest(), snpPolicy()
			p.Platform.SNP.Grace = &SNPGrace{Until: day(20), MinTCB: map[string]SNPTCB{"Milan": {SNP: 22}}, MinFirmware: &older}
			c.change(claims.SNP, p.Platform.SNP)
			if got := failed(p.checkAt(claims, day(10))); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestEndorsementGrace judges endorsements that have ended, or have grown too
// old, or are not yet valid.
func TestEndorsementGrace(t *testing.T) {
	window := func(code string, ended time.Time) Step {
		return Step{Code: code, Field: "x.validity", Want: "valid", Got: "at " + dated(day(10)), Source: KindTCBInfo, Fix: Fix{Operator, "fetch"}, Ended: ended}
	}
	hour := Duration(time.Hour)
	for _, c := range []struct {
		name   string
		step   Step
		change func(*TCBClaims, *EndorsementRules)
		want   []string
		until  time.Time // of ValidUntil
	}{
		{"ended", window(CodeWindow, day(9)), func(*TCBClaims, *EndorsementRules) {}, nil, day(20)},
		{"CRL ended", window(CodeCRLWindow, day(9)), func(c *TCBClaims, _ *EndorsementRules) { c.RevocationChecked, c.CRLsEnded = false, true }, nil, day(20)},
		{"no CRL", holds[0], func(c *TCBClaims, _ *EndorsementRules) { c.RevocationChecked = false }, []string{"ATT-018 tcb.revocationChecked"}, day(12)},
		{"not yet valid", window(CodeWindow, time.Time{}), func(*TCBClaims, *EndorsementRules) {}, []string{"ATT-024 x.validity"}, day(12)},
		{"certificate ended", window(CodeCertWindow, day(9)), func(*TCBClaims, *EndorsementRules) {}, []string{"ATT-030 x.validity"}, day(12)},
		{"no grace", window(CodeWindow, day(9)), func(_ *TCBClaims, r *EndorsementRules) { r.GraceUntil = time.Time{} }, []string{"ATT-024 x.validity"}, day(12)},
		{"grace over", window(CodeWindow, day(9)), func(_ *TCBClaims, r *EndorsementRules) { r.GraceUntil = day(9) }, []string{"ATT-024 x.validity"}, day(12)},
		{"too old", holds[0], func(_ *TCBClaims, r *EndorsementRules) { r.MaxAge = hour }, nil, day(12)},
		{"too old, grace ends first", holds[0], func(_ *TCBClaims, r *EndorsementRules) { r.MaxAge, r.GraceUntil = hour, day(11) }, nil, day(11)},
		{"too old, grace over", holds[0], func(_ *TCBClaims, r *EndorsementRules) { r.MaxAge, r.GraceUntil = hour, day(9) }, []string{"ATT-017 endorsements.age"}, day(12)},
		{"too old, chain ends first", holds[0], func(c *TCBClaims, r *EndorsementRules) { r.MaxAge, c.NotAfter = hour, day(11) }, nil, day(11)},
		{"no date of issue", holds[0], func(c *TCBClaims, r *EndorsementRules) { r.MaxAge, c.OldestIssue = hour, time.Time{} }, []string{"ATT-017 endorsements.age"}, day(12)},
		{"each kind too old", holds[0], func(_ *TCBClaims, r *EndorsementRules) {
			*r = EndorsementRules{MaxAgeByKind: AgeRules{hour, hour, hour}}
		},
			[]string{"ATT-017 endorsements.age.tcbInfo", "ATT-017 endorsements.age.qeIdentity", "ATT-017 endorsements.age.crl"}, day(12)},
		{"one kind too old", holds[0], func(_ *TCBClaims, r *EndorsementRules) {
			*r = EndorsementRules{MaxAgeByKind: AgeRules{TCBInfo: 200 * hour, QEIdentity: hour, CRL: 200 * hour}}
		}, []string{"ATT-017 endorsements.age.qeIdentity"}, day(12)},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := tdxClaims()
			claims.TCB.OldestIssue, claims.TCB.NextUpdate, claims.TCB.NotAfter = day(5), day(12), day(30)
			claims.TCB.Issued = Issued{TCBInfo: day(5), QEIdentity: day(6), CRL: day(7)}
			rules := EndorsementRules{GraceUntil: day(20)}
			c.change(&claims.TCB, &rules)
			p := Policy{Package: Package{TDX: &TDXReference{AllowAny: true}}, Platform: Platform{Endorsements: rules}}
			e := Evidence{TEE: TDX, Raw: []byte{1}}
			v := Judge(NewVerifiers(stub{TDX, claims, []Step{c.step}}), e, Binding(claims.ReportData), Endorsements{}, p, day(10))
			if got := failed(v.Steps); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if got := v.Claims.TCB.ValidUntil(); v.OK() && !got.Equal(c.until) {
				t.Errorf("valid until: got %s, want %s", dated(got), dated(c.until))
			}
			if v.Genuine != (len(c.want) == 0 || c.step.OK) {
				t.Errorf("genuine: got %t", v.Genuine)
			}
			for _, s := range v.Steps {
				if s.OK && !s.Ended.IsZero() && !strings.Contains(s.Got, "ended "+dated(s.Ended)) {
					t.Errorf("got %q, want it to say since when", s.Got)
				}
			}
		})
	}
}

// TestFloorGraceBoundsIdentity checks that nothing counts longer than the grace
// by which it was accepted.
func TestFloorGraceBoundsIdentity(t *testing.T) {
	claims := tdxClaims()
	claims.TCB.Status, claims.TCB.NextUpdate, claims.TCB.NotAfter = OutOfDate, day(25), day(30)
	p := Policy{Package: Package{TDX: &TDXReference{AllowAny: true}},
		Platform: Platform{TDX: &DCAPPlatform{Grace: &DCAPGrace{Until: day(20), AcceptedTCBStatuses: []TCBStatus{OutOfDate}}}}}
	v := Judge(NewVerifiers(stub{TDX, claims, holds}), Evidence{TEE: TDX, Raw: []byte{1}}, Binding(claims.ReportData), Endorsements{}, p, day(10))
	if got := v.Claims.TCB.ValidUntil(); !v.OK() || !got.Equal(day(20)) {
		t.Errorf("got accepted=%t until %s, want %s; failed: %v", v.OK(), dated(got), dated(day(20)), failed(v.Steps))
	}
}
