package kube

import (
	"cmp"
	"context"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Explain says why a pod is as it is. The name may be a pod's, also of one that
// could not be created, or that of what makes pods.
func (c *Cluster) Explain(ctx context.Context, name string) (Story, error) {
	pod, err := c.client.CoreV1().Pods(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return c.explainPod(ctx, *pod)
	}
	if !apierrors.IsNotFound(err) {
		return Story{}, c.failure(err, "reading pod %s", name)
	}
	makers, err := c.makers(ctx)
	if err != nil {
		return Story{}, err
	}
	found, ok := makerOf(makers, name)
	if !ok {
		return Story{}, c.unknownPod(ctx, name, makers)
	}
	family := descendants(makers, found.uid)
	var mine []corev1.Pod
	err = paged(ctx, metav1.ListOptions{}, c.client.CoreV1().Pods(c.Namespace).List, func(l *corev1.PodList) { mine = append(mine, ofFamily(l.Items, family)...) })
	if err != nil {
		return Story{}, c.failure(err, "listing pods")
	}
	var events []corev1.Event
	failures := metav1.ListOptions{FieldSelector: "reason=FailedCreate"}
	err = paged(ctx, failures, c.client.CoreV1().Events(c.Namespace).List, func(l *corev1.EventList) { events = append(events, l.Items...) })
	if err != nil {
		return Story{}, c.failure(err, "listing events")
	}
	if s, ok := failedCreate(c.Namespace, family, mine, events); ok {
		return s, nil
	}
	if len(mine) == 0 {
		return idle(c.Namespace, found), nil
	}
	return c.explainPod(ctx, worst(mine))
}

// Pods lists names of pods, and of what makes them, that begin with a prefix.
func (c *Cluster) Pods(ctx context.Context, prefix string) []string {
	var names []string
	if pods, err := c.client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{Limit: pageSize}); err == nil {
		for _, p := range pods.Items {
			names = append(names, p.Name)
		}
	}
	if list, err := c.client.AppsV1().Deployments(c.Namespace).List(ctx, metav1.ListOptions{Limit: pageSize}); err == nil {
		for _, d := range list.Items {
			names = append(names, d.Name)
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) })
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *Cluster) explainPod(ctx context.Context, pod corev1.Pod) (Story, error) {
	f := podFacts{pod: pod}
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, pod.Namespace, metav1.GetOptions{})
	if err == nil {
		f.namespace = *ns
	}
	// What an account may not read is left out: the story has a gap there.
	if configs, err := c.client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{Limit: pageSize}); err == nil {
		f.hookRead = true
		_, f.hook = injectorHook(configs.Items, pod.Namespace)
	}
	about := "involvedObject.kind=Pod,involvedObject.name=" + pod.Name
	if events, err := c.client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: about, Limit: pageSize}); err == nil {
		f.events = events.Items
	}
	if pod.Spec.NodeName == "" {
		if f.cluster, err = c.look(ctx); err != nil && problem.CodeOf(err) != "KUB-022" {
			return Story{}, err
		}
	}
	return f.story(), nil
}

// maker is an object that makes pods, or makes what makes them.
type maker struct {
	kind, name string
	uid        types.UID
	owner      types.UID
	wanted     int32
	made       metav1.Time
}

func (c *Cluster) makers(ctx context.Context) ([]maker, error) {
	all := metav1.ListOptions{}
	apps := c.client.AppsV1()
	var out []maker
	add := func(kind string, m metav1.ObjectMeta, wanted int32) {
		owner := types.UID("")
		if o := metav1.GetControllerOf(&m); o != nil {
			owner = o.UID
		}
		out = append(out, maker{kind, m.Name, m.UID, owner, wanted, m.CreationTimestamp})
	}
	if err := paged(ctx, all, apps.Deployments(c.Namespace).List, func(l *appsv1.DeploymentList) {
		for _, o := range l.Items {
			add("Deployment", o.ObjectMeta, wanted(o.Spec.Replicas))
		}
	}); err != nil {
		return nil, c.failure(err, "listing Deployments")
	}
	if err := paged(ctx, all, apps.ReplicaSets(c.Namespace).List, func(l *appsv1.ReplicaSetList) {
		for _, o := range l.Items {
			add("ReplicaSet", o.ObjectMeta, wanted(o.Spec.Replicas))
		}
	}); err != nil {
		return nil, c.failure(err, "listing ReplicaSets")
	}
	if err := paged(ctx, all, apps.StatefulSets(c.Namespace).List, func(l *appsv1.StatefulSetList) {
		for _, o := range l.Items {
			add("StatefulSet", o.ObjectMeta, wanted(o.Spec.Replicas))
		}
	}); err != nil {
		return nil, c.failure(err, "listing StatefulSets")
	}
	if err := paged(ctx, all, apps.DaemonSets(c.Namespace).List, func(l *appsv1.DaemonSetList) {
		for _, o := range l.Items {
			add("DaemonSet", o.ObjectMeta, o.Status.DesiredNumberScheduled)
		}
	}); err != nil {
		return nil, c.failure(err, "listing DaemonSets")
	}
	if err := paged(ctx, all, c.client.BatchV1().Jobs(c.Namespace).List, func(l *batchv1.JobList) {
		for _, o := range l.Items {
			add("Job", o.ObjectMeta, wanted(o.Spec.Parallelism))
		}
	}); err != nil {
		return nil, c.failure(err, "listing Jobs")
	}
	return out, nil
}

