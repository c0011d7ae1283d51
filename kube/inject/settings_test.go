package inject_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// document is the settings of the tests with one change.
func document(t *testing.T, change func(map[string]any)) []byte {
	t.Helper()
	raw, err := json.Marshal(settings())
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(d)
	}
	if raw, err = json.Marshal(d); err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseFile(t *testing.T) {
	got, err := inject.ParseFile(document(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest() != settings().Digest() {
		t.Errorf("got %+v", got)
	}
	field := func(name string, value any) func(map[string]any) { return func(d map[string]any) { d[name] = value } }
	rows := func(table map[string]any) func(map[string]any) {
		return func(d map[string]any) { d["profiles"], d["defaults"] = table, nil }
	}
	row := func(p map[string]any) func(map[string]any) { return rows(map[string]any{"mine": p}) }
	for _, c := range []struct {
		name string
		raw  []byte
		code problem.Code
		text string
	}{
		{"empty", nil, "KUB-062", ""},
		{"too large", []byte(strings.Repeat(" ", inject.MaxSettings+1)), "KUB-062", "limit"},
		{"no JSON", []byte("{"), "KUB-062", "line 1"},
		{"something behind", append(document(t, nil), '{', '}'), "KUB-062", ""},
		{"duplicate", []byte("{\"image\": \"a\",\n\"image\": \"b\"}"), "KUB-062", "line 2"},
		{"unknown", document(t, field("imagee", "x")), "KUB-062", `unknown field "imagee": did you mean "image"?`},
		{"other case", document(t, field("Image", "x")), "KUB-062", `unknown field "Image"`},
		{"unknown in a row", document(t, row(map[string]any{"tees": "snp"})), "KUB-062", `unknown field "profiles.mine.tees": did you mean "tee"?`},
		{"wrong type", document(t, field("readyPort", "9101")), "KUB-062", "readyPort"},
		{"no coordinator", document(t, field("coordinator", "")), "KUB-062", "coordinator is"},
		{"coordinator without port", document(t, field("coordinator", "mesh")), "KUB-062", "HOST:PORT"},
		{"coordinator with port 0", document(t, field("coordinator", "mesh:0")), "KUB-062", "HOST:PORT"},
		{"no image", document(t, field("image", "")), "KUB-062", "image is"},
		{"image", document(t, field("image", "a b")), "KUB-062", "image is"},
		{"pull policy", document(t, field("pullPolicy", "Sometimes")), "KUB-062", "pullPolicy is"},
		{"ready port", document(t, field("readyPort", 80)), "KUB-062", "readyPort is 80"},
		{"no policy", document(t, field("policy", "")), "KUB-062", "policy is no policy file"},
		{"policy", document(t, field("policy", "{}")), "KUB-062", "policy is no policy file"},
		{"large policy", document(t, field("policy", strings.Repeat(" ", inject.MaxPolicy+1))), "KUB-062", "policy has"},
		{"default of nothing", document(t, field("defaults", map[string]any{"snp": "kata-qemu-spn"})), "KUB-062", "did you mean kata-qemu-snp?"},
		{"default of another TEE", document(t, field("defaults", map[string]any{"snp": "intel"})), "KUB-062", "which is of TEE sgx"},

		{"row's name", document(t, rows(map[string]any{"My Row": map[string]any{"tee": "snp", "runtime": "wrap"}})), "KUB-063", `the name "My Row"`},
		{"row's TEE", document(t, row(map[string]any{"tee": "sev", "runtime": "wrap"})), "KUB-063", `profiles.mine.tee: "sev"`},
		{"row's runtime", document(t, row(map[string]any{"tee": "snp", "runtime": ""})), "KUB-063", "profiles.mine.runtime"},
		{"enclave wrapped", document(t, row(map[string]any{"tee": "sgx", "runtime": "wrap"})), "KUB-063", "an enclave's start is measured"},
		{"resource's name", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "resources": map[string]any{"cpu": "1"}})), "KUB-063", "profiles.mine.resources.cpu"},
		{"half a device", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "resources": map[string]any{"a.b/c": "500m"}})), "KUB-063", `"500m": wanted a whole number`},
		{"EPC of a VM", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "epc": map[string]any{"name": "a.b/c", "unit": "MiB", "default": "1Mi"}})), "KUB-063", "only enclaves"},
		{"EPC twice", document(t, row(map[string]any{"tee": "sgx", "runtime": "image", "resources": map[string]any{"a.b/c": "1"}, "epc": map[string]any{"name": "a.b/c", "unit": "MiB", "default": "1Mi"}})), "KUB-063", "is among resources too"},
		{"EPC unit", document(t, row(map[string]any{"tee": "sgx", "runtime": "image", "epc": map[string]any{"name": "a.b/c", "unit": "MB", "default": "1Mi"}})), "KUB-063", "profiles.mine.epc.unit"},
		{"EPC default", document(t, row(map[string]any{"tee": "sgx", "runtime": "image", "epc": map[string]any{"name": "a.b/c", "unit": "MiB", "default": "0"}})), "KUB-063", "profiles.mine.epc.default"},
		{"RuntimeClass", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "runtimeClass": "Kata CC"})), "KUB-063", "profiles.mine.runtimeClass"},
		{"privileged in a VM", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "runtimeClass": "kata-cc", "privileged": true})), "KUB-063", "profiles.mine.privileged"},
		{"label", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "nodeLabels": map[string]any{"a": "b c"}})), "KUB-063", "profiles.mine.nodeLabels"},
		{"toleration twice", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "tolerations": []string{"a", "a"}})), "KUB-063", "profiles.mine.tolerations"},
		{"relative path", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "hostPaths": []any{map[string]any{"path": "dev"}}})), "KUB-063", "profiles.mine.hostPaths"},
		{"root", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "hostPaths": []any{map[string]any{"path": "/"}}})), "KUB-063", "would hide"},
		{"path twice", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "hostPaths": []any{map[string]any{"path": "/a"}, map[string]any{"path": "/a"}}})), "KUB-063", "comes twice"},
		{"path's type", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "hostPaths": []any{map[string]any{"path": "/a", "type": "BlockDevice"}}})), "KUB-063", "has the type"},
		{"annotation of ours", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "annotations": map[string]any{"ashlar.dev/container": "x"}})), "KUB-063", "profiles.mine.annotations"},
		{"variable of ours", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "env": map[string]any{"ASHLAR_MARBLE": "x"}})), "KUB-063", "ASHLAR_MARBLE is the injector's"},
		{"variable", document(t, row(map[string]any{"tee": "snp", "runtime": "wrap", "env": map[string]any{"a b": "x"}})), "KUB-063", "profiles.mine.env"},
		{"simulation without a socket", document(t, row(map[string]any{"tee": "sim:tdx", "runtime": "wrap"})), "KUB-063", "ASHLAR_SIM_SOCKET"},
		{"two things", document(t, func(d map[string]any) { d["image"] = ""; d["coordinator"] = "" }), "KUB-050", "2 things"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := inject.ParseFile(c.raw)
			if problem.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.text)
			}
		})
	}
}

