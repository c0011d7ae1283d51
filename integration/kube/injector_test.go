//go:build linux

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/ashlar-mesh/ashlar/charts"
	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/kube/injector"
)

// front is where the API server finds the injectors, and the address of pods
// that this test plays.
const front = "10.77.0.99"

// injectors are replicas of the injector with the rights and the settings that
// the chart gives them, behind one address as behind their Service, and a real
// coordinator for them to ask.
type injectors struct {
	t        *testing.T
	c        *cluster.Cluster
	ns       string // of the release
	pods     string // namespace of the marbles
	webhook  string // name of the configuration
	mesh     *dev.Deployment
	settings injector.Settings
	access   *rest.Config // of the injectors' ServiceAccount

	mu       sync.Mutex // guards what follows
	replicas []*replica
	turn     int
}

// replica is one running injector.
type replica struct {
	webhook, ops string
	ready        atomic.Bool
	stop         func()
}

func newInjectors(t *testing.T) *injectors {
	t.Helper()
	c := controlPlane(t)
	bin, envoy := os.Getenv("ASHLAR_BIN"), os.Getenv("ASHLAR_ENVOY")
	if bin == "" || envoy == "" {
		need(t, "ASHLAR_BIN and ASHLAR_ENVOY are not set: run make kubetest")
	}
	i := &injectors{t: t, c: c, ns: c.Namespace(t, nil), pods: c.Namespace(t, nil)}
	if err := isolate.IP("addr add " + front + "/32 dev " + isolate.Bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = isolate.IP("addr del " + front + "/32 dev " + isolate.Bridge) })
	var err error
	i.mesh, err = dev.Start(t.Context(), dev.Config{Dir: t.TempDir(), Bin: bin, Envoy: envoy, Client: dev.DefaultClient, Mesh: dev.DefaultMesh, Metrics: dev.DefaultMetrics, Say: t.Logf})
	t.Cleanup(i.mesh.Close)
	if err != nil {
		t.Fatal(err)
	}
	i.install()
	i.access, err = c.ServiceAccount(t.Context(), i.ns, "ashlar-injector")
	if err != nil {
		t.Fatal(err)
	}
	i.serve()
	return i
}

// install creates what the chart has for the injectors but their Deployment, and
// reads their settings.
func (i *injectors) install() {
	i.t.Helper()
	policy, err := os.ReadFile(i.mesh.PolicyFile())
	if err != nil {
		i.t.Fatal(err)
	}
	values, _ := json.Marshal(map[string]any{"policy": string(policy), "tee": map[string]any{"defaults": map[string]any{"sim:sgx": "sim"}},
		"injector": map[string]any{"webhook": map[string]any{"namespaceLabels": map[string]any{"kubernetes.io/metadata.name": i.pods}}}})
	chart, err := kube.LoadChart(charts.Ashlar, "ashlar", "")
	if err != nil {
		i.t.Fatal(err)
	}
	r, err := kube.Render(chart, kube.Target{Name: "ashlar", Namespace: i.ns}, kube.Values{Documents: []kube.Document{{Name: "test", Data: values}}, Until: time.Now().Add(time.Hour)}, "")
	if err != nil {
		i.t.Fatal(err)
	}
	cr := newCreator(i.t, i.c.Config)
	for _, object := range objects(i.t, r) {
		if !strings.Contains(object.GetName(), "-injector") {
			continue
		}
		switch object.GetKind() {
		case "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy":
			continue
		case "MutatingWebhookConfiguration":
			i.webhook = object.GetName()
		case "ConfigMap":
			text := object.Object["data"].(map[string]any)["settings.json"].(string)
			if err := inject.Decode([]byte(text), &i.settings); err != nil {
				i.t.Fatal(err)
			}
		}
		if err := cr.create(i.t.Context(), i.ns, object); err != nil {
			i.t.Fatal(err)
		}
	}
	if i.webhook != i.settings.Webhook {
		i.t.Fatalf("the settings name the webhook %q, the chart has %q", i.settings.Webhook, i.webhook)
	}
	i.settings.Client, i.settings.ReadyPort = i.mesh.Client, 9101
	service := &core.Service{ObjectMeta: meta.ObjectMeta{Name: "ashlar-injector"}, Spec: core.ServiceSpec{Type: core.ServiceTypeExternalName, ExternalName: front}}
	if _, err := i.c.Client.CoreV1().Services(i.ns).Create(i.t.Context(), service, meta.CreateOptions{}); err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { // the namespaces' objects go with them
		ctx, all := context.WithoutCancel(i.t.Context()), meta.DeleteOptions{}
		_ = i.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, i.webhook, all)
		_ = i.c.Client.RbacV1().ClusterRoles().Delete(ctx, i.webhook, all)
		_ = i.c.Client.RbacV1().ClusterRoleBindings().Delete(ctx, i.webhook, all)
	})
}

