package importer

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

var formats = map[string]func([]byte, Options) (Result, error){"marblerun": FromMarbleRun, "aecs": FromAECS, "scone": FromSCONE}

func example(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func doImport(t *testing.T, format, source string) Result {
	t.Helper()
	r, err := formats[format]([]byte(source), Options{TrustDomain: "shop.example"})
	if err != nil {
		t.Fatalf("importing %s: %v", format, err)
	}
	return r
}

// TestExamples compares whole examples with the manifests that they must become,
// which are valid.
func TestExamples(t *testing.T) {
	for format := range formats {
		t.Run(format, func(t *testing.T) {
			r := doImport(t, format, string(example(t, format+".json")))
			golden := "testdata/" + format + ".golden.json"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, r.Manifest, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := example(t, format+".golden.json"); !bytes.Equal(r.Manifest, want) {
				t.Errorf("got\n%s\nwant\n%s", r.Manifest, want)
			}
			if _, diags := manifest.Parse(r.Manifest); diags.HasErrors() || !r.Valid {
				t.Errorf("the manifest is not valid: %v", diags)
			}
			everyLeafIsReported(t, example(t, format+".json"), r)
			for _, l := range r.Report {
				t.Logf("%-60s %-50s %s: %s", l.Source, l.Became, l.Verdict, l.Reason)
			}
			for _, o := range r.Open {
				t.Logf("! %s %s: %s", o.Code, o.Path, o.Message)
			}
		})
	}
}

// everyLeafIsReported walks the source on its own and looks for each leaf, or
// for something around it whose line stands for all in it.
func everyLeafIsReported(t *testing.T, source []byte, r Result) {
	t.Helper()
	root, faults := jsonpos.Parse(source, jsonpos.Limits{Depth: maxDepth, Values: maxValues})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	lines := map[string][]Line{}
	for _, l := range r.Report {
		lines[l.Source] = append(lines[l.Source], l)
		if !slices.Contains([]Verdict{Maps, Stricter, NoCounterpart, Dropped}, l.Verdict) || l.Verdict == Dropped && l.Reason == "" {
			t.Errorf("line %+v has no verdict, or no reason", l)
		}
	}
	leaves := 0
	var walk func(n *jsonpos.Node, path string, covered bool)
	walk = func(n *jsonpos.Node, path string, covered bool) {
		for _, l := range lines[path] {
			covered = covered || l.Verdict != Maps || n.Kind != jsonpos.Object
		}
		for _, m := range n.Members {
			walk(m.Value, join(path, m.Key), covered)
		}
		for i, item := range n.Items {
			walk(item, fmt.Sprintf("%s[%d]", path, i), covered)
		}
		if len(n.Members)+len(n.Items) == 0 {
			leaves++
			if !covered && len(lines[path]) == 0 {
				t.Errorf("%s is not in the report", path)
			}
		}
	}
	walk(root, "", false)
}

// TestNoValueOfASecretLeaves looks for the values that the examples hold.
func TestNoValueOfASecretLeaves(t *testing.T) {
	for format := range formats {
		source := example(t, format+".json")
		if !bytes.Contains(source, []byte("hunter2")) && !bytes.Contains(source, []byte("aHVudGVyMg==")) {
			t.Fatalf("the example of %s holds no value of a secret", format)
		}
		r := doImport(t, format, string(source))
		all := fmt.Sprintf("%s%+v%+v", r.Manifest, r.Report, r.Open)
		for _, value := range []string{"hunter2", "aHVudGVyMg=="} {
			if strings.Contains(all, value) {
				t.Errorf("%s: the value of a secret is in the manifest or the report:\n%s", format, all)
			}
		}
	}
}

func TestHostileSourcesAreRefusedWithCodes(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	many := `{"a":[` + strings.Repeat("1,", maxValues) + `1]}`
	tests := []struct {
		name, source string
		want         problem.Code
	}{
		{"nothing", "", "MAN-070"},
		{"no JSON", "{", "MAN-070"},
		{"trailing bytes", "{} {}", "MAN-070"},
		{"not UTF-8", "{\"a\":\"\xff\"}", "MAN-070"},
		{"duplicate key", `{"a":1,"a":2}`, "MAN-070"},
		{"too deep", deep, "MAN-071"},
		{"too many values", many, "MAN-071"},
		{"too large", strings.Repeat(" ", MaxSize+1), "MAN-071"},
		{"a list", "[]", "MAN-073"},
		{"null", "null", "MAN-073"},
		{"empty", "{}", "MAN-073"},
	}
	for format, from := range formats {
		for _, tt := range tests {
			if _, err := from([]byte(tt.source), Options{}); problem.CodeOf(err) != tt.want {
				t.Errorf("%s, %s: got %v, want %s", format, tt.name, err, tt.want)
			}
		}
	}
}

func TestEachFormatRefusesTheOthers(t *testing.T) {
	for format, from := range formats {
		for other := range formats {
			if other == format {
				continue
			}
			if _, err := from(example(t, other+".json"), Options{}); problem.CodeOf(err) != "MAN-073" {
				t.Errorf("%s of %s: got %v, want MAN-073", format, other, err)
			}
		}
	}
}

func TestTrustDomainIsOpenWithoutOne(t *testing.T) {
	r, err := FromSCONE(example(t, "scone.json"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Valid || !bytes.Contains(r.Manifest, []byte(PlaceholderTrustDomain)) {
		t.Errorf("got valid %v and %s, want a valid manifest with the placeholder", r.Valid, r.Manifest)
	}
	if !slices.ContainsFunc(r.Open, func(o Open) bool { return o.Path == "trustDomain" && o.Code == "MAN-075" }) {
		t.Errorf("got open points %v, want trustDomain among them", r.Open)
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("n", 70)
	for _, tt := range []struct {
		n            *namer
		source, want string
	}{
		{objectNames(), "web", "web"}, {objectNames(), "Front End", "front-end"}, {objectNames(), "-x", "x-x"}, {objectNames(), "", "x"},
		{objectNames(), long, long[:63]}, {objectNames(), "größe", "gr--e"},
		{secretNames(), "my-key", "my_key"}, {secretNames(), "1st", "s1st"}, {principalNames(), "a@b", "a@b"}, {principalNames(), "é", "x-"},
	} {
		if got := tt.n.name(tt.source); got != tt.want {
			t.Errorf("name(%q): got %q, want %q", tt.source, got, tt.want)
		}
	}
	n := objectNames()
	if a, b, c := n.name("A b"), n.name("a-b"), n.name("A b"); a != "a-b" || b != "a-b-2" || c != a {
		t.Errorf("got %s, %s, %s; want a-b, a-b-2, a-b", a, b, c)
	}
}

func FuzzFromMarbleRun(f *testing.F) { fuzz(f, "marblerun") }
func FuzzFromAECS(f *testing.F)      { fuzz(f, "aecs") }
func FuzzFromSCONE(f *testing.F)     { fuzz(f, "scone") }

// fuzz demands of whatever is accepted: a manifest that Format takes, and a line
// for every leaf.
func fuzz(f *testing.F, format string) {
	f.Add(example(f, format+".json"))
	f.Add([]byte(`{"Packages":{"p":{"UniqueID":1}},"Marbles":{"m":{"Package":"p"}}}`))
	f.Add([]byte(`{"name":"x","services":[{"name":"y","command":"a 'b"}],"secrets":[{"name":"s","kind":"ascii","size":99999999999}]}`))
	f.Add([]byte(`{"secrets":[{"spec":{"name":"n","type":"SECRET_TYPE_AES256_KEY","policy":{"allOf":[{"hex_signer":"00"}]}}}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := formats[format](raw, Options{TrustDomain: "shop.example"})
		if err != nil {
			if problem.CodeOf(err) == "" {
				t.Fatalf("an error without code: %v", err)
			}
			return
		}
		if formatted, err := manifest.Format(r.Manifest); err != nil || !bytes.Equal(formatted, r.Manifest) {
			t.Fatalf("the manifest is not formatted: %v", err)
		}
		everyLeafIsReported(t, raw, r)
	})
}
