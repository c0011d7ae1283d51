//go:build linux

package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// schedule binds pods that wait to machines that they fit on, and says of the
// others why they fit nowhere, in the scheduler's words.
func (n *Nodes) schedule(ctx context.Context, all []*core.Pod) {
	used := map[string][]*core.Pod{}
	for _, p := range all {
		if p.Status.Phase != core.PodSucceeded && p.Status.Phase != core.PodFailed {
			used[p.Spec.NodeName] = append(used[p.Spec.NodeName], p)
		}
	}
	for _, p := range used[""] {
		if p.DeletionTimestamp != nil || len(p.Spec.SchedulingGates) > 0 {
			continue
		}
		reasons := map[string]int{}
		fits := false
		for _, m := range n.cfg.Machines {
			reason := m.misfit(p, used[m.Name])
			if reason == "" {
				fits = true
				n.bind(ctx, p, m.Name)
				used[m.Name] = append(used[m.Name], p)
				break
			}
			reasons[reason]++
		}
		if !fits {
			n.unschedulable(ctx, p, reasons)
		}
	}
}

// bind assigns a pod to a machine. One that failed is tried again: the cache may be
// behind.
func (n *Nodes) bind(ctx context.Context, p *core.Pod, machine string) {
	_ = n.cfg.Cluster.Client.CoreV1().Pods(p.Namespace).Bind(ctx, &core.Binding{
		ObjectMeta: meta.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Target:     core.ObjectReference{Kind: "Node", Name: machine}}, meta.CreateOptions{})
}

// unschedulable reports a pod that fits nowhere, once for each reason.
func (n *Nodes) unschedulable(ctx context.Context, p *core.Pod, reasons map[string]int) {
	var parts []string
	for _, r := range slices.Sorted(maps.Keys(reasons)) {
		parts = append(parts, fmt.Sprintf("%d %s", reasons[r], r))
	}
	message := fmt.Sprintf("0/%d nodes are available: %s.", len(n.cfg.Machines), strings.Join(parts, ", "))
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodScheduled && c.Message == message {
			return
		}
	}
	object := p.DeepCopy()
	setCondition(&object.Status, core.PodCondition{Type: core.PodScheduled, Status: core.ConditionFalse, Reason: core.PodReasonUnschedulable, Message: message})
	if _, err := n.cfg.Cluster.Client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, object, meta.UpdateOptions{}); err == nil {
		n.event(ctx, p, "FailedScheduling", message)
	}
}

// misfit says why a pod cannot run on the machine, or "".
func (m Machine) misfit(p *core.Pod, others []*core.Pod) string {
	l := labels.Set{"kubernetes.io/hostname": m.Name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
	maps.Copy(l, m.Labels)
	if !labels.SelectorFromSet(p.Spec.NodeSelector).Matches(l) || !affine(p.Spec.Affinity, l) {
		return "node(s) didn't match Pod's node affinity/selector"
	}
	for _, t := range m.Taints {
		tolerated := slices.ContainsFunc(p.Spec.Tolerations, func(x core.Toleration) bool { return tolerates(x, t) })
		if t.Effect != core.TaintEffectPreferNoSchedule && !tolerated {
			return fmt.Sprintf("node(s) had untolerated taint(s) {%s: %s}", t.Key, t.Value)
		}
	}
	free := m.capacity()
	for _, o := range others {
		take(free, requests(o))
	}
	take(free, requests(p))
	for _, name := range slices.Sorted(maps.Keys(requests(p))) {
		if q, ok := free[name]; !ok || q.Sign() < 0 {
			return "Insufficient " + string(name)
		}
	}
	return ""
}

func tolerates(x core.Toleration, t core.Taint) bool {
	return (x.Effect == "" || x.Effect == t.Effect) && (x.Key == t.Key || x.Key == "" && x.Operator == core.TolerationOpExists) &&
		(x.Operator == core.TolerationOpExists || x.Value == t.Value)
}

// affine judges required node affinity: one term must match whole.
func affine(a *core.Affinity, l labels.Set) bool {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	return slices.ContainsFunc(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, func(term core.NodeSelectorTerm) bool {
		for _, e := range term.MatchExpressions {
			op := map[core.NodeSelectorOperator]selection.Operator{core.NodeSelectorOpIn: selection.In, core.NodeSelectorOpNotIn: selection.NotIn,
				core.NodeSelectorOpExists: selection.Exists, core.NodeSelectorOpDoesNotExist: selection.DoesNotExist,
				core.NodeSelectorOpGt: selection.GreaterThan, core.NodeSelectorOpLt: selection.LessThan}[e.Operator]
			r, err := labels.NewRequirement(e.Key, op, e.Values)
			if err != nil || !r.Matches(l) {
				return false
			}
		}
		return len(term.MatchExpressions) > 0
	})
}

// requests sums what the containers of a pod and its runtime class ask for.
func requests(p *core.Pod) core.ResourceList {
	sum := core.ResourceList{}
	add := func(r core.ResourceList) {
		for name, q := range r {
			total := sum[name]
			total.Add(q)
			sum[name] = total
		}
	}
	for _, c := range p.Spec.Containers {
		add(c.Resources.Requests)
	}
	add(p.Spec.Overhead)
	return sum
}

func take(from, what core.ResourceList) {
	for name, q := range what {
		if left, ok := from[name]; ok {
			left.Sub(q)
			from[name] = left
		}
	}
}
