package kube

import (
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// marblePod is a healthy pod of a marble on a node.
func marblePod(edit func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "shop", UID: "u-1", Labels: map[string]string{inject.Label: "web"},
		Annotations: map[string]string{inject.Injected: "devel 0123"}}}
	p.Spec.NodeName = "node-1"
	p.Spec.Containers = []corev1.Container{{Name: "web", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"sgx.intel.com/epc": resource.MustParse("64Mi"), "cpu": resource.MustParse("1")}}}}
	p.Status.Phase = corev1.PodRunning
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "ashlar-install", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true, Image: "registry.example/web:1"}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue},
		{Type: inject.Attested, Status: corev1.ConditionTrue, Reason: "Running"}}
	if edit != nil {
		edit(&p)
	}
	return p
}

func setCondition(p *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == kind {
			c.Status, c.Reason, c.Message = status, reason, message
		}
	}
}

func unscheduledPod(edit func(*corev1.Pod)) corev1.Pod {
	return marblePod(func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status.Phase = "", corev1.PodPending
		p.Status.InitContainerStatuses, p.Status.ContainerStatuses = nil, nil
		setCondition(p, corev1.PodScheduled, corev1.ConditionFalse, "Unschedulable", "0/2 nodes are available: 2 Insufficient cpu.")
		if edit != nil {
			edit(p)
		}
	})
}

