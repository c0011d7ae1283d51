package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// judged pairs definitions of the schema with the types that the verdict reads.
var judged = map[string]any{
	"package": attest.Package{}, "sgxReference": attest.SGXReference{}, "tdxReference": attest.TDXReference{}, "snpReference": attest.SNPReference{},
	"simReference": attest.SimReference{}, "azureReference": attest.AzureReference{}, "tpmReference": attest.TPMReference{},
	"registerReference": attest.RegisterReference{}, "deviceReference": attest.DeviceReference{}, "gpuReference": attest.GPUReference{},
	"bits4": attest.Bits{}, "bits8": attest.Bits{}, "bits16": attest.Bits{}, "tdxEvent": attest.EventReference{}, "tpmEvent": attest.EventReference{},
	"platform": attest.Platform{}, "tdxPlatform": attest.DCAPPlatform{}, "dcapGrace": attest.DCAPGrace{}, "snpPlatform": attest.SNPPlatform{},
	"snpGrace": attest.SNPGrace{}, "snpTCB": attest.SNPTCB{}, "tpmPlatform": attest.TPMPlatform{}, "endorsementRules": attest.EndorsementRules{}, "ageRules": attest.AgeRules{},
}

// TestSchemaNamesEveryRule checks that a manifest can say all that a policy can,
// and nothing that no policy reads.
func TestSchemaNamesEveryRule(t *testing.T) {
	var root schemaNode
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	for def, v := range judged {
		var fields, names []string
		for i := range reflect.TypeOf(v).NumField() {
			if tag, _, _ := strings.Cut(reflect.TypeOf(v).Field(i).Tag.Get("json"), ","); tag != "-" {
				fields = append(fields, tag)
			}
		}
		for name := range root.Defs[def].Properties {
			if name != "$comment" {
				names = append(names, name)
			}
		}
		slices.Sort(fields)
		slices.Sort(names)
		if !slices.Equal(fields, names) {
			t.Errorf("%s: got %v in the schema, want %v", def, names, fields)
		}
	}
}

func hexOf(n int) string { return `"` + strings.Repeat("1a", n) + `"` }
func hexes(n int) string { return "[" + hexOf(n) + "]" }

const bits8 = `{"value":"0000000000000001","mask":"00000000000000ff"}`

// everyPackage and everyPlatform name every rule once, in the order in which
// they are written out.
func everyPackage() string {
	snp := `{"measurement":` + hexes(48) + `,"hostData":` + hexes(32) + `,"idKeyDigest":` + hexes(48) + `,"authorKeyDigest":` + hexes(48) + `,"familyID":` + hexes(16) + `,"imageID":` + hexes(16) +
		`,"reportID":` + hexes(32) + `,"reportIDMA":` + hexes(32) + `,"requireIDBlock":true,"requireAuthorKey":true,"vmpl":1,"minGuestSVN":7,"allowMigration":true,"allowCXL":true,"minABI":"1.51",` +
		`"requireSingleSocket":true,"requireAES256XTS":true,"requireRAPLDisabled":true,"requireCiphertextHiding":true,"requirePageSwapDisabled":true,"guestPolicy":` + bits8 + `,"allowAnyMeasurement":true}`
	tdx := `{"mrtd":` + hexes(48) + `,"rtmr0":` + hexes(48) + `,"rtmr1":` + hexes(48) + `,"rtmr2":` + hexes(48) + `,"rtmr3":` + hexes(48) + `,"mrConfigID":` + hexes(48) + `,"mrOwner":` + hexes(48) +
		`,"mrOwnerConfig":` + hexes(48) + `,"mrSEAM":` + hexes(48) + `,"mrSignerSEAM":` + hexes(48) + `,"mrServiceTD":` + hexes(48) + `,"events":{"rtmr1":[{"name":"kernel","digest":` + hexes(48) + `}]},"eventsOnly":true,` +
		`"tdAttributes":` + bits8 + `,"xfam":` + bits8 + `,"allowSEPTVE":true,"pks":false,"keyLocker":false,"perfmon":true,"allowAnyMeasurement":true}`
	pcrs := `"pcrs":{"11":` + hexes(32) + `},"events":{"pcr4":[{"name":"shim","digest":` + hexes(32) + `}]},"eventsOnly":true`
	return `{"sgx":{"uniqueID":` + hexes(32) + `,"signerID":` + hexOf(32) + `,"productID":1,"minSecurityVersion":2,"configID":` + hexes(64) + `,"minConfigSVN":3,"familyID":` + hexes(16) +
		`,"extendedProductID":` + hexes(16) + `,"requireKSS":true,"attributes":{"value":` + hexOf(16) + `},"miscSelect":{"value":"00000000"},"allowKeyAttributes":true,"allowAnyMeasurement":true},` +
		`"tdx":` + tdx + `,"snp":` + snp + `,"sim":{"program":` + hexes(32) + `,"agent":` + hexes(32) + `,"files":{"a":` + hexOf(32) + `},"allowAnyMeasurement":true},` +
		`"azure":{"snp":` + snp + `,"tdx":` + tdx + `,` + pcrs + `,"allowAnyMeasurement":true},` +
		`"tpm":{` + pcrs + `,"attestationKeys":` + hexes(32) + `,"allowAnyMeasurement":true},` +
		`"plugins":{"cca":{"registers":{"rim":` + hexes(32) + `},"allowAnyMeasurement":true}},` +
		`"devices":{"gpu":{"nvidia":{"architectures":["Hopper"],"drivers":["550.1"],"vbios":["96"],"measurements":{"9":` + hexes(48) + `},"allowUncheckedMeasurements":true,"allowUncheckedRevocation":true}}},"allowDebug":true}`
}

