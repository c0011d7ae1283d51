package kube

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// coordinatorPod is the pod of the StatefulSet of these tests.
func coordinatorPod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "c-0", Namespace: "shop", Labels: map[string]string{"app": "c"}},
		Spec: corev1.PodSpec{NodeName: "one"}, Status: corev1.PodStatus{Phase: corev1.PodPending}}
	change(p)
	return p
}

func event(kind, name, message string) *corev1.Event {
	return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name + message[:3], Namespace: "shop"}, Type: corev1.EventTypeWarning, Message: message,
		InvolvedObject: corev1.ObjectReference{Kind: kind, Name: name}, LastTimestamp: metav1.Now()}
}

func condition(kind corev1.PodConditionType, status corev1.ConditionStatus, message string) []corev1.PodCondition {
	return []corev1.PodCondition{{Type: kind, Status: status, Message: message}}
}

func waiting(reason, message string) []corev1.ContainerStatus {
	return []corev1.ContainerStatus{{Name: "coordinator", Image: "c:1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
}

// made is when the StatefulSet of these tests was made.
var made = time.Now().Add(-time.Minute)

// looked looks at the StatefulSet c among objects.
func looked(t *testing.T, ready int32, others ...runtime.Object) Workload {
	t.Helper()
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "shop", CreationTimestamp: metav1.Time{Time: made}}, Status: appsv1.StatefulSetStatus{ReadyReplicas: ready, CurrentRevision: "1", UpdateRevision: "1"}}
	c := &Cluster{client: fake.NewClientset(append(others, set)...)}
	p := &Plan{Target: Target{"r", "shop"}, objects: []object{{"kind": "StatefulSet", "metadata": map[string]any{"name": "c"},
		"spec": map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "c"}}}}}}
	all, err := c.workloads(t.Context(), p)
	if err != nil || len(all) != 1 {
		t.Fatalf("got %v, %v; want one workload", all, err)
	}
	return all[0]
}

func TestWorkloadsSayWhyTheyAreNotReady(t *testing.T) {
	unscheduled := func(message string) *corev1.Pod {
		return coordinatorPod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status.Conditions = "", condition(corev1.PodScheduled, corev1.ConditionFalse, message)
		})
	}
	waits := func(reason, message string) *corev1.Pod {
		return coordinatorPod(func(p *corev1.Pod) { p.Status.ContainerStatuses = waiting(reason, message) })
	}
	crashing := waits("CrashLoopBackOff", "back-off 5m0s")
	crashing.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", Message: "no TEE\n"}
	for _, c := range []struct {
		name       string
		others     []runtime.Object
		says, next string
	}{
		{"nothing yet", nil, "no pod yet", ""},
		{"pods are not admitted", []runtime.Object{event("StatefulSet", "c", `pods "c-0" is forbidden: violates PodSecurity "restricted:latest"`)}, "no pod: pods", "label the namespace"},
		{"another's event", []runtime.Object{event("StatefulSet", "d", "something else")}, "no pod yet", ""},
		{"no such resource", []runtime.Object{unscheduled("0/3 nodes are available: 3 Insufficient sgx.intel.com/epc. preemption: none.")}, "pending: no node offers sgx.intel.com/epc (0/3 nodes)", "device plugin"},
		{"too little memory", []runtime.Object{unscheduled("0/1 nodes are available: 1 Insufficient memory.")}, "pending: no node has enough memory (0/1 nodes)", "add a node"},
		{"no volume", []runtime.Object{unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
			event("PersistentVolumeClaim", "state-c-0", "no persistent volumes available for this claim and no storage class is set")},
			"its volume is not there: no persistent volumes available", "storageClass"},
		{"taints", []runtime.Object{unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.")}, "no node takes it", "describe pod c-0"},
		{"no image", []runtime.Object{waits("ImagePullBackOff", "not found")}, "image c:1 cannot be pulled: not found", "image.registry"},
		{"crashes", []runtime.Object{crashing}, "coordinator ends at once (exit code 3) no TEE", "kubectl -n shop logs c-0 -c coordinator --previous"},
		{"cannot start", []runtime.Object{waits("CreateContainerConfigError", "secret is missing")}, "coordinator cannot start: secret is missing", "describe"},
		{"mount fails", []runtime.Object{coordinatorPod(func(*corev1.Pod) {}), event("Pod", "c-0", "hostPath type check failed")}, "pending: hostPath type check failed", "describe"},
		{"an event of a pod before", []runtime.Object{coordinatorPod(func(p *corev1.Pod) { p.UID = "new" }), event("Pod", "c-0", "old complaint")}, "starting on one", ""},
		{"starting", []runtime.Object{coordinatorPod(func(*corev1.Pod) {})}, "starting on one", ""},
		{"refuses to be ready", []runtime.Object{coordinatorPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }), event("Pod", "c-0", "Readiness probe failed: HTTP probe failed with statuscode: 503")},
			"running: Readiness probe failed", "kubectl -n shop logs c-0"},
		{"running", []runtime.Object{coordinatorPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning })}, "running, not ready yet", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := looked(t, 0, c.others...)
			if w.Done || !strings.Contains(w.Reason, c.says) || !strings.Contains(w.Next, c.next) {
				t.Errorf("got %+v, want %q and next %q", w, c.says, c.next)
			}
			if c.next == "" && w.Next != "" {
				t.Errorf("got next step %q, want none", w.Next)
			}
		})
	}
	old := event("StatefulSet", "c", "of the release before")
	old.LastTimestamp = metav1.Time{Time: made.Add(-time.Hour)}
	if w := looked(t, 0, old); w.Reason != "no pod yet" {
		t.Errorf("got %q, want nothing of a time before", w.Reason)
	}
	if w := looked(t, 1); !w.Done || w.Reason != "" || w.String() != "c 1/1 ready" {
		t.Errorf("got %+v, want it ready", w)
	}
}

