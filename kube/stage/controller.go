package stage

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

const (
	atOnce       = 16 // pods that are asked at one time
	look         = 500 * time.Millisecond
	soon         = 2 * time.Second // between two questions to a pod that is on its way
	calm         = 5 * time.Second // to one that runs
	seldom       = 30 * time.Second
	eager        = time.Minute      // a silent pod is asked soon again for this long
	writeTimeout = 10 * time.Second // of one patch
	// rewrite bounds how often a message alone is replaced, and how long what was
	// written counts for more than what the informer shows.
	rewrite    = 15 * time.Second
	countEvery = 5 * time.Second
)

// controller asks pods and writes what they say. Its fields are of run alone but
// where they say otherwise.
type controller struct {
	Config
	http     *http.Client         // safe for concurrent use
	events   record.EventRecorder // safe for concurrent use
	pods     listers.PodLister    // safe for concurrent use
	refusals *refusals            // safe for concurrent use
	watched  map[types.UID]*watch // the pods that are there
	results  chan result          // of questions; never full
	queue    []*corev1.Pod        // that are due, as the last look found them
	busy     int                  // questions that are out
	counted  time.Time
	work     sync.WaitGroup
}

// watch is what is known of one pod.
type watch struct {
	due     time.Time
	asking  bool
	heard   time.Time // when it last answered, or was first asked
	written time.Time
	had     *corev1.PodCondition // as written
}

// result is what came of one question.
type result struct {
	uid      types.UID
	answered bool
	has      *corev1.PodCondition // that the pod has now; nil: none
	wrote    bool                 // it is new
}

func newController(c Config) *controller {
	return &controller{Config: c, http: newClient(), refusals: newRefusals(c), watched: map[types.UID]*watch{}, results: make(chan result, atOnce)}
}

// run leads until ctx ends.
func (c *controller) run(ctx context.Context) {
	defer c.work.Wait()
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typed.EventSinkImpl{Interface: c.Cluster.CoreV1().Events("")})
	defer broadcaster.Shutdown()
	c.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "ashlar-injector"})

	factory := informers.NewSharedInformerFactoryWithOptions(c.Cluster, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = inject.Label }))
	pods := factory.Core().V1().Pods()
	c.pods = pods.Lister()
	synced := pods.Informer().HasSynced
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		return
	}
	c.work.Go(func() { c.refusals.run(ctx) })
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-c.results:
			c.busy--
			c.take(r)
		case <-tick.C:
			c.count()
			c.queue = c.due()
		}
		c.ask(ctx)
	}
}

// trim keeps of a pod what the controller reads: there may be many.
func trim(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	small := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion, DeletionTimestamp: pod.DeletionTimestamp,
			Labels: map[string]string{inject.Label: pod.Labels[inject.Label], inject.Injection: pod.Labels[inject.Injection]}, Annotations: map[string]string{}},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, Conditions: pod.Status.Conditions, ContainerStatuses: pod.Status.ContainerStatuses},
	}
	for _, name := range []string{inject.Injected, inject.Container} {
		if v, ok := pod.Annotations[name]; ok {
			small.Annotations[name] = v
		}
	}
	for _, k := range pod.Spec.Containers {
		if k.Name == program(pod) {
			small.Spec.Containers = []corev1.Container{{Name: k.Name, Env: slices.DeleteFunc(slices.Clone(k.Env), func(e corev1.EnvVar) bool { return e.Name != coordinatorEnv })}}
		}
	}
	return small, nil
}

// coordinatorEnv is where an injector wrote which mesh a pod is of.
const coordinatorEnv = "ASHLAR_COORDINATOR"

// ours reports whether a pod has come so far that it can be asked, and was
// neither kept out of the mesh by its owner nor is of another mesh's. Before a
// node runs it, scheduler and kubelet say what is missing.
func (c Config) ours(pod *corev1.Pod) bool {
	if _, ok := inject.Labelled(pod); !ok || pod.DeletionTimestamp != nil {
		return false
	}
	for _, k := range pod.Spec.Containers {
		for _, e := range k.Env {
			if e.Name == coordinatorEnv && e.Value != c.Coordinator {
				return false
			}
		}
	}
	_, ended := exitCode(pod)
	return pod.Status.Phase == corev1.PodRunning && askable(pod.Status.PodIP) || pod.Status.Phase == corev1.PodFailed && ended
}

// due returns the pods that are to be asked, longest due first, and forgets those
// that are gone.
func (c *controller) due() []*corev1.Pod {
	all, err := c.pods.List(labels.Everything())
	if err != nil { // an indexer always lists
		return nil
	}
	now := c.Now()
	there := make(map[types.UID]bool, len(all))
	var due []*corev1.Pod
	for _, pod := range all {
		if !c.ours(pod) {
			continue
		}
		there[pod.UID] = true
		w := c.watched[pod.UID]
		if w == nil {
			w = &watch{due: now, heard: now}
			c.watched[pod.UID] = w
		}
		if !w.asking && !now.Before(w.due) {
			due = append(due, pod)
		}
	}
	for uid, w := range c.watched {
		if !there[uid] && !w.asking {
			delete(c.watched, uid)
		}
	}
	c.refusals.forget(there)
	slices.SortFunc(due, func(a, b *corev1.Pod) int { return c.watched[a.UID].due.Compare(c.watched[b.UID].due) })
	return due
}

