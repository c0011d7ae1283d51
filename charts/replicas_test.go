package charts_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// shared are values for three coordinators on an etcd cluster, with more said of it.
func shared(etcd values) values {
	usually := values{"endpoints": []any{"etcd:2379"}}
	return values{"coordinator": values{"replicas": 3, "store": values{"engine": "etcd", "etcd": chartutil.CoalesceTables(maps.Clone(etcd), usually)}}}
}

func coordinatorOf(t *testing.T, r release, v values) (*appsv1.StatefulSet, []runtime.Object) {
	t.Helper()
	all := objects(t, mustRender(t, r, v))
	return find[*appsv1.StatefulSet](t, all, r.name+"-coordinator"), all
}

// argument is what a flag of the coordinator says; "" if it is not there.
func argument(s *appsv1.StatefulSet, flag string) string {
	for _, arg := range s.Spec.Template.Spec.Containers[0].Args {
		if value, ok := strings.CutPrefix(arg, "--"+flag+"="); ok {
			return value
		}
	}
	return ""
}

// Where the state is, by the values.
func TestStoreLocation(t *testing.T) {
	const files = "?ca=/etc/ashlar-etcd/ca.crt"
	for _, c := range []struct {
		what  string
		v     values
		want  string
		items []string // of the mounted Secret
	}{
		{"embedded", nil, "", nil},
		{"etcd", shared(nil), "etcd://etcd:2379/ashlar/mesh/ashlar", nil},
		{"members", shared(values{"endpoints": []any{"a:1", "[::1]:2", "10.0.0.1:3"}}), "etcd://a:1,[::1]:2,10.0.0.1:3/ashlar/mesh/ashlar", nil},
		{"a prefix", shared(values{"prefix": "/teams/shop"}), "etcd://etcd:2379/teams/shop", nil},
		{"without TLS", shared(values{"tls": values{"enabled": false}}), "etcd://etcd:2379/ashlar/mesh/ashlar?tls=off", nil},
		{"certificates", shared(values{"tls": values{"secret": "mesh-etcd"}}),
			"etcd://etcd:2379/ashlar/mesh/ashlar" + files + "&cert=/etc/ashlar-etcd/tls.crt&key=/etc/ashlar-etcd/tls.key", []string{"ca.crt", "tls.crt", "tls.key"}},
		{"roots alone", shared(values{"tls": values{"secret": "mesh-etcd", "clientCertificate": false}}), "etcd://etcd:2379/ashlar/mesh/ashlar" + files, []string{"ca.crt"}},
	} {
		s, _ := coordinatorOf(t, usual, c.v)
		if got := argument(s, "store"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
		var items []string
		for _, v := range s.Spec.Template.Spec.Volumes {
			if v.Secret != nil {
				for _, i := range v.Secret.Items {
					items = append(items, i.Key)
				}
				if v.Secret.SecretName != "mesh-etcd" || *v.Secret.DefaultMode != 0o440 {
					t.Errorf("%s: got %+v", c.what, v.Secret)
				}
			}
		}
		if !slices.Equal(items, c.items) {
			t.Errorf("%s: got files %q, want %q", c.what, items, c.items)
		}
		for _, m := range s.Spec.Template.Spec.Containers[0].VolumeMounts {
			if m.Name == "etcd" && (!m.ReadOnly || m.MountPath != "/etc/ashlar-etcd") {
				t.Errorf("%s: got %+v", c.what, m)
			}
		}
	}
}

// No two releases of a cluster have the same place in an etcd by themselves.
func TestPrefixesDiffer(t *testing.T) {
	seen := map[string]release{}
	for _, r := range []release{{name: "ashlar", namespace: "one"}, {name: "ashlar", namespace: "two"}, {name: "other-ashlar", namespace: "one"}} {
		s, _ := coordinatorOf(t, r, shared(nil))
		where := argument(s, "store")
		if other, taken := seen[where]; taken || where == "" {
			t.Errorf("%v and %v share %q", r, other, where)
		}
		seen[where] = r
	}
}

// A replica has a name and an address of its own, and comes back with its volume.
func TestReplicas(t *testing.T) {
	one, all := coordinatorOf(t, usual, nil)
	if *one.Spec.Replicas != 1 || argument(one, "replica") != "" || len(one.Spec.Template.Spec.TopologySpreadConstraints) > 0 {
		t.Errorf("got %d embedded coordinators, replica %q", *one.Spec.Replicas, argument(one, "replica"))
	}
	if b := budgets(all); len(b) > 0 {
		t.Errorf("one coordinator: got a budget of %v", b)
	}
	three, all := coordinatorOf(t, usual, shared(nil))
	if *three.Spec.Replicas != 3 || argument(three, "replica") != "$(POD_NAME)" || argument(three, "reach") != "$(POD_IP)" {
		t.Errorf("got %d, replica %q at %q", *three.Spec.Replicas, argument(three, "replica"), argument(three, "reach"))
	}
	container := three.Spec.Template.Spec.Containers[0]
	for name, path := range map[string]string{"POD_NAME": "metadata.name", "POD_IP": "status.podIP"} {
		if !slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == name && e.ValueFrom.FieldRef.FieldPath == path }) {
			t.Errorf("%s is not the pod's %s", name, path)
		}
	}
	if p := three.Spec.PersistentVolumeClaimRetentionPolicy; p.WhenDeleted != "Retain" || p.WhenScaled != "Retain" {
		t.Errorf("got %+v, want volumes that stay", p)
	}
	var keys []string
	for _, c := range three.Spec.Template.Spec.TopologySpreadConstraints {
		keys = append(keys, c.TopologyKey)
		if !selects(t, c.LabelSelector, three.Spec.Template.Labels) {
			t.Errorf("%s spreads other pods", c.TopologyKey)
		}
	}
	if want := []string{"kubernetes.io/hostname", "topology.kubernetes.io/zone"}; !slices.Equal(keys, want) {
		t.Errorf("got spread over %q, want %q", keys, want)
	}
	if b := budgets(all); !reflect.DeepEqual(b, map[string]int{"ashlar-coordinator": 1}) {
		t.Errorf("got budgets %v, want one coordinator at a time", b)
	}
	held := shared(nil)
	held["coordinator"].(values)["holdDrains"] = true
	if _, all := coordinatorOf(t, usual, held); budgets(all)["ashlar-coordinator"] != 0 || len(budgets(all)) != 1 {
		t.Errorf("got budgets %v, want none to be drained", budgets(all))
	}
}

