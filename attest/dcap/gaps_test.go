package dcap_test

import (
	"reflect"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
)

// named gives components of a level the names that the vendor gives them.
func named(level map[string]any, list string, names map[int][2]string) map[string]any {
	components := level["tcb"].(map[string]any)[list].([]any)
	for i, n := range names {
		c := components[i].(map[string]any)
		c["category"], c["type"] = n[0], n[1]
	}
	return level
}

var (
	sgxNames = map[int][2]string{0: {"BIOS", "Early Microcode Update"}, 7: {"OS/VMM", "SEAMLDR ACM"}}
	tdxNames = map[int][2]string{0: {"OS/VMM", "TDX Module"}, 2: {"OS/VMM", "TDX Late Microcode Update"}}
)

// TestGaps checks what is said of platforms that are behind, under a policy that
// accepts UpToDate alone.
func TestGaps(t *testing.T) {
	for _, c := range []struct {
		name   string
		tee    attest.TEE
		change func(*forge)
		want   []string // code, field, got
		who    []attest.Party
	}{
		{"up to date", attest.TDX, func(*forge) {}, nil, nil},
		{"one component, met an older level", attest.TDX, func(f *forge) {
			best := named(f.Level(5, 3, "UpToDate"), "sgxtcbcomponents", sgxNames)
			best["tcb"].(map[string]any)["sgxtcbcomponents"].([]any)[7].(map[string]any)["svn"] = 9
			f.TCB["tcbLevels"] = []any{best, f.Level(5, 3, "OutOfDate")}
		}, []string{"ATT-014 tcb.platform: SEAMLDR ACM is 5, the level needs 9"}, []attest.Party{attest.CloudProvider}},
		{"no level met, several components", attest.TDX, func(f *forge) {
			best := named(named(f.Level(5, 4, "UpToDate"), "sgxtcbcomponents", sgxNames), "tdxtcbcomponents", tdxNames)
			list := best["tcb"].(map[string]any)
			list["sgxtcbcomponents"].([]any)[0].(map[string]any)["svn"] = 6
			list["pcesvn"] = 6
			for i := 3; i < 16; i++ {
				list["tdxtcbcomponents"].([]any)[i].(map[string]any)["svn"] = 3
			}
			list["tdxtcbcomponents"].([]any)[15].(map[string]any)["svn"] = 8
			f.TCB["tcbLevels"] = []any{best}
		}, []string{"ATT-027 tcb.platform: Early Microcode Update is 5, the level needs 6; PCESVN is 5, the level needs 6; " +
			"TDX Late Microcode Update is 3, the level needs 4; TDX component 16 is 3, the level needs 8"}, []attest.Party{attest.HostOwner}},
		{"the best level that is listed, and of two the nearer one", attest.SGX, func(f *forge) {
			far, near := f.Level(9, 0, "SWHardeningNeeded"), f.Level(5, 0, "SWHardeningNeeded")
			near["tcb"].(map[string]any)["sgxtcbcomponents"].([]any)[6].(map[string]any)["svn"] = 12
			f.TCB["tcbLevels"] = []any{far, near, f.Level(5, 0, "ConfigurationAndSWHardeningNeeded")}
		}, []string{"ATT-014 tcb.platform: component 7 is 5, the level needs 12"}, []attest.Party{attest.HostOwner}},
		{"the best there is, which is not up to date", attest.SGX, func(f *forge) {
			f.TCB["tcbLevels"] = []any{f.Level(5, 0, "SWHardeningNeeded"), f.Level(1, 0, "OutOfDate")}
		}, nil, nil},
		{"quoting enclave", attest.SGX, func(f *forge) {
			f.QE["tcbLevels"] = []any{attesttest.ISVLevel(8, "UpToDate"), attesttest.ISVLevel(6, "OutOfDate")}
		}, []string{"ATT-014 tcb.qe: QE ISVSVN is 7, the level needs 8"}, []attest.Party{attest.HostOwner}},
		{"module", attest.TDX, func(f *forge) {
			f.TCB["tdxModuleIdentities"] = []any{attesttest.Module("TDX_01", []any{attesttest.ISVLevel(5, "UpToDate"), attesttest.ISVLevel(2, "OutOfDate")})}
		}, []string{"ATT-014 tcb.module: TDX module 1 SVN is 3, the level needs 5"}, []attest.Party{attest.CloudProvider}},
		{"module that meets no level", attest.TDX, func(f *forge) {
			f.TCB["tdxModuleIdentities"] = []any{attesttest.Module("TDX_01", []any{attesttest.ISVLevel(5, "UpToDate")})}
		}, []string{"ATT-027 tcb.module: TDX module 1 SVN is 3, the level needs 5"}, []attest.Party{attest.CloudProvider}},
		{"guest started under an older module than runs now", attest.TDX, func(f *forge) {
			f.TCB["tdxModuleIdentities"] = []any{attesttest.Module("TDX_01", []any{attesttest.ISVLevel(5, "UpToDate"), attesttest.ISVLevel(2, "OutOfDate")}), attesttest.Module("TDX_03", []any{attesttest.ISVLevel(2, "UpToDate")})}
			f.Body[584], f.Body[585] = 2, 3
		}, []string{"ATT-014 tcb.module: TDX module 1 SVN is 3, the level needs 5"}, []attest.Party{attest.ServiceOwner}},
		{"the module that runs now is old as well", attest.TDX, func(f *forge) {
			f.TCB["tdxModuleIdentities"] = []any{attesttest.Module("TDX_01", []any{attesttest.ISVLevel(5, "UpToDate"), attesttest.ISVLevel(2, "OutOfDate")})}
			f.Body[584], f.Body[585] = 4, 1
		}, []string{"ATT-014 tcb.module: TDX module 1 SVN is 3, the level needs 5"}, []attest.Party{attest.CloudProvider}},
		{"a newer module that runs now makes no status better", attest.TDX, func(f *forge) {
			f.TCB["tcbLevels"] = []any{f.Level(5, 4, "UpToDate"), f.Level(5, 3, "OutOfDate")}
			for i := 584; i < 600; i++ {
				f.Body[i] = 9
			}
		}, []string{"ATT-014 tcb.platform: TDX component 3 is 3, the level needs 4; TDX component 4 is 3, the level needs 4; TDX component 5 is 3, the level needs 4; " +
			"TDX component 6 is 3, the level needs 4; TDX component 7 is 3, the level needs 4; TDX component 8 is 3, the level needs 4; TDX component 9 is 3, the level needs 4; " +
			"TDX component 10 is 3, the level needs 4; TDX component 11 is 3, the level needs 4; TDX component 12 is 3, the level needs 4; TDX component 13 is 3, the level needs 4; " +
			"TDX component 14 is 3, the level needs 4; TDX component 15 is 3, the level needs 4; TDX component 16 is 3, the level needs 4"}, []attest.Party{attest.HostOwner}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newForge(t, c.tee)
			c.change(f)
			e, en := f.Make()
			p := attest.Policy{Package: attest.Package{SGX: &attest.SGXReference{AllowAny: true}, TDX: &attest.TDXReference{AllowAny: true}}}
			var got []string
			var who []attest.Party
			for _, s := range attest.JudgeUnbound(attest.NewVerifiers(verifier(f)), e, en, p, forgeTime).Failed() {
				if s.Field == "tcb.platform" || s.Field == "tcb.qe" || s.Field == "tcb.module" {
					got, who = append(got, s.Code+" "+s.Field+": "+s.Got), append(who, s.Fix.Who)
				}
			}
			if !reflect.DeepEqual(got, c.want) || !reflect.DeepEqual(who, c.who) {
				t.Errorf("got %q by %v, want %q by %v", got, who, c.want, c.who)
			}
		})
	}
}

