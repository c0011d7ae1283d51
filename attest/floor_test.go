package attest

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func day(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }

// floorPlatform is a platform with something in every field that a floor may
// raise.
func floorPlatform() Platform {
	low, firmware, older := uint32(15), SNPFirmware{1, 55, 0}, SNPFirmware{1, 50, 0}
	return Platform{
		TDX: &DCAPPlatform{AcceptedTCBStatuses: []TCBStatus{SWHardeningNeeded, OutOfDate}, MinTCBEvaluation: 17, MinTCBDate: day(5),
			Grace: &DCAPGrace{Until: day(20), AcceptedTCBStatuses: []TCBStatus{OutOfDate}, MinTCBEvaluation: &low, MinTCBDate: day(2)}},
		SNP: &SNPPlatform{MinTCB: map[string]SNPTCB{"Milan": {SNP: 20, Microcode: 210}}, MinLaunchTCB: map[string]SNPTCB{"Milan": {SNP: 10}}, MinFirmware: &firmware,
			Grace: &SNPGrace{Until: day(20), MinTCB: map[string]SNPTCB{"Milan": {SNP: 15}}, MinFirmware: &older}},
	}
}

func TestRaise(t *testing.T) {
	for _, c := range []struct {
		name  string
		floor Floor
		want  []string
	}{
		{"nothing", Floor{}, nil},
		{"empty parts", Floor{SGX: &DCAPFloor{}, TDX: &DCAPFloor{}, SNP: &SNPFloor{}, Sim: &DCAPFloor{}}, nil},
		{"lower", Floor{TDX: &DCAPFloor{MinTCBEvaluation: 15, MinTCBDate: day(2)}, SNP: &SNPFloor{MinTCB: map[string]SNPTCB{"Milan": {SNP: 9}}, MinFirmware: &SNPFirmware{1, 2, 3}}}, nil},
		{"evaluation", Floor{TDX: &DCAPFloor{MinTCBEvaluation: 19}}, []string{"tdx.minTCBEvaluation: 17 → 19", "tdx.grace.minTCBEvaluation: 15 → 19"}},
		{"evaluation where there are no rules", Floor{SGX: &DCAPFloor{MinTCBEvaluation: 19}}, []string{"sgx.minTCBEvaluation: 0 → 19"}},
		{"simulation", Floor{Sim: &DCAPFloor{MinTCBDate: day(3)}}, []string{"sim.minTCBDate: none → 2026-01-03T00:00:00Z"}},
		{"date", Floor{TDX: &DCAPFloor{MinTCBDate: day(9)}}, []string{"tdx.minTCBDate: 2026-01-05T00:00:00Z → 2026-01-09T00:00:00Z", "tdx.grace.minTCBDate: 2026-01-02T00:00:00Z → 2026-01-09T00:00:00Z"}},
		{"date between", Floor{TDX: &DCAPFloor{MinTCBDate: day(3)}}, []string{"tdx.grace.minTCBDate: 2026-01-02T00:00:00Z → 2026-01-03T00:00:00Z"}},
		{"status", Floor{TDX: &DCAPFloor{RefusedTCBStatuses: []TCBStatus{OutOfDate, ConfigurationNeeded, UpToDate}}},
			[]string{"tdx.acceptedTCBStatuses: without OutOfDate", "tdx.grace.acceptedTCBStatuses: without OutOfDate"}},
		{"advisory", Floor{TDX: &DCAPFloor{RefusedAdvisories: []string{"INTEL-SA-00615"}}}, []string{"tdx.refusedAdvisories: with INTEL-SA-00615"}},
		{"snp", Floor{SNP: &SNPFloor{MinTCB: map[string]SNPTCB{"Milan": {SNP: 24}, "Genoa": {SNP: 1}}}}, []string{
			"snp.minTCB.Milan: bootloader 0, tee 0, snp 20, microcode 210 → bootloader 0, tee 0, snp 24, microcode 210",
			"snp.minLaunchTCB.Milan: bootloader 0, tee 0, snp 10, microcode 0 → bootloader 0, tee 0, snp 24, microcode 0",
			"snp.grace.minTCB.Milan: bootloader 0, tee 0, snp 15, microcode 0 → bootloader 0, tee 0, snp 24, microcode 0"}},
		{"firmware", Floor{SNP: &SNPFloor{MinFirmware: &SNPFirmware{1, 56, 0}}}, []string{"snp.minFirmware: 1.55.0 → 1.56.0", "snp.grace.minFirmware: 1.50.0 → 1.56.0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := floorPlatform()
			raised, got := p.Raise(c.floor)
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if !reflect.DeepEqual(p, floorPlatform()) {
				t.Errorf("the platform itself was changed: %+v", p)
			}
			if again, more := raised.Raise(c.floor); more != nil || !reflect.DeepEqual(again, raised) {
				t.Errorf("raising twice: got %q, want nothing", more)
			}
		})
	}
}

// TestRaiseNeverAccepts checks that no floor makes a platform accept what it
// refused.
func TestRaiseNeverAccepts(t *testing.T) {
	floor := Floor{SNP: &SNPFloor{MinTCB: map[string]SNPTCB{"Milan": {}, "Genoa": {}, "Turin": {}}, MinFirmware: &SNPFirmware{}}}
	if p, said := (Platform{}).Raise(floor); p.SNP != nil || said != nil {
		t.Errorf("no rules for SNP: got %+v, %q, want none", p.SNP, said)
	}
	p, _ := floorPlatform().Raise(floor)
	if _, named := p.SNP.MinTCB["Genoa"]; named {
		t.Error("a product that was refused is accepted")
	}
	empty := Platform{SGX: &DCAPPlatform{AcceptedTCBStatuses: []TCBStatus{}, AcceptedAdvisories: []string{}}}
	p, said := empty.Raise(Floor{SGX: &DCAPFloor{RefusedTCBStatuses: []TCBStatus{OutOfDate}, RefusedAdvisories: []string{"A"}}})
	if p.SGX.AcceptedTCBStatuses == nil || p.SGX.AcceptedAdvisories == nil || said != nil {
		t.Errorf("empty lists: got %+v, %q, want them to stay", p.SGX, said)
	}
}