// serve carries connections to replicas that are ready, as a Service does.
func (i *injectors) serve() {
	i.t.Helper()
	l, err := net.Listen("tcp", front+":443")
	if err != nil {
		i.t.Fatal(err)
	}
	var work sync.WaitGroup
	i.t.Cleanup(func() { l.Close(); work.Wait() })
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { i.carry(conn) })
		}
	})
}

func (i *injectors) carry(client net.Conn) {
	defer client.Close()
	to := i.next()
	if to == nil {
		return
	}
	server, err := net.Dial("tcp", to.webhook)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(i.t.Context(), func() { client.Close(); server.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
	client.Close()
	<-done
}

func (i *injectors) next() *replica {
	i.mu.Lock()
	defer i.mu.Unlock()
	for range i.replicas {
		i.turn++
		if r := i.replicas[i.turn%len(i.replicas)]; r.ready.Load() {
			return r
		}
	}
	return nil
}

// start runs a replica and probes it as a kubelet does, until it is stopped.
func (i *injectors) start(name string, times injector.Times) *replica {
	i.t.Helper()
	client, err := kubernetes.NewForConfig(i.access)
	if err != nil {
		i.t.Fatal(err)
	}
	r, listening := &replica{}, make(chan struct{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(i.t.Context()))
	var work sync.WaitGroup
	work.Go(func() {
		err := injector.Run(ctx, injector.Config{Settings: i.settings, Addr: "127.0.0.1:0", OpsAddr: "127.0.0.1:0", Name: name, Cluster: client,
			Log: slog.New(slog.NewTextHandler(i.t.Output(), nil)).With("replica", name), Drain: time.Second, Times: times,
			Listening: func(webhook, ops string) { r.webhook, r.ops = webhook, ops; close(listening) }})
		if err != nil {
			i.t.Errorf("%s: %v", name, err)
		}
	})
	<-listening
	work.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			r.ready.Store(ctx.Err() == nil && ok("http://"+r.ops+"/readyz"))
			select {
			case <-ctx.Done():
				r.ready.Store(false)
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	})
	r.stop = sync.OnceFunc(func() { cancel(); work.Wait() })
	i.t.Cleanup(r.stop)
	i.mu.Lock()
	i.replicas = append(i.replicas, r)
	i.mu.Unlock()
	return r
}

func ok(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// marble creates a pod and returns it, the warnings and the refusal.
func (i *injectors) marble(name string, labels map[string]string) (*core.Pod, []string, error) {
	i.t.Helper()
	var said warnings
	cfg := rest.CopyConfig(i.c.Config)
	cfg.WarningHandler = &said
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		i.t.Fatal(err)
	}
	p := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: name, Labels: labels, Annotations: map[string]string{inject.TEE: "sim:sgx"}},
		Spec: core.PodSpec{Containers: []core.Container{{Name: "app", Image: "app", Command: []string{"/app"}}}}}
	made, err := client.CoreV1().Pods(i.pods).Create(i.t.Context(), p, meta.CreateOptions{})
	return made, said, err
}

type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _, text string) { *w = append(*w, text) }

func label(marble string) map[string]string { return map[string]string{inject.Label: marble} }

