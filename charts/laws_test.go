package charts_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

func accessor(t testing.TB, o runtime.Object) metav1.Object {
	t.Helper()
	m, err := meta.Accessor(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// pods returns the templates of pods by the name of what makes them.
func pods(all []runtime.Object) map[string]corev1.PodTemplateSpec {
	found := map[string]corev1.PodTemplateSpec{}
	for _, o := range all {
		switch w := o.(type) {
		case *appsv1.StatefulSet:
			found[w.Name] = w.Spec.Template
		case *appsv1.Deployment:
			found[w.Name] = w.Spec.Template
		}
	}
	return found
}

func TestNoSecretsAreRendered(t *testing.T) {
	each(t, func(t *testing.T, _ string, v values) {
		for _, o := range objects(t, mustRender(t, usual, v)) {
			if s, ok := o.(*corev1.Secret); ok {
				t.Errorf("Secret %s: keys are made where they are used", s.Name)
			}
		}
	})
}

// rooted are the files of values whose coordinator is root, because what gives
// evidence to a guest is root's.
var rooted = map[string]bool{"snp-kata": true, "tdx-kata": true, "cvm-nodes": true, "no-injector": true, "replicas": true}

// privileged are those of them whose coordinator opens a device of the node.
var privileged = map[string]bool{"tdx-kata": true, "no-injector": true, "replicas": true}

func TestContainers(t *testing.T) {
	each(t, func(t *testing.T, name string, v values) {
		for owner, pod := range pods(objects(t, mustRender(t, usual, v))) {
			for _, c := range append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...) {
				where := owner + "/" + c.Name
				checkContainer(t, where, c)
				opens := c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
				if opens != (owner == "ashlar-coordinator" && privileged[name]) {
					t.Errorf("%s: got privileged %v", where, opens)
				}
				if !opens && (c.SecurityContext.AllowPrivilegeEscalation == nil || *c.SecurityContext.AllowPrivilegeEscalation ||
					len(c.SecurityContext.Capabilities.Drop) != 1 || c.SecurityContext.Capabilities.Drop[0] != "ALL") {
					t.Errorf("%s: got %+v, want no escalation and no capabilities", where, c.SecurityContext)
				}
			}
			p := pod.Spec.SecurityContext
			if p == nil || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: got %+v, want the runtime's seccomp profile", owner, p)
			}
			if root := p.RunAsUser == nil || *p.RunAsUser == 0; root != (owner == "ashlar-coordinator" && rooted[name]) {
				t.Errorf("%s: got root %v", owner, root)
			}
			if token := *pod.Spec.AutomountServiceAccountToken; token != (owner == "ashlar-injector") {
				t.Errorf("%s: got a token %v, want one for the injector alone", owner, token)
			}
		}
	})
}

func checkContainer(t *testing.T, where string, c corev1.Container) {
	t.Helper()
	tag := regexp.MustCompile(`(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$`)
	if !tag.MatchString(c.Image) || strings.HasSuffix(c.Image, ":latest") {
		t.Errorf("%s: got image %q, want a tag or a digest that says which", where, c.Image)
	}
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
		t.Errorf("%s: got resources %+v, want requests of both and a limit of memory", where, c.Resources)
	}
	if s := c.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		t.Errorf("%s: got %+v, want a root that cannot be written", where, s)
	}
	if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		t.Errorf("%s: its last words do not show in the pod", where)
	}
	if where != "ashlar-coordinator/init" && (c.StartupProbe == nil || c.LivenessProbe == nil || c.ReadinessProbe == nil) {
		t.Errorf("%s: a probe is missing", where)
	}
}

func TestNamesAreShort(t *testing.T) {
	for _, r := range []release{{name: strings.Repeat("x", 53), namespace: strings.Repeat("n", 63)}, {name: "a", namespace: "b"}, {name: "my-ashlar", namespace: "b"}} {
		all := objects(t, mustRender(t, r, values{"coordinator": values{"holdDrains": true}, "monitoring": values{"dashboard": values{"enabled": true}}}))
		for _, o := range all {
			m := accessor(t, o)
			most := 63
			switch o.(type) {
			case *appsv1.StatefulSet, *appsv1.Deployment:
				most = 52 // what its controller puts behind has to fit into a label
			case *admissionv1.MutatingWebhookConfiguration, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding:
				most = 253
			}
			if len(m.GetName()) > most {
				t.Errorf("%T %s has %d characters, want at most %d", o, m.GetName(), len(m.GetName()), most)
			}
			for k, v := range m.GetLabels() {
				if len(v) > 63 {
					t.Errorf("%T %s: label %s has %d characters", o, m.GetName(), k, len(v))
				}
			}
		}
	}
	long := release{name: "shop-" + strings.Repeat("x", 47) + "1", namespace: "mesh"}
	other := release{name: "shop-" + strings.Repeat("x", 47) + "2", namespace: "mesh"}
	same := commonNames(t, long, other)
	if len(same) > 0 {
		t.Errorf("two long names give the same %v", same)
	}
}

