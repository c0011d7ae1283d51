package stage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	listers "k8s.io/client-go/listers/core/v1"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

func TestAsk(t *testing.T) {
	stalled := make(chan struct{})
	defer close(stalled)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		stage  stage.Stage // "": no answer
		ok     bool
	}{
		{"ready", says(200, `{"stage":"running"}`), stage.Running, true},
		{"not ready", says(503, `{"stage":"attesting","more":1}`), stage.Attesting, false},
		{"another status", says(404, `{"stage":"running"}`), "", false},
		{"redirected", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, "", false},
		{"no JSON", says(200, `running`), "", false},
		{"trailing", says(200, `{"stage":"running"} {}`), "", false},
		{"wrong type", says(200, `{"stage":["running"]}`), "", false},
		{"large", says(200, `{"stage":"running","reason":"`+strings.Repeat("x", maxAnswer)+`"}`), "", false},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
		}, "", false},
		{"large header", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 16<<10)) }, "", false},
		{"stalled", func(http.ResponseWriter, *http.Request) { <-stalled }, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(c.answer)
			t.Cleanup(s.CloseClientConnections)
			client := newClient()
			if c.name == "stalled" {
				client.Timeout = 50 * time.Millisecond
			}
			got, ok, err := ask(t.Context(), client, s.Listener.Addr().String())
			switch {
			case c.stage == "" && err == nil:
				t.Errorf("got %+v, want an error", got)
			case c.stage != "" && (err != nil || got.Stage != c.stage || ok != c.ok):
				t.Errorf("got %+v %v %v, want %s %v", got, ok, err, c.stage, c.ok)
			}
		})
	}
}

func says(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(200, []byte(`{"stage":"running","notAfter":"2026-01-02T15:04:05Z"}`))
	f.Add(503, []byte(`{"stage":"refused","code":"ATT-031","reason":"x"}`))
	f.Fuzz(func(t *testing.T, code int, body []byte) {
		s, err := parse(code, body)
		if err != nil {
			return
		}
		if c, ok := Judge(Observed{Pod: pod(), Answer: s, OK: code == 200}, noon); !ok || len(c.Message) > maxMessage || c.Reason == "" {
			t.Errorf("got %+v", c)
		}
	})
}

// marbles are pods that answer, each at an address of its own and one port.
type marbles struct {
	t    *testing.T
	port int32
	n    int
}

// answers makes a pod whose marble answers with what the pointer holds; nil is
// 503 without a body.
func (m *marbles) answers(name string, now *atomic.Pointer[stage.Status]) *corev1.Pod {
	m.t.Helper()
	m.n++
	ip := fmt.Sprintf("127.0.77.%d", m.n)
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, m.port))
	if err != nil {
		m.t.Fatal(err)
	}
	m.port = int32(l.Addr().(*net.TCPAddr).Port)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		st := now.Load()
		if st == nil || !st.Ready(time.Now()) {
			w.WriteHeader(503)
		}
		if st != nil {
			_ = json.NewEncoder(w).Encode(st)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	m.t.Cleanup(func() { _ = s.Close(); <-done })
	return pod(func(p *corev1.Pod) { p.Name, p.UID, p.Status.PodIP = name, types.UID("uid-"+name), ip })
}