// TestDecodeEmbedded: the injector's own file has more fields beside these.
func TestDecodeEmbedded(t *testing.T) {
	var config struct {
		inject.Settings
		Client string `json:"client"`
	}
	if err := inject.Decode([]byte(`{"client": "c:4433", "image": "x"}`), &config); err != nil || config.Client != "c:4433" || config.Image != "x" {
		t.Errorf("got %+v, %v", config, err)
	}
	if err := inject.Decode([]byte(`{"cleint": "c"}`), &config); err == nil || !strings.Contains(err.Error(), `did you mean "client"?`) {
		t.Errorf("got %v", err)
	}
}

// TestTable: the settings' rows are all that there are, so that one which an
// operator takes out of the chart's values is gone.
func TestTable(t *testing.T) {
	s := settings()
	if got, want := len(s.Table()), len(inject.Profiles()); got != want {
		t.Errorf("without rows: got %d, want the built-in %d", got, want)
	}
	s.Profiles, s.Defaults = map[string]inject.Profile{"mine": {TEE: "snp", Runtime: inject.Wrap}}, nil
	if s.Digest() == settings().Digest() {
		t.Error("other settings have the same digest")
	}
	pod := readPod(t, plainPod)
	annotate(inject.ProfileOf, "snp-node")(pod)
	if _, err := inject.Pod(pod, marbleFor("snp"), s); problem.CodeOf(err) != "KUB-054" || !strings.Contains(err.Error(), "it has mine") {
		t.Errorf("got %v, want KUB-054", err)
	}
	annotate(inject.ProfileOf, "mine")(pod)
	if got := injected(t, pod, marbleFor("snp"), s); got.Profile != "mine" {
		t.Errorf("got %s", got.Profile)
	}
}

func TestFromManifest(t *testing.T) {
	raw, err := os.ReadFile("testdata/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	m, diagnostics := manifest.Parse(raw)
	if err := diagnostics.Err(); err != nil {
		t.Fatal(err)
	}
	web, err := inject.FromManifest(m, "web")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(web.TEEs, []string{"sgx", "sim:sgx", "sim:tdx"}) || !slices.Equal(web.Ports, []int32{8080, 8081}) || !web.Argv || web.Name != "web" {
		t.Errorf("got %+v", web)
	}
	if _, err := inject.FromManifest(m, ""); problem.CodeOf(err) != "KUB-051" {
		t.Errorf("got %v, want KUB-051", err)
	}
	if _, err := inject.FromManifest(m, "wep"); problem.CodeOf(err) != "KUB-052" || !strings.Contains(err.Error(), "did you mean web?") {
		t.Errorf("got %v, want KUB-052 and a suggestion", err)
	}
}
