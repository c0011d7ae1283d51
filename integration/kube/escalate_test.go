//go:build linux

package kube

import (
	"context"
	"strings"
	"testing"

	registration "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// TestNobodyGetsPrivilegesByLabel: what the injector adds is judged as if the pod
// had been written so. Who names a profile with devices of the node in a
// namespace that does not admit them gets no pod.
func TestNobodyGetsPrivilegesByLabel(t *testing.T) {
	c := controlPlane(t)
	settings := inject.Settings{Coordinator: "mesh:2001", Policy: "{}", Image: "ashlar-marble"}
	marble := inject.Marble{Name: "web", TEEs: []string{"sim:sgx", "snp", "tdx:azure"}, Ports: []int32{8080}}
	client := mutating(t, func(p *core.Pod) (*core.Pod, error) {
		r, err := inject.Pod(p, marble, settings)
		return r.Pod, err
	})
	fail, none, again := registration.Fail, registration.SideEffectClassNone, registration.IfNeededReinvocationPolicy
	hook := &registration.MutatingWebhookConfiguration{ObjectMeta: meta.ObjectMeta{Name: "escalate"}, Webhooks: []registration.MutatingWebhook{{
		Name: "escalate.ashlar.dev", ClientConfig: client, FailurePolicy: &fail, SideEffects: &none, ReinvocationPolicy: &again, AdmissionReviewVersions: []string{"v1"},
		NamespaceSelector: &meta.LabelSelector{MatchLabels: map[string]string{"test": "escalate"}},
		Rules:             []registration.RuleWithOperations{{Operations: []registration.OperationType{registration.Create}, Rule: registration.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}}}}
	if _, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), hook, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(context.WithoutCancel(t.Context()), hook.Name, meta.DeleteOptions{})
	})
	for level, admits := range map[string]map[string]bool{
		"privileged": {"snp-node": true, "aks-tdx-node": true, "sim": true, "gke-snp-node": true},
		"baseline":   {"snp-node": false, "aks-tdx-node": false, "sim": false, "gke-snp-node": true},
		"restricted": {"snp-node": false, "aks-tdx-node": false, "sim": false, "gke-snp-node": true},
	} {
		ns := c.Namespace(t, map[string]string{"test": "escalate", "pod-security.kubernetes.io/enforce": level})
		for profile, admitted := range admits {
			drive.Eventually(t, patience, func() string { // until the API server has the webhook
				made, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), modest(profile), meta.CreateOptions{})
				switch {
				case err == nil && made.Annotations[inject.Injected] == "":
					return "the webhook was not called"
				case err == nil && !admitted:
					t.Errorf("%s, profile %s: the pod was admitted: %+v", level, profile, made.Spec.Containers[0].SecurityContext)
				case err != nil && (admitted || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "violates PodSecurity")):
					t.Errorf("%s, profile %s: got %v, want admitted: %v", level, profile, err, admitted)
				}
				return ""
			})
		}
	}
}

// modest is a pod that every level admits, of a marble by a profile.
func modest(profile string) *core.Pod {
	no, yes, user := false, true, int64(1000)
	sc := &core.PodSecurityContext{SeccompProfile: &core.SeccompProfile{Type: core.SeccompProfileTypeRuntimeDefault}}
	own := &core.SecurityContext{Capabilities: &core.Capabilities{Drop: []core.Capability{"ALL"}}}
	if profile == "gke-snp-node" {
		sc.RunAsNonRoot, sc.RunAsUser, own.AllowPrivilegeEscalation = &yes, &user, &no
	}
	return &core.Pod{ObjectMeta: meta.ObjectMeta{GenerateName: "web-", Labels: map[string]string{inject.Label: "web"}, Annotations: map[string]string{inject.ProfileOf: profile}},
		Spec: core.PodSpec{AutomountServiceAccountToken: &no, SecurityContext: sc, Containers: []core.Container{{Name: "web", Image: "web", Command: []string{"/web"}, SecurityContext: own}}}}
}
