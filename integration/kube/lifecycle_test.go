//go:build linux

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// visitors ask for the shop's page again and again, from within the gateway's pod.
type visitors struct {
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	served int
	failed []string
}

// visit starts visitors. They end when the test does at the latest.
func (m *mesh) visit(shop string) *visitors {
	m.t.Helper()
	pod, err := aPod(m.t.Context(), m.c.Client, shop, "app=gateway")
	if err != nil {
		m.t.Fatal(err)
	}
	client := m.nodes.Client(shop, pod.Name)
	ctx, cancel := context.WithCancel(context.Background())
	v := &visitors{cancel: cancel}
	m.t.Cleanup(func() { v.flawless() })
	v.work.Go(func() {
		for ctx.Err() == nil {
			status, body, err := request(client, "http://127.0.0.1:8080/")
			v.mu.Lock()
			if err == nil && status == http.StatusOK {
				v.served++
			} else {
				v.failed = append(v.failed, fmt.Sprintf("%s %d %.200s %v", time.Now().Format(time.TimeOnly), status, body, err))
			}
			v.mu.Unlock()
			time.Sleep(20 * time.Millisecond) // between two visits
		}
	})
	return v
}

// flawless ends the visits and says how many were served and what failed.
func (v *visitors) flawless() (served int, failed []string) {
	v.cancel()
	v.work.Wait()
	return v.served, v.failed
}

// upgraded changes values, goes back, removes the release and installs it again.
// The state stays, and the services do not notice.
func (m *mesh) upgraded(shop string) {
	before := m.inForce()
	uid := m.coordinator().UID
	v := m.visit(shop)

	m.ashlar("upgrade", "-n", m.ns, "--yes", "--set", "coordinator.logFormat=text", "--set", "injector.replicas=1")
	if pod := m.coordinator(); pod.UID == uid || !slices.Contains(pod.Spec.Containers[0].Args, "--log-format=text") {
		m.t.Errorf("after the upgrade the coordinator's pod %s has %q, want another pod with --log-format=text", pod.UID, pod.Spec.Containers[0].Args)
	}
	m.same("the upgrade", before)
	m.ashlar("rollback", "-n", m.ns, "--yes")
	if pod := m.coordinator(); !slices.Contains(pod.Spec.Containers[0].Args, "--log-format=json") {
		m.t.Errorf("after the rollback the coordinator has %q, want --log-format=json", pod.Spec.Containers[0].Args)
	}
	m.same("the rollback", before)

	m.ashlar("uninstall", "-n", m.ns, "--yes")
	claims := claimsOf(m.t, m.c, m.ns)
	if !slices.Equal(claims, []string{"state-ashlar-coordinator-0"}) {
		m.t.Errorf("after the removal there are the claims %v, want the state's", claims)
	}
	m.gone()
	m.install()
	m.same("the new installation", before)
	served, failed := v.flawless()
	if served == 0 || len(failed) > 0 {
		m.t.Errorf("meanwhile %d visitors were served and %d not: %q; want some and none", served, len(failed), failed[:min(len(failed), 5)])
	}
	m.t.Logf("%d visitors were served meanwhile", served)
	m.restart(shop, "web") // it joins by the state that was kept
	m.hop(shop)
}

// coordinator is the coordinator's pod.
func (m *mesh) coordinator() *core.Pod {
	m.t.Helper()
	pod, err := m.c.Client.CoreV1().Pods(m.ns).Get(m.t.Context(), "ashlar-coordinator-0", meta.GetOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	return pod
}

// inForce is the digest of the manifest in force, after the coordinator was
// verified as the deployment that is remembered.
func (m *mesh) inForce() string {
	m.t.Helper()
	code, out := m.run("verify", m.address(), "--policy", "policy.json", "-o", "json")
	if code != 0 {
		m.t.Fatalf("verify: exit code %d\n%s", code, out)
	}
	var doc struct{ Manifest string }
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &doc); err != nil {
		m.t.Fatalf("%v in %s", err, out)
	}
	return doc.Manifest
}

func (m *mesh) same(after, before string) {
	m.t.Helper()
	if now := m.inForce(); now != before || now == "" {
		m.t.Errorf("after %s the manifest %q is in force, want %q", after, now, before)
	}
}

// gone waits until nothing of the release is there but its claim.
func (m *mesh) gone() {
	m.t.Helper()
	drive.Eventually(m.t, patience, func() string {
		pods, err := m.c.Client.CoreV1().Pods(m.ns).List(m.t.Context(), meta.ListOptions{})
		if err != nil || len(pods.Items) > 0 {
			return fmt.Sprintf("%d pods are left (%v)", len(pods.Items), err)
		}
		return ""
	})
	hooks, err := m.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(m.t.Context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/part-of=ashlar"})
	if err != nil || len(hooks.Items) > 0 {
		m.t.Errorf("%d webhooks are left (%v), want none", len(hooks.Items), err)
	}
}
