//go:build linux

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
	"github.com/ashlar-mesh/ashlar/integration/kube/node"
)

// storeSecret is the Secret with the certificates for etcd.
const storeSecret = "mesh-etcd"

// TestReplicasOfACluster installs three coordinators that share an etcd, kills the
// one that decides, and replaces them all by newer ones. The services do not notice.
func TestReplicasOfACluster(t *testing.T) {
	m := newMesh(t)
	store := m.store()
	next := m.newer()
	install := []string{"--set", "injector.replicas=1", "--set", "coordinator.seal=unique", "--set", "coordinator.replicas=3", "--set", "coordinator.store.engine=etcd",
		"--set", "coordinator.store.etcd.endpoints[0]=" + store.Endpoint, "--set", "coordinator.store.etcd.tls.secret=" + storeSecret}
	if out := m.install(install...); !strings.Contains(out, "one of 3 coordinators has the state's key at first") {
		t.Errorf("got %s, want a note on the key", out)
	}
	defer func() {
		if _, out := m.run("uninstall", "-n", m.ns, "--yes"); !strings.Contains(out, "the state in etcd below /ashlar/"+m.ns+"/ashlar at") {
			t.Errorf("got %s, want what stays in etcd named", out)
		}
	}()

	shop := m.c.Namespace(t, nil)
	m.joinBy(shop, m.replicated(m.digest(filepath.Join(m.bin, "ashlar-coordinator"))))
	first := m.roles(3)
	m.hop(shop)
	visit := m.visit(shop)

	killed := time.Now()
	if err := m.nodes.Kill(m.ns, first, "coordinator"); err != nil {
		t.Fatal(err)
	}
	second := m.takenOver(first)
	t.Logf("%s took over from %s after %s", second, first, time.Since(killed).Round(100*time.Millisecond))
	m.inForce() // the deployment that is remembered
	m.patch(shop, "gateway", `{"spec":{"replicas":2}}`)
	readyPods(t, m.c.Client, shop, "app=gateway", 2) // another one is activated
	m.roles(3)                                       // the killed one opens its own sealed key

	m.allRun(3, "ashlar-coordinator:test") // what is not ready is replaced first
	m.stopsAtTheFirst()
	m.write("manifest.json", m.replicated(m.digest(filepath.Join(m.bin, "ashlar-coordinator")), next))
	m.ashlar("manifest", "set", "manifest.json", "-a", m.address(), "--yes", "--accept", "admit-coordinators")
	m.allRun(3, "ashlar-coordinator:next")
	m.roles(3)
	m.inForce()

	served, failed := visit.flawless()
	if served == 0 || len(failed) > 0 {
		t.Errorf("meanwhile %d visitors were served and %d not: %q; want some and none", served, len(failed), failed[:min(len(failed), 5)])
	}
	t.Logf("%d visitors were served meanwhile", served)
	m.nothingIn(store, shop)
}

// store starts an etcd, and gives the release's namespace its certificates.
func (m *mesh) store() *cluster.Store {
	m.t.Helper()
	s := m.c.Store(m.t)
	secrets := m.c.Client.CoreV1().Secrets(m.ns)
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: storeSecret}, Data: map[string][]byte{"ca.crt": m.c.CA(), "tls.crt": s.Client.Cert, "tls.key": s.Client.Key}}
	if _, err := secrets.Create(m.t.Context(), secret, meta.CreateOptions{}); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = secrets.Delete(context.Background(), storeSecret, meta.DeleteOptions{}) })
	return s
}

// newer makes the image of a newer coordinator, which measures otherwise, and has
// the policy take it too. It returns its measurement.
func (m *mesh) newer() attest.Hex {
	m.t.Helper()
	old := filepath.Join(m.bin, "ashlar-coordinator")
	b, err := os.ReadFile(old)
	if err != nil {
		m.t.Fatal(err)
	}
	program := m.file("ashlar-coordinator")
	if err := os.WriteFile(program, append(b, "newer"...), 0o755); err != nil { // behind the program's end
		m.t.Fatal(err)
	}
	m.images["ashlar-coordinator:next"] = node.Image{Files: map[string]string{"/opt/ashlar/ashlar-coordinator": program}, Env: []string{"PATH=/opt/ashlar"},
		Entrypoint: []string{"ashlar-coordinator"}, User: 65532}
	m.write("policy.json", m.policyOf(m.digest(old), m.digest(program)))
	return m.digest(program)
}

// replicated is the shop's manifest for coordinators of these measurements.
func (m *mesh) replicated(programs ...attest.Hex) object {
	doc := m.shopManifest()
	doc["packages"].(object)["coordinator"] = object{"sim": object{"program": programs, "agent": programs}}
	doc["platforms"] = object{"default": object{}}
	doc["coordinators"] = object{"package": "coordinator"}
	return doc
}

// roles waits until one of n coordinators is active and the others stand by, and
// returns its name.
func (m *mesh) roles(n int) (active string) {
	m.t.Helper()
	drive.Eventually(m.t, patience, func() string {
		all, err := m.replicas()
		if err != nil {
			return err.Error()
		}
		names := map[string][]string{}
		for _, r := range all {
			names[r.Role] = append(names[r.Role], r.Name)
		}
		if len(names[apiv1.ReplicaActive]) != 1 || len(names[apiv1.ReplicaStandby]) != n-1 || len(all) != n {
			return fmt.Sprintf("got %+v, want one active and %d standing by", all, n-1)
		}
		active = names[apiv1.ReplicaActive][0]
		return ""
	})
	return active
}