func everyPlatform() string {
	dcap := `{"acceptedTCBStatuses":["SWHardeningNeeded"],"acceptedAdvisories":["INTEL-SA-00615"],"refusedAdvisories":["INTEL-SA-00616"],"minTCBEvaluation":19,"minTCBDate":"2025-08-13T00:00:00Z",`
	rest := `"fmspcs":` + hexes(6) + `,"ppids":` + hexes(16) + `,"platformInstanceIDs":` + hexes(16) +
		`,"grace":{"until":"2028-02-29T00:00:00Z","acceptedTCBStatuses":["OutOfDate"],"acceptedAdvisories":["INTEL-SA-00617"],"minTCBEvaluation":17,"minTCBDate":"2025-01-31T00:00:00Z"}}`
	floors := func(n int) string {
		return fmt.Sprintf(`{"Turin":{"fmc":1,"bootloader":2,"tee":3,"snp":4,"microcode":%d}}`, n)
	}
	return `{"sgx":` + dcap + rest + `,"tdx":` + dcap + `"minTEETCBSVN":` + hexOf(16) + `,"minModuleSVN":{"TDX_01":5},` + rest +
		`,"snp":{"minTCB":` + floors(255) + `,"minLaunchTCB":` + floors(254) + `,"minFirmware":"1.55.29","launchMitigations":` + hexOf(8) + `,"currentMitigations":` + hexOf(8) +
		`,"allowSMT":true,"allowProvisionalFirmware":true,"requireECC":true,"requireTSME":true,"requireRAPLDisabled":true,"requireCiphertextHiding":true,"requireAliasCheck":true,"refuseTIO":true,"platformInfo":` + bits8 +
		`,"signers":["VCEK","VLEK"],"providers":["Cloud"],"chipIDs":` + hexes(64) + `,"grace":{"until":"2027-01-31T00:00:00Z","minTCB":` + floors(9) + `,"minFirmware":"1.50.1"}},"sim":` + dcap + rest +
		`,"tpm":{"requireSafeClock":true,"vouchedBy":["Root"],"allowUncheckedRevocation":true},` +
		`"endorsements":{"maxAge":"720h0m0s","maxAgeByKind":{"tcbInfo":"480h0m0s","qeIdentity":"240h0m0s","crl":"200h0m0s"},"graceUntil":"2027-01-31T00:00:00Z"}}`
}

func ruled(pkg, platform string) []byte {
	return []byte(`{"version":1,"trustDomain":"t","packages":{"p":` + pkg + `},"platforms":{"default":` + platform + `},"marbles":{"a":{"package":"p"}}}`)
}

// TestEveryRuleArrives writes a policy that names every rule out again.
func TestEveryRuleArrives(t *testing.T) {
	m, ds := Parse(ruled(everyPackage(), everyPlatform()))
	if m == nil {
		t.Fatalf("got %v, want a manifest", ds)
	}
	p, _ := m.PolicyFor("a")
	for _, c := range []struct {
		name string
		v    any
		want string
	}{{"package", p.Package, everyPackage()}, {"platform", p.Platform, everyPlatform()}} {
		raw, err := json.Marshal(c.v)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if json.Unmarshal(raw, &got) != nil || json.Unmarshal([]byte(strings.Replace(c.want, `"1.51"`, `"1.51.0"`, -1)), &want) != nil {
			t.Fatalf("%s is no JSON", c.name)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, raw, c.want)
		}
	}
	if c := Compare(m, m); !c.Empty() {
		t.Errorf("got %+v, want no change", c)
	}
}

