//go:build linux

package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admission "k8s.io/api/admission/v1"
	hooks "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
)

// refusal is how the injector of these tests refuses marbles other than web.
const refusal = `KUB-052 the manifest in force has no marble "wbe"; next: did you mean "web"?`

// injectorOf serves a webhook for one namespace that marks pods of the marble web
// and refuses others. The configuration is the chart's, but for the address.
func injectorOf(t *testing.T, c *cluster.Cluster, namespace string) *hooks.MutatingWebhookConfiguration {
	t.Helper()
	pair, err := c.Serving("injector", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admission.AdmissionReview
		var pod core.Pod
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		if err := json.Unmarshal(review.Request.Object.Raw, &pod); err != nil {
			t.Error(err)
		}
		answer := &admission.AdmissionResponse{UID: review.Request.UID, Allowed: pod.Labels["ashlar.dev/marble"] == "web"}
		if answer.Allowed {
			kind := admission.PatchTypeJSONPatch
			answer.PatchType, answer.Patch = &kind, []byte(`[{"op":"add","path":"/metadata/annotations","value":{"ashlar.dev/injected":"test"}}]`)
		} else {
			answer.Result = &meta.Status{Code: 403, Message: refusal}
		}
		review.Request, review.Response = nil, answer
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	t.Cleanup(server.Close)
	fail, none, url := hooks.Fail, hooks.SideEffectClassNone, server.URL
	config := &hooks.MutatingWebhookConfiguration{ObjectMeta: meta.ObjectMeta{Name: "injector." + namespace}, Webhooks: []hooks.MutatingWebhook{{
		Name: "pods.injector.ashlar.dev", AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail, SideEffects: &none,
		ClientConfig: hooks.WebhookClientConfig{URL: &url, CABundle: c.CA()},
		Rules: []hooks.RuleWithOperations{{Operations: []hooks.OperationType{hooks.Create},
			Rule: hooks.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}},
		NamespaceSelector: &meta.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace},
			MatchExpressions: []meta.LabelSelectorRequirement{{Key: "ashlar.dev/injection", Operator: meta.LabelSelectorOpNotIn, Values: []string{"disabled"}}}},
		ObjectSelector: &meta.LabelSelector{MatchExpressions: []meta.LabelSelectorRequirement{{Key: "ashlar.dev/marble", Operator: meta.LabelSelectorOpExists}}},
	}}}
	api := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	config, err = api.Create(t.Context(), config, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), config.Name, meta.DeleteOptions{}) })
	return config
}

