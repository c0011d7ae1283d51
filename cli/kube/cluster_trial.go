package kube

import (
	"cmp"
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// checkWebhook looks at the webhook's configuration, at the Service behind it,
// and at what it answers. Where nothing is installed there is nothing to look at.
func (c *Cluster) checkWebhook(ctx context.Context, o *CheckOptions) []check.Finding {
	configs, err := c.client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return []check.Finding{check.FromError(c.failure(err, "listing webhooks"))}
	}
	name, hook := injectorHook(configs.Items, c.Namespace)
	if hook == nil {
		none := check.Fail("KUB-034", "no webhook is there for pods with the label %s", inject.Label)
		if parts, err := c.parts(ctx); err == nil && len(parts) == 0 {
			none.State = check.Warned // nor is anything else: that is said elsewhere
			none.Next = "ashlar install"
		}
		return []check.Finding{none}
	}
	out := []check.Finding{hookFinding(name, *hook), bundleFinding(name, hook.ClientConfig.CABundle, o.Now())}
	if s := hook.ClientConfig.Service; s != nil {
		out = append(out, c.checkEndpoints(ctx, *s))
	}
	return append(out, c.tryPods(ctx, cmp.Or(o.Marble, noMarble), *hook)...)
}

// noMarble is tried where no marble's name is known: a refusal is an answer too.
const noMarble = "ashlar-check"

func (c *Cluster) checkEndpoints(ctx context.Context, s admissionv1.ServiceReference) check.Finding {
	list, err := c.client.DiscoveryV1().EndpointSlices(s.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + s.Name, Limit: pageSize})
	if err != nil {
		return check.FromError(c.failure(err, "listing the endpoints of Service %s", s.Name))
	}
	return endpointsFinding(s.Namespace+"/"+s.Name, list.Items)
}

// tryPods creates pods that the API server does not keep: one with the label and
// one without.
func (c *Cluster) tryPods(ctx context.Context, marble string, hook admissionv1.MutatingWebhook) []check.Finding {
	where, err := c.trialNamespace(ctx, hook)
	if err != nil {
		return []check.Finding{check.FromError(err)}
	}
	if where == "" {
		return []check.Finding{check.Fail("KUB-034", "the webhook's namespaceSelector takes no namespace")}
	}
	marked := c.dryRun(ctx, trialPod(where, marble))
	if apierrors.IsForbidden(marked.err) && refusalOf(marked.err.Error()).by == "" {
		return []check.Finding{check.FromError(c.failure(marked.err, "trying a pod in namespace %s", where))}
	}
	return []check.Finding{markedFinding(marble, marked), plainFinding(c.dryRun(ctx, trialPod(where, "")))}
}

// trialNamespace is one that the webhook is for: the namespace at hand if it is.
func (c *Cluster) trialNamespace(ctx context.Context, hook admissionv1.MutatingWebhook) (string, error) {
	list, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return "", c.failure(err, "listing namespaces")
	}
	selector, err := metav1.LabelSelectorAsSelector(hook.NamespaceSelector)
	if err != nil || hook.NamespaceSelector == nil {
		selector = labels.Everything()
	}
	return chosen(list.Items, selector, c.Namespace), nil
}

// chosen is the preferred namespace if the selector takes it, and else the first
// that it takes.
func chosen(all []corev1.Namespace, selector labels.Selector, preferred string) string {
	first := ""
	for _, ns := range all {
		if ns.Status.Phase == corev1.NamespaceTerminating || !selector.Matches(labels.Set(ns.Labels)) {
			continue
		}
		if ns.Name == preferred {
			return ns.Name
		}
		if first == "" {
			first = ns.Name
		}
	}
	return first
}

func (c *Cluster) dryRun(ctx context.Context, pod *corev1.Pod) tried {
	got, err := c.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return tried{got, err}
}

// trialPod is a pod that every level of pod security admits; of a marble if one
// is named.
func trialPod(namespace, marble string) *corev1.Pod {
	yes, no := true, false
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "ashlar-check-", Namespace: namespace, Labels: map[string]string{}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no,
			SecurityContext:              &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{Name: "trial", Image: "trial.invalid/trial", Command: []string{"/trial"},
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}}},
		},
	}
	if marble != "" {
		pod.Labels[inject.Label] = marble
	}
	return pod
}