// TestRulesRefused breaks one rule at a time.
func TestRulesRefused(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		code           problem.Code
		path           string
	}{
		{"value outside of the mask", `"xfam":{"value":"0000000000000001"`, `"xfam":{"value":"0000000000000100"`, "MAN-053", "packages.p.tdx.xfam.value"},
		{"platform bits outside of the mask", `"platformInfo":{"value":"0000000000000001"`, `"platformInfo":{"value":"8000000000000001"`, "MAN-053", "platforms.default.snp.platformInfo.value"},
		{"short bits", `"miscSelect":{"value":"00000000"}`, `"miscSelect":{"value":"000000"}`, "MAN-007", "packages.p.sgx.miscSelect.value"},
		{"bits without a value", `"miscSelect":{"value":"00000000"}`, `"miscSelect":{}`, "MAN-005", "packages.p.sgx.miscSelect"},
		{"register 4", `{"rtmr1":[{"name":"kernel"`, `{"rtmr4":[{"name":"kernel"`, "MAN-007", "packages.p.tdx.events.rtmr4"},
		{"event without a digest", `[{"name":"kernel","digest":` + hexes(48) + `}]`, `[{"name":"kernel","digest":[]}]`, "MAN-006", "packages.p.tdx.events.rtmr1[0].digest"},
		{"PCR 24", `"pcrs":{"11"`, `"pcrs":{"24"`, "MAN-007", `packages.p.azure.pcrs.24`},
		{"PCR by another writing", `"pcrs":{"11"`, `"pcrs":{"011"`, "MAN-006", `packages.p.azure.pcrs.011`},
		{"SHA-384 of a PCR", `"pcrs":{"11":` + hexes(32), `"pcrs":{"11":` + hexes(48), "MAN-006", "packages.p.azure.pcrs.11[0]"},
		{"plug-in of an own TEE", `"plugins":{"cca"`, `"plugins":{"snp:azure"`, "MAN-057", `packages.p.plugins["snp:azure"]`},
		{"simulated plug-in", `"plugins":{"cca"`, `"plugins":{"sim:cca"`, "MAN-057", `packages.p.plugins["sim:cca"]`},
		{"plug-in without registers", `{"registers":{"rim":` + hexes(32) + `},"allowAnyMeasurement":true}`, `{}`, "MAN-020", "packages.p.plugins.cca"},
		{"device of no kind", `"devices":{"gpu":{"nvidia":`, `"devices":{"x":{},"gpu":{"nvidia":`, "MAN-005", "packages.p.devices.x"},
		{"device of an unknown kind", `{"gpu":{"nvidia":`, `{"gpu":{"amd":{},"nvidia":`, "MAN-002", "packages.p.devices.gpu.amd"},
		{"unknown architecture", `["Hopper"]`, `["hopper"]`, "MAN-004", "packages.p.devices.gpu.nvidia.architectures[0]"},
		{"grace without an end", `"grace":{"until":"2027-01-31T00:00:00Z",`, `"grace":{`, "MAN-005", "platforms.default.snp.grace"},
		{"grace until the 31st of February", `"2028-02-29T00:00:00Z"`, `"2028-02-31T00:00:00Z"`, "MAN-007", "platforms.default.sgx.grace.until"},
		{"grace until a leap day without one", `"2028-02-29T00:00:00Z"`, `"2027-02-29T00:00:00Z"`, "MAN-007", "platforms.default.sgx.grace.until"},
		{"local time", `"graceUntil":"2027-01-31T00:00:00Z"`, `"graceUntil":"2027-01-31T00:00:00+01:00"`, "MAN-006", "platforms.default.endorsements.graceUntil"},
		{"grace for revoked", `["OutOfDate"]`, `["Revoked"]`, "MAN-004", "platforms.default.sgx.grace.acceptedTCBStatuses[0]"},
		{"TDX floor of SGX", `{"sgx":{"acceptedTCBStatuses"`, `{"sgx":{"minModuleSVN":{"TDX_01":5},"acceptedTCBStatuses"`, "MAN-002", "platforms.default.sgx.minModuleSVN"},
		{"unknown module", `"TDX_01"`, `"TDX_1"`, "MAN-007", "platforms.default.tdx.minModuleSVN.TDX_1"},
		{"unknown signer", `["VCEK","VLEK"]`, `["ARK"]`, "MAN-004", "platforms.default.snp.signers[0]"},
		{"age by kind", `"tcbInfo":"480h0m0s"`, `"tcbInfo":"1h"`, "MAN-037", "platforms.default.endorsements.maxAgeByKind.tcbInfo"},
		{"firmware ABI with a build", `"1.51"`, `"1.51.3"`, "MAN-007", "packages.p.snp.minABI"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := string(ruled(everyPackage(), everyPlatform()))
			if !strings.Contains(raw, c.old) {
				t.Fatalf("no %s", c.old)
			}
			m, ds := Parse([]byte(strings.Replace(raw, c.old, c.new, 1)))
			if m != nil {
				t.Fatal("got a manifest, want none")
			}
			for _, d := range ds {
				if d.Code == c.code && d.Severity == SeverityError && d.Path == c.path {
					checkPlace(t, d)
					return
				}
			}
			t.Errorf("got %v, want %s at %s", ds, c.code, c.path)
		})
	}
}