func TestWaitEndsWithWhatIsNotReady(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "shop"}}
	c := &Cluster{client: fake.NewClientset(set)}
	p := &Plan{Target: Target{"r", "shop"}, objects: []object{{"kind": "StatefulSet", "metadata": map[string]any{"name": "c"}}}}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	shown := 0
	err := c.Wait(ctx, p, func([]Workload) { shown++ })
	if e := problem.From(err); e.Code != "KUB-008" || e.Detail != "c 0/1: no pod yet" || shown != 1 {
		t.Errorf("got %v after %d reports, want KUB-008 with the workload's state, after one", err, shown)
	}
	gone, stop := context.WithCancel(t.Context())
	stop()
	if err := c.Wait(gone, p, func([]Workload) {}); err != context.Canceled {
		t.Errorf("got %v of a wait that was interrupted, want that it was", err)
	}
	p.objects[0]["metadata"] = map[string]any{"name": "absent"}
	if err := c.Wait(t.Context(), p, func([]Workload) {}); err == nil || problem.CodeOf(err) == "KUB-008" {
		t.Errorf("got %v for a workload that is not there, want the answer of the API server", err)
	}
}

// TestWaitsEndWithWhatIsNotReady: an API server that answers no more in the time
// that is left is not the reason.
func TestWaitsEndWithWhatIsNotReady(t *testing.T) {
	for name, late := range map[string]func(context.Context) error{
		"in the middle of a request": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"before one": func(context.Context) error {
			return errors.New("client rate limiter Wait returned an error: rate: Wait(n=1) would exceed context deadline")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), pollEvery+pollEvery/4)
			defer cancel()
			client := fake.NewClientset(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "shop"}})
			asked := 0
			client.PrependReactor("get", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
				if asked++; asked == 1 {
					return false, nil, nil
				}
				return true, nil, late(ctx)
			})
			c, p := &Cluster{client: client}, &Plan{Target: Target{"r", "shop"}, objects: []object{{"kind": "Deployment", "metadata": map[string]any{"name": "d"}}}}
			err := c.Wait(ctx, p, func([]Workload) {})
			if problem.CodeOf(err) != "KUB-008" || asked > 2 {
				t.Errorf("got %v after %d looks, want KUB-008", err, asked)
			}
		})
	}
}