func TestInjectorsOfACluster(t *testing.T) {
	i := newInjectors(t)
	refused := func(when, pod string, labels map[string]string, parts ...string) {
		t.Helper()
		_, _, err := i.marble(pod, labels)
		for _, part := range parts {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %v, want %q in it", when, err, part)
			}
		}
	}
	injected := func(when, pod string) []string {
		t.Helper()
		p, said, err := i.marble(pod, label("web"))
		if err != nil || p.Annotations[inject.Injected] == "" || len(p.Spec.InitContainers) == 0 || len(p.Spec.ReadinessGates) != 1 {
			t.Errorf("%s: got %v, %v, want an injected pod", when, p, err)
		}
		return said
	}
	works := func(when, pod string) {
		t.Helper()
		drive.Eventually(t, patience, func() string {
			if p, _, err := i.marble(pod, label("web")); err != nil || p.Annotations[inject.Injected] == "" {
				return fmt.Sprintf("%s: %v", when, err)
			}
			return ""
		})
	}
	drive.Eventually(t, patience, func() string { // until the API server has the webhook
		_, _, err := i.marble(fmt.Sprint("early-", time.Now().UnixNano()), label("web"))
		if err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
			return fmt.Sprintf("without injectors: got %v, want that the webhook cannot be called", err)
		}
		return ""
	})
	if _, _, err := i.marble("plain-1", nil); err != nil {
		t.Errorf("without injectors, no label: %v", err)
	}
	a, b := i.start("a", injector.Times{}), i.start("b", injector.Times{})
	drive.Eventually(t, patience, func() string {
		if !a.ready.Load() || !b.ready.Load() {
			return "the injectors are not ready"
		}
		return ""
	})
	refused("without a manifest", "early", label("web"), "KUB-075", "no manifest yet", "ashlar manifest set")
	if _, err := i.mesh.SetManifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	works("with a manifest", "first")
	refused("unknown marble", "typo", label("wbe"), "KUB-052", "revision 1", "did you mean web?")
	refused("wrong annotation", "typo", map[string]string{inject.Label: ""}, "KUB-051")
	if _, _, err := i.marble("plain-2", map[string]string{inject.Label: "web", inject.Injection: "disabled"}); err != nil {
		t.Errorf("kept out: %v", err)
	}
	t.Run("deployment says why", func(t *testing.T) { i.deploymentSaysWhy(t) })
	t.Run("replicas change", func(t *testing.T) {
		i.noneRefused(t, "web-", func() {
			i.replace(t, "next", injector.Times{})
			i.replace(t, "next-but-one", injector.Times{})
		})
	})
	t.Run("certificates change", func(t *testing.T) {
		i.noneRefused(t, "later-", func() { i.certificatesChange(t) })
	})
	i.replace(t, "last", injector.Times{})
	t.Run("emptied bundle heals", func(t *testing.T) {
		i.bundle(t, nil)
		works("after the bundle was emptied", "healed")
	})
	t.Run("stage", func(t *testing.T) { i.stage(t) })
	t.Run("coordinator away", func(t *testing.T) {
		i.mesh.Coordinator().Stop()
		drive.Eventually(t, patience, func() string {
			p := fmt.Sprint("away-", time.Now().UnixNano())
			if said := injected("coordinator away", p); len(said) == 0 || !strings.Contains(strings.Join(said, " "), "the coordinator does not answer") {
				return fmt.Sprintf("got warnings %q", said)
			}
			return ""
		})
		for _, r := range i.replicas {
			r.stop()
		}
		c := i.start("late", injector.Times{})
		drive.Eventually(t, patience, func() string {
			if !c.ready.Load() {
				return "the injector is not ready without a coordinator"
			}
			return ""
		})
		refused("coordinator never seen", "late", label("web"), "KUB-076", "ashlar check")
		if _, _, err := i.marble("plain-3", nil); err != nil {
			t.Errorf("no label: %v", err)
		}
		c.stop()
	})
	conf, err := i.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), i.webhook, meta.GetOptions{})
	if err != nil || len(conf.Webhooks[0].ClientConfig.CABundle) != 0 {
		t.Errorf("got a bundle of %d bytes (%v) after all have ended, want none", len(conf.Webhooks[0].ClientConfig.CABundle), err)
	}
}

