package kube

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Workload is how a Deployment or StatefulSet of a release is.
type Workload struct {
	Name   string `json:"name"`
	Ready  int32  `json:"ready"`
	Wanted int32  `json:"wanted"`
	Done   bool   `json:"done"`             // all of its pods are of the newest kind, and ready
	Reason string `json:"reason,omitempty"` // why it is not done
	Next   string `json:"next,omitempty"`   // what mends it, if that is known

	made metav1.Time
}

// String is the workload on one line.
func (w Workload) String() string {
	line := fmt.Sprintf("%s %d/%d", w.Name, w.Ready, w.Wanted)
	if w.Done {
		return line + " ready"
	}
	if w.Reason != "" {
		line += ": " + w.Reason
	}
	return line
}

// workloads looks at the workloads of a plan.
func (c *Cluster) workloads(ctx context.Context, p *Plan) ([]Workload, error) {
	var all []Workload
	for _, o := range p.objects {
		var w Workload
		var err error
		switch o.kind() {
		case "Deployment":
			w, err = c.deployment(ctx, p.Namespace, o.name())
		case "StatefulSet":
			w, err = c.statefulSet(ctx, p.Namespace, o.name())
		default:
			continue
		}
		if err != nil {
			return nil, c.explained(err, "looking at "+o.String())
		}
		if !w.Done {
			if w.Reason, w.Next, err = c.why(ctx, p.Namespace, o, w.made); err != nil {
				return nil, c.explained(err, "looking at the pods of "+o.String())
			}
		}
		all = append(all, w)
	}
	return all, nil
}

func (c *Cluster) deployment(ctx context.Context, namespace, name string) (Workload, error) {
	d, err := c.client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return Workload{}, err
	}
	w := Workload{Name: name, Ready: d.Status.ReadyReplicas, Wanted: wanted(d.Spec.Replicas), made: d.CreationTimestamp}
	w.Done = d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == w.Wanted &&
		d.Status.Replicas == w.Wanted && w.Ready == w.Wanted
	return w, nil
}

func (c *Cluster) statefulSet(ctx context.Context, namespace, name string) (Workload, error) {
	s, err := c.client.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return Workload{}, err
	}
	w := Workload{Name: name, Ready: s.Status.ReadyReplicas, Wanted: wanted(s.Spec.Replicas), made: s.CreationTimestamp}
	w.Done = s.Status.ObservedGeneration >= s.Generation && s.Status.UpdateRevision == s.Status.CurrentRevision && w.Ready == w.Wanted
	return w, nil
}

func wanted(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

// why says what keeps a workload from being ready, from its pods, and what
// happened to them since the workload was made: one of the same name may have been
// there before.
func (c *Cluster) why(ctx context.Context, namespace string, o object, made metav1.Time) (reason, next string, err error) {
	pods, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector(o)})
	if err != nil {
		return "", "", err
	}
	list, err := c.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		list = &corev1.EventList{} // reasons are a courtesy: whoever may not read them waits without
	}
	events := slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return when(e).Before(made.Time) })
	slices.SortStableFunc(events, func(a, b corev1.Event) int { return when(b).Compare(when(a)) })
	if len(pods.Items) == 0 {
		if e := warning(events, func(e corev1.Event) bool { return madeBy(e, o.name()) }); e != "" {
			return "no pod: " + e, forbidden(e), nil
		}
		return "no pod yet", "", nil
	}
	slices.SortStableFunc(pods.Items, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	for _, p := range pods.Items {
		if reason, next = podReason(p, events); reason != "" {
			return reason, next, nil
		}
	}
	return "being replaced", "", nil
}

// when an event happened last: who records it chooses the field.
func when(e corev1.Event) time.Time {
	return cmp.Or(e.LastTimestamp.Time, e.EventTime.Time, e.CreationTimestamp.Time)
}

// madeBy says whether an event is about what makes a workload's pods.
func madeBy(e corev1.Event, name string) bool {
	switch e.InvolvedObject.Kind {
	case "StatefulSet", "Deployment":
		return e.InvolvedObject.Name == name
	case "ReplicaSet":
		return strings.HasPrefix(e.InvolvedObject.Name, name+"-")
	}
	return false
}

// warning is the newest warning among events that are about something.
func warning(events []corev1.Event, about func(corev1.Event) bool) string {
	return anyMessage(events, func(e corev1.Event) bool { return e.Type == corev1.EventTypeWarning && about(e) })
}