// start runs a replica until the test ends or stop is called.
func start(t *testing.T, c Config) (stop func()) {
	t.Helper()
	c.Namespace, c.Lease, c.Now = "mesh", "ashlar-injector", time.Now
	if c.Marbles == nil {
		c.Marbles = func(context.Context) ([]apiv1.Marble, error) { return nil, nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := Run(ctx, c); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func conditionOf(t *testing.T, c *fake.Clientset, name string) corev1.PodCondition {
	t.Helper()
	p, err := c.CoreV1().Pods("shop").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := Condition(p); c != nil {
		return *c
	}
	return corev1.PodCondition{}
}

func shows(c corev1.PodCondition, s corev1.ConditionStatus, reason string) bool {
	return c.Status == s && c.Reason == reason
}

func TestConditionsAndEventsFollowTheStages(t *testing.T) {
	t.Parallel()
	m := &marbles{t: t}
	var web, cart, silent atomic.Pointer[stage.Status]
	web.Store(&stage.Status{Stage: stage.WaitingForManifest})
	cart.Store(&stage.Status{Stage: stage.Connecting})
	cluster := fake.NewClientset(m.answers("web", &web), m.answers("cart", &cart), m.answers("silent", &silent))
	counts := make(chan map[string]int, 1)
	start(t, Config{Cluster: cluster, Name: "a", Port: m.port,
		Marbles: func(context.Context) ([]apiv1.Marble, error) {
			d := refused()
			d.Instance = "uid-cart"
			return []apiv1.Marble{{Name: "cart", LastRefusal: d}}, nil
		},
		Count: func(n map[string]int) {
			select {
			case counts <- n:
			default:
			}
		}})
	eventually(t, "web waits", func() bool { return shows(conditionOf(t, cluster, "web"), "False", WaitingForManifest) })
	eventually(t, "cart is refused", func() bool { return shows(conditionOf(t, cluster, "cart"), "False", EvidenceRefused) })
	eventually(t, "silent starts", func() bool { return shows(conditionOf(t, cluster, "silent"), "False", Starting) })
	web.Store(&stage.Status{Stage: stage.Running})
	eventually(t, "web runs", func() bool { return shows(conditionOf(t, cluster, "web"), "True", Running) })
	eventually(t, "events", func() bool {
		events, err := cluster.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		for _, e := range events.Items {
			seen[e.InvolvedObject.Name+" "+e.Reason] = e.Type
		}
		return seen["web WaitingForManifest"] == "Normal" && seen["web Running"] == "Normal" && seen["cart EvidenceRefused"] == "Warning"
	})
	eventually(t, "counted", func() bool {
		n := <-counts
		return n[Running] == 1 && n[EvidenceRefused] == 1
	})
	writes := 0
	for _, a := range cluster.Actions() {
		if a.Matches("patch", "pods/status") || a.GetVerb() == "patch" && a.GetSubresource() == "status" {
			writes++
		}
	}
	if writes > 8 {
		t.Errorf("got %d patches, want one for each change", writes)
	}
}

func TestAnotherReplicaTakesOver(t *testing.T) {
	t.Parallel()
	m := &marbles{t: t}
	var web atomic.Pointer[stage.Status]
	web.Store(&stage.Status{Stage: stage.Attesting})
	cluster := fake.NewClientset(m.answers("web", &web))
	leads := func(who *atomic.Bool) func(bool) { return func(l bool) { who.Store(l) } }
	var first, second atomic.Bool
	stop := start(t, Config{Cluster: cluster, Name: "a", Port: m.port, Leading: leads(&first)})
	eventually(t, "a leads and writes", func() bool { return first.Load() && shows(conditionOf(t, cluster, "web"), "False", Attesting) })
	start(t, Config{Cluster: cluster, Name: "b", Port: m.port, Leading: leads(&second)})
	if second.Load() {
		t.Error("b leads beside a")
	}
	stop()
	web.Store(&stage.Status{Stage: stage.Running})
	eventually(t, "b leads and writes", func() bool { return second.Load() && shows(conditionOf(t, cluster, "web"), "True", Running) })
	if first.Load() {
		t.Error("a leads still")
	}
}

func TestAPatchThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	m := &marbles{t: t}
	var web atomic.Pointer[stage.Status]
	web.Store(&stage.Status{Stage: stage.Running})
	cluster := fake.NewClientset(m.answers("web", &web))
	var failures atomic.Int32
	cluster.PrependReactor("patch", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if !strings.Contains(string(a.(k8stesting.PatchAction).GetPatch()), `"uid":"uid-web"`) {
			t.Error("a patch without the pod's uid")
		}
		switch failures.Add(1) {
		case 1:
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, "web", fmt.Errorf("the UID in the precondition is another"))
		case 2:
			return true, nil, apierrors.NewInternalError(fmt.Errorf("etcd is away"))
		}
		return false, nil, nil
	})
	start(t, Config{Cluster: cluster, Name: "a", Port: m.port})
	eventually(t, "web runs", func() bool { return shows(conditionOf(t, cluster, "web"), "True", Running) })
	if c := conditionOf(t, cluster, "web"); c.LastTransitionTime.IsZero() || c.Type != inject.Attested {
		t.Errorf("got %+v", c)
	}
}

// BenchmarkLook is what a look at the pods costs that finds none due, as it
// happens twice a second.
func BenchmarkLook(b *testing.B) {
	index := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for i := range 5000 {
		p := pod(func(p *corev1.Pod) { p.Name, p.UID = fmt.Sprint("web-", i), types.UID(fmt.Sprint(i)) })
		if err := index.Add(p); err != nil {
			b.Fatal(err)
		}
	}
	c := newController(Config{Now: func() time.Time { return noon }})
	c.pods = listers.NewPodLister(index)
	all, err := c.pods.List(labels.Everything())
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range all {
		c.watched[p.UID] = &watch{due: noon.Add(time.Hour)}
	}
	b.ReportAllocs()
	for b.Loop() {
		if due := c.due(); len(due) != 0 {
			b.Fatalf("%d pods are due, want none", len(due))
		}
	}
}
