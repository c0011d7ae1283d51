package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// Story is why a pod is as it is: what is so, why, and what to do next.
type Story struct {
	Subject   string       `json:"subject"` // "pod web-0", "ReplicaSet web-7d4b"
	Namespace string       `json:"namespace"`
	Marble    string       `json:"marble,omitempty"`
	Instance  string       `json:"instance,omitempty"` // of the marble: the pod's UID
	Well      bool         `json:"well"`               // nothing is wrong
	Injected  bool         `json:"injected"`
	Stage     string       `json:"stage,omitempty"` // reason of the condition ashlar.dev/attested
	What      string       `json:"what"`
	Why       string       `json:"why,omitempty"`
	Next      string       `json:"next,omitempty"`
	Code      problem.Code `json:"code,omitempty"`
}

// podFacts are what a pod's story is told from.
type podFacts struct {
	pod       corev1.Pod
	namespace corev1.Namespace
	hook      *admissionv1.MutatingWebhook // nil if there is none, or it may not be read
	hookRead  bool
	cluster   cluster        // of a pod that waits for a node
	events    []corev1.Event // of the pod
}

// story tells why the pod is as it is: the first thing on its way that is not as
// it should be.
func (f podFacts) story() Story {
	s := Story{Subject: "pod " + f.pod.Name, Namespace: f.pod.Namespace, Marble: f.pod.Labels[inject.Label],
		Injected: f.pod.Annotations[inject.Injected] != ""}
	if s.Injected {
		s.Instance = string(f.pod.UID)
	}
	for _, tell := range []func(*Story) bool{f.leaving, f.noMarble, f.notInjected, f.unplaced, f.broken, f.starting, f.unattested, f.unready} {
		if tell(&s) {
			return s
		}
	}
	s.Well, s.What = true, "runs as marble "+s.Marble+", attested and ready"
	return s
}

// blame says what is wrong; without a next step it is the code's.
func (s *Story) blame(code problem.Code, what, why, next string) bool {
	s.Code, s.What, s.Why, s.Next = code, what, why, cmp.Or(next, problem.Lookup(code).Next)
	return true
}

func (f podFacts) leaving(s *Story) bool {
	if f.pod.DeletionTimestamp == nil {
		return false
	}
	s.What, s.Why = "is being deleted", "somebody deleted it at "+f.pod.DeletionTimestamp.UTC().Format("2006-01-02T15:04:05Z")
	return true
}

func (f podFacts) noMarble(s *Story) bool {
	if s.Marble != "" {
		return false
	}
	s.What, s.Why = "is no marble", "it has no label "+inject.Label+", so the injector left it alone"
	s.Next = "to make it one, add the label to the pod template: " + inject.Label + ": NAME"
	return true
}

// notInjected says why a labelled pod has nothing of a marble.
func (f podFacts) notInjected(s *Story) bool {
	if s.Injected {
		return false
	}
	anew := "then delete the pod, so that it is made anew"
	why, next := "the injector was away, or not installed, when the pod was made", "ashlar check --only webhook; "+anew
	disabled := "take the label " + inject.Injection + " away; " + anew
	switch {
	case f.pod.Labels[inject.Injection] == "disabled":
		why, next = "the pod says "+inject.Injection+": disabled", disabled
	case f.namespace.Labels[inject.Injection] == "disabled":
		why, next = "namespace "+f.namespace.Name+" says "+inject.Injection+": disabled", disabled
	case f.hookRead && f.hook == nil:
		why, next = "no webhook is there for pods with the label "+inject.Label, "ashlar install; "+anew
	case f.hook != nil && !takes(f.hook.NamespaceSelector, f.namespace.Labels):
		why, next = "the webhook leaves out namespace "+f.namespace.Name, "run it in another namespace"
	}
	return s.blame("KUB-039", "has the label, but was not injected: it runs outside the mesh", why, next)
}

func takes(selector *metav1.LabelSelector, of map[string]string) bool {
	if selector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(of))
}

// unplaced says why no node takes the pod.
func (f podFacts) unplaced(s *Story) bool {
	scheduled := conditionOf(f.pod, corev1.PodScheduled)
	if f.pod.Spec.NodeName != "" || scheduled.Status == corev1.ConditionTrue {
		return false
	}
	if scheduled.Status == "" && len(f.cluster.nodes) == 0 {
		s.What, s.Why = "waits for a node", "the scheduler has not looked at it yet"
		return true
	}
	if why := f.lacking(); why != "" {
		return s.blame("KUB-041", "waits for a node", why, "")
	}
	return s.blame("KUB-041", "waits for a node", cmp.Or(scheduled.Message, "the scheduler has not looked at it yet"), describe(f.pod))
}

