package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// hook is a webhook as the chart writes it, changed by edit.
func hook(edit func(*admissionv1.MutatingWebhook)) admissionv1.MutatingWebhook {
	fail, none := admissionv1.Fail, admissionv1.SideEffectClassNone
	w := admissionv1.MutatingWebhook{Name: "pods.injector.ashlar.dev", FailurePolicy: &fail, SideEffects: &none,
		Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{Resources: []string{"pods"}}}},
		ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: inject.Label, Operator: metav1.LabelSelectorOpExists}, {Key: inject.Injection, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"disabled"}}}},
		NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: inject.Injection, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"disabled"}}}}}
	if edit != nil {
		edit(&w)
	}
	return w
}

func TestHookFinding(t *testing.T) {
	ignore, some := admissionv1.Ignore, admissionv1.SideEffectClassSome
	for _, c := range []struct {
		name string
		edit func(*admissionv1.MutatingWebhook)
		want string
	}{
		{"as the chart writes it", nil, "passed  webhook w is for labelled pods, and no such pod starts without it"},
		{"lets pods through", func(w *admissionv1.MutatingWebhook) { w.FailurePolicy = &ignore },
			"failed KUB-034 webhook w: its failurePolicy is not Fail: labelled pods start without premain while the injector is away"},
		{"no policy", func(w *admissionv1.MutatingWebhook) { w.FailurePolicy = nil },
			"failed KUB-034 webhook w: its failurePolicy is not Fail: labelled pods start without premain while the injector is away"},
		{"for every pod", func(w *admissionv1.MutatingWebhook) { w.ObjectSelector = &metav1.LabelSelector{} },
			"failed KUB-034 webhook w: its objectSelector takes pods without the label ashlar.dev/marble: they could not start while the injector is away"},
		{"for one marble", func(w *admissionv1.MutatingWebhook) {
			w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{inject.Label: "other"}}
		}, "failed KUB-034 webhook w: its objectSelector leaves out pods with the label ashlar.dev/marble"},
		{"a selector that makes no sense", func(w *admissionv1.MutatingWebhook) { w.ObjectSelector.MatchExpressions[0].Operator = "Like" },
			`failed KUB-034 webhook w: its objectSelector cannot be read: "Like" is not a valid label selector operator`},
		{"never called", func(w *admissionv1.MutatingWebhook) {
			w.Rules[0].Operations = []admissionv1.OperationType{admissionv1.Update}
		},
			"failed KUB-034 webhook w: it is not called when pods are created"},
		{"side effects", func(w *admissionv1.MutatingWebhook) { w.SideEffects = &some },
			"failed KUB-034 webhook w: it does not say that it has no side effects, so the API server refuses dry runs"},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, []check.Finding{hookFinding("w", hook(c.edit))}, c.want) })
	}
	configs := []admissionv1.MutatingWebhookConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Webhooks: []admissionv1.MutatingWebhook{{Name: "x"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "ours"}, Webhooks: []admissionv1.MutatingWebhook{hook(nil)}}}
	if name, w := injectorHook(configs, "mesh"); name != "ours" || w == nil {
		t.Errorf("got %q, want the configuration whose webhook is for the label", name)
	}
	if _, w := injectorHook(configs[:1], "mesh"); w != nil {
		t.Errorf("got %v, want none", w)
	}
	second := hook(func(w *admissionv1.MutatingWebhook) {
		w.ClientConfig.Service = &admissionv1.ServiceReference{Namespace: "mesh"}
	})
	configs = append(configs, admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "mesh"}, Webhooks: []admissionv1.MutatingWebhook{second}})
	for namespace, want := range map[string]string{"mesh": "mesh", "other": "ours"} {
		if name, _ := injectorHook(configs, namespace); name != want {
			t.Errorf("of two, in %s: got %q, want %q", namespace, name, want)
		}
	}
}