func TestFloorLowers(t *testing.T) {
	old := Floor{
		TDX: &DCAPFloor{MinTCBEvaluation: 18, MinTCBDate: day(5), RefusedTCBStatuses: []TCBStatus{OutOfDate}, RefusedAdvisories: []string{"A"}},
		SNP: &SNPFloor{MinTCB: map[string]SNPTCB{"Milan": {SNP: 20, Microcode: 210}}, MinFirmware: &SNPFirmware{1, 55, 0}},
	}
	for _, c := range []struct {
		name   string
		change func(*Floor)
		want   string
	}{
		{"equal", func(*Floor) {}, ""},
		{"higher", func(f *Floor) {
			f.SGX, f.TDX.MinTCBEvaluation, f.TDX.MinTCBDate, f.SNP.MinFirmware = &DCAPFloor{}, 19, day(6), &SNPFirmware{2, 0, 0}
			f.SNP.MinTCB["Genoa"] = SNPTCB{}
		}, ""},
		{"nothing", func(f *Floor) { *f = Floor{} },
			"tdx.minTCBEvaluation: 0, the floor is 18; tdx.minTCBDate: none, the floor is 2026-01-05T00:00:00Z; tdx.refusedTCBStatuses: without OutOfDate; tdx.refusedAdvisories: without A; " +
				"snp.minTCB.Milan: SNP firmware is 0, the floor is 20; snp.minTCB.Milan: microcode is 0, the floor is 210; snp.minFirmware: none, the floor is 1.55.0"},
		{"evaluation", func(f *Floor) { f.TDX.MinTCBEvaluation = 17 }, "tdx.minTCBEvaluation: 17, the floor is 18"},
		{"date", func(f *Floor) { f.TDX.MinTCBDate = day(4) }, "tdx.minTCBDate: 2026-01-04T00:00:00Z, the floor is 2026-01-05T00:00:00Z"},
		{"one component", func(f *Floor) { f.SNP.MinTCB["Milan"] = SNPTCB{SNP: 30, Microcode: 209} }, "snp.minTCB.Milan: microcode is 209, the floor is 210"},
		{"firmware", func(f *Floor) { f.SNP.MinFirmware = &SNPFirmware{1, 54, 9} }, "snp.minFirmware: 1.54.9, the floor is 1.55.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, err := json.Marshal(old)
			if err != nil {
				t.Fatal(err)
			}
			var f Floor
			if err := json.Unmarshal(raw, &f); err != nil {
				t.Fatal(err)
			}
			c.change(&f)
			if got := strings.Join(f.Lowers(old), "; "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if lower := old.Lowers(Floor{}); lower != nil {
				t.Errorf("against no floor: got %q, want nothing", lower)
			}
		})
	}
}

func TestFloorValidate(t *testing.T) {
	for _, c := range []struct {
		name  string
		floor Floor
		ok    bool
	}{
		{"zero", Floor{}, true},
		{"all", Floor{SGX: &DCAPFloor{RefusedTCBStatuses: loweredStatuses, RefusedAdvisories: []string{"A"}}, SNP: &SNPFloor{MinTCB: map[string]SNPTCB{"Turin": {FMC: 1}}}}, true},
		{"UpToDate", Floor{TDX: &DCAPFloor{RefusedTCBStatuses: []TCBStatus{UpToDate}}}, false},
		{"unknown status", Floor{Sim: &DCAPFloor{RefusedTCBStatuses: []TCBStatus{"Splendid"}}}, false},
		{"nameless advisory", Floor{SGX: &DCAPFloor{RefusedAdvisories: []string{""}}}, false},
		{"unknown product", Floor{SNP: &SNPFloor{MinTCB: map[string]SNPTCB{"Naples": {}}}}, false},
	} {
		if err := c.floor.Validate(); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want ok=%t", c.name, err, c.ok)
		}
	}
}

// TestPlatformFloor checks that a platform demands what its floor says, and that
// raising it to its own floor changes nothing.
func TestPlatformFloor(t *testing.T) {
	p := floorPlatform()
	p.TDX.Grace, p.SNP.Grace, p.SNP.MinLaunchTCB = nil, nil, nil
	f := p.Floor()
	if got, want := f.TDX.RefusedTCBStatuses, []TCBStatus{ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDateConfigurationNeeded}; !reflect.DeepEqual(got, want) {
		t.Errorf("refused statuses: got %v, want %v", got, want)
	}
	if len(f.SGX.RefusedTCBStatuses) != len(loweredStatuses) {
		t.Errorf("without rules: got %v, want every status refused", f.SGX.RefusedTCBStatuses)
	}
	if _, raised := p.Raise(f); raised != nil {
		t.Errorf("raising to its own floor: got %q, want nothing", raised)
	}
	lower := floorPlatform()
	lower.TDX.MinTCBEvaluation, lower.SNP = 16, nil
	if got := lower.Floor().Lowers(f); len(got) == 0 || got[0] != "tdx.minTCBEvaluation: 16, the floor is 17" {
		t.Errorf("got %q, want the lower evaluation number first", got)
	}
}