// askable reports whether an address can be a pod's: whoever writes pods' status
// does not choose services of the node or the cloud to be asked.
func askable(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && !ip.Unmap().IsLinkLocalUnicast() && !ip.Unmap().IsMulticast() && !ip.IsUnspecified()
}

// ask sends out questions to the next pods of the queue.
func (c *controller) ask(ctx context.Context) {
	n := min(len(c.queue), atOnce-c.busy)
	for _, pod := range c.queue[:n] {
		w := *c.watched[pod.UID]
		c.watched[pod.UID].asking = true
		c.busy++
		c.work.Go(func() { c.results <- c.visit(ctx, pod, w) })
	}
	c.queue = c.queue[n:]
}

// take notes what came of a question, and when the next is due.
func (c *controller) take(r result) {
	w, now := c.watched[r.uid], c.Now()
	w.asking = false
	if r.answered {
		w.heard = now
	}
	if w.had = r.has; r.wrote {
		w.written = now
	}
	wait := soon
	switch {
	case !r.answered && now.After(w.heard.Add(eager)):
		wait = seldom
	case r.answered && w.had != nil && w.had.Status == corev1.ConditionTrue:
		wait = calm
	}
	w.due = now.Add(wait*4/5 + rand.N(wait*2/5))
	if w.had == nil || w.had.Status != corev1.ConditionTrue {
		c.refusals.want()
	}
}

// visit asks one pod and writes its condition where that is another one.
func (c *controller) visit(ctx context.Context, pod *corev1.Pod, w watch) result {
	now, had := c.Now(), Condition(pod)
	if w.had != nil && now.Before(w.written.Add(rewrite)) { // the informer may not show it yet
		had, pod = w.had, withCondition(pod, *w.had)
	}
	r := result{uid: pod.UID, has: had}
	o := Observed{Pod: pod, Heard: w.heard, Refusal: c.refusals.of(pod.UID)}
	if pod.Status.Phase == corev1.PodRunning {
		o.Address = net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(c.Port)))
		var err error
		if o.Answer, o.OK, err = ask(ctx, c.http, o.Address); err != nil {
			c.Log.Debug("a pod does not answer", "namespace", pod.Namespace, "pod", pod.Name, "error", err)
		}
		if ctx.Err() != nil {
			return r // the question was cut off, which says nothing about the pod
		}
		r.answered = o.Answer != nil
	}
	now = c.Now()
	want, judged := Judge(o, now)
	if !judged || had != nil && same(*had, want, now.Before(w.written.Add(rewrite))) {
		return r
	}
	want = succeed(had, want, now)
	if err := c.write(ctx, pod, want); err != nil {
		if !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // else the pod is gone
			c.Log.Warn("a pod's condition cannot be written", "namespace", pod.Namespace, "pod", pod.Name, "error", err)
		}
		return r
	}
	r.has, r.wrote = &want, true
	if tells(had, want) {
		kind := corev1.EventTypeNormal
		if warns(want.Reason) {
			kind = corev1.EventTypeWarning
		}
		c.events.Event(pod, kind, want.Reason, want.Message)
	}
	return r
}

// write patches the condition into the pod, on condition that it is still the
// same one.
func (c *controller) write(ctx context.Context, pod *corev1.Pod, want corev1.PodCondition) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": want.Type, "status": want.Status, "reason": want.Reason, "message": want.Message, "lastTransitionTime": want.LastTransitionTime}}},
	})
	if err != nil {
		return err
	}
	_, err = c.Cluster.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	return err
}

// tells reports whether a condition is worth an event: another reason, or what the
// coordinator's refusal rests on, which is known a while after the pod has said that
// it was refused.
func tells(had *corev1.PodCondition, want corev1.PodCondition) bool {
	decided := func(c corev1.PodCondition) bool { return strings.HasPrefix(c.Message, "evidence refused: ") }
	return had == nil || had.Reason != want.Reason || decided(want) && !decided(*had)
}

// same reports whether a condition says what another does. Where the newer is
// of a moment ago, another message alone is none worth writing.
func same(a, b corev1.PodCondition, fresh bool) bool {
	return a.Status == b.Status && a.Reason == b.Reason && (fresh || a.Message == b.Message)
}

// withCondition returns the pod with one condition in place of what it has.
func withCondition(pod *corev1.Pod, c corev1.PodCondition) *corev1.Pod {
	other := pod.DeepCopy()
	if have := Condition(other); have != nil {
		*have = c
	} else {
		other.Status.Conditions = append(other.Status.Conditions, c)
	}
	return other
}

// count tells how many pods there are of each reason.
func (c *controller) count() {
	if now := c.Now(); now.Before(c.counted.Add(countEvery)) {
		return
	}
	c.counted = c.Now()
	reasons := map[string]int{}
	for _, w := range c.watched {
		if w.had != nil {
			reasons[known(w.had.Reason)]++
		}
	}
	c.Count(reasons)
}