func forbidden(message string) string {
	switch {
	case strings.Contains(message, "PodSecurity"), strings.Contains(message, "violates"):
		return "label the namespace for what the chart's pods need (pod-security.kubernetes.io/enforce), or install in another"
	case strings.Contains(message, "exceeded quota"):
		return "raise the namespace's ResourceQuota, or ask for less: --set coordinator.resources…"
	}
	return ""
}

// podReason says why a pod is not ready; "" if it is.
func podReason(p corev1.Pod, events []corev1.Event) (reason, next string) {
	if conditionOf(p, corev1.PodReady).Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
		return "", ""
	}
	if c := conditionOf(p, corev1.PodScheduled); c.Status == corev1.ConditionFalse {
		return unscheduled(c.Message, p, events)
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if reason, next := containerReason(p, s); reason != "" {
			return reason, next
		}
	}
	about := func(e corev1.Event) bool {
		return e.InvolvedObject.Kind == "Pod" && e.InvolvedObject.Name == p.Name && e.InvolvedObject.UID == p.UID
	}
	if w := warning(events, about); strings.HasPrefix(w, "Readiness probe failed") {
		return "running: " + w, "kubectl -n " + p.Namespace + " logs " + p.Name
	} else if w != "" {
		return strings.ToLower(string(p.Status.Phase)) + ": " + w, describe(p)
	}
	switch {
	case p.Spec.NodeName == "":
		return "pending: not scheduled yet", ""
	case p.Status.Phase == corev1.PodPending:
		return "starting on " + p.Spec.NodeName, ""
	}
	return "running, not ready yet", ""
}

// describe is the command that shows a pod with its events.
func describe(p corev1.Pod) string { return "kubectl -n " + p.Namespace + " describe pod " + p.Name }

func conditionOf(p corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

var insufficient = regexp.MustCompile(`Insufficient ([^\s,]+?)[.,]?(?:\s|$)`)

// unscheduled puts the scheduler's message into words.
func unscheduled(message string, p corev1.Pod, events []corev1.Event) (reason, next string) {
	nodes, _, _ := strings.Cut(message, " nodes are available")
	switch {
	case insufficient.MatchString(message):
		resource := insufficient.FindStringSubmatch(message)[1]
		if strings.Contains(resource, "/") {
			return fmt.Sprintf("pending: no node offers %s (%s nodes)", resource, nodes),
				"ashlar check --pre says what TEEs the nodes offer; a device plugin may be missing"
		}
		return fmt.Sprintf("pending: no node has enough %s (%s nodes)", resource, nodes), "add a node, or ask for less: --set coordinator.resources…"
	case strings.Contains(message, "PersistentVolumeClaim"):
		about := func(e corev1.Event) bool { return e.InvolvedObject.Kind == "PersistentVolumeClaim" }
		return "pending: its volume is not there: " + cmp.Or(anyMessage(events, about), message),
			"name a storage class that the cluster has: --set coordinator.state.storageClass=NAME"
	case strings.Contains(message, "untolerated taint"), strings.Contains(message, "affinity"):
		return "pending: no node takes it: " + message, describe(p)
	}
	return "pending: " + message, ""
}

// anyMessage is the newest message among events that are about something.
func anyMessage(events []corev1.Event, about func(corev1.Event) bool) string {
	if i := slices.IndexFunc(events, about); i >= 0 {
		return events[i].Message
	}
	return ""
}

// containerReason says what is wrong with a container; "" if nothing is.
func containerReason(p corev1.Pod, s corev1.ContainerStatus) (reason, next string) {
	logs := fmt.Sprintf("kubectl -n %s logs %s -c %s", p.Namespace, p.Name, s.Name)
	if w := s.State.Waiting; w != nil {
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
			return fmt.Sprintf("image %s cannot be pulled: %s", s.Image, cmp.Or(w.Message, w.Reason)),
				"name images that the nodes can pull: --set image.registry=HOST, image.tag=TAG, image.pullSecrets[0]=NAME"
		case "CrashLoopBackOff":
			return fmt.Sprintf("%s ends at once%s", s.Name, ended(s.LastTerminationState.Terminated)), logs + " --previous"
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return fmt.Sprintf("%s cannot start: %s", s.Name, cmp.Or(w.Message, w.Reason)), describe(p)
		}
	}
	if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
		return s.Name + " ended" + ended(t), logs
	}
	return "", ""
}

func ended(t *corev1.ContainerStateTerminated) string {
	if t == nil {
		return ""
	}
	said := fmt.Sprintf(" (exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		said += ", " + t.Reason
	}
	return strings.TrimRight(said+") "+strings.TrimSpace(t.Message), " ")
}
