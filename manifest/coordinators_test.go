package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// held is a package that nothing is wrong with.
const held = `"pair":{"sgx":{"uniqueID":["` + ones32 + `"]}}`

const (
	ones32 = "1111111111111111111111111111111111111111111111111111111111111111"
	ones48 = ones32 + "11111111111111111111111111111111"
	twos32 = "2222222222222222222222222222222222222222222222222222222222222222"
)

// admitting returns a manifest with a marble that runs package p, one more
// package "pair", a platform "rack", and a section coordinators.
func admitting(pair, section string) []byte {
	text := `{"version":1,"trustDomain":"t","packages":{"p":{"sgx":{"uniqueID":["` + twos32 + `"]}},` + pair + `},` +
		`"platforms":{"rack":{"sgx":{"minTCBEvaluation":19}}},"marbles":{"a":{"package":"p"}}`
	if section != "" {
		text += `,"coordinators":` + section
	}
	return []byte(text + `}`)
}

// TestCoordinators checks each rule by a manifest that keeps it and ones that
// break it.
func TestCoordinators(t *testing.T) {
	sgx := func(rest string) string { return `"pair":{"sgx":{"uniqueID":["` + ones32 + `"]}` + rest + `}` }
	for _, c := range []struct {
		name, pair, section string
		want                string // code, severity and path of what is found
		suggest             string // part of the first suggestion
	}{
		{"kept", held, `{"package":"pair"}`, "", ""},
		{"kept on a platform", held, `{"package":"pair","platform":"rack","$comment":"two of them"}`, "", ""},
		{"none", held, "", "MAN-045 warning packages.pair", ""},
		{"no package", held, `{}`, "MAN-045 warning packages.pair MAN-005 error coordinators", ""},
		{"misspelt package", held, `{"package":"piar"}`, "MAN-045 warning packages.pair MAN-015 error coordinators.package", `"pair"`},
		{"misspelt platform", held, `{"package":"pair","platform":"rak"}`, "MAN-016 error coordinators.platform", `"rack"`},
		{"misspelt field", held, `{"package":"pair","platfrom":"rack"}`, "MAN-002 error coordinators.platfrom", `"platform"`},
		{"a list", held, `["pair"]`, "MAN-045 warning packages.pair MAN-003 error coordinators", ""},
		{"null", held, `null`, "MAN-045 warning packages.pair MAN-009 error coordinators", ""},
		{"null package", held, `{"package":null}`, "MAN-045 warning packages.pair MAN-009 error coordinators.package", ""},
		{"upper case", held, `{"package":"Pair"}`, "MAN-045 warning packages.pair MAN-007 error coordinators.package", ""},
		{"any measurement", `"pair":{"sgx":{"allowAnyMeasurement":true}}`, `{"package":"pair"}`, "MAN-042 warning packages.pair.sgx.allowAnyMeasurement MAN-110 error coordinators.package", "measurements"},
		{"any measurement under one TEE of two", sgx(`,"tdx":{"allowAnyMeasurement":true}`), `{"package":"pair"}`,
			"MAN-042 warning packages.pair.tdx.allowAnyMeasurement MAN-110 error coordinators.package", ""},
		{"any measurement of a plug-in", sgx(`,"plugins":{"cca":{"allowAnyMeasurement":true}}`), `{"package":"pair"}`,
			"MAN-042 warning packages.pair.plugins.cca.allowAnyMeasurement MAN-110 error coordinators.package", ""},
		{"any measurement denied", `"pair":{"sgx":{"allowAnyMeasurement":false,"uniqueID":["` + ones32 + `"]}}`, `{"package":"pair"}`, "", ""},
		{"debug", sgx(`,"allowDebug":true`), `{"package":"pair"}`, "MAN-043 warning packages.pair.allowDebug MAN-111 warning coordinators.package", ""},
		{"package of a marble", held, `{"package":"p"}`, "MAN-045 warning packages.pair MAN-112 warning coordinators.package", "package of their own"},
		{"values of a marble by another name", `"pair":{"sgx":{"uniqueID":["` + twos32 + `"]}}`, `{"package":"pair"}`, "MAN-112 warning coordinators.package", ""},
		{"guests on no machine", `"pair":{"snp":{"measurement":["` + strings.Repeat("11", 48) + `"]}}`, `{"package":"pair"}`, "MAN-050 warning coordinators", "platforms.default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, ds := Parse(admitting(c.pair, c.section))
			var got []string
			for _, d := range ds {
				checkPlace(t, d)
				if d.Code != "MAN-039" {
					got = append(got, fmt.Sprintf("%s %s %s", d.Code, d.Severity, d.Path))
				}
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
			if !slices.ContainsFunc(ds, func(d Diagnostic) bool { return strings.Contains(d.Suggestion, c.suggest) }) {
				t.Errorf("got %v, want the suggestion …%s…", ds, c.suggest)
			}
			if (m != nil) == strings.Contains(c.want, "error") {
				t.Errorf("got a manifest: %t", m != nil)
			}
		})
	}
}

// TestNoMarbleIsNamedCoordinators checks that the name is free where it means
// something, and can be had elsewhere.
func TestNoMarbleIsNamedCoordinators(t *testing.T) {
	for section, want := range map[string]int{`{"package":"pair"}`: 1, "": 0} {
		raw := strings.Replace(string(admitting(held, section)), `"a":`, `"coordinators":`, 1)
		_, ds := Parse([]byte(raw))
		if ds.Errors() != want || want > 0 && problem.CodeOf(ds.Err()) != "MAN-113" {
			t.Errorf("%s: got %v", raw, ds)
		}
	}
}

// TestCoordinatorPolicy checks that coordinators are judged as a marble of the
// same package and platform would be, and that none are by default.
func TestCoordinatorPolicy(t *testing.T) {
	if p, ok := mustParse(t, admitting(held, "")).CoordinatorPolicy(); ok || !reflect.DeepEqual(p, attest.Policy{}) {
		t.Errorf("without the section: got %+v, %v; want nothing", p, ok)
	}
	for section, platform := range map[string]string{`{"package":"pair"}`: "default", `{"package":"pair","platform":"rack"}`: "rack"} {
		m := mustParse(t, admitting(held, section))
		got, ok := m.CoordinatorPolicy()
		m.Marbles["b"] = Marble{Package: "pair", Platform: platform}
		want, _ := m.PolicyFor("b")
		if !ok || !reflect.DeepEqual(got, want) || got.PlatformName != platform || got.PackageName != "pair" || m.Coordinators.Platform != platform {
			t.Errorf("%s: got %+v, %v; want %+v", section, got, ok, want)
		}
	}
	m := mustParse(t, admitting(held, `{"package":"pair"}`))
	for _, c := range []Coordinators{{Package: "gone", Platform: "default"}, {Package: "pair", Platform: "gone"}, {}} {
		m.Coordinators = &c
		if p, ok := m.CoordinatorPolicy(); ok || !reflect.DeepEqual(p, attest.Policy{}) {
			t.Errorf("%+v: got %+v, %v; want nothing", c, p, ok)
		}
	}
}
