package attest

import (
	"strings"
	"testing"
	"time"
)

// fakeVerifier says what it is told to.
type fakeVerifier struct {
	tee    TEE
	claims Claims
	steps  []Step
}

func (f fakeVerifier) TEE() TEE { return f.tee }
func (f fakeVerifier) Verify(Evidence, Endorsements, time.Time) (Claims, []Step) {
	return f.claims, f.steps
}

func composite(gpuOK bool) Verifiers {
	software := Claims{ReportData: make(Hex, 64), SGX: &SGXClaims{UniqueID: Hex{1}}, TCB: TCBClaims{Status: UpToDate, RevocationChecked: true}}
	gpu := Claims{ReportData: make(Hex, 64), GPU: &GPUClaims{Architecture: "Hopper", Driver: "550", Measurements: map[string]Hex{"1": {7}}}}
	return NewVerifiers(fakeVerifier{SGX, software, []Step{{Code: CodeQuoteSignature, OK: true}}},
		fakeVerifier{NVIDIA, gpu, []Step{{Code: CodeQuoteSignature, Field: "report.signature", OK: gpuOK, Want: "holds", Got: "does not"}}})
}

func TestJudgeDevices(t *testing.T) {
	gpu := Device{Name: "gpu", TEE: NVIDIA, Raw: []byte{1}}
	lax := GPUReference{AllowUncheckedMeasurements: true, AllowUncheckedRevocation: true}
	with := func(change func(*GPUReference)) map[string]DeviceReference {
		r := lax
		change(&r)
		return map[string]DeviceReference{"gpu": {NVIDIA: &r}}
	}
	keep := func(*GPUReference) {}
	for _, c := range []struct {
		name    string
		devices []Device
		want    map[string]DeviceReference
		gpuOK   bool
		code    string // of the first failed step of the whole; "" if accepted
		says    string
	}{
		{"named and genuine", []Device{gpu}, with(keep), true, "", ""},
		{"none wanted, none there", nil, nil, true, "", ""},
		{"missing", nil, with(keep), true, CodeDevice, "absent"},
		{"not named", []Device{gpu}, nil, true, CodeDevice, `"gpu"`},
		{"twice", []Device{gpu, gpu}, with(keep), true, CodeDevice, `"gpu"`},
		{"too many", make([]Device, MaxDevices+1), with(keep), true, CodeDevice, "9"},
		{"not genuine", []Device{gpu}, with(keep), false, CodeQuoteSignature, "report.signature"},
		{"empty", []Device{{Name: "gpu", TEE: NVIDIA}}, with(keep), true, CodeSize, "0 bytes"},
		{"another kind", []Device{{Name: "gpu", TEE: "npu", Raw: []byte{1}}}, with(keep), true, CodeNoVerifier, "npu"},
		{"a TEE as device", []Device{{Name: "gpu", TEE: SGX, Raw: []byte{1}}}, with(keep), true, CodeNoReference, "sgx"},
		{"reference without a kind", []Device{gpu}, map[string]DeviceReference{"gpu": {}}, true, CodeNoReference, "nvidia"},
		{"another architecture", []Device{gpu}, with(func(r *GPUReference) { r.Architectures = []string{"Blackwell"} }), true, CodeMeasurement, "Hopper"},
		{"empty list of drivers", []Device{gpu}, with(func(r *GPUReference) { r.Drivers = []string{} }), true, CodeMeasurement, "empty"},
		{"no VBIOS version", []Device{gpu}, with(func(r *GPUReference) { r.VBIOS = []string{"96"} }), true, CodeMeasurement, "absent"},
		{"measurement differs", []Device{gpu}, with(func(r *GPUReference) { r.Measurements = map[string][]Hex{"1": {{8}}} }), true, CodeMeasurement, "08"},
		{"measurement without values", []Device{gpu}, with(func(r *GPUReference) { r.Measurements = map[string][]Hex{"1": nil} }), true, CodeMeasurement, "empty"},
		{"measurements unchecked", []Device{gpu}, with(func(r *GPUReference) { r.AllowUncheckedMeasurements = false }), true, CodeMeasurement, "NOT checked"},
		{"measurements by the package", []Device{gpu}, with(func(r *GPUReference) {
			r.AllowUncheckedMeasurements, r.Measurements = false, map[string][]Hex{"1": {{7}}}
		}), true, "", ""},
		{"revocation unchecked", []Device{gpu}, with(func(r *GPUReference) { r.AllowUncheckedRevocation = false }), true, CodeNoRevocation, "NOT checked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Policy{Package: Package{SGX: &SGXReference{AllowAny: true}, Devices: c.want}}
			v := Judge(composite(c.gpuOK), Evidence{TEE: SGX, Raw: []byte{1}, Devices: c.devices}, Binding{}, Endorsements{}, p, time.Time{})
			code, text := v.Reason()
			if code != c.code || v.OK() != (c.code == "") || !strings.Contains(text, c.says) {
				t.Errorf("got %q (%s), want %q with %q", code, text, c.code, c.says)
			}
		})
	}
}