// replicas lists the coordinators as the active one sees them.
func (m *mesh) replicas() ([]apiv1.Replica, error) {
	code, out := m.run("status", "-a", m.address(), "-o", "json")
	if code != 0 {
		return nil, fmt.Errorf("status: exit code %d: %s", code, out)
	}
	var doc struct{ Replicas []apiv1.Replica }
	err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &doc)
	return doc.Replicas, err
}

// takenOver waits until another coordinator than the one before is active.
func (m *mesh) takenOver(before string) (active string) {
	m.t.Helper()
	drive.Eventually(m.t, patience, func() string {
		all, err := m.replicas()
		if err != nil {
			return err.Error()
		}
		i := slices.IndexFunc(all, func(r apiv1.Replica) bool { return r.Role == apiv1.ReplicaActive })
		if i < 0 || all[i].Name == before {
			return fmt.Sprintf("got %+v, want another one active than %s", all, before)
		}
		active = all[i].Name
		return ""
	})
	return active
}

// stopsAtTheFirst upgrades to coordinators that the manifest does not name: the
// first of them is refused the key, and the others stay.
func (m *mesh) stopsAtTheFirst() {
	m.t.Helper()
	if code, out := m.run("upgrade", "-n", m.ns, "--yes", "--set", "coordinator.store.etcd.prefix=/other"); code != 7 || !strings.Contains(out, "KUB-096") {
		m.t.Errorf("got exit code %d, want 7 and KUB-096: the state would stay behind\n%s", code, out)
	}
	code, out := m.run("upgrade", "-n", m.ns, "--yes", "--set", "coordinator.image.tag=next", "--accept", "recovery", "--wait", "1s")
	if code != 4 || !strings.Contains(out, "KUB-008") {
		m.t.Errorf("got exit code %d, want 4 and KUB-008\n%s", code, out)
	}
	drive.Eventually(m.t, patience, func() string {
		if log := m.nodes.Logs(m.ns, "ashlar-coordinator-2")["coordinator"]; !strings.Contains(log, "REP-021") {
			return "the first of the new coordinators was not refused: " + log[max(0, len(log)-500):]
		}
		return ""
	})
	if _, out := m.run("check", "--only", "kubernetes", "-n", m.ns); !strings.Contains(out, "KUB-097") {
		m.t.Errorf("got %s, want KUB-097", out)
	}
	var runs []string
	for _, p := range m.coordinators() {
		runs = append(runs, fmt.Sprint(strings.TrimPrefix(p.Spec.Containers[0].Image, "ashlar-coordinator:"), " ", podReady(&p)))
	}
	if want := []string{"test true", "test true", "next false"}; !slices.Equal(runs, want) {
		m.t.Errorf("got %q, want %q: a refused coordinator stops the change", runs, want)
	}
}

// coordinators are the pods of the release's coordinators, by their ordinals.
func (m *mesh) coordinators() []core.Pod {
	m.t.Helper()
	list, err := m.c.Client.CoreV1().Pods(m.ns).List(m.t.Context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/component=coordinator"})
	if err != nil {
		m.t.Fatal(err)
	}
	return slices.SortedFunc(slices.Values(list.Items), func(a, b core.Pod) int { return strings.Compare(a.Name, b.Name) })
}

// allRun waits until n coordinators are of an image, and ready, and no other is left.
func (m *mesh) allRun(n int, image string) {
	m.t.Helper()
	drive.Eventually(m.t, patience, func() string {
		all := m.coordinators()
		for _, p := range all {
			if p.Spec.Containers[0].Image != image || !podReady(&p) || p.DeletionTimestamp != nil {
				return fmt.Sprintf("%s runs %s: %s", p.Name, p.Spec.Containers[0].Image, summary(&p))
			}
		}
		if len(all) != n {
			return fmt.Sprintf("got %d coordinators, want %d", len(all), n)
		}
		return ""
	})
}

// nothingIn reads all that the coordinators' etcd has, and all else: no secret is
// there, and no key but the one that etcd knows the coordinators by.
func (m *mesh) nothingIn(store *cluster.Store, shop string) {
	m.t.Helper()
	needles := keyMarks()
	block, _ := pem.Decode(m.resolved(shop, "/etc/cart/tls.key"))
	for name, value := range map[string][]byte{"cartKey": []byte(cartKey), "apiToken": []byte(apiToken), "cartTLS": block.Bytes[len(block.Bytes)/3:]} {
		maps.Copy(needles, forms(name, value))
	}
	places, _ := found(m.t, m.c, needles)
	places = slices.DeleteFunc(places, func(p string) bool { return strings.Contains(p, m.ns+"/"+storeSecret) }) // its key is the cluster's
	keys := 0
	prefix := "/ashlar/" + m.ns + "/ashlar/"
	err := store.Raw(m.t.Context(), func(key string, value []byte) {
		if keys++; !strings.HasPrefix(key, prefix) {
			m.t.Errorf("key %q is not below %s", key, prefix)
		}
		for name, n := range needles {
			if bytes.Contains(append([]byte(key), value...), n) {
				places = append(places, "etcd "+key+": "+name)
			}
		}
	})
	if err != nil || keys < 10 {
		m.t.Errorf("got %d keys in etcd (%v), want the state", keys, err)
	}
	if len(places) > 0 {
		m.t.Errorf("secrets outside of a TEE:\n%s", strings.Join(places, "\n"))
	}
}
