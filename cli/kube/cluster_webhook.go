package kube

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// injectorHook finds the webhook that is for labelled pods: that of the release
// in the namespace if there are several.
func injectorHook(configs []admissionv1.MutatingWebhookConfiguration, namespace string) (name string, hook *admissionv1.MutatingWebhook) {
	for _, c := range configs {
		for i, w := range c.Webhooks {
			if w.ObjectSelector == nil || !mentions(*w.ObjectSelector, inject.Label) {
				continue
			}
			if s := w.ClientConfig.Service; hook == nil || s != nil && s.Namespace == namespace {
				name, hook = c.Name, &c.Webhooks[i]
			}
		}
	}
	return name, hook
}

func mentions(s metav1.LabelSelector, key string) bool {
	if _, ok := s.MatchLabels[key]; ok {
		return true
	}
	return slices.ContainsFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return r.Key == key })
}

// hookFinding says whether the webhook is for what it has to be for: labelled
// pods, none else, and no such pod without it.
func hookFinding(name string, w admissionv1.MutatingWebhook) check.Finding {
	labelled, err := metav1.LabelSelectorAsSelector(w.ObjectSelector)
	problem := ""
	switch {
	case w.FailurePolicy == nil || *w.FailurePolicy != admissionv1.Fail:
		problem = "its failurePolicy is not Fail: labelled pods start without premain while the injector is away"
	case err != nil:
		problem = "its objectSelector cannot be read: " + err.Error()
	case !labelled.Matches(labels.Set{inject.Label: "web"}):
		problem = "its objectSelector leaves out pods with the label " + inject.Label
	case labelled.Matches(labels.Set{"app": "other"}):
		problem = "its objectSelector takes pods without the label " + inject.Label + ": they could not start while the injector is away"
	case !creates(w.Rules):
		problem = "it is not called when pods are created"
	case w.SideEffects == nil || *w.SideEffects != admissionv1.SideEffectClassNone && *w.SideEffects != admissionv1.SideEffectClassNoneOnDryRun:
		problem = "it does not say that it has no side effects, so the API server refuses dry runs"
	}
	if problem != "" {
		return check.Fail("KUB-034", "webhook %s: %s", name, problem)
	}
	return check.Pass("webhook %s is for labelled pods, and no such pod starts without it", name)
}

// creates reports whether some rule is for the creation of pods.
func creates(rules []admissionv1.RuleWithOperations) bool {
	for _, r := range rules {
		on := slices.Contains(r.Operations, admissionv1.Create) || slices.Contains(r.Operations, admissionv1.OperationAll)
		if on && (slices.Contains(r.Resources, "pods") || slices.Contains(r.Resources, "*")) {
			return true
		}
	}
	return false
}

// bundleFinding says what the API server knows the injectors by. Each injector
// adds the certificate of its own CA and renews it long before its end.
func bundleFinding(name string, bundle []byte, now time.Time) check.Finding {
	certs, err := readBundle(bundle)
	if err != nil {
		return check.Fail("KUB-035", "the caBundle of webhook %s: %s", name, err)
	}
	var valid []*x509.Certificate
	for _, c := range certs {
		if !now.Before(c.NotBefore) && now.Before(c.NotAfter) {
			valid = append(valid, c)
		}
	}
	if len(valid) == 0 {
		return check.Fail("KUB-035", "the caBundle of webhook %s has no certificate that is valid now (%d are not)", name, len(certs))
	}
	newest := slices.MaxFunc(valid, func(a, b *x509.Certificate) int { return a.NotBefore.Compare(b.NotBefore) })
	age, left := now.Sub(newest.NotBefore), newest.NotAfter.Sub(now)
	if left < newest.NotAfter.Sub(newest.NotBefore)/10 {
		return check.Warn("KUB-035", "the newest CA certificate of the injectors ends in %s, and none was added since", term.Span(left))
	}
	return check.Pass("the injectors' newest CA certificate has been valid for %s and lasts %s more (%d in the caBundle)", term.Span(age), term.Span(left), len(certs))
}

// readBundle reads the certificates of a caBundle.
func readBundle(bundle []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("it is empty: no injector has added its certificate")
	}
	return certs, nil
}

// endpointsFinding says how many injectors the Service leads to.
func endpointsFinding(service string, slices []discoveryv1.EndpointSlice) check.Finding {
	ready, all := 0, 0
	for _, s := range slices {
		for _, e := range s.Endpoints {
			all++
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready++
			}
		}
	}
	switch {
	case ready == 0:
		return check.Fail("KUB-036", "no injector is ready behind Service %s (%d are not)", service, all)
	case ready < all:
		return check.Warn("KUB-036", "%d of %d injectors are ready behind Service %s", ready, all, service)
	}
	return check.Pass("%s ready behind Service %s", check.Count(ready, "injector is", "injectors are"), service)
}

// tried is a pod that was created as a trial and never kept.
type tried struct {
	pod *corev1.Pod // as the API server would have stored it
	err error       // or why it would not
}

// markedFinding judges what became of a labelled pod. A refusal in the
// injector's words is an answer too: it knows no such marble, or none yet.
func markedFinding(marble string, t tried) check.Finding {
	switch {
	case t.err == nil && t.pod.Annotations[inject.Injected] != "":
		return check.Pass("the webhook answers: a trial pod of marble %s would be injected", marble)
	case t.err == nil:
		return check.Fail("KUB-037", "a trial pod with the label %s=%s would have started without premain", inject.Label, marble)
	}
	r := refusalOf(t.err.Error())
	switch {
	case r.away:
		return check.Fail("KUB-037", "the webhook does not answer a trial pod: %s", r.text).WithNext("see why the API server does not reach it: a NetworkPolicy, or the log of the injector")
	case r.code == "":
		return check.Fail("KUB-037", "a trial pod of marble %s is refused: %s", marble, r.text)
	}
	return check.Pass("the webhook answers: it refuses a trial pod of marble %s (%s %s)", marble, r.code, r.text)
}

// plainFinding judges what became of a pod without the label.
func plainFinding(t tried) check.Finding {
	if t.err != nil {
		return check.Warn("KUB-037", "a trial pod without the label is refused: %s", refusalOf(t.err.Error()).text)
	}
	for key := range t.pod.Annotations {
		if strings.HasPrefix(key, "ashlar.dev/") {
			return check.Fail("KUB-037", "a trial pod without the label came back with the annotation %s", key)
		}
	}
	return check.Pass("the webhook leaves pods without the label alone")
}