// commonNames returns what two releases would both own.
func commonNames(t *testing.T, a, b release) []string {
	t.Helper()
	owned := func(r release) map[string]bool {
		names := map[string]bool{}
		for _, o := range objects(t, mustRender(t, r, values{"monitoring": values{"dashboard": values{"enabled": true}}})) {
			m, scope := accessor(t, o), r.namespace
			switch o.(type) {
			case *admissionv1.MutatingWebhookConfiguration, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding:
				scope = ""
			}
			names[fmt.Sprintf("%T %s/%s", o, scope, m.GetName())] = true
		}
		return names
	}
	first, second := owned(a), owned(b)
	var same []string
	for n := range first {
		if second[n] {
			same = append(same, n)
		}
	}
	return same
}

func TestReleasesDoNotCollide(t *testing.T) {
	for _, c := range []struct{ a, b release }{
		{release{name: "ashlar", namespace: "one"}, release{name: "ashlar", namespace: "two"}},
		{release{name: "ashlar", namespace: "one"}, release{name: "other", namespace: "one"}},
	} {
		if same := commonNames(t, c.a, c.b); len(same) > 0 {
			t.Errorf("%v and %v both own %v", c.a, c.b, same)
		}
	}
	if same := commonNames(t, usual, usual); len(same) < 17 {
		t.Errorf("a release has %d names in common with itself, want all", len(same))
	}
}

// What a cluster refuses to change. A release that renders it otherwise can't be
// upgraded to: this table never changes.
func TestImmutableFields(t *testing.T) {
	selector := func(component string) map[string]string {
		return map[string]string{"app.kubernetes.io/name": "ashlar", "app.kubernetes.io/instance": "ashlar", "app.kubernetes.io/component": component}
	}
	each(t, func(t *testing.T, name string, v values) {
		later := usual
		later.upgrade = true
		all := objects(t, mustRender(t, later, v))
		s := find[*appsv1.StatefulSet](t, all, "ashlar-coordinator")
		if !reflect.DeepEqual(s.Spec.Selector.MatchLabels, selector("coordinator")) || len(s.Spec.Selector.MatchExpressions) > 0 {
			t.Errorf("got the coordinator's selector %v", s.Spec.Selector)
		}
		if s.Spec.ServiceName != "ashlar-coordinator" || s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
			t.Errorf("got service %s, policy %s", s.Spec.ServiceName, s.Spec.PodManagementPolicy)
		}
		claims := s.Spec.VolumeClaimTemplates
		if len(claims) != 1 || claims[0].Name != "state" || len(claims[0].Labels)+len(claims[0].Annotations) > 0 || !slices.Equal(claims[0].Spec.AccessModes, []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}) {
			t.Errorf("got claims %+v", claims)
		}
		if size := claims[0].Spec.Resources.Requests.Storage().String(); name != "everything" && (size != "1Gi" || claims[0].Spec.StorageClassName != nil) {
			t.Errorf("got a volume of %s, class %v", size, claims[0].Spec.StorageClassName)
		}
		if service := find[*corev1.Service](t, all, "ashlar-coordinator"); service.Spec.ClusterIP != "None" {
			t.Errorf("got cluster IP %q of the coordinator's pod", service.Spec.ClusterIP)
		}
		if name == "no-injector" {
			return
		}
		if d := find[*appsv1.Deployment](t, all, "ashlar-injector"); !reflect.DeepEqual(d.Spec.Selector.MatchLabels, selector("injector")) {
			t.Errorf("got the injector's selector %v", d.Spec.Selector)
		}
		if ref := find[*rbacv1.ClusterRoleBinding](t, all, "ashlar-injector.mesh").RoleRef; ref.Name != "ashlar-injector.mesh" || ref.Kind != "ClusterRole" {
			t.Errorf("got %+v", ref)
		}
		if ref := find[*rbacv1.RoleBinding](t, all, "ashlar-injector").RoleRef; ref.Name != "ashlar-injector" || ref.Kind != "Role" {
			t.Errorf("got %+v", ref)
		}
	})
}

