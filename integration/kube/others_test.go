//go:build linux

package kube

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	admission "k8s.io/api/admission/v1"
	registration "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
)

// sidecar is what another injector adds to every pod.
const sidecar = "other-sidecar"

// otherInjector answers reviews by adding a sidecar, and a variable to each
// container, unless they are there.
func otherInjector(w http.ResponseWriter, r *http.Request) {
	var review admission.AdmissionReview
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil || json.Unmarshal(body, &review) != nil || review.Request == nil {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	var pod core.Pod
	if err := json.Unmarshal(review.Request.Object.Raw, &pod); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	var patch []op
	for i, c := range pod.Spec.Containers {
		switch {
		case slices.ContainsFunc(c.Env, func(e core.EnvVar) bool { return e.Name == "OTHER" }):
		case len(c.Env) == 0:
			patch = append(patch, op{"add", fmt.Sprintf("/spec/containers/%d/env", i), []core.EnvVar{{Name: "OTHER", Value: "1"}}})
		default:
			patch = append(patch, op{"add", fmt.Sprintf("/spec/containers/%d/env/-", i), core.EnvVar{Name: "OTHER", Value: "1"}})
		}
	}
	if !slices.ContainsFunc(pod.Spec.Containers, func(c core.Container) bool { return c.Name == sidecar }) {
		patch = append(patch, op{"add", "/spec/containers/-", core.Container{Name: sidecar, Image: "tools", Command: []string{"/bin/sleep", "1000"}}})
	}
	raw, err := json.Marshal(patch)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	kind := admission.PatchTypeJSONPatch
	review.Response = &admission.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	if len(patch) > 0 {
		review.Response.Patch, review.Response.PatchType = raw, &kind
	}
	review.Request = nil
	_ = json.NewEncoder(w).Encode(review)
}

// serveOther runs the other injector and returns its address.
func (m *mesh) serveOther() string {
	m.t.Helper()
	pair, err := m.c.Serving("other", isolate.Gateway)
	if err != nil {
		m.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		m.t.Fatal(err)
	}
	l, err := net.Listen("tcp", isolate.Gateway+":0")
	if err != nil {
		m.t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(otherInjector), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}))
	}()
	m.t.Cleanup(func() { _ = s.Close(); <-done })
	return "https://" + l.Addr().String()
}

// besideOthers has another injector change pods before ours or after it. Each has
// its say once: nothing is there twice.
func (m *mesh) besideOthers(shop string) {
	url := m.serveOther()
	for _, order := range []string{"a-before", "z-after"} {
		fail, none, again, timeout := registration.Fail, registration.SideEffectClassNone, registration.IfNeededReinvocationPolicy, int32(10)
		hook := &registration.MutatingWebhookConfiguration{ObjectMeta: meta.ObjectMeta{Name: order},
			Webhooks: []registration.MutatingWebhook{{Name: "other.example.com", ClientConfig: registration.WebhookClientConfig{URL: &url, CABundle: m.c.CA()},
				Rules: []registration.RuleWithOperations{{Operations: []registration.OperationType{registration.Create},
					Rule: registration.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}},
				NamespaceSelector: &meta.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": shop}},
				FailurePolicy:     &fail, SideEffects: &none, ReinvocationPolicy: &again, TimeoutSeconds: &timeout, AdmissionReviewVersions: []string{"v1"}}}}
		hooks := m.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
		if _, err := hooks.Create(m.t.Context(), hook, meta.CreateOptions{}); err != nil {
			m.t.Fatal(err)
		}
		var made *core.Pod
		drive.Eventually(m.t, patience, func() string { // a new webhook takes a moment to count
			pod, err := m.c.Client.CoreV1().Pods(shop).Create(m.t.Context(), m.plainPod("beside", "gateway"), meta.CreateOptions{DryRun: []string{meta.DryRunAll}})
			if err != nil {
				return err.Error()
			}
			if made = pod; len(pod.Spec.Containers) < 2 {
				return "the other injector was not asked yet"
			}
			return ""
		})
		m.once(order, made)
		if err := hooks.Delete(m.t.Context(), order, meta.DeleteOptions{}); err != nil {
			m.t.Fatal(err)
		}
		drive.Eventually(m.t, patience, func() string { // and its removal too
			pod, err := m.c.Client.CoreV1().Pods(shop).Create(m.t.Context(), m.plainPod("alone", ""), meta.CreateOptions{DryRun: []string{meta.DryRunAll}})
			if err != nil || len(pod.Spec.Containers) != 1 {
				return fmt.Sprintf("the other injector is asked yet (%v)", err)
			}
			return ""
		})
	}
}