func caPEM(t *testing.T, from, to time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestBundleFinding(t *testing.T) {
	now := time.Date(2026, 1, 8, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	fresh, older, ended, coming := caPEM(t, now.Add(-2*day), now.Add(5*day)), caPEM(t, now.Add(-6*day), now.Add(day)), caPEM(t, now.Add(-9*day), now.Add(-day)), caPEM(t, now.Add(day), now.Add(8*day))
	last := caPEM(t, now.Add(-7*day), now.Add(12*time.Hour))
	join := func(all ...[]byte) (out []byte) {
		for _, one := range all {
			out = append(out, one...)
		}
		return out
	}
	for _, c := range []struct {
		name   string
		bundle []byte
		want   string
	}{
		{"two injectors", join(older, fresh), "passed  the injectors' newest CA certificate has been valid for 2 d and lasts 5 d more (2 in the caBundle)"},
		{"one has ended", join(ended, fresh), "passed  the injectors' newest CA certificate has been valid for 2 d and lasts 5 d more (2 in the caBundle)"},
		{"nobody renews", join(ended, last), "warning KUB-035 the newest CA certificate of the injectors ends in 12 h, and none was added since"},
		{"all have ended", join(ended, coming), "failed KUB-035 the caBundle of webhook w has no certificate that is valid now (2 are not)"},
		{"empty", nil, "failed KUB-035 the caBundle of webhook w: it is empty: no injector has added its certificate"},
		{"no PEM", []byte("Cg=="), "failed KUB-035 the caBundle of webhook w: it is empty: no injector has added its certificate"},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, []check.Finding{bundleFinding("w", c.bundle, now)}, c.want) })
	}
	if _, err := readBundle(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no")})); err == nil {
		t.Error("got no error for a certificate that is none")
	}
}

func TestEndpointsFinding(t *testing.T) {
	yes, no := true, false
	of := func(ready ...*bool) []discoveryv1.EndpointSlice {
		var s discoveryv1.EndpointSlice
		for _, r := range ready {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: r}})
		}
		return []discoveryv1.EndpointSlice{s}
	}
	for _, c := range []struct {
		slices []discoveryv1.EndpointSlice
		want   string
	}{
		{of(&yes, nil), "passed  2 injectors are ready behind Service s"},
		{of(&yes, &no), "warning KUB-036 1 of 2 injectors are ready behind Service s"},
		{of(&no), "failed KUB-036 no injector is ready behind Service s (1 are not)"},
		{nil, "failed KUB-036 no injector is ready behind Service s (0 are not)"},
	} {
		expect(t, []check.Finding{endpointsFinding("s", c.slices)}, c.want)
	}
}

func TestTrials(t *testing.T) {
	with := func(annotations map[string]string) tried {
		return tried{pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}}}
	}
	refused := func(message string) tried { return tried{err: errors.New(message)} }
	for _, c := range []struct {
		tried tried
		want  string
	}{
		{with(map[string]string{inject.Injected: "v1"}), "passed  the webhook answers: a trial pod of marble web would be injected"},
		{with(nil), "failed KUB-037 a trial pod with the label ashlar.dev/marble=web would have started without premain"},
		{refused(`admission webhook "w" denied the request: KUB-052 the manifest in force has no marble "web"; next: x`),
			`passed  the webhook answers: it refuses a trial pod of marble web (KUB-052 the manifest in force has no marble "web")`},
		{refused(`Internal error occurred: failed calling webhook "w": failed to call webhook: Post "https://x": dial tcp: refused`),
			`failed KUB-037 the webhook does not answer a trial pod: Post "https://x": dial tcp: refused`},
		{refused(`admission webhook "policy" denied the request: not here`), "failed KUB-037 a trial pod of marble web is refused: not here"},
	} {
		expect(t, []check.Finding{markedFinding("web", c.tried)}, c.want)
	}
	expect(t, []check.Finding{plainFinding(with(nil))}, "passed  the webhook leaves pods without the label alone")
	expect(t, []check.Finding{plainFinding(with(map[string]string{inject.Injected: "v1"}))},
		"failed KUB-037 a trial pod without the label came back with the annotation ashlar.dev/injected")
	expect(t, []check.Finding{plainFinding(refused("quota"))}, "warning KUB-037 a trial pod without the label is refused: quota")
}

func TestChosenNamespace(t *testing.T) {
	selector, err := metav1.LabelSelectorAsSelector(hook(nil).NamespaceSelector)
	if err != nil {
		t.Fatal(err)
	}
	ns := func(name, injection string) corev1.Namespace {
		return corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{inject.Injection: injection}}}
	}
	all := []corev1.Namespace{ns("off", "disabled"), ns("a", ""), ns("b", "")}
	for preferred, want := range map[string]string{"b": "b", "off": "a", "gone": "a"} {
		if got := chosen(all, selector, preferred); got != want {
			t.Errorf("%s: got %q, want %q", preferred, got, want)
		}
	}
	if got := chosen(all[:1], selector, "off"); got != "" {
		t.Errorf("got %q, want none", got)
	}
}
