//go:build linux

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
)

// operator runs ashlar commands against a namespace of the cluster.
type operator struct {
	t          *testing.T
	kubeconfig string
	namespace  string
	trust      string
}

func newOperator(t *testing.T, c *cluster.Cluster, namespace string) *operator {
	t.Helper()
	t.Setenv("HOME", t.TempDir()) // where the client library keeps what it discovers
	t.Setenv("ASHLAR_ADDRESS", "")
	return &operator{t: t, kubeconfig: c.Kubeconfig(), namespace: namespace, trust: filepath.Join(t.TempDir(), "trust")}
}

// run runs a command line.
func (o *operator) run(words ...string) (stdout, stderr string, code int) {
	o.t.Helper()
	words = append(words, "--kubeconfig", o.kubeconfig, "--namespace", o.namespace, "--trust", o.trust)
	var out, errs bytes.Buffer
	code = cli.Main(words, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// want runs a command line that has to end with a code and to say something.
func (o *operator) want(code int, says string, words ...string) string {
	o.t.Helper()
	out, errs, got := o.run(words...)
	if got != code || !strings.Contains(out+errs, says) {
		o.t.Fatalf("ashlar %s: got exit %d, want %d and %q\n%s\n%s", strings.Join(words, " "), got, code, says, out, errs)
	}
	return out
}

// becomeReady plays a kubelet that finds nothing wrong: the pods of a namespace
// are ready as soon as they are there.
func becomeReady(t *testing.T, c *cluster.Cluster, namespace string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{})
			for i := range pods.Items {
				p := &pods.Items[i]
				if err != nil || p.Status.Phase == core.PodRunning {
					continue
				}
				p.Status.Phase = core.PodRunning
				p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}
				_, _ = c.Client.CoreV1().Pods(namespace).UpdateStatus(ctx, p, meta.UpdateOptions{}) // the next round tries again
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// policyFile writes a policy that some coordinator meets.
func policyFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "policy.json")
	text := `{"tee": "sgx", "package": {"sgx": {"uniqueID": ["` + strings.Repeat("ab", 32) + `"]}}, "platform": {"sgx": {"acceptedTCBStatuses": ["UpToDate"]}}}`
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// claimsOf lists the volume claims of a namespace.
func claimsOf(t *testing.T, c *cluster.Cluster, namespace string) []string {
	t.Helper()
	list, err := c.Client.CoreV1().PersistentVolumeClaims(namespace).List(t.Context(), meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, claim := range list.Items {
		if claim.DeletionTimestamp == nil {
			names = append(names, claim.Name)
		}
	}
	return names
}

func TestReleaseIsInstalledUpgradedRolledBackAndRemoved(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	o := newOperator(t, c, ns)
	becomeReady(t, c, ns)
	policy := policyFile(t)
	install := []string{"install", "--policy", policy, "--skip-verify", "--wait", "1m"}

	out := o.want(0, "KUB-019", install...)
	if !strings.Contains(out, "revision 1") {
		t.Errorf("got %s, want the revision named", out)
	}
	o.want(7, "KUB-006", install...)
	set, err := c.Client.AppsV1().StatefulSets(ns).Get(t.Context(), "ashlar-coordinator", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if set.Status.ReadyReplicas != 1 {
		t.Errorf("install returned with %d coordinators ready, want 1", set.Status.ReadyReplicas)
	}

	before := keysBelow(t, c, ns)
	o.want(0, "spec.replicas: 2 → 3", "upgrade", "--set", "injector.replicas=3", "--dry-run", "--skip-verify")
	o.want(2, "CLI-006", "upgrade", "--set", "injector.replicas=3", "--skip-verify")
	o.want(7, "KUB-009", "upgrade", "--set", "coordinator.state.size=2Gi", "--yes", "--skip-verify")
	o.want(7, "KUB-009", "upgrade", "--set", "fullnameOverride=other", "--yes", "--skip-verify")
	o.want(6, "injector.replicas", "upgrade", "--set", "injector.replicas=many", "--yes", "--skip-verify")
	if after := keysBelow(t, c, ns); !slices.Equal(before, after) {
		t.Errorf("refused and rehearsed changes left something: got %d keys, want %d\n%v", len(after), len(before), after)
	}

	o.want(0, "revision 2", "upgrade", "--set", "injector.replicas=3", "--yes", "--skip-verify")
	o.want(0, "revision 3", "upgrade", "--set", "coordinator.logFormat=text", "--yes", "--skip-verify")
	wantReplicas(t, c, ns, 3) // the value of revision 2 stays
	o.want(0, "revision 4", "rollback", "1", "--yes", "--skip-verify")
	wantReplicas(t, c, ns, 2)

	state := claimsOf(t, c, ns)
	if len(state) != 1 {
		t.Fatalf("got volume claims %v, want the coordinator's", state)
	}
	claim, err := c.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), state[0], meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o.want(0, "kept          volume claim "+state[0], "uninstall", "--yes")
	o.want(1, "KUB-007", "uninstall", "--yes")
	hooks, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(t.Context(), meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hooks.Items {
		if strings.HasSuffix(h.Name, "."+ns) {
			t.Errorf("webhook configuration %s is still there", h.Name)
		}
	}

	o.want(0, "its state is used", install...)
	again, err := c.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), state[0], meta.GetOptions{})
	if err != nil || again.UID != claim.UID {
		t.Errorf("got claim %s (%v), want %s: the state that was kept", again.UID, err, claim.UID)
	}
	set, err = c.Client.AppsV1().StatefulSets(ns).Get(t.Context(), "ashlar-coordinator", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(set.Spec.Template.Spec.InitContainers); n != 0 {
		t.Errorf("a release that takes a state up has %d init containers, want none that makes one", n)
	}
	o.want(2, "--delete-state", "uninstall", "--delete-state", "other", "--yes")
	o.want(0, "deleted       volume claim", "uninstall", "--delete-state", "ashlar", "--yes")
	drive.Eventually(t, patience, func() string {
		if left := claimsOf(t, c, ns); len(left) > 0 {
			return fmt.Sprintf("claims %v are left", left)
		}
		return ""
	})
}

func wantReplicas(t *testing.T, c *cluster.Cluster, namespace string, want int32) {
	t.Helper()
	d, err := c.Client.AppsV1().Deployments(namespace).Get(t.Context(), "ashlar-injector", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != want {
		t.Errorf("got %d injectors, want %d", *d.Spec.Replicas, want)
	}
}

// keysBelow lists what etcd has of a namespace, but for what comes and goes by
// itself: events, and the endpoints of the Services.
func keysBelow(t *testing.T, c *cluster.Cluster, namespace string) []string {
	t.Helper()
	var keys []string
	if err := c.Raw(t.Context(), func(key string, _ []byte) {
		own := slices.ContainsFunc([]string{"/registry/events/", "/registry/endpointslices/", "/registry/services/endpoints/"},
			func(prefix string) bool { return strings.HasPrefix(key, prefix) })
		if strings.Contains(key, namespace) && !own {
			keys = append(keys, key)
		}
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

func TestInstallSaysWhatIsNotReady(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	o := newOperator(t, c, ns)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // a scheduler without nodes for it
		defer close(done)
		for ctx.Err() == nil {
			p, err := c.Client.CoreV1().Pods(ns).Get(ctx, "ashlar-coordinator-0", meta.GetOptions{})
			if err == nil && len(p.Status.Conditions) == 0 {
				p.Status.Conditions = []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionFalse, Reason: "Unschedulable",
					Message: "0/3 nodes are available: 3 Insufficient sgx.intel.com/epc. preemption: 0/3 nodes are available."}}
				_, _ = c.Client.CoreV1().Pods(ns).UpdateStatus(ctx, p, meta.UpdateOptions{})
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	_, errs, code := o.run("install", "--policy", policyFile(t), "--wait", "15s")
	cancel()
	<-done
	for _, want := range []string{"KUB-008", "ashlar-coordinator 0/1: pending: no node offers sgx.intel.com/epc (0/3 nodes)", "ashlar-injector 0/2", "device plugin"} {
		if !strings.Contains(errs, want) {
			t.Errorf("got no %q in\n%s", want, errs)
		}
	}
	if code != 4 {
		t.Errorf("got exit %d, want 4", code)
	}
	o.want(0, "removed", "uninstall", "--delete-state", "ashlar", "--yes")
}

func TestInstallIsRefusedBeforeAnythingIsMade(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	o := newOperator(t, c, ns)
	before := keysBelow(t, c, ns)
	policy := policyFile(t)

	o.want(6, "do not fit together: policy: say", "install")
	o.want(2, "--policy FILE", "install", "--set", "injector.enabled=false")
	o.want(6, "there is no such value", "install", "--policy", policy, "--set", "injector.replica=1")
	o.want(0, "dry run: nothing was changed", "install", "--policy", policy, "--dry-run")

	reader := &rbac.RoleBinding{ObjectMeta: meta.ObjectMeta{Name: "bob"}, RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects: []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: "bob"}}}
	if _, err := c.Client.RbacV1().RoleBindings(ns).Create(t.Context(), reader, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	may := &authorization.SubjectAccessReview{Spec: authorization.SubjectAccessReviewSpec{User: "bob",
		ResourceAttributes: &authorization.ResourceAttributes{Namespace: ns, Verb: "list", Resource: "secrets"}}}
	drive.Eventually(t, patience, func() string { // the API server takes a moment to know of a role
		got, err := c.Client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), may, meta.CreateOptions{})
		if err != nil || !got.Status.Allowed {
			return fmt.Sprintf("bob has no rights yet (%v)", err)
		}
		return ""
	})
	bob, err := c.User("bob")
	if err != nil {
		t.Fatal(err)
	}
	administrator := o.kubeconfig
	o.kubeconfig = filepath.Join(t.TempDir(), "bob")
	bobs := *o
	if err := cluster.WriteKubeconfig(o.kubeconfig, bob, ns); err != nil {
		t.Fatal(err)
	}
	o.want(5, "mutatingwebhookconfigurations.admissionregistration.k8s.io", "install", "--policy", policy)
	o.kubeconfig = administrator
	o.want(0, "", "install", "--policy", policy, "--wait", "0")
	bobs.want(5, "delete mutatingwebhookconfigurations.admissionregistration.k8s.io in the cluster", "uninstall", "--yes")
	o.want(0, "removed", "uninstall", "--delete-state", "ashlar", "--yes")
	if err := c.Client.RbacV1().RoleBindings(ns).Delete(t.Context(), "bob", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	theirs := &core.Service{ObjectMeta: meta.ObjectMeta{Name: "ashlar-mesh"}, Spec: core.ServiceSpec{Ports: []core.ServicePort{{Port: 1}}}}
	if _, err := c.Client.CoreV1().Services(ns).Create(t.Context(), theirs, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	o.want(7, "KUB-015", "install", "--policy", policy)
	if err := c.Client.CoreV1().Services(ns).Delete(t.Context(), "ashlar-mesh", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	same := func() string {
		if after := keysBelow(t, c, ns); !slices.Equal(before, after) {
			return fmt.Sprintf("got keys %v, want %v", after, before)
		}
		return ""
	}
	drive.Eventually(t, patience, same)

	o.namespace = "not-" + ns
	o.want(2, "there is no namespace", "install", "--policy", policy, "--create-namespace=false")
	o.want(0, "dry run", "install", "--policy", policy, "--dry-run")
	if _, err := c.Client.CoreV1().Namespaces().Get(t.Context(), o.namespace, meta.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run made a namespace: %v", err)
	}
}

func TestUpgradeGoesBackWhenItDoesNotGetReady(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	o := newOperator(t, c, ns)
	out := o.want(0, "", "install", "--policy", policyFile(t), "--wait", "0", "-o", "json")
	var made struct {
		Release  struct{ Revision int }
		Changes  []struct{ Action, Object string }
		Verified any
		Warning  string
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Release.Revision != 1 || len(made.Changes) == 0 || made.Verified != nil || made.Warning != "KUB-019" {
		t.Errorf("got %s (%v), want revision 1, what was made, and the warning", out, err)
	}
	out = o.want(4, "KUB-008", "upgrade", "--set", "injector.replicas=3", "--yes", "--skip-verify", "--wait", "2s", "--atomic")
	if !strings.Contains(out, "spec.replicas: 2 → 3") {
		t.Errorf("got %s, want the change shown", out)
	}
	wantReplicas(t, c, ns, 2)
	drive.Eventually(t, patience, func() string { // nothing has waited for the controllers so far
		if claims := claimsOf(t, c, ns); len(claims) != 1 {
			return fmt.Sprintf("got volume claims %v, want the coordinator's", claims)
		}
		return ""
	})
	out = o.want(0, "", "uninstall", "--yes", "-o", "json")
	var doc struct {
		Release struct{ Revision int }
		Kept    []string `json:"keptState"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Release.Revision != 3 || len(doc.Kept) != 1 {
		t.Errorf("got %s (%v), want revision 3 and one claim kept", out, err)
	}
}
