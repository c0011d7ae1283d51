//go:build linux

package kube

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// in is the same mesh for a subtest.
func (m *mesh) in(t *testing.T) *mesh {
	sub := *m
	sub.t = t
	return &sub
}

// TestMesh goes from an empty cluster to attested hops and what can go wrong on
// the way. Each step builds on those before.
func TestMesh(t *testing.T) {
	m := newMesh(t)
	m.install()
	t.Cleanup(func() { m.run("uninstall", "-n", m.ns, "--yes") })
	shop := m.c.Namespace(t, nil)
	steps := []struct {
		name string
		f    func(m *mesh, shop string)
	}{
		{"without a manifest labelled pods are refused, and say so", (*mesh).refusedWithoutManifest},
		{"the manifest is set and the services join", (*mesh).join},
		{"an attested hop", (*mesh).hop},
		{"check and explain find nothing wrong", (*mesh).healthy},
		{"what the manifest does not permit is refused", (*mesh).forbidden},
		{"a pod without a marble is refused at admission", (*mesh).stranger},
		{"a tampered program is refused by its evidence", (*mesh).tampered},
		{"the accounts may do what they need and nothing else", (*mesh).rights},
		{"beside other injectors", (*mesh).besideOthers},
		{"without injectors", (*mesh).withoutInjector},
		{"upgrade, rollback, removal and a new installation", (*mesh).upgraded},
		{"no secret is in etcd or at the API server", (*mesh).nothingLeaked},
	}
	for _, s := range steps {
		if !t.Run(s.name, func(t *testing.T) { s.f(m.in(t), shop) }) {
			t.FailNow()
		}
	}
}

// shopObjects is the shop with this machine's interpreters.
func (m *mesh) shopObjects() string {
	i := findInterpreters(m.t)
	return strings.NewReplacer("PYTHON", i.python, "NODE", i.node).Replace(services)
}

func (m *mesh) refusedWithoutManifest(shop string) {
	apply(m.t, shop, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: early}
spec:
  selector: {matchLabels: {app: early}}
  template:
    metadata: {labels: {app: early, ashlar.dev/marble: gateway}}
    spec: {containers: [{name: main, image: shop-gateway, command: [/app/gateway]}]}
`)
	m.awaitEvent(shop, "ReplicaSet", "early", "FailedCreate", "KUB-075")
	if err := m.c.Client.AppsV1().Deployments(shop).Delete(m.t.Context(), "early", meta.DeleteOptions{}); err != nil {
		m.t.Fatal(err)
	}
}

// awaitEvent waits for an event about an object whose name begins so, with a
// reason, that says something.
func (m *mesh) awaitEvent(ns, kind, name, reason, says string) {
	m.t.Helper()
	drive.Eventually(m.t, patience, func() string {
		list, err := m.c.Client.CoreV1().Events(ns).List(m.t.Context(), meta.ListOptions{})
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == kind && strings.HasPrefix(e.InvolvedObject.Name, name) {
				if e.Reason == reason && strings.Contains(e.Message, says) {
					m.t.Logf("%s %s: %s", kind, e.Reason, e.Message)
					return ""
				}
				all = append(all, e.Reason+": "+e.Message)
			}
		}
		return fmt.Sprintf("no event %s of %s %s says %q; there are\n%s", reason, kind, name, says, strings.Join(all, "\n"))
	})
}

func (m *mesh) join(shop string) { m.joinBy(shop, m.shopManifest()) }

// joinBy sets a manifest that has the shop, and starts the services.
func (m *mesh) joinBy(shop string, manifest object) {
	m.write("manifest.json", manifest)
	m.ashlar("manifest", "set", "manifest.json", "-a", m.address(), "--yes")
	for name, value := range map[string]string{"cartKey": cartKey, "apiToken": apiToken} {
		if err := os.WriteFile(m.file(name), []byte(value), 0o600); err != nil {
			m.t.Fatal(err)
		}
		m.ashlar("secret", "set", name, "--file", name, "-a", m.address())
	}
	apply(m.t, shop, m.shopObjects())
	for _, name := range []string{"gateway", "web", "cart", "catalog"} {
		pod := readyPods(m.t, m.c.Client, shop, "app="+name, 1)[0]
		c := attested(&pod)
		if c.Status != core.ConditionTrue || c.Reason != "Running" {
			m.t.Errorf("%s: got condition %s %s (%s), want True Running", name, c.Status, c.Reason, c.Message)
		}
	}
	m.ashlar("status", "-a", m.address())
}

// restart replaces the pod of a service, as kubectl rollout restart does, and waits
// until another one is ready.
func (m *mesh) restart(shop, name string) {
	m.t.Helper()
	before := readyPods(m.t, m.c.Client, shop, "app="+name, 1)[0].UID
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"restarted":%q}}}}}`, time.Now().Format(time.RFC3339Nano))
	m.patch(shop, name, patch)
	drive.Eventually(m.t, patience, func() string {
		if readyPods(m.t, m.c.Client, shop, "app="+name, 1)[0].UID == before {
			return "the pod was not replaced yet"
		}
		return ""
	})
}