// TestRulesWarned checks what is valid but hardly meant, and that the same
// without the fault is taken in silence.
func TestRulesWarned(t *testing.T) {
	pkg := func(rest string) string { return `{"sgx":{"uniqueID":` + hexes(32) + `},` + rest + `}` }
	pcrs := `"pcrs":{"11":` + hexes(32) + `}`
	tdx := `"tdx":{"mrtd":` + hexes(48) + `,"rtmr1":` + hexes(48) + `,"rtmr2":` + hexes(48)
	event := `"events":{"rtmr0":[{"name":"x","digest":` + hexes(48) + `}]}`
	gpu := func(rest string) string { return pkg(`"devices":{"gpu":{"nvidia":{` + rest + `}}}`) }
	sgx := func(rest string) string { return `{"sgx":{` + rest + `}}` }
	amd := func(rest string) string { return `{"snp":{"minTCB":{"Milan":{"snp":24}}` + rest + `}}` }
	for _, c := range []struct {
		name, pkg, platform, code, path string
	}{
		{"azure's TDX", pkg(`"azure":{` + pcrs + `,` + tdx + `}}`), `{}`, "MAN-052", "packages.p.azure.tdx"},
		{"azure's TDX allowed", pkg(`"azure":{` + pcrs + `,` + tdx + `,"allowSEPTVE":true}}`), `{}`, "", ""},
		{"azure's TDX by attributes", pkg(`"azure":{` + pcrs + `,` + tdx + `,"tdAttributes":{"value":"0000000000000000"}}}`), `{}`, "", ""},
		{"azure on no machine", pkg(`"azure":{` + pcrs + `,"snp":{"measurement":` + hexes(48) + `}}`), `{}`, "MAN-050", "marbles.a"},
		{"azure on a machine", pkg(`"azure":{` + pcrs + `,"snp":{"measurement":` + hexes(48) + `}}`), amd(""), "", ""},
		{"any PCRs", pkg(`"tpm":{"allowAnyMeasurement":true}`), `{}`, "MAN-042", "packages.p.tpm.allowAnyMeasurement"},
		{"open events", pkg(tdx + `,` + event + `}`), `{}`, "MAN-055", "packages.p.tdx.events.rtmr0"},
		{"closed events", pkg(tdx + `,` + event + `,"eventsOnly":true}`), `{}`, "", ""},
		{"events beside the register", pkg(tdx + `,"rtmr0":` + hexes(48) + `,` + event + `}`), `{}`, "", ""},
		{"unchecked measurements", gpu(`"allowUncheckedMeasurements":true`), `{}`, "MAN-058", "packages.p.devices.gpu.nvidia.allowUncheckedMeasurements"},
		{"measurements of the package", gpu(`"measurements":{"9":` + hexes(48) + `},"allowUncheckedMeasurements":true`), `{}`, "", ""},
		{"unchecked revocation", gpu(`"allowUncheckedRevocation":true`), `{}`, "MAN-058", "packages.p.devices.gpu.nvidia.allowUncheckedRevocation"},
		{"accepted and refused", pkg(tdx + `}`), sgx(`"acceptedAdvisories":["INTEL-SA-00615"],"refusedAdvisories":["INTEL-SA-00615"]`), "MAN-059", "platforms.default.sgx.refusedAdvisories[0]"},
		{"grace that lowers nothing", pkg(tdx + `}`), sgx(`"minTCBEvaluation":19,"grace":{"until":"2027-01-31T00:00:00Z","minTCBEvaluation":19}`), "MAN-054", "platforms.default.sgx.grace"},
		{"grace", pkg(tdx + `}`), sgx(`"minTCBEvaluation":19,"grace":{"until":"2027-01-31T00:00:00Z","minTCBEvaluation":18}`), "", ""},
		{"grace of a status", pkg(tdx + `}`), sgx(`"grace":{"until":"2027-01-31T00:00:00Z","acceptedTCBStatuses":["OutOfDate"]}`), "", ""},
		{"grace of an advisory where any is accepted", pkg(tdx + `}`), sgx(`"grace":{"until":"2027-01-31T00:00:00Z","acceptedAdvisories":["INTEL-SA-00615"]}`), "MAN-054", "platforms.default.sgx.grace"},
		{"grace of AMD that lowers nothing", pkg(tdx + `}`), amd(`,"grace":{"until":"2027-01-31T00:00:00Z","minTCB":{"Milan":{"snp":24}}}`), "MAN-054", "platforms.default.snp.grace"},
		{"grace of AMD", pkg(tdx + `}`), amd(`,"grace":{"until":"2027-01-31T00:00:00Z","minTCB":{"Milan":{"snp":23}}}`), "", ""},
		{"grace of a refused product", pkg(tdx + `}`), amd(`,"grace":{"until":"2027-01-31T00:00:00Z","minTCB":{"Milan":{},"Genoa":{}}}`), "MAN-056", "platforms.default.snp.grace.minTCB.Genoa"},
		{"launch floor of a refused product", pkg(tdx + `}`), amd(`,"minLaunchTCB":{"Genoa":{}}`), "MAN-056", "platforms.default.snp.minLaunchTCB.Genoa"},
		{"young CRLs", pkg(tdx + `}`), `{"endorsements":{"maxAgeByKind":{"crl":"24h"}}}`, "MAN-044", "platforms.default.endorsements.maxAgeByKind.crl"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, ds := Parse(ruled(c.pkg, c.platform))
			var got []string
			for _, d := range ds {
				if d.Code != "MAN-039" {
					got = append(got, fmt.Sprintf("%s %s", d.Code, d.Path))
				}
			}
			want := []string(nil)
			if c.code != "" {
				want = []string{c.code + " " + c.path}
			}
			if ds.HasErrors() || !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", ds, want)
			}
		})
	}
}

