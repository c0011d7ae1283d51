//go:build linux

package kube

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync/atomic"
	"testing"

	admission "k8s.io/api/admission/v1"
	registration "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	node "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// mutating answers reviews of pods by changing them.
func mutating(t *testing.T, change func(*core.Pod) (*core.Pod, error)) registration.WebhookClientConfig {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		var review admission.AdmissionReview
		var pod core.Pod
		if json.Unmarshal(raw, &review) != nil || json.Unmarshal(review.Request.Object.Raw, &pod) != nil {
			http.Error(w, "no review of a pod", http.StatusBadRequest)
			return
		}
		kind := admission.PatchTypeJSONPatch
		answer := &admission.AdmissionResponse{UID: review.Request.UID, PatchType: &kind}
		if changed, err := change(pod.DeepCopy()); err != nil {
			answer.PatchType, answer.Result = nil, &meta.Status{Message: err.Error()}
		} else {
			before, _ := json.Marshal(pod)
			after, _ := json.Marshal(changed)
			answer.Patch, err = inject.Patch(before, after)
			answer.Allowed = err == nil
		}
		review.Request, review.Response = nil, answer
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(s.Close)
	url := s.URL + "/inject"
	return registration.WebhookClientConfig{URL: &url, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
}

// TestAPIServerCallsAgain has another injector change the pod after ours, so that
// the API server calls ours a second time, after it has filled in what it fills
// in: defaults, and the overhead of the RuntimeClass that ours has set.
func TestAPIServerCallsAgain(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	overhead := core.ResourceList{core.ResourceMemory: resource.MustParse("160Mi"), "sev-snp.amd.com/esids": resource.MustParse("1")}
	class := &node.RuntimeClass{ObjectMeta: meta.ObjectMeta{Name: "again"}, Handler: "again", Overhead: &node.Overhead{PodFixed: overhead},
		Scheduling: &node.Scheduling{NodeSelector: map[string]string{"katacontainers.io/kata-runtime": "true"}}}
	if _, err := c.Client.NodeV1().RuntimeClasses().Create(t.Context(), class, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	settings := inject.Settings{Coordinator: "mesh:2001", Policy: "{}", Image: "ashlar-marble", Defaults: map[string]string{"snp": "again"}, ReadinessGate: true,
		Profiles: map[string]inject.Profile{"again": {TEE: "snp", Runtime: inject.Wrap, RuntimeClass: "again", NodeLabels: map[string]string{"pool": "snp"}}}}
	marble := inject.Marble{Name: "web", TEEs: []string{"snp"}, Ports: []int32{8080}}
	var second atomic.Pointer[core.Pod]
	ours := mutating(t, func(p *core.Pod) (*core.Pod, error) {
		r, err := inject.Pod(p, marble, settings)
		if p.Annotations[inject.Injected] != "" && err == nil {
			second.Store(p)
			if !reflect.DeepEqual(r.Pod, p) {
				t.Errorf("the second call changed the pod: got\n%+v\nwant\n%+v", r.Pod.Spec, p.Spec)
			}
		}
		return r.Pod, err
	})
	others := mutating(t, func(p *core.Pod) (*core.Pod, error) {
		if len(p.Spec.Containers) == 1 {
			p.Spec.Containers = append([]core.Container{{Name: "proxy", Image: "proxy"}}, p.Spec.Containers...)
		}
		return p, nil
	})
	fail, none, again := registration.Fail, registration.SideEffectClassNone, registration.IfNeededReinvocationPolicy
	for name, client := range map[string]registration.WebhookClientConfig{"a-ashlar": ours, "z-other": others} {
		hook := &registration.MutatingWebhookConfiguration{ObjectMeta: meta.ObjectMeta{Name: name}, Webhooks: []registration.MutatingWebhook{{
			Name: name + ".ashlar.dev", ClientConfig: client, FailurePolicy: &fail, SideEffects: &none, ReinvocationPolicy: &again, AdmissionReviewVersions: []string{"v1"},
			NamespaceSelector: &meta.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}},
			Rules:             []registration.RuleWithOperations{{Operations: []registration.OperationType{registration.Create}, Rule: registration.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}}}}
		if _, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), hook, meta.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(context.WithoutCancel(t.Context()), name, meta.DeleteOptions{})
		})
	}
	var made *core.Pod
	drive.Eventually(t, patience, func() string { // until the API server has both webhooks
		pod := &core.Pod{ObjectMeta: meta.ObjectMeta{GenerateName: "web-", Labels: map[string]string{inject.Label: "web"}},
			Spec: core.PodSpec{Containers: []core.Container{{Name: "web", Image: "web", Command: []string{"/web"},
				VolumeMounts: []core.VolumeMount{{Name: "db", MountPath: "/etc/db"}}}},
				Volumes: []core.Volume{{Name: "db", VolumeSource: core.VolumeSource{Secret: &core.SecretVolumeSource{SecretName: "db"}}}}}}
		var err error
		if made, err = c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, meta.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if len(made.Spec.Containers) != 2 || made.Annotations[inject.Injected] == "" {
			return "not both webhooks were called"
		}
		return ""
	})
	if second.Load() == nil {
		t.Fatal("ours was not called again")
	}
	if got := made.Spec.Overhead[core.ResourceMemory]; got.String() != "160Mi" || made.Spec.NodeSelector["katacontainers.io/kata-runtime"] != "true" {
		t.Errorf("got overhead %v and nodeSelector %v, want the RuntimeClass's", made.Spec.Overhead, made.Spec.NodeSelector)
	}
	if made.Annotations[inject.Container] != "web" || made.Spec.Containers[1].Command[0] != "/ashlar/bin/ashlar-marble" {
		t.Errorf("got the program %s", made.Annotations[inject.Container])
	}
}
