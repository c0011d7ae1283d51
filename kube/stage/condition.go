package stage

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/plain"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// Reasons of the condition: a closed list.
const (
	Running                = "Running"
	Degraded               = "Degraded"
	Starting               = "Starting"
	Connecting             = "Connecting"
	VerifyingCoordinator   = "VerifyingCoordinator"
	CoordinatorUnreachable = "CoordinatorUnreachable"
	CoordinatorRefused     = "CoordinatorRefused"
	WaitingForManifest     = "WaitingForManifest"
	Attesting              = "Attesting"
	NoEvidence             = "NoEvidence"
	EvidenceRefused        = "EvidenceRefused"
	Rendering              = "Rendering"
	ProxyNotReady          = "ProxyNotReady"
	ProgramNotListening    = "ProgramNotListening"
	Drained                = "Drained"
	Cut                    = "Cut"
	Revoked                = "Revoked"
	Stopping               = "Stopping"
	Ended                  = "Ended"
	NotInjected            = "NotInjected"
	NoAnswer               = "NoAnswer"
	UnknownAnswer          = "UnknownAnswer"
)

const (
	patience   = 30 * time.Second // without an answer, before that is said
	maxMessage = 512              // bytes
	maxWords   = 300              // bytes of what somebody else says in it
)

// Observed is what is known of a pod at one time.
type Observed struct {
	Pod     *corev1.Pod
	Address string        // that was asked
	Answer  *stage.Status // nil: it did not answer
	OK      bool          // with 200
	// Heard is when the pod last answered, or was first asked if it never did.
	Heard time.Time
	// Refusal is the coordinator's newest of this very pod, if it has accepted
	// nothing of it since.
	Refusal *apiv1.Decision
}

// Judge returns the condition of a running or failed pod, without its time;
// false if the one it has stands. It decides by its arguments alone.
func Judge(o Observed, now time.Time) (corev1.PodCondition, bool) {
	if o.Answer != nil {
		return answered(o, now), true
	}
	if code, ended := exitCode(o.Pod); ended {
		return afterEnd(o, code), true
	}
	switch had := Condition(o.Pod); {
	case o.Refusal != nil:
		return evidenceRefused(o), true
	case o.Pod.Annotations[inject.Injected] == "" && !now.Before(o.Heard.Add(patience)):
		return no(NotInjected, "the injector did not change this pod; next: delete it, so that it is made anew"), true
	case now.Before(o.Heard.Add(patience)):
		return no(Starting, "has not answered yet"), had == nil
	case had != nil && had.Status == corev1.ConditionTrue && is(o.Pod, corev1.ContainersReady):
		return *had, false // the kubelet hears what we do not
	default:
		text := fmt.Sprintf("no answer at %s since %s", o.Address, o.Heard.UTC().Format(time.RFC3339))
		if is(o.Pod, corev1.ContainersReady) {
			text += ", though the kubelet hears one; next: let NetworkPolicies admit the injectors to that port"
		}
		c := no(NoAnswer, text)
		c.Status = corev1.ConditionUnknown
		return c, true
	}
}

// answered says what a pod says of itself.
func answered(o Observed, now time.Time) corev1.PodCondition {
	a := *o.Answer
	switch a.Stage {
	case stage.Running, stage.Degraded:
		return live(o, now)
	case stage.Starting, stage.Connecting, stage.VerifyingCoordinator, stage.Attesting:
		if o.Refusal != nil { // it tries again what was refused
			return evidenceRefused(o)
		}
		return onTheWay(a)
	case stage.Refused:
		if a.Code == "MRB-005" || a.Code == "MRB-006" {
			return no(CoordinatorRefused, say("the coordinator is not the one that the policy names", a))
		}
		return evidenceRefused(o)
	case stage.WaitingForManifest:
		return no(WaitingForManifest, "waiting for manifest; next: ashlar manifest set FILE")
	case stage.Rendering:
		return no(Rendering, say("writing files and environment", a))
	case stage.StartingProxy:
		return no(ProxyNotReady, say("starting Envoy", a))
	case stage.StartingProgram:
		return no(ProgramNotListening, say("starting the program", a))
	case stage.Drained:
		return no(Drained, say("gets no new requests", a))
	case stage.Cut:
		if a.Code == "MRB-032" {
			return no(Revoked, say("revoked", a))
		}
		return no(Cut, say("has no identity any more", a))
	case stage.Stopping:
		return no(Stopping, say("stopping", a))
	}
	c := no(UnknownAnswer, fmt.Sprintf("the pod answers with a stage that is not known: %q", plain.Clip(string(a.Stage), 80)))
	c.Status = corev1.ConditionUnknown
	return c
}

