package inject_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

var update = flag.Bool("update", false, "write the golden files anew")

// policy is a policy file for the coordinator: its signer and product.
const policy = `{"tee": "sgx", "package": {"sgx": {"signerID": "` +
	`0ab2000000000000000000000000000000000000000000000000000000000000", "productID": 16, "minSecurityVersion": 1}}, ` +
	`"platform": {"sgx": {"minTCBEvaluation": 18}}}`

func settings() inject.Settings {
	return inject.Settings{
		Coordinator: "ashlar-mesh.ashlar.svc:2001", Policy: policy, Image: "registry.example/ashlar-marble:1.2.3",
		Defaults: map[string]string{"sgx": "intel", "snp": "kata-qemu-snp", "tdx": "kata-qemu-tdx", "sim:sgx": "sim"},
	}
}

// marbleFor is the marble web, whose package may run in one TEE.
func marbleFor(tees ...string) inject.Marble {
	return inject.Marble{Name: "web", TEEs: tees, Ports: []int32{8080}}
}

// readPod reads a pod of testdata.
func readPod(t testing.TB, text string) *corev1.Pod {
	t.Helper()
	pod := new(corev1.Pod)
	if err := yaml.UnmarshalStrict([]byte(text), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

const plainPod = `
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web, ashlar.dev/marble: web}
spec:
  containers:
  - name: web
    image: registry.example/web:1
    command: [/app/web]
    args: [--port, "8080"]
    workingDir: /app
    env: [{name: COLOUR, value: blue}]
    envFrom: [{configMapRef: {name: web}}]
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 7}
    livenessProbe: {tcpSocket: {port: 8080}, timeoutSeconds: 3}
    volumeMounts:
    - {name: db, mountPath: /etc/db, readOnly: true}
    - {name: settings, mountPath: /etc/web}
  volumes:
  - {name: db, secret: {secretName: db}}
  - {name: settings, configMap: {name: web}}
`

// injected does it, and does it again: the second time must change nothing.
func injected(t testing.TB, pod *corev1.Pod, m inject.Marble, s inject.Settings) inject.Result {
	t.Helper()
	before := pod.DeepCopy()
	once, err := inject.Pod(pod, m, s)
	if err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(pod, before) {
		t.Error("the pod that was given was changed")
	}
	twice, err := inject.Pod(once.Pod, m, s)
	if err != nil {
		t.Fatalf("the second time: %v", err)
	}
	sameJSON(t, once.Pod, twice.Pod)
	return once
}

func sameJSON(t testing.TB, a, b *corev1.Pod) {
	t.Helper()
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	if errX != nil || errY != nil {
		t.Fatal(errX, errY)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("got\n%s\nwant\n%s", asYAML(x), asYAML(y))
	}
}

func asYAML(raw []byte) string {
	text, err := yaml.JSONToYAML(raw)
	if err != nil {
		return string(raw)
	}
	return string(text)
}

// TestProfiles injects one pod by each row of the table and compares all of it.
func TestProfiles(t *testing.T) {
	for name, row := range inject.Profiles() {
		t.Run(name, func(t *testing.T) {
			pod := readPod(t, plainPod)
			pod.Annotations = map[string]string{inject.ProfileOf: name}
			got := injected(t, pod, marbleFor(row.TEE), settings())
			if got.Profile != name {
				t.Errorf("got profile %q, want %q", got.Profile, name)
			}
			raw, err := yaml.Marshal(got.Pod)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range got.Warnings {
				raw = append(raw, "# warning: "+w+"\n"...)
			}
			golden(t, filepath.Join("testdata", "profiles", name+".yaml"), raw)
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "profiles", "*.yaml"))
	if err != nil || len(files) != len(inject.Profiles()) {
		t.Errorf("got %d golden files, want one for each of the %d rows (%v)", len(files), len(inject.Profiles()), err)
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test ./kube/inject -run %s -update writes it anew); got\n%s", path, t.Name(), got)
	}
}

// TestBuiltInProfilesAreValid judges the built-in rows as those of a user are.
func TestBuiltInProfilesAreValid(t *testing.T) {
	s := settings()
	s.Profiles = inject.Profiles()
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

func TestPatch(t *testing.T) {
	pod := readPod(t, plainPod)
	got := injected(t, pod, marbleFor("sgx"), settings())
	before, _ := json.Marshal(pod)
	after, _ := json.Marshal(got.Pod)
	patch, err := inject.Patch(before, after)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := inject.Patch(after, after); err != nil || string(same) != "[]" {
		t.Errorf("without a difference: got %s, %v, want []", same, err)
	}
	if !strings.Contains(string(patch), "ASHLAR_UUID") {
		t.Errorf("got %s", patch)
	}
	if _, err := inject.Patch([]byte("{"), after); err == nil {
		t.Error("a broken document has a patch")
	}
}

// BenchmarkPod is what the webhook spends on one pod besides JSON.
func BenchmarkPod(b *testing.B) {
	pod, m, s := readPod(b, plainPod), marbleFor("snp"), settings()
	for b.Loop() {
		if _, err := inject.Pod(pod, m, s); err != nil {
			b.Fatal(err)
		}
	}
}

// largest has as much as is taken of what is searched most.
func largest(t testing.TB) *corev1.Pod {
	pod := readPod(t, plainPod)
	for i := range 998 {
		name := fmt.Sprint("v", i)
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}})
		program(pod).VolumeMounts = append(program(pod).VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
	return pod
}

func TestLargestPod(t *testing.T) {
	injected(t, largest(t), marbleFor("snp"), settings())
}

func BenchmarkLargestPod(b *testing.B) {
	pod, m, s := largest(b), marbleFor("snp"), settings()
	for b.Loop() {
		if _, err := inject.Pod(pod, m, s); err != nil {
			b.Fatal(err)
		}
	}
}
