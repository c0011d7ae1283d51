package charts_test

import (
	"bytes"
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/charts"
)

var update = flag.Bool("update", false, "write the golden files")

// values is a document of values.
type values = map[string]any

// release is what a chart is rendered for.
type release struct {
	name, namespace string
	upgrade         bool
}

var usual = release{name: "ashlar", namespace: "mesh"}

// embedded reads the chart as the command does.
var embedded = sync.OnceValues(func() (*chart.Chart, error) {
	var files []*loader.BufferedFile
	err := fs.WalkDir(charts.Ashlar, "ashlar", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := charts.Ashlar.ReadFile(path)
		files = append(files, &loader.BufferedFile{Name: strings.TrimPrefix(path, "ashlar/"), Data: b})
		return err
	})
	if err != nil {
		return nil, err
	}
	return loader.LoadFiles(files)
})

func load(t testing.TB) *chart.Chart {
	t.Helper()
	c, err := embedded()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render returns the files that the templates give, without empty ones.
func render(t testing.TB, r release, v values) (map[string]string, error) {
	t.Helper()
	c := load(t)
	caps := *chartutil.DefaultCapabilities
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.37.2", Major: "1", Minor: "37"}
	all, err := chartutil.ToRenderValues(c, v, chartutil.ReleaseOptions{Name: r.name, Namespace: r.namespace, Revision: 1, IsInstall: !r.upgrade, IsUpgrade: r.upgrade}, &caps)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	maps.DeleteFunc(files, func(_, text string) bool { return strings.TrimSpace(text) == "" })
	return files, err
}

// policy is a policy file.
const policy = `{"tee": "sgx", "package": {"sgx": {"uniqueID": ["5c3f2a1b5c3f2a1b5c3f2a1b5c3f2a1b5c3f2a1b5c3f2a1b5c3f2a1b5c3f2a1b"]}}, "platform": {"sgx": {"acceptedTCBStatuses": ["UpToDate"]}}}`

// complete adds to values what an installation cannot do without.
func complete(v values) values {
	return chartutil.CoalesceTables(v, values{"policy": policy, "coordinator": values{"state": values{"createUntil": "2026-01-02T15:04:05Z"}}})
}

// mustRender renders for an installation that may make a state, with a policy.
func mustRender(t testing.TB, r release, v values) map[string]string {
	t.Helper()
	files, err := render(t, r, complete(v))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// each calls f with every file of values below testdata.
func each(t *testing.T, f func(t *testing.T, name string, v values)) {
	t.Helper()
	paths, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(paths) < 9 {
		t.Fatalf("got %d files of values (%v), want at least 9", len(paths), err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			v, err := chartutil.ReadValuesFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f(t, name, v)
		})
	}
}

// documents splits rendered files into YAML documents.
func documents(files map[string]string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		for _, d := range strings.Split("\n"+files[name], "\n---\n") {
			if len(bytes.TrimSpace([]byte(d))) > 0 {
				all = append(all, d)
			}
		}
	}
	return all
}

// objects decodes everything that was rendered into its type. A field that the
// type does not have, or has twice, is an error.
func objects(t testing.TB, files map[string]string) []runtime.Object {
	t.Helper()
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	var all []runtime.Object
	for _, d := range documents(files) {
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal([]byte(d), &head); err != nil {
			t.Fatalf("%v in\n%s", err, d)
		}
		if head.APIVersion == "monitoring.coreos.com/v1" {
			continue // monitoring_test.go has their types
		}
		o, _, err := strict.Decode([]byte(d), nil, nil)
		if err != nil {
			t.Errorf("%s %s: %v in\n%s", head.APIVersion, head.Kind, err, d)
			continue
		}
		all = append(all, o)
	}
	return all
}

// find returns the only object of a type.
func find[T runtime.Object](t testing.TB, all []runtime.Object, name string) T {
	t.Helper()
	for _, o := range all {
		if typed, ok := o.(T); ok && accessor(t, o).GetName() == name {
			return typed
		}
	}
	var none T
	t.Fatalf("no %T named %s was rendered", none, name)
	return none
}

func TestGolden(t *testing.T) {
	each(t, func(t *testing.T, name string, v values) {
		var b strings.Builder
		files := mustRender(t, usual, v)
		for _, file := range slices.Sorted(maps.Keys(files)) {
			b.WriteString("# " + file + "\n" + strings.TrimSpace(files[file]) + "\n")
		}
		path := filepath.Join("testdata/golden", name+".yaml")
		if *update {
			if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s differs: look at the change with go test ./charts -run Golden -update", path)
		}
	})
}

func TestLint(t *testing.T) {
	each(t, func(t *testing.T, _ string, v values) {
		lint := action.NewLint()
		lint.Strict, lint.Namespace = true, "mesh"
		result := lint.Run([]string{"ashlar"}, complete(v))
		for _, m := range result.Messages {
			if !strings.Contains(m.Error(), "icon is recommended") {
				t.Errorf("%v", m)
			}
		}
		if len(result.Errors) > 0 {
			t.Errorf("got %v", result.Errors)
		}
	})
}

// Each object has the fields of its type, and no others.
func TestObjectsAreOfTheirTypes(t *testing.T) {
	each(t, func(t *testing.T, name string, v values) {
		if got, least := len(objects(t, mustRender(t, usual, v))), map[bool]int{true: 5, false: 17}[name == "no-injector"]; got < least {
			t.Errorf("got %d objects, want at least %d", got, least)
		}
	})
}

func TestStrictDecodingRefuses(t *testing.T) {
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	for _, d := range []string{
		"apiVersion: v1\nkind: Service\nspec: {port: 1}\n",
		"apiVersion: v1\nkind: Service\nspec: {type: a, type: b}\n",
		"apiVersion: v2\nkind: Service\n",
	} {
		if _, _, err := strict.Decode([]byte(d), nil, nil); err == nil {
			t.Errorf("accepted %q", d)
		}
	}
}
