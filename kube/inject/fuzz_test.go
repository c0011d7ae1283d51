package inject_test

import (
	"encoding/json"
	"reflect"
	"testing"

	jsonpatch "github.com/evanphx/json-patch"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// FuzzPod injects any pod that parses: no panic, the same again the second time,
// and the patch leads from the one to the other.
func FuzzPod(f *testing.F) {
	seed, err := yaml.YAMLToJSON([]byte(plainPod))
	if err != nil {
		f.Fatal(err)
	}
	for _, profile := range []string{"", "intel", "sim", "snp-node", "kata-remote", "nonsense"} {
		f.Add(seed, profile, `["/app"]`, "64Mi")
	}
	f.Fuzz(func(t *testing.T, raw []byte, profile, command, epc string) {
		pod := new(corev1.Pod)
		if json.Unmarshal(raw, pod) != nil {
			return
		}
		annotate(inject.ProfileOf, profile)(pod)
		if len(pod.Spec.Containers) > 0 && len(program(pod).Command) == 0 {
			annotate(inject.Command, command)(pod)
		}
		annotate(inject.EPC, epc)(pod)
		m := marbleFor("sgx", "sim:sgx", "snp", "tdx")
		m.Name, _ = inject.Labelled(pod)
		once, err := inject.Pod(pod, m, settings())
		if err != nil {
			return
		}
		twice, err := inject.Pod(once.Pod, m, settings())
		if err != nil {
			t.Fatalf("the second time: %v", err)
		}
		sameJSON(t, twice.Pod, once.Pod)
		patched(t, pod, once.Pod)
	})
}

// patched applies the patch from a to b to a.
func patched(t *testing.T, a, b *corev1.Pod) {
	t.Helper()
	before, _ := json.Marshal(a)
	after, _ := json.Marshal(b)
	raw, err := inject.Patch(before, after)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, err := patch.Apply(before)
	if err != nil {
		t.Fatalf("applying %s: %v", raw, err)
	}
	var x, y any
	if json.Unmarshal(got, &x) != nil || json.Unmarshal(after, &y) != nil || !reflect.DeepEqual(x, y) {
		t.Errorf("the patch leads to\n%s\nwant\n%s", got, after)
	}
}

func FuzzSettings(f *testing.F) {
	good, err := json.Marshal(settings())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"profiles": {"x": {"tee": "snp", "epc": {}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := inject.ParseFile(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := inject.ParseFile(again); err != nil || back.Digest() != s.Digest() {
			t.Errorf("got %v, %v from %s", back, err, again)
		}
	})
}