// makerOf finds what makes pods of a name: the object of this name, or the one
// with the longest name that the pod's name goes on from.
func makerOf(makers []maker, name string) (maker, bool) {
	var best maker
	for _, m := range makers {
		if m.name == name {
			return m, true
		}
		if strings.HasPrefix(name, m.name+"-") && len(m.name) > len(best.name) {
			best = m
		}
	}
	return best, best.name != ""
}

// descendants are the makers below one, and itself.
func descendants(makers []maker, root types.UID) map[types.UID]maker {
	family := map[types.UID]maker{}
	for _, m := range makers {
		if m.uid == root || m.owner == root {
			family[m.uid] = m
		}
	}
	return family
}

func ofFamily(pods []corev1.Pod, family map[types.UID]maker) []corev1.Pod {
	var out []corev1.Pod
	for _, p := range pods {
		if o := metav1.GetControllerOf(&p); o != nil {
			if _, ok := family[o.UID]; ok {
				out = append(out, p)
			}
		}
	}
	return out
}

// failedCreate tells why pods could not be created: by the newest such event of
// a maker that wants more pods than it has.
func failedCreate(namespace string, family map[types.UID]maker, pods []corev1.Pod, events []corev1.Event) (Story, bool) {
	has := map[types.UID]int32{}
	for _, p := range pods {
		has[metav1.GetControllerOf(&p).UID]++
	}
	events = slices.DeleteFunc(slices.Clone(events), func(e corev1.Event) bool {
		m, ok := family[e.InvolvedObject.UID]
		return !ok || e.Reason != "FailedCreate" || has[m.uid] >= m.wanted
	})
	if len(events) == 0 {
		return Story{}, false
	}
	newest := slices.MaxFunc(events, func(a, b corev1.Event) int { return when(a).Compare(when(b)) })
	m := family[newest.InvolvedObject.UID]
	s := Story{Subject: m.kind + " " + m.name, Namespace: namespace}
	r := refusalOf(newest.Message)
	switch {
	case r.away:
		s.blame("KUB-036", "its pods cannot be created: the injector does not answer", r.text, "ashlar check --only webhook")
	case r.by != "":
		s.blame(cmp.Or(r.code, "KUB-040"), "its pods are refused at admission by "+r.by, r.text, r.next)
	case strings.Contains(r.text, "violates PodSecurity"):
		s.blame("KUB-026", "its pods are refused by pod security admission", r.text, "")
	default:
		s.blame("KUB-040", "its pods are refused", r.text, "")
	}
	return s, true
}

// idle tells of a maker without pods of which nobody says why.
func idle(namespace string, m maker) Story {
	s := Story{Subject: m.kind + " " + m.name, Namespace: namespace}
	if m.wanted == 0 {
		s.Well, s.What, s.Why = true, "has no pods", "it is asked for none (replicas: 0)"
		return s
	}
	s.blame("KUB-040", "has no pods", "it has made none yet, and says no reason", "kubectl -n "+namespace+" describe "+strings.ToLower(m.kind)+" "+m.name)
	return s
}

// worst is the pod that most needs an explanation: one that is not ready, and of
// these the newest.
func worst(pods []corev1.Pod) corev1.Pod {
	return slices.MaxFunc(pods, func(a, b corev1.Pod) int {
		ra, rb := conditionOf(a, corev1.PodReady).Status == corev1.ConditionTrue, conditionOf(b, corev1.PodReady).Status == corev1.ConditionTrue
		if ra != rb {
			if rb {
				return 1
			}
			return -1
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
}

func (c *Cluster) unknownPod(ctx context.Context, name string, makers []maker) error {
	names := c.Pods(ctx, "")
	for _, m := range makers {
		names = append(names, m.name)
	}
	e := problem.New("KUB-043", "namespace %s has no pod %s, and nothing that makes pods of that name", c.Namespace, name)
	if best := nearest.Word(name, names); best != "" {
		return e.WithNext("did you mean %s? Or name the namespace: -n", best)
	}
	return e
}
