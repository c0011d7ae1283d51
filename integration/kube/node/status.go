//go:build linux

package node

import (
	"context"
	"reflect"
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
)

// report writes the pod's status if it is not what the API server has.
func (p *pod) report(ctx context.Context) {
	for range 5 {
		object := p.seen().DeepCopy()
		p.status(&object.Status, object.Spec)
		if equality.Semantic.DeepEqual(object.Status, p.seen().Status) {
			return
		}
		pods := p.n.cfg.Cluster.Client.CoreV1().Pods(p.namespace)
		if _, err := pods.UpdateStatus(ctx, object, meta.UpdateOptions{}); err == nil {
			return
		}
		fresh, err := pods.Get(ctx, p.name, meta.GetOptions{})
		if err != nil || fresh.UID != p.uid {
			return
		}
		p.mu.Lock()
		p.object = fresh
		p.mu.Unlock()
	}
}

// status fills in what a kubelet says; conditions of others stay.
func (p *pod) status(s *core.PodStatus, spec core.PodSpec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.HostIP, s.HostIPs = isolate.Gateway, []core.HostIP{{IP: isolate.Gateway}}
	if p.started == nil {
		setCondition(s, core.PodCondition{Type: core.PodReadyToStartContainers, Status: core.ConditionFalse})
		s.Phase = core.PodPending
	} else {
		s.PodIP, s.PodIPs, s.StartTime = p.net.ip, []core.PodIP{{IP: p.net.ip}}, p.started
		setCondition(s, core.PodCondition{Type: core.PodReadyToStartContainers, Status: core.ConditionTrue})
	}
	s.InitContainerStatuses, s.ContainerStatuses = nil, nil
	ready := true
	var states []core.ContainerState
	for _, c := range p.containers {
		cs := c.status(p.initDone)
		if c.init {
			s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
			continue
		}
		s.ContainerStatuses = append(s.ContainerStatuses, cs)
		ready = ready && cs.Ready
		states = append(states, cs.State)
	}
	s.Phase = p.phase(spec.RestartPolicy, states)
	setCondition(s, p.initialized())
	containers := core.PodCondition{Type: core.ContainersReady, Status: core.ConditionTrue}
	if !ready {
		containers.Status, containers.Reason, containers.Message = core.ConditionFalse, "ContainersNotReady", "containers with unready status"
	}
	if s.Phase == core.PodSucceeded {
		containers.Reason, containers.Message = "PodCompleted", ""
	}
	setCondition(s, containers)
	whole := containers
	whole.Type = core.PodReady
	for _, g := range spec.ReadinessGates {
		i := slices.IndexFunc(s.Conditions, func(c core.PodCondition) bool { return c.Type == g.ConditionType })
		if ready && (i < 0 || s.Conditions[i].Status != core.ConditionTrue) {
			whole.Status, whole.Reason = core.ConditionFalse, "ReadinessGatesNotReady"
			whole.Message = "the status of pod readiness gate \"" + string(g.ConditionType) + "\" is not \"True\""
		}
	}
	setCondition(s, whole)
}

func (p *pod) initialized() core.PodCondition {
	if p.initDone {
		return core.PodCondition{Type: core.PodInitialized, Status: core.ConditionTrue}
	}
	return core.PodCondition{Type: core.PodInitialized, Status: core.ConditionFalse, Reason: "ContainersNotInitialized", Message: "containers with incomplete status"}
}

// phase sums the containers' states up.
func (p *pod) phase(policy core.RestartPolicy, states []core.ContainerState) core.PodPhase {
	for _, c := range p.containers {
		if c.init && policy == core.RestartPolicyNever && c.state.Terminated != nil && c.state.Terminated.ExitCode != 0 {
			return core.PodFailed
		}
	}
	if !p.initDone {
		return core.PodPending
	}
	failed := false
	for _, s := range states {
		if s.Terminated == nil || policy == core.RestartPolicyAlways || policy == core.RestartPolicyOnFailure && s.Terminated.ExitCode != 0 {
			if s.Waiting != nil && s.Waiting.Reason == creating {
				return core.PodPending
			}
			return core.PodRunning
		}
		failed = failed || s.Terminated.ExitCode != 0
	}
	if failed {
		return core.PodFailed
	}
	return core.PodSucceeded
}

// setCondition replaces the condition of its type; the time is that of the last
// change of its status.
func setCondition(s *core.PodStatus, c core.PodCondition) {
	c.LastTransitionTime = meta.Now()
	i := slices.IndexFunc(s.Conditions, func(x core.PodCondition) bool { return x.Type == c.Type })
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	old := s.Conditions[i]
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	c.ObservedGeneration, c.LastProbeTime = old.ObservedGeneration, old.LastProbeTime
	if !reflect.DeepEqual(old, c) {
		s.Conditions[i] = c
	}
}
