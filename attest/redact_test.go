package attest

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestStepRedacted(t *testing.T) {
	owner, host := Fix{ServiceOwner, "redeploy"}, Fix{HostOwner, "update microcode"}
	for _, c := range []struct {
		name string
		step Step
		want Step
	}{
		{"measurement", Step{Code: CodeMeasurement, Field: "sgx.uniqueID", Want: "0a or 0b", Got: "0c", Source: "packages.web", Fix: owner},
			Step{Code: CodeMeasurement, Field: "sgx.uniqueID", Want: NotShown, Got: "0c", Source: "packages.web", Fix: owner}},
		{"measurement that holds", Step{Code: CodeMeasurement, Field: "sgx.uniqueID", OK: true, Want: "0a or 0b", Got: "0a", Source: "packages"},
			Step{Code: CodeMeasurement, Field: "sgx.uniqueID", OK: true, Want: NotShown, Got: "0a", Source: "packages"}},
		{"debug", Step{Code: CodeDebug, Field: "sgx.debug", Want: "false", Got: "true", Source: "packages.web", Fix: owner},
			Step{Code: CodeDebug, Field: "sgx.debug", Want: "false", Got: "true", Source: "packages.web", Fix: owner}},
		{"status", Step{Code: CodeTCBStatus, Field: "tcb.status", Want: "UpToDate or SWHardeningNeeded", Got: "OutOfDate", Source: "platforms.default", Fix: host},
			Step{Code: CodeTCBStatus, Field: "tcb.status", Want: NotShown, Got: "OutOfDate", Source: "platforms.default", Fix: Fix{Who: HostOwner}}},
		{"floor", Step{Code: CodeTCBFloor, Field: "snp.reportedTCB", Want: "Milan at …", Got: "TEE is 0, the floor is 1; microcode is 69, the floor is 88", Source: "platforms.default", Fix: host},
			Step{Code: CodeTCBFloor, Field: "snp.reportedTCB", Want: NotShown, Got: "TEE is 0; microcode is 69", Source: "platforms.default", Fix: Fix{Who: HostOwner}}},
		{"status after a grace", Step{Code: CodeTCBStatus, Field: "tcb.status", Want: "UpToDate", Got: "OutOfDate" + graceOver + "2026-01-09T00:00:00Z", Source: "platforms.default", Fix: host},
			Step{Code: CodeTCBStatus, Field: "tcb.status", Want: NotShown, Got: "OutOfDate", Source: "platforms.default", Fix: Fix{Who: HostOwner}}},
		{"date", Step{Code: CodeTCBDate, Field: "tcb.levelDate", Want: "2026-01-09T00:00:00Z or later", Got: "2026-01-08T00:00:00Z", Source: "platforms.default", Fix: host},
			Step{Code: CodeTCBDate, Field: "tcb.levelDate", Want: NotShown, Got: NotShown, Source: "platforms.default", Fix: Fix{Who: HostOwner}}},
		{"chip", Step{Code: CodeMachine, Field: "snp.chipID", Want: "aa", Got: "bb", Source: "platforms.default", Fix: Fix{ManifestAuthor, "name it"}},
			Step{Code: CodeMachine, Field: "snp.chipID", Want: NotShown, Got: NotShown, Source: "platforms.default", Fix: Fix{Who: ManifestAuthor}}},
		{"machine of a plug-in", Step{Code: CodeMeasurement, Field: "cca.instance", Want: "aa", Got: "bb", Source: "packages.web", Fix: owner},
			Step{Code: CodeMeasurement, Field: "cca.instance", Want: NotShown, Got: NotShown, Source: "packages.web", Fix: owner}},
		{"machine of a platform token", Step{Code: CodeChain, Field: "platform.anchor", Want: "a platform that is trusted", Got: "bb", Source: "anchors", Fix: Fix{Operator, "add it"}},
			Step{Code: CodeChain, Field: "platform.anchor", Want: "a platform that is trusted", Got: NotShown, Source: "anchors", Fix: Fix{Who: Operator}}},
		{"event", Step{Code: CodeEvent, Field: "events.rtmr1.kernel 6.1", Want: "aa", Got: "no such event", Source: "packages.web", Fix: owner},
			Step{Code: CodeEvent, Field: "events.rtmr1", Want: NotShown, Got: "no such event", Source: "packages.web", Fix: owner}},
		{"age", Step{Code: CodeEndorsementAge, Field: "endorsements.age", Want: "at most 24h", Got: "25h", Source: "platforms", Fix: Fix{Operator, "fetch"}},
			Step{Code: CodeEndorsementAge, Field: "endorsements.age", Want: NotShown, Got: NotShown, Source: "platforms", Fix: Fix{Who: Operator}}},
		{"endorsement", Step{Code: CodeWindow, Field: "tcbInfo.validity", Want: "valid from …", Got: "at …", Source: KindTCBInfo, Fix: Fix{Operator, "fetch"}},
			Step{Code: CodeWindow, Field: "tcbInfo.validity", Want: NotShown, Got: NotShown, Source: KindTCBInfo, Fix: Fix{Who: Operator}}},
		{"signature", Step{Code: CodeQuoteSignature, Field: "quote.signature", Want: "signed", Got: "does not hold", Source: "quote", Fix: Fix{Nobody, "forged"}},
			Step{Code: CodeQuoteSignature, Field: "quote.signature", Want: "signed", Got: "does not hold", Source: "quote", Fix: Fix{Nobody, "forged"}}},
		{"device", Step{Code: CodeMeasurement, Field: "devices.gpu", Want: "accepted", Got: "refused: nvidia.driver: wanted 550, got 535", Source: "packages.web", Fix: owner},
			Step{Code: CodeMeasurement, Field: "devices.gpu", Want: NotShown, Got: "refused", Source: "packages.web", Fix: owner}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.step.redacted(); got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// TestRedactedVerdict checks that nothing secret is left anywhere in a verdict,
// and that the verdict itself stays as it was.
func TestRedactedVerdict(t *testing.T) {
	const secret = "7e57c0de"
	var id Hex
	if err := id.UnmarshalText([]byte(secret)); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2031, 7, 9, 0, 0, 0, 0, time.UTC)
	claims := Claims{TEE: SNP, ReportData: fill(9, 64),
		SNP: &SNPClaims{Measurement: fill(1, 48), ChipID: id, Provider: secret}, TPM: &TPMClaims{AttestationKey: id}, GPU: &GPUClaims{Serial: secret, Driver: "550"},
		Registers: map[string]Hex{"rim": fill(1, 32), "instance": id},
		TCB: TCBClaims{Status: OutOfDate, Advisories: []string{"INTEL-SA-1"}, FMSPC: id, PCEID: id, PPID: id, PlatformInstance: id, PCKSerial: secret,
			EvaluationNumber: 777777, LevelDate: at, OldestIssue: at, NextUpdate: at, NotAfter: at}}
	steps := []Step{
		{Code: CodeMeasurement, Field: "snp.measurement", Want: secret, Got: "01", Source: "packages.web", Fix: Fix{ManifestAuthor, secret}},
		{Code: CodeOtherPlatform, Field: "vcek.chipID", Want: secret, Got: secret, Source: KindVCEK},
		{Code: CodeWindow, Field: "crl.validity", OK: true, Want: secret, Got: secret, Source: KindAMDCRL, Grace: at, Ended: at},
	}
	v := Verdict{TEE: SNP, Claims: claims, Steps: steps, Devices: []DeviceVerdict{{Name: "gpu", TEE: NVIDIA, Claims: claims, Steps: steps}}, Verdict: Refused}
	before, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	got := v.Redacted()
	raw, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{secret, "777777", "2031"} {
		if strings.Contains(string(raw), word) {
			t.Errorf("%s is still there: %s", word, raw)
		}
	}
	if !strings.Contains(string(raw), Hex(fill(1, 48)).String()) || got.Claims.TCB.Status != OutOfDate || !reflect.DeepEqual(got.Claims.TCB.Advisories, []string{"INTEL-SA-1"}) {
		t.Errorf("what the evidence says of itself is gone: %s", raw)
	}
	if after, err := json.Marshal(v); err != nil || string(after) != string(before) {
		t.Errorf("the verdict itself was changed: %s, %v", after, err)
	}
}
