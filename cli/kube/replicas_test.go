package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/ashlar-mesh/ashlar/cli/check"
)

// several is the StatefulSet of before with three coordinators on an etcd.
var several = strings.NewReplacer("replicas: 1", "replicas: 3", "--seal=unique", `--seal=unique, "--store=etcd://a:1,[::1]:2/ashlar/mesh/r?ca=/c/ca.crt"`).Replace(before)

func TestStoreOf(t *testing.T) {
	for location, want := range map[string]store{
		"etcd://a:1/ashlar": {"a:1", "/ashlar", false},
		"etcd://a:1,[::1]:2/ashlar/mesh/r?ca=/c/a&cert=/c&key=/k": {"a:1,[::1]:2", "/ashlar/mesh/r", false},
		"etcd://a:1/x/?tls=off":                                   {"a:1", "/x", true},
	} {
		if got := storeOf(location); got != want {
			t.Errorf("%s: got %+v, want %+v", location, got, want)
		}
	}
	if got := coordinatorOf(parsed(t, before)[0]); got.store != (store{}) || got.replicas != 1 {
		t.Errorf("got %+v, want one coordinator whose state is in its volume", got)
	}
	if got := sharedState(parsed(t, before)); got != "" {
		t.Errorf("got a shared state at %q", got)
	}
	if got := sharedState(parsed(t, several)); got != "/ashlar/mesh/r at a:1,[::1]:2" {
		t.Errorf("got %q", got)
	}
}

// A change of the engine or the prefix leaves the state behind.
func TestChangesThatLookForTheStateElsewhere(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"nothing", several, several, ""},
		{"the engine", before, several, "its state is in its volume, and would be looked for in etcd below /ashlar/mesh/r"},
		{"back", several, before, "its state is in etcd below /ashlar/mesh/r, and would be looked for in its volume"},
		{"the prefix", several, strings.Replace(several, "/mesh/r", "/mesh/s", 1), "would be looked for in etcd below /ashlar/mesh/s"},
		{"members", several, strings.Replace(several, "a:1", "b:1", 1), ""},
		{"certificates", several, strings.Replace(several, "ca=/c/ca.crt", "tls=off", 1), ""},
		{"another component", before, strings.Replace(several, "component: coordinator", "component: other", 1), ""},
		{"a new one", "", several, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(moves(parsed(t, c.old), parsed(t, c.new)), "; ")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q in it", got, c.want)
			}
			if lost := losses(parsed(t, c.old), parsed(t, c.new)); c.old != "" && len(lost) > 0 {
				t.Errorf("got %v, which Kubernetes changes in place", lost)
			}
		})
	}
}

func TestNotesOnCoordinators(t *testing.T) {
	replicas := func(n string) string { return strings.Replace(several, "replicas: 3", "replicas: "+n, 1) }
	for _, c := range []struct{ name, old, new, want string }{
		{"nothing", several, several, ""},
		{"one", "", before, ""},
		{"an installation of three", "", several, "one of 3 coordinators has the state's key at first"},
		{"an installation of one on etcd", "", replicas("1"), ""},
		{"more", replicas("1"), several, "gets the state's key when the manifest in force names it under coordinators"},
		{"fewer", several, replicas("2"), "1 of 3 coordinators go, and their volumes stay: see by ashlar status that one of ashlar-coordinator-0 to -1 has the state's key"},
		{"one of three", several, replicas("1"), "2 of 3 coordinators go, and their volumes stay: see by ashlar status that one of ashlar-coordinator-0 has the state's key"},
		{"stopped for a while", before, strings.Replace(before, "replicas: 1", "replicas: 0", 1), ""},
		{"started again", strings.Replace(before, "replicas: 1", "replicas: 0", 1), before, ""},
		{"other members", several, strings.Replace(several, "a:1", "b:1", 1), "etcd is asked at b:1,[::1]:2 in place of a:1,[::1]:2"},
		{"without TLS", several, strings.Replace(several, "ca=/c/ca.crt", "tls=off", 1), "etcd is asked without TLS"},
		{"without TLS as before", strings.Replace(several, "ca=/c/ca.crt", "tls=off", 1), strings.Replace(several, "ca=/c/ca.crt", "tls=off", 1), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := notes(parsed(t, c.old), parsed(t, c.new))
			if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Where others have the key, a new image can get it from them.
func TestANewImageOfSeveral(t *testing.T) {
	risks := recoveries(parsed(t, several), parsed(t, strings.Replace(several, "c:1", "c:2", 1)))
	if len(risks) != 1 || risks[0].Name != RiskRecovery || !strings.Contains(risks[0].Text, "names the new image under coordinators") {
		t.Errorf("got %v, want the risk and what avoids it", risks)
	}
	risks = recoveries(parsed(t, before), parsed(t, strings.Replace(before, "c:1", "c:2", 1)))
	if len(risks) != 1 || strings.Contains(risks[0].Text, "under coordinators") {
		t.Errorf("got %v for a coordinator that is alone", risks)
	}
}

func TestVersionsFinding(t *testing.T) {
	pod := func(name, image string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "beside", Image: "x:9"}, {Name: "coordinator", Image: image}}}}
	}
	going := pod("c-2", "c:1")
	going.DeletionTimestamp = &metav1.Time{}
	for _, c := range []struct {
		name string
		pods []corev1.Pod
		want string
	}{
		{"none", nil, ""},
		{"one", []corev1.Pod{pod("c-0", "c:1")}, ""},
		{"three", []corev1.Pod{pod("c-0", "c:1"), pod("c-1", "c:1"), pod("c-2", "c:1")}, "passed  3 coordinators run c:1"},
		{"a change that stopped", []corev1.Pod{pod("c-0", "c:1"), pod("c-1", "c:1"), pod("c-2", "c:2")}, "warning KUB-097 coordinators run c:1 on c-0, c-1; c:2 on c-2"},
		{"one that goes", []corev1.Pod{pod("c-0", "c:2"), pod("c-1", "c:2"), going}, "passed  2 coordinators run c:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var want []string
			if c.want != "" {
				want = append(want, c.want)
			}
			expect(t, []check.Finding(versionsFinding(c.pods)), want...)
		})
	}
}

func TestSecretsOfCoordinators(t *testing.T) {
	mounted := strings.Replace(several, "    spec:\n      containers:", "    spec:\n      volumes: [{name: etcd, secret: {secretName: mesh-etcd, items: [{key: ca.crt, path: ca.crt}, {key: tls.key, path: tls.key}]}}]\n      containers:", 1)
	secret := func(data map[string][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "mesh-etcd", Namespace: "mesh"}, Data: data}
	}
	for _, c := range []struct {
		name, manifest string
		have           *corev1.Secret
		want           string
	}{
		{"none is mounted", several, nil, ""},
		{"missing", mounted, nil, "failed KUB-098 Secret mesh-etcd in namespace mesh has no ca.crt, tls.key"},
		{"not whole", mounted, secret(map[string][]byte{"ca.crt": {1}, "tls.key": {}}), "failed KUB-098 Secret mesh-etcd in namespace mesh has no tls.key"},
		{"whole", mounted, secret(map[string][]byte{"ca.crt": {1}, "tls.key": {2}}), "passed  Secret mesh-etcd has the certificates for etcd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := fake.NewClientset()
			if c.have != nil {
				client = fake.NewClientset(c.have)
			}
			var want []string
			if c.want != "" {
				want = append(want, c.want)
			}
			expect(t, (&Cluster{client: client, Namespace: "mesh"}).checkSecrets(t.Context(), c.manifest), want...)
		})
	}
}
