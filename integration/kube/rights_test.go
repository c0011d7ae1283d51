//go:build linux

package kube

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// verbs are all that RBAC knows, those that give more rights among them.
var verbs = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "escalate", "impersonate", "approve", "sign", "use"}

// right is one thing that a subject may do.
type right struct{ namespace, verb, resource, name string }

func (r right) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s in %q", r.verb, r.resource, r.name, r.namespace))
}

// may asks the API server about each right.
func (m *mesh) may(account string, asked []right) []right {
	m.t.Helper()
	var mu sync.Mutex
	var allowed []right
	var failed error
	var work sync.WaitGroup
	queue := make(chan right)
	for range 16 {
		work.Go(func() {
			for r := range queue {
				group, resource, _ := strings.Cut(r.resource, "|")
				resource, sub, _ := strings.Cut(resource, "/")
				review := &authorization.SubjectAccessReview{Spec: authorization.SubjectAccessReviewSpec{
					User:   "system:serviceaccount:" + m.ns + ":" + account,
					Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + m.ns, "system:authenticated"},
					ResourceAttributes: &authorization.ResourceAttributes{Namespace: r.namespace, Verb: r.verb, Group: group, Resource: resource,
						Subresource: sub, Name: r.name}}}
				got, err := m.c.Client.AuthorizationV1().SubjectAccessReviews().Create(m.t.Context(), review, meta.CreateOptions{})
				mu.Lock()
				switch {
				case err != nil:
					failed = err
				case got.Status.Allowed:
					allowed = append(allowed, r)
				}
				mu.Unlock()
			}
		})
	}
	for _, r := range asked {
		queue <- r
	}
	close(queue)
	work.Wait()
	if failed != nil {
		m.t.Fatal(failed)
	}
	return allowed
}

// everyRight is each verb on each resource and subresource that the API server
// has, in the release's namespace, in another and in all of them.
func (m *mesh) everyRight() []right {
	m.t.Helper()
	_, lists, err := m.c.Client.Discovery().ServerGroupsAndResources()
	if err != nil {
		m.t.Fatal(err)
	}
	var all []right
	for _, list := range lists {
		group, _, found := strings.Cut(list.GroupVersion, "/")
		if !found {
			group = ""
		}
		for _, r := range list.APIResources {
			for _, verb := range verbs {
				for _, ns := range []string{m.ns, "kube-system", ""} {
					if ns == "" || r.Namespaced {
						all = append(all, right{ns, verb, group + "|" + r.Name, ""})
					}
				}
			}
		}
	}
	return all
}

// rights compares what each ServiceAccount of the chart may do beyond one that has
// no role with what it needs; then it tries some of the rest for real.
func (m *mesh) rights(string) {
	webhook := m.webhook()
	const hooks, lease = "admissionregistration.k8s.io|mutatingwebhookconfigurations", "coordination.k8s.io|leases"
	everywhere := func(verb, resource string) []right {
		return []right{{m.ns, verb, resource, ""}, {"kube-system", verb, resource, ""}, {"", verb, resource, ""}}
	}
	needed := slices.Concat(everywhere("list", "|pods"), everywhere("watch", "|pods"), everywhere("patch", "|pods/status"),
		everywhere("create", "|events"), everywhere("patch", "|events"),
		[]right{{m.ns, "create", lease, ""}, {m.ns, "get", lease, "ashlar-injector"}, {m.ns, "update", lease, "ashlar-injector"},
			{"", "get", hooks, webhook}, {"", "patch", hooks, webhook}})
	named := []right{{m.ns, "get", lease, "other"}, {m.ns, "update", lease, "other"}, {"kube-system", "update", lease, "ashlar-injector"},
		{m.ns, "delete", lease, "ashlar-injector"}, {"", "get", hooks, "other"}, {"", "patch", hooks, "other"}, {"", "update", hooks, webhook},
		{"", "delete", hooks, webhook}, {m.ns, "get", "|secrets", "sh.helm.release.v1.ashlar.v1"}, {m.ns, "get", "|configmaps", "ashlar-injector"}}
	asked := slices.Concat(m.everyRight(), named, needed)
	for account, want := range map[string][]right{"ashlar-injector": needed, "ashlar-coordinator": nil} {
		beyond := slices.DeleteFunc(m.may(account, asked), func(r right) bool { return slices.Contains(want, r) })
		everybodys := m.may("nobody", beyond)
		for _, r := range beyond {
			if !slices.Contains(everybodys, r) {
				m.t.Errorf("%s may %s: nothing needs that", account, r)
			}
		}
		if got := m.may(account, want); len(got) != len(want) {
			m.t.Errorf("%s may %v, want all of %v", account, got, want)
		}
	}
	m.t.Logf("asked about %d rights", len(asked))
	m.denied("ashlar-injector")
	m.denied("ashlar-coordinator")
	if b, err := m.nodes.ReadFile(m.ns, "ashlar-coordinator-0", "coordinator", "/var/run/secrets/kubernetes.io/serviceaccount/token"); err == nil {
		m.t.Errorf("the coordinator's pod has a token of %d bytes, want none", len(b))
	}
}

// webhook is the name of the release's webhook configuration.
func (m *mesh) webhook() string {
	m.t.Helper()
	list, err := m.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(m.t.Context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/part-of=ashlar"})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, w := range list.Items {
		if len(w.Webhooks) > 0 && w.Webhooks[0].ClientConfig.Service != nil && w.Webhooks[0].ClientConfig.Service.Namespace == m.ns {
			return w.Name
		}
	}
	m.t.Fatal("the release has no webhook")
	return ""
}

// denied tries with an account's own token what it must not do.
func (m *mesh) denied(account string) {
	m.t.Helper()
	cfg, err := m.c.ServiceAccount(m.t.Context(), m.ns, account)
	if err != nil {
		m.t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx := m.t.Context()
	_, list := c.CoreV1().Secrets(m.ns).List(ctx, meta.ListOptions{})
	_, create := c.CoreV1().Pods(m.ns).Create(ctx, &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "x"}, Spec: core.PodSpec{Containers: []core.Container{{Name: "x", Image: "x"}}}}, meta.CreateOptions{})
	exec := c.CoreV1().RESTClient().Post().Namespace(m.ns).Resource("pods").Name("ashlar-coordinator-0").SubResource("exec").Param("command", "true").Do(ctx).Error()
	forward := c.CoreV1().RESTClient().Post().Namespace(m.ns).Resource("pods").Name("ashlar-coordinator-0").SubResource("portforward").Do(ctx).Error()
	_, hook := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, "other", "application/json-patch+json", []byte("[]"), meta.PatchOptions{})
	remove := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, m.webhook(), meta.DeleteOptions{})
	for what, err := range map[string]error{"list secrets": list, "create a pod": create, "exec into the coordinator": exec,
		"forward a port": forward, "patch another webhook": hook, "delete its webhook": remove} {
		if !apierrors.IsForbidden(err) {
			m.t.Errorf("%s tries to %s: got %v, want forbidden", account, what, err)
		}
	}
}
