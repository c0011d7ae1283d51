package cli

import (
	"encoding/json"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestSetFloor sets fields one after the other on one floor; what was set before
// stays.
func TestSetFloor(t *testing.T) {
	var f attest.Floor
	for _, c := range []struct{ setting, want string }{
		{"sgx.minTCBEvaluation=20", `{"sgx":{"minTCBEvaluation":20}}`},
		{"sgx.minTCBDate=2026-05-01", `{"sgx":{"minTCBEvaluation":20,"minTCBDate":"2026-05-01T00:00:00Z"}}`},
		{"tdx.refusedTCBStatuses=OutOfDate,SWHardeningNeeded", `{"sgx":{"minTCBEvaluation":20,"minTCBDate":"2026-05-01T00:00:00Z"},"tdx":{"refusedTCBStatuses":["OutOfDate","SWHardeningNeeded"]}}`},
		{"tdx.refusedTCBStatuses=OutOfDate", `{"sgx":{"minTCBEvaluation":20,"minTCBDate":"2026-05-01T00:00:00Z"},"tdx":{"refusedTCBStatuses":["OutOfDate","SWHardeningNeeded"]}}`},
	} {
		if err := setFloor(&f, c.setting); err != nil {
			t.Fatalf("%s: %v", c.setting, err)
		}
		if got, _ := json.Marshal(f); string(got) != c.want {
			t.Errorf("%s: got %s, want %s", c.setting, got, c.want)
		}
	}
	f = attest.Floor{}
	for _, setting := range []string{"snp.minTCB.Milan.microcode=222", "snp.minTCB.Milan.snp=24", "snp.minFirmware=1.55.29", "sim.refusedAdvisories=INTEL-SA-1"} {
		if err := setFloor(&f, setting); err != nil {
			t.Fatalf("%s: %v", setting, err)
		}
	}
	if milan := f.SNP.MinTCB["Milan"]; milan.Microcode != 222 || milan.SNP != 24 || f.SNP.MinFirmware.String() != "1.55.29" || f.Sim.RefusedAdvisories[0] != "INTEL-SA-1" {
		t.Errorf("got %+v and %v", f.SNP, f.Sim)
	}
	for _, bad := range []string{"", "sgx", "sgx.minTCBEvaluation", "sgx.minTCBEvaluation=", "sgx.minTCBEvaluation=-1", "sgx.minTCBEvaluation=4294967296", "sgx.minTcbEvaluation=1",
		"snp.minTCB.Milan=1", "snp.minTCB.Milan.microcode=256", "snp.minTCB.Milan.ucode=1", "snp.minFirmware=1", "arm.x=1", "sgx.minTCBDate=soon"} {
		var f attest.Floor
		if err := setFloor(&f, bad); problem.CodeOf(err) != "CLI-035" {
			t.Errorf("%q: got %v, want CLI-035", bad, err)
		}
	}
}

func TestSplitFloor(t *testing.T) {
	for _, c := range []struct{ text, platform, setting string }{
		{"default.sgx.minTCBEvaluation=20", "default", "sgx.minTCBEvaluation=20"},
		{"sgx.minTCBEvaluation=20", "*", "sgx.minTCBEvaluation=20"},
		{"platform.sgx.minTCBEvaluation=20", "*", "sgx.minTCBEvaluation=20"},
		{"eu.west.snp.minTCB.Milan.snp=24", "eu.west", "snp.minTCB.Milan.snp=24"},
		{"amd.snp.minFirmware=1.55.29", "amd", "snp.minFirmware=1.55.29"},
		{"a.sgx.refusedAdvisories=x.tdx.y", "a", "sgx.refusedAdvisories=x.tdx.y"},
	} {
		if platform, setting := splitFloor(c.text); platform != c.platform || setting != c.setting {
			t.Errorf("%s: got %s and %s, want %s and %s", c.text, platform, setting, c.platform, c.setting)
		}
	}
}