// lacking says what for its TEE the pod asks for that no node has.
func (f podFacts) lacking() string {
	if class := f.pod.Spec.RuntimeClassName; class != nil && !f.cluster.hasClass(*class) {
		return "there is no runtime class " + *class
	}
	var missing []string
	for _, c := range slices.Concat(f.pod.Spec.InitContainers, f.pod.Spec.Containers) {
		for name := range c.Resources.Limits {
			if strings.Contains(string(name), "/") && !slices.Contains(missing, string(name)) && !f.cluster.offers(name) {
				missing = append(missing, string(name))
			}
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Sprintf("none of %s offers %s", check.Count(len(f.cluster.nodes), "node", "nodes"), strings.Join(missing, ", "))
	}
	wanted := requiredLabels(f.pod)
	for _, label := range slices.Sorted(maps.Keys(wanted)) {
		value := wanted[label]
		if !slices.ContainsFunc(f.cluster.nodes, func(n corev1.Node) bool { return n.Labels[label] == value }) {
			return fmt.Sprintf("none of %s has the label %s=%s", check.Count(len(f.cluster.nodes), "node", "nodes"), label, value)
		}
	}
	return ""
}

// requiredLabels are those with one value that a node must have.
func requiredLabels(pod corev1.Pod) map[string]string {
	out := map[string]string{}
	maps.Copy(out, pod.Spec.NodeSelector)
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return out
	}
	terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 1 {
		return out // any of several does
	}
	for _, e := range terms[0].MatchExpressions {
		if e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
			out[e.Key] = e.Values[0]
		}
	}
	return out
}

// broken says which container does not start or keeps ending.
func (f podFacts) broken(s *Story) bool {
	for i, st := range slices.Concat(f.pod.Status.InitContainerStatuses, f.pod.Status.ContainerStatuses) {
		what, why := trouble(st)
		if what == "" {
			continue
		}
		kind := "container"
		if i < len(f.pod.Status.InitContainerStatuses) {
			kind = "init container"
		}
		next := "kubectl -n " + f.pod.Namespace + " logs " + f.pod.Name + " -c " + st.Name
		if st.RestartCount > 0 {
			next += " --previous"
		}
		if strings.HasPrefix(what, waitsForImage) {
			next = "mend the image's name, or the credentials for its registry: " + describe(f.pod)
		}
		// Why an attested program does not start, its premain says in the condition.
		if c := conditionOf(f.pod, inject.Attested); c.Status == corev1.ConditionFalse && c.Message != "" && kind == "container" {
			h := heard(c.Message)
			s.Stage = c.Reason
			if h.next != "" {
				next = h.next
			}
			return s.blame(cmp.Or(h.code, "KUB-042"), kind+" "+st.Name+" "+what, h.text, next)
		}
		return s.blame("KUB-042", kind+" "+st.Name+" "+what, why, next)
	}
	return false
}

// starting tells of a pod that has a node and no running container yet, or that
// has done its work.
func (f podFacts) starting(s *Story) bool {
	switch f.pod.Status.Phase {
	case corev1.PodSucceeded:
		s.Well, s.What = true, "has done its work and ended"
		return true
	case corev1.PodPending:
	default:
		return false
	}
	var last corev1.Event
	for _, e := range f.events {
		if e.Type == corev1.EventTypeWarning && !when(e).Before(when(last)) {
			last = e
		}
	}
	if last.Message != "" {
		return s.blame("KUB-042", "does not start on node "+f.pod.Spec.NodeName, last.Reason+": "+last.Message, describe(f.pod))
	}
	s.What, s.Why = "is being started on node "+f.pod.Spec.NodeName, "its containers are not running yet"
	return true
}

const waitsForImage = "waits for its image "

// trouble says what is wrong with a container, and what was said of it.
func trouble(st corev1.ContainerStatus) (what, why string) {
	if w := st.State.Waiting; w != nil {
		switch w.Reason {
		case "", "PodInitializing", "ContainerCreating":
			return "", ""
		case "CrashLoopBackOff":
			return "keeps ending", ending(st.LastTerminationState.Terminated)
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
			return waitsForImage + st.Image, w.Reason + ": " + w.Message
		}
		return "cannot start", w.Reason + ": " + w.Message
	}
	if t := st.State.Terminated; t != nil && t.ExitCode != 0 {
		return "has ended", ending(t)
	}
	return "", ""
}

// ending says how a container ended, with its last words where it leaves some.
func ending(t *corev1.ContainerStateTerminated) string {
	if t == nil {
		return "it says nothing"
	}
	text := fmt.Sprintf("exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		text += " (" + t.Reason + ")"
	}
	if m := strings.TrimSpace(t.Message); m != "" {
		text += ": " + m
	}
	return text
}

// unattested tells the stage that the injector has written into the condition.
func (f podFacts) unattested(s *Story) bool {
	c := conditionOf(f.pod, inject.Attested)
	s.Stage = c.Reason
	h := heard(c.Message)
	switch c.Status {
	case corev1.ConditionTrue:
		return false
	case "":
		return s.blame("KUB-044", "runs, and nobody says whether it is attested", "the condition "+inject.Attested+" is not there: injectors write it",
			"ashlar check --only webhook")
	}
	return s.blame(cmp.Or(h.code, "KUB-044"), "is not attested: "+words(c.Reason), h.text, h.next)
}

// unready tells what else keeps an attested pod from getting requests.
func (f podFacts) unready(s *Story) bool {
	ready := conditionOf(f.pod, corev1.PodReady)
	if ready.Status == corev1.ConditionTrue {
		return false
	}
	why := ready.Message
	for _, st := range f.pod.Status.ContainerStatuses {
		if !st.Ready {
			why = "container " + st.Name + " is not ready: its readiness probe says no"
		}
	}
	return s.blame("KUB-045", "is attested, but gets no requests", why, "")
}

// words turns a reason such as EvidenceRefused into words.
func words(reason string) string {
	var b strings.Builder
	for i, r := range reason {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte(' ')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
