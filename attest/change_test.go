package attest

import (
	"reflect"
	"testing"
)

// TestChanges checks the edit of the manifest for each kind of step that fails.
func TestChanges(t *testing.T) {
	mr := Hex{0xab, 0xcd}
	snp := &SNPClaims{Product: "Milan", ReportedTCB: SNPTCB{SNP: 23, Microcode: 217}, LaunchTCB: SNPTCB{SNP: 22}, Measurement: mr}
	for _, c := range []struct {
		name   string
		tee    TEE
		claims Claims
		step   Step
		want   []Change
	}{
		{"one measurement", SGX, Claims{}, Step{Code: CodeMeasurement, Field: "sgx.uniqueID", Source: "packages.web", Want: "5c3f", Got: "77f9"},
			[]Change{{Path: "packages.web.sgx.uniqueID", Op: "replace", Old: "5c3f", New: "77f9"}}},
		{"one of several", TDX, Claims{}, Step{Code: CodeMeasurement, Field: "tdx.rtmr1", Source: "packages.web", Want: "5c3f or 5c40", Got: "77f9"},
			[]Change{{Path: "packages.web.tdx.rtmr1", Op: "add", New: "77f9"}}},
		{"beneath a vTPM", SNPAzure, Claims{}, Step{Code: CodeMeasurement, Field: "snp.measurement", Source: "packages.web", Want: "5c3f", Got: "77f9"},
			[]Change{{Path: "packages.web.azure.snp.measurement", Op: "replace", Old: "5c3f", New: "77f9"}}},
		{"a PCR of Azure", TDXAzure, Claims{}, Step{Code: CodeMeasurement, Field: "tpm.pcr11", Source: "packages.web", Want: "5c3f", Got: "77f9"},
			[]Change{{Path: "packages.web.azure.pcrs.11", Op: "replace", Old: "5c3f", New: "77f9"}}},
		{"a PCR", TPM, Claims{}, Step{Code: CodeMeasurement, Field: "tpm.pcr4", Source: "packages.web", Want: "5c3f", Got: "77f9"},
			[]Change{{Path: "packages.web.tpm.pcrs.4", Op: "replace", Old: "5c3f", New: "77f9"}}},
		{"debug", SGX, Claims{}, Step{Code: CodeDebug, Field: "sgx.debug", Source: "packages.web", Want: "false", Got: "true"},
			[]Change{{Path: "packages.web.allowDebug", Op: "set", New: "true"}}},
		{"security version", SGX, Claims{}, Step{Code: CodeSecurityVersion, Field: "sgx.securityVersion", Source: "packages.web", Want: "9 or higher", Got: "7"},
			[]Change{{Path: "packages.web.sgx.minSecurityVersion", Op: "set", Old: "9", New: "7"}}},
		{"privilege level", SNP, Claims{}, Step{Code: CodeGuestPolicy, Field: "snp.vmpl", Source: "packages.web", Want: "0", Got: "1"},
			[]Change{{Path: "packages.web.snp.vmpl", Op: "set", Old: "0", New: "1"}}},
		{"SEPT_VE", TDX, Claims{}, Step{Code: CodeAttributes, Field: "tdx.septVEDisable", Source: "packages.web", Want: "on", Got: "off"},
			[]Change{{Path: "packages.web.tdx.allowSEPTVE", Op: "set", New: "true"}}},
		{"no reference", SNP, Claims{TEE: SNP, SNP: snp}, Step{Code: CodeNoReference, Field: "snp", Source: "packages.web"},
			[]Change{{Path: "packages.web.snp", Op: "add", New: `{"measurement":["abcd"]}`}}},
		{"status", TDX, Claims{}, Step{Code: CodeTCBStatus, Field: "tcb.status", Source: "platforms.default", Got: "OutOfDate"},
			[]Change{{Path: "platforms.default.tdx.acceptedTCBStatuses", Op: "add", New: "OutOfDate"}}},
		{"status beneath a vTPM", TDXAzure, Claims{}, Step{Code: CodeTCBStatus, Field: "tcb.status", Source: "platforms.default", Got: "OutOfDate"},
			[]Change{{Path: "platforms.default.tdx.acceptedTCBStatuses", Op: "add", New: "OutOfDate"}}},
		{"advisories", SimSGX, Claims{}, Step{Code: CodeAdvisory, Field: "tcb.advisories", Source: "platforms.default", Want: "none", Got: "SA-1, SA-2; the grace for it ended"},
			[]Change{{Path: "platforms.default.sim.acceptedAdvisories", Op: "add", New: "SA-1"}, {Path: "platforms.default.sim.acceptedAdvisories", Op: "add", New: "SA-2"}}},
		{"refused advisories", SGX, Claims{}, Step{Code: CodeAdvisory, Field: "tcb.advisories", Source: "platforms.default", Want: "none of SA-1", Got: "SA-1"}, nil},
		{"floor", SNP, Claims{SNP: snp}, Step{Code: CodeTCBFloor, Field: "snp.reportedTCB", Source: "platforms.default", Got: "snp is 23, the floor is 24; microcode is 217, the floor is 219"},
			[]Change{{Path: "platforms.default.snp.minTCB.Milan.snp", Op: "set", Old: "24", New: "23"}, {Path: "platforms.default.snp.minTCB.Milan.microcode", Op: "set", Old: "219", New: "217"}}},
		{"launch floor", SNP, Claims{SNP: snp}, Step{Code: CodeTCBFloor, Field: "snp.launchTCB", Source: "platforms.default", Got: "snp is 22, the floor is 24"},
			[]Change{{Path: "platforms.default.snp.minLaunchTCB.Milan", Op: "set", New: `{"fmc":0,"bootloader":0,"tee":0,"snp":22,"microcode":0}`}}},
		{"product", SNP, Claims{SNP: snp}, Step{Code: CodeTCBFloor, Field: "snp.product", Source: "platforms.default", Got: "Milan"},
			[]Change{{Path: "platforms.default.snp.minTCB.Milan", Op: "add", New: `{"fmc":0,"bootloader":0,"tee":0,"snp":23,"microcode":217}`}}},
		{"SMT", SNP, Claims{}, Step{Code: CodeMachine, Field: "snp.smt", Source: "platforms.default"}, []Change{{Path: "platforms.default.snp.allowSMT", Op: "set", New: "true"}}},
		{"chip", SNP, Claims{}, Step{Code: CodeMachine, Field: "snp.chipID", Source: "platforms.default", Got: "77f9"},
			[]Change{{Path: "platforms.default.snp.chipIDs", Op: "add", New: "77f9"}}},
		{"platform family", TDX, Claims{}, Step{Code: CodeMachine, Field: "tcb.fmspc", Source: "platforms.default", Got: "77f9"},
			[]Change{{Path: "platforms.default.tdx.fmspcs", Op: "add", New: "77f9"}}},
		{"revocation unchecked", SGX, Claims{}, Step{Code: CodeNoRevocation, Field: "tcb.revocationChecked", Source: "platforms.default"}, nil},
		{"a step of the verifier", SGX, Claims{}, Step{Code: CodeTCBLevel, Field: "tcb.level", Source: KindTCBInfo}, nil},
		{"without names", SGX, Claims{}, Step{Code: CodeMeasurement, Field: "sgx.uniqueID", Source: "packages", Want: "5c3f", Got: "77f9"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.want {
				c.want[i].Who = ManifestAuthor
			}
			v := Verdict{TEE: c.tee, Genuine: true, TCBStatus: OutOfDate, Claims: c.claims, Steps: []Step{{OK: true, Field: "holds", Source: "packages.web"}, c.step}}
			if got := v.Changes(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			v.Genuine = false
			if got := v.Changes(); got != nil {
				t.Errorf("evidence that is not genuine: got %+v, want none", got)
			}
		})
	}
	for _, status := range []TCBStatus{"", Revoked} {
		v := Verdict{TEE: SGX, Genuine: true, TCBStatus: status, Steps: []Step{{Code: CodeTCBStatus, Field: "tcb.status", Source: "platforms.default"}}}
		if got := v.Changes(); got != nil {
			t.Errorf("status %q: got %+v, want none", status, got)
		}
	}
}

// TestDistances: a package without reference values for the TEE is the furthest.
func TestDistances(t *testing.T) {
	c := Claims{TEE: SGX, SGX: &SGXClaims{UniqueID: Hex{1}, SignerID: Hex{2}}}
	one, two := uint16(1), uint16(2)
	packages := map[string]Policy{
		"a-vm": {Package: Package{TDX: &TDXReference{}}}, "far": {Package: Package{SGX: &SGXReference{SignerID: Hex{9}, ProductID: &one, MinSecurityVersion: &two}}},
		"near": {Package: Package{SGX: &SGXReference{UniqueID: []Hex{{9}}}}}, "same": {Package: Package{SGX: &SGXReference{UniqueID: []Hex{{1}}}}},
	}
	var order []string
	for _, d := range Distances(c, packages) {
		order = append(order, d.Package)
		if d.Absent != (d.Package == "a-vm") {
			t.Errorf("%s: got absent=%t", d.Package, d.Absent)
		}
	}
	if want := []string{"same", "near", "far", "a-vm"}; !reflect.DeepEqual(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
	if name, d := Nearest(c, packages); name != "same" || d != 0 {
		t.Errorf("nearest: got %s, %d, want same, 0", name, d)
	}
}