func TestCheckOfTheWebhook(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	only := []string{"--only", "webhook", "--kubeconfig", c.Kubeconfig(), "-n", ns}
	want(t, checked(t, only...), "warning", "no webhook is there for pods with the label ashlar.dev/marble")

	config := injectorOf(t, c, ns)
	drive.Eventually(t, time.Minute, func() string { // the API server takes a moment to know of a webhook
		if found := checked(t, only...); !says(found, "passed", `the webhook answers: it refuses a trial pod of marble ashlar-check (KUB-052`) {
			return fmt.Sprint(found)
		}
		return ""
	})
	found := checked(t, only...)
	want(t, found, "passed", "and no such pod starts without it")
	want(t, found, "passed", "the injectors' newest CA certificate has been valid")
	want(t, found, "passed", "the webhook leaves pods without the label alone")
	if pods, err := c.Client.CoreV1().Pods(ns).List(t.Context(), meta.ListOptions{}); err != nil || len(pods.Items) != 0 {
		t.Errorf("got %d pods (%v), want none: trials are not kept", len(pods.Items), err)
	}
	manifest := writeFile(t, `{"version":1,"trustDomain":"shop.example","packages":{"web":{"sim":{"program":["`+strings.Repeat("ab", 32)+`"]}}},"marbles":{"web":{"package":"web"}}}`)
	want(t, checked(t, append(only, "--manifest", manifest)...), "passed", "the webhook answers: a trial pod of marble web would be injected")

	ignore := hooks.Ignore
	config.Webhooks[0].FailurePolicy = &ignore
	if _, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Update(t.Context(), config, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want(t, checked(t, only...), "failed", "its failurePolicy is not Fail")
}

// story is what the command says of a pod, in JSON.
type story struct {
	Subject, Marble, Instance, Code, What, Why, Next string
	Injected                                         bool
}

func explained(t *testing.T, c *cluster.Cluster, namespace, name string) (s story) {
	t.Helper()
	code, out := ashlar(t, "explain", "pod", name, "-o", "json", "--kubeconfig", c.Kubeconfig(), "-n", namespace)
	if code != 0 {
		t.Fatalf("got exit %d\n%s", code, out)
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	return s
}

func TestExplainPod(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	injectorOf(t, c, ns)
	deploy := func(name, marble string) {
		labels := map[string]string{"app": name, "ashlar.dev/marble": marble}
		d := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: apps.DeploymentSpec{Selector: &meta.LabelSelector{MatchLabels: labels},
			Template: core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: labels}, Spec: core.PodSpec{Containers: []core.Container{{Name: "main", Image: "main"}}}}}}
		if _, err := c.Client.AppsV1().Deployments(ns).Create(t.Context(), d, meta.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	drive.Eventually(t, time.Minute, func() string {
		if !says(checked(t, "--only", "webhook", "--kubeconfig", c.Kubeconfig(), "-n", ns), "passed", "it refuses a trial pod") {
			return "the webhook is not called yet"
		}
		return ""
	})

	deploy("wrong", "wbe")
	drive.Eventually(t, time.Minute, func() string {
		if s := explained(t, c, ns, "wrong"); s.Code != "KUB-052" || s.Why != `the manifest in force has no marble "wbe"` || s.Next != `did you mean "web"?` {
			return fmt.Sprintf("got %+v, want the injector's reason", s)
		}
		return ""
	})
	if s := explained(t, c, ns, "wrong-7d4b9c-x2k4p"); s.Code != "KUB-052" || !strings.HasPrefix(s.Subject, "ReplicaSet wrong-") {
		t.Errorf("by the name of a pod that is not there: got %+v", s)
	}

	deploy("right", "web")
	var pod core.Pod
	drive.Eventually(t, time.Minute, func() string {
		pods, err := c.Client.CoreV1().Pods(ns).List(t.Context(), meta.ListOptions{LabelSelector: "app=right"})
		if err != nil || len(pods.Items) != 1 {
			return fmt.Sprintf("got %d pods (%v), want 1", len(pods.Items), err)
		}
		pod = pods.Items[0]
		return ""
	})
	s := explained(t, c, ns, "right")
	if s.Subject != "pod "+pod.Name || s.Marble != "web" || s.Instance != string(pod.UID) || !s.Injected || !strings.HasPrefix(s.What, "waits for a node") {
		t.Errorf("got %+v, want the injected pod that waits for a node", s)
	}
	pod.Status.Conditions = []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionTrue}, {Type: "ashlar.dev/attested", Status: core.ConditionFalse,
		Reason: "EvidenceRefused", Message: "evidence refused: rtmr1 differs (ATT-012); next: ashlar explain web/7f2c"}}
	pod.Status.Phase = core.PodRunning
	if _, err := c.Client.CoreV1().Pods(ns).UpdateStatus(t.Context(), &pod, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := explained(t, c, ns, pod.Name); s.Code != "ATT-012" || s.Why != "evidence refused: rtmr1 differs" || s.Next != "ashlar explain web/7f2c" {
		t.Errorf("got %+v, want the condition's words", s)
	}

	if code, out := ashlar(t, "explain", "pod", "rihgt", "--kubeconfig", c.Kubeconfig(), "-n", ns); code != 1 || !strings.Contains(out, "did you mean right") {
		t.Errorf("got exit %d, want 1 and a suggestion\n%s", code, out)
	}
	var out bytes.Buffer
	words := []string{"__complete", "explain", "--kubeconfig", c.Kubeconfig(), "-n", ns, "pod", "ri"}
	if code := cli.Main(words, strings.NewReader(""), &out, io.Discard); code != 0 || !strings.Contains(out.String(), pod.Name+"\n") || strings.Contains(out.String(), "wrong") {
		t.Errorf("completion: got exit %d\n%s", code, &out)
	}
}

// TestExplainPodThatIsNotInjected is about one in a namespace that says no.
func TestExplainPodThatIsNotInjected(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, map[string]string{"ashlar.dev/injection": "disabled"})
	pod := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "alone", Labels: map[string]string{"ashlar.dev/marble": "web"}}, Spec: core.PodSpec{Containers: []core.Container{{Name: "main", Image: "main"}}}}
	if _, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := explained(t, c, ns, "alone"); s.Code != "KUB-039" || s.Injected || !strings.Contains(s.Why, "namespace "+ns+" says ashlar.dev/injection: disabled") {
		t.Errorf("got %+v, want the namespace's label to be the reason", s)
	}
}