// budgets are how many pods a drain may take, by what makes them; not the injectors'.
func budgets(all []runtime.Object) map[string]int {
	found := map[string]int{}
	for _, o := range all {
		if b, ok := o.(*policyv1.PodDisruptionBudget); ok && !strings.HasSuffix(b.Name, "-injector") {
			found[b.Name] = b.Spec.MaxUnavailable.IntValue()
		}
	}
	return found
}

// Another number of replicas replaces none that runs.
func TestScalingReplacesNoPod(t *testing.T) {
	three, _ := coordinatorOf(t, usual, shared(nil))
	v := shared(nil)
	v["coordinator"].(values)["replicas"] = 1
	one, _ := coordinatorOf(t, usual, v)
	if !reflect.DeepEqual(one.Spec.Template, three.Spec.Template) || *one.Spec.Replicas != 1 {
		t.Error("the template of one coordinator on etcd differs from that of three")
	}
}

// Recovery is reached by the client API when no pod is ready; marbles come to
// those that are.
func TestServicesOfReplicas(t *testing.T) {
	_, all := coordinatorOf(t, usual, shared(nil))
	for name, published := range map[string]bool{"ashlar": true, "ashlar-mesh": false, "ashlar-coordinator": true} {
		s := find[*corev1.Service](t, all, name)
		if s.Spec.PublishNotReadyAddresses != published || s.Spec.SessionAffinity != "" {
			t.Errorf("%s: got %+v", name, s.Spec)
		}
	}
}

// The installation's last words say where the state is, and what is at risk.
func TestNotesOfReplicas(t *testing.T) {
	for _, c := range []struct {
		what      string
		v         values
		has, hasn []string
	}{
		{"embedded", nil, []string{"The state is the volume claim state-ashlar-coordinator-0"}, []string{"etcd"}},
		{"one on etcd", at("coordinator.store", values{"engine": "etcd", "etcd": values{"endpoints": []any{"a:1"}}}), []string{"in etcd below /ashlar/mesh/ashlar,"}, []string{"One of", "WITHOUT"}},
		{"three", shared(values{"prefix": "/x"}), []string{"in etcd below /x,", "One of 3 coordinators made it", "under coordinators"}, []string{"WITHOUT"}},
		{"without TLS", shared(values{"tls": values{"enabled": false}}), []string{"WITHOUT TLS"}, nil},
	} {
		text := mustRender(t, usual, c.v)["ashlar/templates/NOTES.txt"]
		for _, want := range c.has {
			if !strings.Contains(text, want) {
				t.Errorf("%s: got %q, want %q", c.what, text, want)
			}
		}
		for _, other := range c.hasn {
			if strings.Contains(text, other) {
				t.Errorf("%s: got %q, want no %q", c.what, text, other)
			}
		}
	}
}