func TestStory(t *testing.T) {
	ours := hook(nil)
	label := func(key, value string) corev1.Namespace {
		return corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{key: value}}}
	}
	plain := func(p *corev1.Pod) { delete(p.Annotations, inject.Injected) }
	confidential := "kata-qemu-snp"
	for _, c := range []struct {
		name  string
		facts podFacts
		code  problem.Code
		what  string
		why   string // part of it
		next  string // part of it
	}{
		{"well", podFacts{pod: marblePod(nil)}, "", "runs as marble web, attested and ready", "", ""},
		{"leaving", podFacts{pod: marblePod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(0, 0)} })}, "", "is being deleted", "1970-01-01T00:00:00Z", ""},
		{"no label", podFacts{pod: marblePod(func(p *corev1.Pod) { delete(p.Labels, inject.Label) })}, "", "is no marble", "no label ashlar.dev/marble", "add the label"},
		{"the namespace is closed", podFacts{pod: marblePod(plain), namespace: label(inject.Injection, "disabled"), hook: &ours, hookRead: true},
			"KUB-039", "has the label, but was not injected: it runs outside the mesh", "namespace shop says ashlar.dev/injection: disabled", "take the label"},
		{"the pod is closed", podFacts{pod: marblePod(func(p *corev1.Pod) { plain(p); p.Labels[inject.Injection] = "disabled" })},
			"KUB-039", "has the label, but was not injected: it runs outside the mesh", "the pod says", "take the label"},
		{"no webhook", podFacts{pod: marblePod(plain), hookRead: true}, "KUB-039", "has the label, but was not injected: it runs outside the mesh", "no webhook is there", "ashlar install"},
		{"webhooks may not be read", podFacts{pod: marblePod(plain)}, "KUB-039", "has the label, but was not injected: it runs outside the mesh", "away, or not installed", "delete the pod"},
		{"older than the injector", podFacts{pod: marblePod(plain), namespace: label("a", "b"), hook: &ours, hookRead: true},
			"KUB-039", "has the label, but was not injected: it runs outside the mesh", "away, or not installed", "ashlar check --only webhook"},
		{"another namespace", podFacts{pod: marblePod(plain), namespace: label("kubernetes.io/metadata.name", "shop"), hookRead: true,
			hook: func() *admissionv1.MutatingWebhook {
				w := hook(func(w *admissionv1.MutatingWebhook) {
					w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"mesh": "yes"}}
				})
				return &w
			}()}, "KUB-039", "has the label, but was not injected: it runs outside the mesh", "leaves out namespace shop", "another namespace"},
		{"no device", podFacts{pod: unscheduledPod(nil), cluster: cluster{nodes: nodes("a", "b")}}, "KUB-041", "waits for a node", "none of 2 nodes offers sgx.intel.com/epc", "ashlar check --only tee"},
		{"devices are taken", podFacts{pod: unscheduledPod(nil), cluster: cluster{nodes: append(nodes("a"), sgxNode("b"))}}, "KUB-041", "waits for a node", "2 Insufficient cpu", "describe pod web-0"},
		{"no runtime class", podFacts{pod: unscheduledPod(func(p *corev1.Pod) { p.Spec.RuntimeClassName = &confidential })}, "KUB-041", "waits for a node", "there is no runtime class kata-qemu-snp", ""},
		{"no labelled node", podFacts{pod: unscheduledPod(func(p *corev1.Pod) {
			p.Spec.Containers = nil
			p.Spec.NodeSelector = map[string]string{"tee": "snp"}
		}), cluster: cluster{nodes: nodes("a")}}, "KUB-041", "waits for a node", "none of 1 node has the label tee=snp", ""},
		{"init container", podFacts{pod: marblePod(func(p *corev1.Pod) {
			p.Status.InitContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found"}}
			p.Status.InitContainerStatuses[0].Image = "registry.example/ashlar-marble:9"
		})}, "KUB-042", "init container ashlar-install waits for its image registry.example/ashlar-marble:9", "ImagePullBackOff: not found", "the credentials for its registry"},
		{"keeps ending", podFacts{pod: marblePod(func(p *corev1.Pod) {
			setCondition(p, inject.Attested, "", "", "")
			p.Status.ContainerStatuses[0].RestartCount = 3
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
			p.Status.ContainerStatuses[0].LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", Message: "last words\n"}}
		})}, "KUB-042", "container web keeps ending", "exit code 137 (OOMKilled): last words", "-c web --previous"},
		{"keeps ending since it is refused", podFacts{pod: marblePod(func(p *corev1.Pod) {
			setCondition(p, inject.Attested, corev1.ConditionFalse, "EvidenceRefused", "evidence refused: rtmr1 differs (ATT-012); next: ashlar explain web/7f2c")
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		})}, "ATT-012", "container web keeps ending", "rtmr1 differs", "ashlar explain web/7f2c"},
		{"being started", podFacts{pod: marblePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending; p.Status.ContainerStatuses = nil })}, "", "is being started on node node-1", "not running yet", ""},
		{"no sandbox", podFacts{pod: marblePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending; p.Status.ContainerStatuses = nil }),
			events: []corev1.Event{{Type: "Warning", Reason: "FailedCreatePodSandBox", Message: "no runtime for kata"}, {Type: "Normal", Message: "pulled"}}},
			"KUB-042", "does not start on node node-1", "FailedCreatePodSandBox: no runtime for kata", "describe pod web-0"},
		{"done", podFacts{pod: marblePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, "", "has done its work and ended", "", ""},
		{"refused", podFacts{pod: marblePod(func(p *corev1.Pod) {
			setCondition(p, inject.Attested, corev1.ConditionFalse, "EvidenceRefused", "evidence refused: rtmr1 differs (ATT-012); next: ashlar explain web/7f2c")
		})}, "ATT-012", "is not attested: evidence refused", "evidence refused: rtmr1 differs", "ashlar explain web/7f2c"},
		{"waits", podFacts{pod: marblePod(func(p *corev1.Pod) {
			setCondition(p, inject.Attested, corev1.ConditionFalse, "WaitingForManifest", "waiting for manifest; next: ashlar manifest set FILE")
		})}, "KUB-044", "is not attested: waiting for manifest", "waiting for manifest", "ashlar manifest set FILE"},
		{"nobody says", podFacts{pod: marblePod(func(p *corev1.Pod) { setCondition(p, inject.Attested, "", "", "") })}, "KUB-044", "runs, and nobody says whether it is attested", "injectors write it", "ashlar check --only webhook"},
		{"its own probe", podFacts{pod: marblePod(func(p *corev1.Pod) {
			setCondition(p, corev1.PodReady, corev1.ConditionFalse, "ContainersNotReady", "containers with unready status: [web]")
			p.Status.ContainerStatuses[0].Ready = false
		})}, "KUB-045", "is attested, but gets no requests", "container web is not ready", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.facts.story()
			if s.Code != c.code || s.What != c.what || !strings.Contains(s.Why, c.why) || !strings.Contains(s.Next, c.next) {
				t.Errorf("got %s %q\n why %q\n next %q\nwant %s %q\n why … %q\n next … %q", s.Code, s.What, s.Why, s.Next, c.code, c.what, c.why, c.next)
			}
			if s.Code != "" && s.Next == "" {
				t.Error("there is no next step")
			}
			if s.Well != (c.name == "well" || c.name == "done") {
				t.Errorf("got well %v", s.Well)
			}
		})
	}
}

func nodes(names ...string) []corev1.Node {
	var out []corev1.Node
	for _, n := range names {
		out = append(out, node(n))
	}
	return out
}