// TestGapNamesTheLevel checks the level that a gap is measured against, and that
// a status that is accepted has no gap among the failed steps.
func TestGapNamesTheLevel(t *testing.T) {
	f := newForge(t, attest.SGX)
	best := f.Level(6, 0, "UpToDate")
	best["tcbDate"], best["advisoryIDs"] = "2026-01-14T00:00:00Z", nil
	f.TCB["tcbLevels"] = []any{best, f.Level(5, 0, "OutOfDate")}
	e, en := f.Make()
	p := attest.Policy{PlatformName: "default", Package: attest.Package{SGX: &attest.SGXReference{AllowAny: true}}}
	judge := func() attest.Verdict {
		return attest.JudgeUnbound(attest.NewVerifiers(verifier(f)), e, en, p, forgeTime)
	}
	v := judge()
	last := v.Steps[len(v.Steps)-2] // before revocation
	if want := "UpToDate since 2026-01-14, which ends SA-PLATFORM"; last.Field != "tcb.platform" || last.Want != want || last.Source != attest.KindTCBInfo {
		t.Errorf("got %s, want %q, source %s", last.Field, last.Want, last.Source)
	}
	if got := v.Claims.TCB.LevelDate.Format("2006-01-02"); got != "2025-02-02" {
		t.Errorf("level date: got %s, want that of the level that is met", got)
	}
	p.Platform.SGX = &attest.DCAPPlatform{AcceptedTCBStatuses: []attest.TCBStatus{attest.OutOfDate}}
	if v := judge(); !v.OK() || len(v.Claims.TCB.Gaps) != 1 {
		t.Errorf("an accepted status: got %v, gaps %+v, want accepted with one gap", v.Failed(), v.Claims.TCB.Gaps)
	}
}