func (m *mesh) patch(ns, name, patch string) {
	m.t.Helper()
	if _, err := m.c.Client.AppsV1().Deployments(ns).Patch(m.t.Context(), name, "application/strategic-merge-patch+json", []byte(patch), meta.PatchOptions{}); err != nil {
		m.t.Fatal(err)
	}
}

// attested is the condition that says a marble's stage.
func attested(p *core.Pod) core.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == inject.Attested {
			return c
		}
	}
	return core.PodCondition{Status: core.ConditionUnknown}
}

// ask makes a request from within a pod of the shop.
func (m *mesh) ask(shop, marble, url string) (int, string, error) {
	m.t.Helper()
	pod, err := aPod(m.t.Context(), m.c.Client, shop, "app="+marble)
	if err != nil {
		return 0, "", err
	}
	return request(m.nodes.Client(shop, pod.Name), url)
}

func request(client *http.Client, url string) (int, string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b), err
}

func (m *mesh) hop(shop string) {
	var page struct {
		Web struct {
			Caller string
			Cart   struct {
				Items     json.RawMessage
				Signature string
			}
		}
	}
	drive.Eventually(m.t, patience, func() string {
		status, body, err := m.ask(shop, "gateway", "http://127.0.0.1:8080/")
		if err != nil || status != http.StatusOK {
			return fmt.Sprintf("%d %s %v", status, body, err)
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			return err.Error()
		}
		return ""
	})
	if want := "spiffe://shop.example/"; !strings.Contains(page.Web.Caller, want) {
		m.t.Errorf("web was called by %q, want %q in it", page.Web.Caller, want)
	}
	mac := hmac.New(sha256.New, []byte(cartKey))
	mac.Write(page.Web.Cart.Items)
	if want := hex.EncodeToString(mac.Sum(nil)); page.Web.Cart.Signature != want {
		m.t.Errorf("the cart's signature is %s, want %s: it has another key than the one that was supplied", page.Web.Cart.Signature, want)
	}
}

func (m *mesh) forbidden(shop string) {
	status, body, err := m.ask(shop, "gateway", "http://127.0.0.1:8080/admin")
	if err != nil || status == http.StatusOK || strings.Contains(body, "everything") {
		m.t.Errorf("gateway asks web for a route that it may not: got %d %s (%v), want a refusal", status, body, err)
	}
	if status, body, err := m.ask(shop, "catalog", "http://127.0.0.1:9081/page"); err == nil {
		m.t.Errorf("catalog calls web: got %d %s, want no connection", status, body)
	}
	web, err := aPod(m.t.Context(), m.c.Client, shop, "app=web")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, from := range []string{"gateway", "catalog"} { // past their own Envoys
		for _, scheme := range []string{"http", "https"} {
			if status, body, err := m.ask(shop, from, scheme+"://"+web.Status.PodIP+":8081/page"); err == nil && status == http.StatusOK {
				m.t.Errorf("%s reaches web's port by %s without its identity: got %d %s", from, scheme, status, body)
			}
		}
	}
}

func (m *mesh) stranger(shop string) {
	apply(m.t, shop, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: stranger}
spec:
  selector: {matchLabels: {app: stranger}}
  template:
    metadata: {labels: {app: stranger, ashlar.dev/marble: stranger}}
    spec: {containers: [{name: main, image: tools, command: [/bin/sleep, "1000"]}]}
`)
	m.awaitEvent(shop, "ReplicaSet", "stranger", "FailedCreate", "KUB-052")
	m.explains(shop, "stranger", "its pods are refused at admission", "KUB-052", `no marble "stranger"`, "next: add the marble to the manifest")
}

func (m *mesh) tampered(shop string) {
	m.patch(shop, "gateway", `{"spec":{"strategy":{"rollingUpdate":{"maxUnavailable":0}},"template":{"spec":{"containers":[{"name":"gateway","image":"shop-gateway:tampered"}]}}}}`)
	drive.Eventually(m.t, patience, func() string {
		list, err := m.c.Client.CoreV1().Pods(shop).List(m.t.Context(), meta.ListOptions{LabelSelector: "app=gateway"})
		if err != nil {
			return err.Error()
		}
		said := ""
		for _, p := range list.Items {
			c := attested(&p)
			said += fmt.Sprintf("%s %s %s: %s\n", p.Spec.Containers[0].Image, c.Status, c.Reason, c.Message)
			if c.Reason == "EvidenceRefused" && strings.Contains(c.Message, "program") {
				m.explains(shop, p.Name, "ATT-012", "why: evidence refused: sim.program", "was refused", "source packages.gateway")
				return ""
			}
		}
		return "no gateway says that its evidence is refused:\n" + said
	})
	m.awaitEvent(shop, "Pod", "gateway", "EvidenceRefused", "evidence refused: sim.program")
	if status, _, err := m.ask(shop, "web", "http://127.0.0.1:8081/page"); err != nil || status != http.StatusOK {
		m.t.Errorf("the other services: got %d (%v), want 200", status, err)
	}
	m.patch(shop, "gateway", `{"spec":{"template":{"spec":{"containers":[{"name":"gateway","image":"shop-gateway"}]}}}}`)
	readyPods(m.t, m.c.Client, shop, "app=gateway", 1)
}