// deploymentSaysWhy: a developer sees the refusal in the ReplicaSet's events.
func (i *injectors) deploymentSaysWhy(t *testing.T) {
	d := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: "typo"}, Spec: apps.DeploymentSpec{Selector: &meta.LabelSelector{MatchLabels: map[string]string{"app": "typo"}},
		Template: core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: map[string]string{"app": "typo", inject.Label: "wbe"}},
			Spec: core.PodSpec{Containers: []core.Container{{Name: "app", Image: "app", Command: []string{"/app"}}}}}}}
	if _, err := i.c.Client.AppsV1().Deployments(i.pods).Create(t.Context(), d, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	drive.Eventually(t, patience, func() string {
		events, err := i.c.Client.CoreV1().Events(i.pods).List(t.Context(), meta.ListOptions{FieldSelector: "reason=FailedCreate"})
		if err != nil {
			return err.Error()
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, "KUB-052") && strings.Contains(e.Message, "did you mean web?") {
				return ""
			}
		}
		return fmt.Sprintf("%d events FailedCreate, none says why", len(events.Items))
	})
	_ = i.c.Client.AppsV1().Deployments(i.pods).Delete(t.Context(), "typo", meta.DeleteOptions{})
}

// stage plays a pod that a kubelet has started, and reads what the injector
// writes with the rights of its ServiceAccount.
func (i *injectors) stage(t *testing.T) {
	var says atomic.Value
	says.Store(`{"stage":"waiting-for-manifest","code":"CRD-011","reason":"none yet"}`)
	l, err := net.Listen("tcp", front+":9101")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		text := says.Load().(string)
		if !strings.Contains(text, "running") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, text)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	defer func() { s.Close(); <-done }()
	if _, _, err := i.marble("staged", label("web")); err != nil {
		t.Fatal(err)
	}
	body := `{"status":{"phase":"Running","podIP":"` + front + `","podIPs":[{"ip":"` + front + `"}]}}`
	if _, err := i.c.Client.CoreV1().Pods(i.pods).Patch(t.Context(), "staged", types.MergePatchType, []byte(body), meta.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	var changed meta.Time
	expect := func(status core.ConditionStatus, reason, message, event string) {
		t.Helper()
		drive.Eventually(t, patience, func() string {
			p, err := i.c.Client.CoreV1().Pods(i.pods).Get(t.Context(), "staged", meta.GetOptions{})
			if err != nil {
				return err.Error()
			}
			for _, c := range p.Status.Conditions {
				if c.Type == inject.Attested && c.Status == status && c.Reason == reason && strings.Contains(c.Message, message) && !c.LastTransitionTime.Before(&changed) {
					changed = c.LastTransitionTime
					return ""
				}
			}
			return fmt.Sprintf("want %s %s, got %+v", status, reason, p.Status.Conditions)
		})
		drive.Eventually(t, patience, func() string {
			events, err := i.c.Client.CoreV1().Events(i.pods).List(t.Context(), meta.ListOptions{FieldSelector: "involvedObject.name=staged,reason=" + reason})
			if err != nil || len(events.Items) != 1 || events.Items[0].Type != event || events.Items[0].Source.Component != "ashlar-injector" {
				return fmt.Sprintf("want one event %s %s, got %+v, %v", event, reason, events.Items, err)
			}
			return ""
		})
	}
	expect("False", "WaitingForManifest", "waiting for manifest", "Normal")
	says.Store(`{"stage":"refused","code":"CRD-030","reason":"no such \u001b[31mmarble"}`)
	expect("False", "EvidenceRefused", `no such \x1b[31mmarble (CRD-030)`, "Warning")
	says.Store(`{"stage":"running"}`)
	expect("True", "Running", "attested", "Normal")
}
