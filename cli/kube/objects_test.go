package kube

import (
	"slices"
	"strings"
	"testing"
)

// parsed are the objects of a manifest.
func parsed(t *testing.T, manifest string) []object {
	t.Helper()
	all, err := objects(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const before = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ashlar-coordinator, labels: {app.kubernetes.io/component: coordinator}}
spec:
  replicas: 1
  selector: {matchLabels: {app: c}}
  template:
    spec:
      containers:
      - name: coordinator
        image: c:1
        args: [run, --tee=snp, --seal=unique]
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
  volumeClaimTemplates:
  - metadata: {name: state}
    spec: {resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {settings.json: '{"image": "m:1", "defaults": {"sgx": "intel"}}', note: plain}
---
apiVersion: v1
kind: Secret
metadata: {name: theirs}
stringData: {password: first-4711}
---
apiVersion: v1
kind: Service
metadata: {name: old}
`

func TestCompareNamesObjectsAndFields(t *testing.T) {
	after := strings.NewReplacer("c:1", "c:2", `{name: B, value: "2"}`, `{name: C, value: "3"}`, `"m:1"`, `"m:2"`, "first-4711", "second-4712",
		"kind: Service\nmetadata: {name: old}", "kind: Service\nmetadata: {name: new}").Replace(before)
	var got []string
	for _, c := range compare(parsed(t, before), parsed(t, after)) {
		got = append(got, c.Action+" "+c.Object)
		for _, f := range c.Fields {
			got = append(got, f.Path+": "+f.From+" > "+f.To)
		}
	}
	want := []string{
		"changed StatefulSet ashlar-coordinator",
		"spec.template.spec.containers[coordinator].env[B]: {\"name\":\"B\",\"value\":\"2\"} > ",
		"spec.template.spec.containers[coordinator].env[C]:  > {\"name\":\"C\",\"value\":\"3\"}",
		"spec.template.spec.containers[coordinator].image: c:1 > c:2",
		"changed ConfigMap settings", "data.settings.json.image: m:1 > m:2",
		"changed Secret theirs", "stringData.password: [redacted] > [redacted]",
		"added Service new", "removed Service old",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if same := compare(parsed(t, before), parsed(t, before)); len(same) != 0 {
		t.Errorf("got %v of the same objects, want no change", same)
	}
	upgraded := strings.Replace(before, "apiVersion: apps/v1", "apiVersion: apps/v2", 1)
	if c := compare(parsed(t, before), parsed(t, upgraded)); len(c) != 1 || c[0].Action != Changed {
		t.Errorf("got %v for another version of an API, want one change", c)
	}
}

func TestObjectsRefusesWhatIsNone(t *testing.T) {
	for _, manifest := range []string{"kind: Service", "metadata: {name: x}", "a: b: c", "[]"} {
		if all, err := objects("---\n" + manifest + "\n"); err == nil {
			t.Errorf("%q: got %v, want an error", manifest, all)
		}
	}
	if all, err := objects("# nothing\n---\n\n"); err != nil || len(all) != 0 {
		t.Errorf("got %v, %v; want nothing", all, err)
	}
}

func TestChangesThatPartAWorkloadFromItsState(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"nothing", "", "", ""},
		{"image", "c:1", "c:2", ""},
		{"replicas", "replicas: 1", "replicas: 0", ""},
		{"size of the volume", "storage: 1Gi", "storage: 2Gi", "spec.volumeClaimTemplates[0].spec.resources.requests.storage"},
		{"name of the volume", "metadata: {name: state}", "metadata: {name: data}", "spec.volumeClaimTemplates[0].metadata.name"},
		{"selector", "matchLabels: {app: c}", "matchLabels: {app: d}", "spec.selector.matchLabels.app"},
		{"name", "name: ashlar-coordinator", "name: other-coordinator", "StatefulSet other-coordinator would begin with an empty state"},
		{"kind", "kind: StatefulSet", "kind: Deployment", "left behind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lost := strings.Join(losses(parsed(t, before), parsed(t, strings.Replace(before, c.from, c.to, 1))), "; ")
			if c.want == "" && lost != "" || !strings.Contains(lost, c.want) {
				t.Errorf("got %q, want %q in it", lost, c.want)
			}
		})
	}
	claim := "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: state}\nspec: {storageClassName: a, resources: {requests: {storage: 1Gi}}}\n"
	if lost := losses(parsed(t, claim), nil); len(lost) != 1 {
		t.Errorf("got %v for a removed claim, want one loss", lost)
	}
	kept := strings.Replace(claim, "{name: state}", "{name: state, annotations: {helm.sh/resource-policy: keep}}", 1)
	if lost := losses(parsed(t, kept), nil); len(lost) != 0 {
		t.Errorf("got %v for a claim that is kept, want none", lost)
	}
	if lost := losses(parsed(t, claim), parsed(t, strings.Replace(claim, "1Gi", "2Gi", 1))); len(lost) != 0 {
		t.Errorf("got %v for a larger claim, want none", lost)
	}
}

func TestChangesAfterWhichHoldersAreNeeded(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"nothing", "", "", ""},
		{"TEE", "--tee=snp", "--tee=sgx", "from TEE snp to sgx"},
		{"image, sealed for one", "c:1", "c:2", "image changes (c:2)"},
		{"image of another component", "component: coordinator}", "component: other}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			risks := recoveries(parsed(t, before), parsed(t, strings.Replace(before, c.from, c.to, 1)))
			if c.want == "" && len(risks) != 0 || c.want != "" && (len(risks) != 1 || risks[0].Name != RiskRecovery || !strings.Contains(risks[0].Text, c.want)) {
				t.Errorf("got %v, want %q", risks, c.want)
			}
		})
	}
	product := strings.Replace(before, "unique", "product", 1)
	if risks := recoveries(parsed(t, product), parsed(t, strings.Replace(product, "c:1", "c:2", 1))); len(risks) != 0 {
		t.Errorf("got %v for an image of the same product, want none", risks)
	}
}

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"0.1.0", "0.2.0", true}, {"v1.9.0", "v1.10.0", true}, {"0.2.0", "0.1.0", false}, {"0.1.0", "0.1.0", false},
		{"v0.1.0-3-gabc", "v0.1.0", false}, {"v0.1.0", "v0.1.0-3-gabc", false}, {"devel", "0.1.0", false}, {"0.1.0", "devel", false}, {"", "", false},
	} {
		if got := older(c.a, c.b); got != c.want {
			t.Errorf("older(%q, %q): got %v, want %v", c.a, c.b, got, c.want)
		}
	}
}