// plainPod is a pod as a developer writes it, with a label or without.
func (m *mesh) plainPod(name, marble string) *core.Pod {
	p := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: core.PodSpec{
		Containers: []core.Container{{Name: "main", Image: "shop-gateway", Command: []string{"/app/gateway"}}}}}
	if marble != "" {
		p.Labels = map[string]string{"ashlar.dev/marble": marble}
	}
	return p
}

// once checks that everything in a pod is there one time, and the program wrapped
// once.
func (m *mesh) once(order string, pod *core.Pod) {
	m.t.Helper()
	count := map[string]int{}
	for _, v := range pod.Spec.Volumes {
		count["volume "+v.Name]++
	}
	for _, c := range append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...) {
		count["container "+c.Name]++
		for _, e := range c.Env {
			count["variable "+e.Name+" of "+c.Name]++
		}
		for _, v := range c.VolumeMounts {
			count["mount "+v.MountPath+" of "+c.Name]++
		}
		if words := strings.Join(append(slices.Clone(c.Command), c.Args...), " "); c.Name == "main" && (strings.Count(words, "ashlar-marble") != 1 || !strings.HasSuffix(words, "-- /app/gateway")) {
			m.t.Errorf("%s: the program is started by %q, want it wrapped once", order, words)
		}
	}
	for what, n := range count {
		if n != 1 {
			m.t.Errorf("%s: %s is there %d times", order, what, n)
		}
	}
	for _, want := range []string{"container " + sidecar, "container ashlar-install", "variable OTHER of main", "variable ASHLAR_MARBLE of main"} {
		if count[want] != 1 {
			m.t.Errorf("%s: no %s", order, want)
		}
	}
	if count["variable ASHLAR_MARBLE of "+sidecar] != 0 {
		m.t.Errorf("%s: the other's sidecar was taken for the program", order)
	}
}

// withoutInjector stops the injectors: labelled pods are refused, and nobody else
// notices.
func (m *mesh) withoutInjector(shop string) {
	m.scale(0)
	dry := meta.CreateOptions{DryRun: []string{meta.DryRunAll}}
	pods := m.c.Client.CoreV1().Pods
	drive.Eventually(m.t, patience, func() string {
		_, err := pods(shop).Create(m.t.Context(), m.plainPod("refused", "gateway"), dry)
		if err == nil || !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "failed calling webhook") {
			return fmt.Sprintf("a labelled pod while no injector runs: got %v, want that the webhook cannot be called", err)
		}
		return ""
	})
	if _, err := pods(shop).Create(m.t.Context(), m.plainPod("plain", ""), dry); err != nil {
		m.t.Errorf("a pod without the label while no injector runs: %v", err)
	}
	if _, err := pods("kube-system").Create(m.t.Context(), m.plainPod("system", "gateway"), dry); err != nil {
		m.t.Errorf("a labelled pod in kube-system while no injector runs: %v", err)
	}
	off := m.plainPod("off", "gateway")
	off.Labels["ashlar.dev/injection"] = "disabled"
	if _, err := pods(shop).Create(m.t.Context(), off, dry); err != nil {
		m.t.Errorf("a pod that the injector is kept out of: %v", err)
	}
	m.scale(2)
	readyPods(m.t, m.c.Client, m.ns, "app.kubernetes.io/component=injector", 2)
	drive.Eventually(m.t, patience, func() string {
		if _, err := pods(shop).Create(m.t.Context(), m.plainPod("again", "gateway"), dry); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (m *mesh) scale(n int) {
	m.t.Helper()
	if _, err := m.c.Client.AppsV1().Deployments(m.ns).Patch(m.t.Context(), "ashlar-injector", types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), meta.PatchOptions{}); err != nil {
		m.t.Fatal(err)
	}
}