// live is the condition of a pod that says it runs.
func live(o Observed, now time.Time) corev1.PodCondition {
	switch a := *o.Answer; {
	case !o.OK && a.Ready(now):
		c := no(UnknownAnswer, say("the pod says that it runs, and answers as one that does not", a))
		c.Status = corev1.ConditionUnknown
		return c
	case a.Stage == stage.Running:
		return yes(Running, say("attested", a))
	case o.OK:
		return yes(Degraded, say("degraded", a))
	default:
		return no(Degraded, say("degraded", a))
	}
}

// onTheWay is the condition of a pod before its evidence was judged.
func onTheWay(a stage.Status) corev1.PodCondition {
	switch {
	case a.Code == "MRB-007" || a.Code == "MRB-028":
		return no(NoEvidence, say("the TEE gives no evidence", a))
	case a.Code != "":
		return no(CoordinatorUnreachable, say("the coordinator does not answer as it should", a))
	case a.Stage == stage.Connecting:
		return no(Connecting, say("connecting to the coordinator", a))
	case a.Stage == stage.VerifyingCoordinator:
		return no(VerifyingCoordinator, say("verifying the coordinator", a))
	case a.Stage == stage.Attesting:
		return no(Attesting, say("attesting", a))
	}
	return no(Starting, say("starting", a))
}

// evidenceRefused says by what the coordinator refused, or the pod says it was.
func evidenceRefused(o Observed) corev1.PodCondition {
	if d := o.Refusal; d != nil {
		return no(EvidenceRefused, fmt.Sprintf("evidence refused: %s (%s); next: ashlar explain %s",
			plain.Clip(d.Reason, maxWords), plain.Clip(d.Code, 20), plain.Clip(d.ID, 140)))
	}
	return no(EvidenceRefused, say("refused", *cmp.Or(o.Answer, &stage.Status{}))+"; next: see the log of the container")
}

// afterEnd says why the marble's container is not running.
func afterEnd(o Observed, code int32) corev1.PodCondition {
	switch {
	case code == stage.ExitRevoked:
		return no(Revoked, "the identity was revoked; next: ashlar audit list")
	case o.Refusal != nil || int(code) == problem.Refused.ExitCode():
		return evidenceRefused(o)
	}
	return no(Ended, fmt.Sprintf("the container ended with exit code %d; next: see its log", code))
}

// exitCode returns with what the marble's container ended, if it is not running.
func exitCode(pod *corev1.Pod) (int32, bool) {
	for _, st := range pod.Status.ContainerStatuses {
		if st.Name != program(pod) {
			continue
		}
		switch {
		case st.State.Terminated != nil:
			return st.State.Terminated.ExitCode, true
		case st.State.Waiting != nil && st.LastTerminationState.Terminated != nil:
			return st.LastTerminationState.Terminated.ExitCode, true
		}
	}
	return 0, false
}

// program names the container that is the marble.
func program(pod *corev1.Pod) string {
	if name := pod.Annotations[inject.Container]; name != "" || len(pod.Spec.Containers) == 0 {
		return name
	}
	return pod.Spec.Containers[0].Name
}

// say puts words of a pod behind ours.
func say(ours string, a stage.Status) string {
	if a.Reason != "" {
		ours += ": " + plain.Clip(a.Reason, maxWords)
	}
	if a.Code != "" {
		ours += " (" + plain.Clip(a.Code, 20) + ")"
	}
	return ours
}

func yes(reason, message string) corev1.PodCondition {
	return corev1.PodCondition{Type: inject.Attested, Status: corev1.ConditionTrue, Reason: reason, Message: plain.Clip(message, maxMessage)}
}

func no(reason, message string) corev1.PodCondition {
	c := yes(reason, message)
	c.Status = corev1.ConditionFalse
	return c
}

// Condition returns the pod's condition, nil if it has none yet.
func Condition(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == inject.Attested {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func is(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// succeed gives a condition the time of its last change of status.
func succeed(had *corev1.PodCondition, c corev1.PodCondition, now time.Time) corev1.PodCondition {
	c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
	if had != nil && had.Status == c.Status {
		c.LastTransitionTime = had.LastTransitionTime
	}
	return c
}

// known is a reason of the list above, or "Other" for one that somebody else wrote
// into a pod's condition.
func known(reason string) string {
	if !warns(reason) {
		return reason
	}
	switch reason {
	case Degraded, CoordinatorUnreachable, CoordinatorRefused, NoEvidence, EvidenceRefused, Drained, Cut, Revoked, Ended, NotInjected, NoAnswer, UnknownAnswer:
		return reason
	}
	return "Other"
}

// warns reports whether an event with a reason is a warning.
func warns(reason string) bool {
	switch reason {
	case Running, Starting, Connecting, VerifyingCoordinator, WaitingForManifest, Attesting, Rendering, ProxyNotReady, ProgramNotListening, Stopping:
		return false
	}
	return true
}