// TestPlatformEffects checks that a diff says what a platform accepts more, and
// nothing of what it accepts less.
func TestPlatformEffects(t *testing.T) {
	amd := func(minTCB string) string { return `{"snp":{"minTCB":` + minTCB + `,"minFirmware":"1.55"}}` }
	for _, c := range []struct {
		name, old, new string
		want           []string
	}{
		{"same", amd(`{"Milan":{"snp":24}}`), amd(`{"Milan":{"snp":24}}`), nil},
		{"higher", amd(`{"Milan":{"snp":24}}`), amd(`{"Milan":{"snp":25}}`), nil},
		{"lower", amd(`{"Milan":{"snp":24}}`), amd(`{"Milan":{"snp":23}}`), []string{"demands less: snp.minTCB.Milan: SNP firmware is 23, the floor is 24"}},
		{"product removed", amd(`{"Milan":{"snp":24},"Genoa":{}}`), amd(`{"Milan":{"snp":24}}`), nil},
		{"product added", amd(`{"Milan":{"snp":24}}`), amd(`{"Milan":{"snp":24},"Genoa":{}}`), []string{"accepts Genoa machines"}},
		{"rules added", `{}`, amd(`{"Turin":{}}`), []string{"accepts Turin machines"}},
		{"rules removed", amd(`{"Milan":{"snp":24}}`), `{}`, nil},
		{"firmware", amd(`{"Milan":{}}`), `{"snp":{"minTCB":{"Milan":{}}}}`, []string{"demands less: snp.minFirmware: none, the floor is 1.55.0"}},
		{"grace ends earlier", `{"endorsements":{"graceUntil":"2027-02-01T00:00:00Z"}}`, `{"endorsements":{"graceUntil":"2027-01-01T00:00:00Z"}}`, nil},
		{"grace ends later", `{"endorsements":{"graceUntil":"2027-01-01T00:00:00Z"}}`, `{"endorsements":{"graceUntil":"2027-02-01T00:00:00Z"}}`, []string{"endorsements: accepts less until 2027-02-01T00:00:00Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pkg := `{"sgx":{"uniqueID":` + hexes(32) + `}}`
			var got []string
			for _, e := range Compare(mustParse(t, ruled(pkg, c.old)), mustParse(t, ruled(pkg, c.new))).Effects {
				if e.Subject == "platform default" {
					got = append(got, e.Text)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
