package attesttest

import (
	"crypto/x509"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

// field is a member of a signed document, a value that it is given, and what
// must come of it: the step that fails, or the status that results.
type field struct {
	shape  attest.TEE // "" means both
	doc    string     // "tcbInfo" or "qeIdentity"
	path   string     // members and indices; "*" is each index
	value  any
	want   string // "ATT-027 tcb.level"; "" if every step holds
	status attest.TCBStatus
}

const (
	tcbSignature = "ATT-023 tcbInfo.signature"
	qeSignature  = "ATT-023 qeIdentity.signature"
)

// fields has every member of TCB info version 3 and QE identity version 2 that
// means something. What is changed is signed again.
var fields = []field{
	{"", "tcbInfo", "id", "QE", "ATT-025 tcbInfo.signature", ""},
	{"", "tcbInfo", "version", 4, tcbSignature, ""},
	{"", "tcbInfo", "issueDate", "2026-06-01T00:00:01Z", "ATT-024 tcbInfo.validity", "UpToDate"},
	{"", "tcbInfo", "issueDate", "yesterday", tcbSignature, ""},
	{"", "tcbInfo", "nextUpdate", "2026-05-31T23:59:59Z", "ATT-024 tcbInfo.validity", "UpToDate"},
	{"", "tcbInfo", "nextUpdate", 7, tcbSignature, ""},
	{"", "tcbInfo", "fmspc", "010203040500", "ATT-025 tcbInfo.fmspc", ""},
	{"", "tcbInfo", "fmspc", "0102030405", tcbSignature, ""},
	{"", "tcbInfo", "pceId", "0100", "ATT-025 tcbInfo.pceID", ""},
	{"", "tcbInfo", "pceId", "00", tcbSignature, ""},
	{"", "tcbInfo", "tcbType", 1, tcbSignature, ""},
	{"", "tcbInfo", "tcbEvaluationDataNumber", 9, "", "UpToDate"}, // a floor is policy
	{"", "tcbInfo", "tcbEvaluationDataNumber", -1, tcbSignature, ""},
	{"", "tcbInfo", "tcbLevels.0.tcb.sgxtcbcomponents.*.svn", 6, "ATT-027 tcb.level", ""},
	{"", "tcbInfo", "tcbLevels.0.tcb.sgxtcbcomponents.*.svn", 4, "", "UpToDate"},
	{"", "tcbInfo", "tcbLevels.0.tcb.sgxtcbcomponents.*.svn", 256, tcbSignature, ""},
	{"", "tcbInfo", "tcbLevels.0.tcb.pcesvn", 6, "ATT-027 tcb.level", ""},
	{"", "tcbInfo", "tcbLevels.0.tcb.pcesvn", 4, "", "UpToDate"},
	{"", "tcbInfo", "tcbLevels.0.tcbDate", "2020-01-01T00:00:00Z", "", "UpToDate"},
	{"", "tcbInfo", "tcbLevels.0.tcbStatus", "Revoked", "", "Revoked"},
	{"", "tcbInfo", "tcbLevels.0.tcbStatus", "", tcbSignature, ""},
	{"", "tcbInfo", "tcbLevels.0.advisoryIDs.0", "SA-OTHER", "", "UpToDate"},
	{attest.TDX, "tcbInfo", "tcbLevels.0.tcb.tdxtcbcomponents.*.svn", 4, "ATT-027 tcb.level", ""}, // but for the first two: see skipped
	{attest.TDX, "tcbInfo", "tdxModule.id", "TDX_09", "", "UpToDate"},
	{attest.TDX, "tcbInfo", "tdxModule.mrsigner", "00", tcbSignature, ""},
	{attest.TDX, "tcbInfo", "tdxModule.attributes", "00", tcbSignature, ""},
	{attest.TDX, "tcbInfo", "tdxModule.attributesMask", "00", tcbSignature, ""},
	{attest.TDX, "tcbInfo", "tdxModule.tcbLevels", []any{map[string]any{}}, tcbSignature, ""},
	{attest.TDX, "tcbInfo", "tdxModuleIdentities.0.id", "TDX_02", "ATT-028 tdx.module", ""},
	{attest.TDX, "tcbInfo", "tdxModuleIdentities.0.mrsigner", "01" + Zeros(47), "ATT-028 tdx.mrSignerSEAM", ""},
	{attest.TDX, "tcbInfo", "tdxModuleIdentities.0.attributes", "01" + Zeros(7), "ATT-028 tdx.seamAttributes", ""},
	{attest.TDX, "tcbInfo", "tdxModuleIdentities.0.attributesMask", Zeros(7), tcbSignature, ""},
	{attest.TDX, "tcbInfo", "tdxModuleIdentities.0.tcbLevels.0.tcb.isvsvn", 4, "ATT-027 tcb.moduleLevel", ""},
	{attest.TDX, "tcbInfo", "tdxModuleIdentities.0.tcbLevels.0.tcbStatus", "OutOfDate", "", "OutOfDate"},
	{attest.TDX, "tcbInfo", "tdxModuleIdentities.0.tcbLevels.0.tcbDate", "no date", "", "UpToDate"},
	{attest.TDX, "tcbInfo", "tdxModuleIdentities.0.tcbLevels.0.advisoryIDs.0", "SA-OTHER", "", "UpToDate"},

	{"", "qeIdentity", "id", "SGX", "ATT-025 qeIdentity.signature", ""},
	{"", "qeIdentity", "version", 3, qeSignature, ""},
	{"", "qeIdentity", "issueDate", "2026-06-01T00:00:01Z", "ATT-024 qeIdentity.validity", "UpToDate"},
	{"", "qeIdentity", "nextUpdate", "2026-05-31T23:59:59Z", "ATT-024 qeIdentity.validity", "UpToDate"},
	{"", "qeIdentity", "tcbEvaluationDataNumber", 1, "", "UpToDate"},
	{"", "qeIdentity", "miscselect", "00000001", "ATT-026 qe.miscSelect", ""},
	{"", "qeIdentity", "miscselectMask", "FF", qeSignature, ""},
	{"", "qeIdentity", "attributes", "01" + Zeros(15), "ATT-026 qe.attributes", ""},
	{"", "qeIdentity", "attributesMask", Ones(15), qeSignature, ""},
	{"", "qeIdentity", "mrsigner", "AB" + Zeros(31), "ATT-026 qe.signerID", ""},
	{"", "qeIdentity", "isvprodid", 2, "ATT-026 qe.productID", ""},
	{"", "qeIdentity", "isvprodid", 65536, qeSignature, ""},
	{"", "qeIdentity", "tcbLevels.0.tcb.isvsvn", 8, "ATT-027 tcb.qeLevel", ""},
	{"", "qeIdentity", "tcbLevels.0.tcbStatus", "Revoked", "", "Revoked"},
	{"", "qeIdentity", "tcbLevels.0.tcbStatus", "OutOfDate", "", "OutOfDate"},
	{"", "qeIdentity", "tcbLevels.0.tcbDate", "2020-01-01T00:00:00Z", "", "UpToDate"},
	{"", "qeIdentity", "tcbLevels.0.advisoryIDs.0", "SA-OTHER", "", "UpToDate"},
}

// skipped are the TDX components that a platform's level does not count where
// the TDX module has an identity of its own.
var skipped = []string{"tcbLevels.0.tcb.tdxtcbcomponents.0.svn", "tcbLevels.0.tcb.tdxtcbcomponents.1.svn"}

// documents changes each field of the signed documents, and checks that the
// table has them all.
func documents(t *testing.T, tee attest.TEE, names string, newVerifier func(root *x509.Certificate) attest.Verifier) {
	t.Helper()
	known := map[string]bool{}
	for _, c := range fields {
		if c.shape != "" && c.shape != tee.Shape() {
			continue
		}
		known[c.doc+"."+c.path] = true
		last := 0
		if strings.Contains(c.path, "*") {
			last = 15
		}
		for i := range last + 1 {
			path := strings.Replace(c.path, "*", fmt.Sprint(i), 1)
			t.Run(fmt.Sprintf("%s.%s=%v", c.doc, path, c.value), func(t *testing.T) {
				changeField(t, NewIntelForge(t, tee, names), c, path, newVerifier)
			})
		}
	}
	f := NewIntelForge(t, tee, names)
	for _, path := range append(leaves("tcbInfo", f.TCB), leaves("qeIdentity", f.QE)...) {
		if !known[path] {
			t.Errorf("no change of %s is tried", path)
		}
	}
}

func changeField(t *testing.T, f *IntelForge, c field, path string, newVerifier func(root *x509.Certificate) attest.Verifier) {
	t.Helper()
	doc := map[string]map[string]any{"tcbInfo": f.TCB, "qeIdentity": f.QE}[c.doc]
	put(t, doc, strings.Split(path, "."), c.value)
	want, status := []string(nil), c.status
	if c.want != "" {
		want = []string{c.want}
	}
	if slices.Contains(skipped, path) {
		want, status = nil, attest.UpToDate
	}
	e, en := f.Make()
	claims, steps := newVerifier(f.Trusted).Verify(e, en, ForgeTime)
	checkSteps(t, steps)
	if got := failures(steps); !reflect.DeepEqual(got, want) || claims.TCB.Status != status {
		t.Errorf("got %v with status %q, want %v with %q", got, claims.TCB.Status, want, status)
	}
}

// put sets a member of a document.
func put(t *testing.T, doc any, path []string, value any) {
	t.Helper()
	for i, key := range path {
		last := i == len(path)-1
		switch d := doc.(type) {
		case map[string]any:
			if _, ok := d[key]; !ok {
				t.Fatalf("no member %q", strings.Join(path[:i+1], "."))
			}
			if last {
				d[key] = value
			}
			doc = d[key]
		case []any:
			var n int
			if _, err := fmt.Sscan(key, &n); err != nil || n >= len(d) {
				t.Fatalf("no item %q", strings.Join(path[:i+1], "."))
			}
			if last {
				d[n] = value
			}
			doc = d[n]
		default:
			t.Fatalf("%q has no members", strings.Join(path[:i], "."))
		}
	}
}

var component = regexp.MustCompile(`components\.\d+\.`)

// leaves lists the members of a document that hold no others, the components of
// a level as one.
func leaves(path string, doc any) []string {
	var out []string
	switch d := doc.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(d)) {
			out = append(out, leaves(path+"."+key, d[key])...)
		}
	case []any:
		for i, item := range d {
			out = append(out, leaves(fmt.Sprintf("%s.%d", path, i), item)...)
		}
		if len(d) == 0 {
			out = append(out, path)
		}
	default:
		out = append(out, path)
	}
	for i := range out {
		out[i] = component.ReplaceAllString(out[i], "components.*.")
	}
	slices.Sort(out)
	return slices.Compact(out)
}
