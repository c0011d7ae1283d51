package kube

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

var makersOfShop = []maker{
	{kind: "Deployment", name: "web", uid: "d", wanted: 2},
	{kind: "ReplicaSet", name: "web-7d4b", uid: "r1", owner: "d", wanted: 2},
	{kind: "ReplicaSet", name: "web-5c9f", uid: "r0", owner: "d", wanted: 0},
	{kind: "StatefulSet", name: "web-db", uid: "s", wanted: 1},
	{kind: "Job", name: "idle", uid: "j", wanted: 0},
}

func TestMakerOf(t *testing.T) {
	for name, want := range map[string]types.UID{"web": "d", "web-7d4b": "r1", "web-7d4b-x2k4p": "r1", "web-db-0": "s", "web-unknown": "d", "webber": "", "we": ""} {
		got, ok := makerOf(makersOfShop, name)
		if got.uid != want || ok != (want != "") {
			t.Errorf("%s: got %s, want %q", name, got.uid, want)
		}
	}
}

func TestFailedCreate(t *testing.T) {
	at := time.Unix(1_000_000, 0)
	event := func(uid types.UID, after time.Duration, message string) corev1.Event {
		return corev1.Event{Reason: "FailedCreate", InvolvedObject: corev1.ObjectReference{UID: uid}, LastTimestamp: metav1.Time{Time: at.Add(after)}, Message: message}
	}
	unknown := `Error creating: admission webhook "pods.injector.ashlar.dev" denied the request: KUB-052 there is no marble "wbe"; next: did you mean "web"?`
	yes := true
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{UID: "r1", Controller: &yes}}}}
	for _, c := range []struct {
		name   string
		root   types.UID
		pods   []corev1.Pod
		events []corev1.Event
		want   Story
	}{
		{"the injector refuses", "d", nil, []corev1.Event{event("r1", 0, unknown)},
			Story{Subject: "ReplicaSet web-7d4b", Namespace: "shop", Code: "KUB-052", What: "its pods are refused at admission by pods.injector.ashlar.dev",
				Why: `there is no marble "wbe"`, Next: `did you mean "web"?`}},
		{"the newest counts", "d", nil, []corev1.Event{event("r1", time.Minute, `Error creating: failed calling webhook "w": timeout`), event("r1", 0, unknown)},
			Story{Subject: "ReplicaSet web-7d4b", Namespace: "shop", Code: "KUB-036", What: "its pods cannot be created: the injector does not answer", Why: "timeout", Next: "ashlar check --only webhook"}},
		{"pod security", "s", nil, []corev1.Event{event("s", 0, `create Pod web-db-0 failed: violates PodSecurity "baseline"`)},
			Story{Subject: "StatefulSet web-db", Namespace: "shop", Code: "KUB-026", What: "its pods are refused by pod security admission",
				Why: `create Pod web-db-0 failed: violates PodSecurity "baseline"`, Next: problem.Lookup("KUB-026").Next}},
		{"quota", "s", nil, []corev1.Event{event("s", 0, "exceeded quota")},
			Story{Subject: "StatefulSet web-db", Namespace: "shop", Code: "KUB-040", What: "its pods are refused", Why: "exceeded quota", Next: problem.Lookup("KUB-040").Next}},
		{"over meanwhile", "d", []corev1.Pod{pod, pod}, []corev1.Event{event("r1", 0, unknown)}, Story{}},
		{"one of two is missing", "d", []corev1.Pod{pod}, []corev1.Event{event("r1", 0, "exceeded quota")},
			Story{Subject: "ReplicaSet web-7d4b", Namespace: "shop", Code: "KUB-040", What: "its pods are refused", Why: "exceeded quota", Next: problem.Lookup("KUB-040").Next}},
		{"of a revision that is wanted no more", "d", nil, []corev1.Event{event("r0", 0, unknown)}, Story{}},
		{"of another", "s", nil, []corev1.Event{event("r1", 0, unknown)}, Story{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			family := descendants(makersOfShop, c.root)
			got, ok := failedCreate("shop", family, ofFamily(c.pods, family), c.events)
			if got != c.want || ok != (c.want != Story{}) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestWorst(t *testing.T) {
	pod := func(name string, age time.Duration, ready corev1.ConditionStatus) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Time{Time: time.Unix(1_000_000, 0).Add(-age)}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
	}
	all := []corev1.Pod{pod("ready", 0, "True"), pod("old", time.Hour, "False"), pod("new", time.Minute, "False"), pod("older", 2*time.Hour, "True")}
	if got := worst(all).Name; got != "new" {
		t.Errorf("got %s, want new: the newest that is not ready", got)
	}
	if got := worst([]corev1.Pod{all[0], all[3]}).Name; got != "ready" {
		t.Errorf("got %s, want the newest where all are ready", got)
	}
}

func TestIdle(t *testing.T) {
	if s := idle("shop", makersOfShop[4]); !s.Well || s.What != "has no pods" {
		t.Errorf("got %+v, want it to be well without pods that nobody asked for", s)
	}
	if s := idle("shop", makersOfShop[0]); s.Well || s.Code != "KUB-040" || s.Next == "" {
		t.Errorf("got %+v, want a reason to look", s)
	}
}

// TestLongListsAreReadWhole: the pods that a ReplicaSet has are on the second
// page, so what once failed is not why there are too few.
func TestLongListsAreReadWhole(t *testing.T) {
	yes, two := true, int32(2)
	owner := []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", UID: "r", Controller: &yes}}
	client := fake.NewClientset(
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop", UID: "r"}, Spec: appsv1.ReplicaSetSpec{Replicas: &two}},
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "shop"}, Reason: "FailedCreate", InvolvedObject: corev1.ObjectReference{UID: "r"}, Message: "quota"})
	pages := 0
	client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		if pages++; pages == 1 {
			return true, &corev1.PodList{ListMeta: metav1.ListMeta{Continue: "second"}, Items: make([]corev1.Pod, pageSize)}, nil
		}
		return true, &corev1.PodList{Items: []corev1.Pod{
			{ObjectMeta: metav1.ObjectMeta{Name: "web-1-a", Namespace: "shop", OwnerReferences: owner}},
			{ObjectMeta: metav1.ObjectMeta{Name: "web-1-b", Namespace: "shop", OwnerReferences: owner}}}}, nil
	})
	s, err := (&Cluster{client: client, Namespace: "shop"}).Explain(t.Context(), "web-1")
	if err != nil || pages != 2 || s.Subject == "ReplicaSet web-1" {
		t.Errorf("got %+v, %v after %d pages, want a pod's story after 2", s, err, pages)
	}
}