// Selectors choose pods of their own.
func TestSelectorsMatch(t *testing.T) {
	each(t, func(t *testing.T, _ string, v values) {
		all := objects(t, mustRender(t, usual, v))
		templates := pods(all)
		matches := func(what string, selector map[string]string) {
			var found []string
			for owner, pod := range templates {
				if len(selector) > 0 && containsAll(pod.Labels, selector) {
					found = append(found, owner)
				}
			}
			if len(found) != 1 {
				t.Errorf("%s chooses the pods of %v, want one of %d", what, found, len(templates))
			}
		}
		for _, o := range all {
			switch o := o.(type) {
			case *corev1.Service:
				matches("Service "+o.Name, o.Spec.Selector)
				for _, p := range o.Spec.Ports {
					if !hasPort(templates, o.Spec.Selector, p.TargetPort.StrVal) {
						t.Errorf("Service %s: its pods have no port %s", o.Name, p.TargetPort.StrVal)
					}
				}
			case *policyv1.PodDisruptionBudget:
				matches("budget "+o.Name, o.Spec.Selector.MatchLabels)
			case *networkingv1.NetworkPolicy:
				matches("policy "+o.Name, o.Spec.PodSelector.MatchLabels)
			}
		}
	})
}

func containsAll(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func hasPort(templates map[string]corev1.PodTemplateSpec, selector map[string]string, name string) bool {
	for _, pod := range templates {
		if !containsAll(pod.Labels, selector) {
			continue
		}
		for _, p := range pod.Spec.Containers[0].Ports {
			if p.Name == name {
				return true
			}
		}
	}
	return false
}

func TestRights(t *testing.T) {
	all := objects(t, mustRender(t, usual, nil))
	rule := func(group, resource, name string, verbs ...string) rbacv1.PolicyRule {
		r := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
		if name != "" {
			r.ResourceNames = []string{name}
		}
		return r
	}
	for _, c := range []struct {
		what      string
		got, want []rbacv1.PolicyRule
	}{
		{"the cluster", find[*rbacv1.ClusterRole](t, all, "ashlar-injector.mesh").Rules, []rbacv1.PolicyRule{
			rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "ashlar-injector.mesh", "get", "patch"), // adds its certificate
			rule("", "pods", "", "list", "watch"),     // finds marbles
			rule("", "pods/status", "", "patch"),      // writes the condition
			rule("", "events", "", "create", "patch"), // and events, which repeat
		}},
		{"the namespace", find[*rbacv1.Role](t, all, "ashlar-injector").Rules, []rbacv1.PolicyRule{
			rule("coordination.k8s.io", "leases", "", "create"), // cannot be limited to a name
			rule("coordination.k8s.io", "leases", "ashlar-injector", "get", "update"),
		}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("rights in %s: got %+v, want %+v", c.what, c.got, c.want)
		}
	}
	for _, o := range all {
		var subjects []rbacv1.Subject
		switch b := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			subjects = b.Subjects
		case *rbacv1.RoleBinding:
			subjects = b.Subjects
		}
		for _, s := range subjects {
			if s.Kind != "ServiceAccount" || s.Name != "ashlar-injector" || s.Namespace != "mesh" {
				t.Errorf("%T binds %+v: only the injector has rights", o, s)
			}
		}
	}
}

func TestWebhook(t *testing.T) {
	w := find[*admissionv1.MutatingWebhookConfiguration](t, objects(t, mustRender(t, usual, values{"injector": values{"webhook": values{"namespaceLabels": values{"mesh": "blue"}}}})), "ashlar-injector.mesh").Webhooks[0]
	if len(w.ClientConfig.CABundle) > 0 {
		t.Error("a bundle was rendered: an upgrade would put it in place of the injectors' own")
	}
	pod := func(labels map[string]string) bool { return selects(t, w.ObjectSelector, labels) }
	namespace := func(labels map[string]string) bool { return selects(t, w.NamespaceSelector, labels) }
	for _, c := range []struct {
		what      string
		got, want bool
	}{
		{"a marble", pod(map[string]string{inject.Label: "web"}), true},
		{"another pod", pod(map[string]string{"app": "web"}), false},
		{"a pod that keeps it out", pod(map[string]string{inject.Label: "web", inject.Injection: "disabled"}), false},
		{"a namespace", namespace(map[string]string{"mesh": "blue", "kubernetes.io/metadata.name": "shop"}), true},
		{"a namespace of another mesh", namespace(map[string]string{"kubernetes.io/metadata.name": "shop"}), false},
		{"a namespace that keeps it out", namespace(map[string]string{"mesh": "blue", inject.Injection: "disabled"}), false},
		{"kube-system", namespace(map[string]string{"mesh": "blue", "kubernetes.io/metadata.name": "kube-system"}), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: got asked %v, want %v", c.what, c.got, c.want)
		}
	}
	if *w.FailurePolicy != admissionv1.Fail || *w.ReinvocationPolicy != admissionv1.IfNeededReinvocationPolicy {
		t.Errorf("got %s, %s; want a labelled pod refused where nobody answers, and asked again after others", *w.FailurePolicy, *w.ReinvocationPolicy)
	}
}

func selects(t *testing.T, s *metav1.LabelSelector, of map[string]string) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(labels.Set(of))
}