// TestOneDeviceForTwo checks that one device does not stand for two, and that a
// verifier that says nothing accepts nothing.
func TestOneDeviceForTwo(t *testing.T) {
	lax := DeviceReference{NVIDIA: &GPUReference{AllowUncheckedMeasurements: true, AllowUncheckedRevocation: true}}
	p := Policy{Package: Package{SGX: &SGXReference{AllowAny: true}, Devices: map[string]DeviceReference{"a": lax, "b": lax}}}
	e := Evidence{TEE: SGX, Raw: []byte{1}, Devices: []Device{{Name: "a", TEE: NVIDIA, Raw: []byte{1}}, {Name: "b", TEE: NVIDIA, Raw: []byte{2}}}}
	for _, c := range []struct {
		name    string
		serials []string
		steps   []Step
		says    string
	}{
		{"two devices", []string{"01", "02"}, []Step{{OK: true}}, ""},
		{"one device", []string{"01", "01"}, []Step{{OK: true}}, "the same device as a"},
		{"without serial numbers", []string{"", ""}, []Step{{OK: true}}, "the same device as a"},
		{"no steps", []string{"01", "02"}, nil, "not genuine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vs := composite(true)
			vs[NVIDIA] = serialVerifier{c.serials, c.steps}
			v := Judge(vs, e, Binding{}, Endorsements{}, p, time.Time{})
			if code, text := v.Reason(); v.OK() != (c.says == "") || !strings.Contains(text, c.says) {
				t.Errorf("got %q (%s), want %q", code, text, c.says)
			}
		})
	}
}

// serialVerifier gives the device of raw byte n the serial number n.
type serialVerifier struct {
	serials []string
	steps   []Step
}

func (serialVerifier) TEE() TEE { return NVIDIA }
func (s serialVerifier) Verify(e Evidence, _ Endorsements, _ time.Time) (Claims, []Step) {
	return Claims{ReportData: make(Hex, 64), GPU: &GPUClaims{Serial: s.serials[e.Raw[0]-1]}}, s.steps
}

// TestDevicesChangeTheDigest checks that nothing of a device or a log is left out
// of what names the evidence.
func TestDevicesChangeTheDigest(t *testing.T) {
	seen := map[[32]byte]string{}
	for name, e := range map[string]Evidence{
		"alone": {TEE: SGX, Raw: []byte{1}}, "log": {TEE: SGX, Raw: []byte{1}, EventLog: []byte{1}},
		"device": {TEE: SGX, Raw: []byte{1}, Devices: []Device{{Name: "a", TEE: NVIDIA, Raw: []byte{1}}}},
		"name":   {TEE: SGX, Raw: []byte{1}, Devices: []Device{{Name: "b", TEE: NVIDIA, Raw: []byte{1}}}},
		"kind":   {TEE: SGX, Raw: []byte{1}, Devices: []Device{{Name: "a", TEE: TPM, Raw: []byte{1}}}},
		"raw":    {TEE: SGX, Raw: []byte{1}, Devices: []Device{{Name: "a", TEE: NVIDIA, Raw: []byte{2}}}},
		"two":    {TEE: SGX, Raw: []byte{1}, Devices: []Device{{Name: "a", TEE: NVIDIA, Raw: []byte{1}}, {Name: "b", TEE: NVIDIA, Raw: []byte{1}}}},
	} {
		d := e.Digest()
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
}
