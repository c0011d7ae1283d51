//go:build linux

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	node "k8s.io/api/node/v1"
	rbac "k8s.io/api/rbac/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli"
	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
)

// ashlar runs the command in this process, with a trust folder of its own.
func ashlar(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	var b bytes.Buffer
	code = cli.Main(append(args, "--trust", t.TempDir()), strings.NewReader(""), &b, &b)
	return code, b.String()
}

// finding is what the command says of one check, in JSON.
type finding struct{ Category, State, Text, Code, Next string }

func checked(t *testing.T, args ...string) []finding {
	t.Helper()
	var report struct{ Results []finding }
	_, out := ashlar(t, append([]string{"check", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	return report.Results
}

// says reports whether a check ended in a state with this in its text.
func says(found []finding, state, text string) bool {
	for _, f := range found {
		if f.State == state && strings.Contains(f.Text, text) {
			return true
		}
	}
	return false
}

func want(t *testing.T, found []finding, state, text string) {
	t.Helper()
	if !says(found, state, text) {
		var all []string
		for _, f := range found {
			all = append(all, fmt.Sprintf("%s %s: %s %s", f.Category, f.State, f.Text, f.Code))
		}
		t.Errorf("want %s: %s\ngot\n  %s", state, text, strings.Join(all, "\n  "))
	}
}

// addNode makes a node that is ready for pods, with resources.
func addNode(t *testing.T, c *cluster.Cluster, name string, labels map[string]string, has core.ResourceList) {
	t.Helper()
	nodes := c.Client.CoreV1().Nodes()
	n, err := nodes.Create(t.Context(), &core.Node{ObjectMeta: meta.ObjectMeta{Name: name, Labels: labels}}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nodes.Delete(context.Background(), name, meta.DeleteOptions{}) })
	n.Status.Allocatable, n.Status.Capacity = has, has
	n.Status.Conditions = []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue}}
	if n, err = nodes.UpdateStatus(t.Context(), n, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = nil // the API server keeps pods off a node until it reports
	if _, err := nodes.Update(t.Context(), n, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestCheckBeforeAnInstallation(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	pre := []string{"--pre", "--kubeconfig", c.Kubeconfig(), "-n", ns}

	found := checked(t, pre...)
	want(t, found, "passed", "can reach the cluster (v1.37.2)")
	want(t, found, "passed", "knows every kind that the chart makes")
	want(t, found, "passed", "may do in namespace "+ns+" what an installation needs")
	want(t, found, "failed", "no storage class is the default one: there is none")
	want(t, found, "passed", "the API server's clock differs from this one by at most")

	classes := c.Client.StorageV1().StorageClasses()
	if _, err := classes.Create(t.Context(), &storage.StorageClass{ObjectMeta: meta.ObjectMeta{Name: "slow"}, Provisioner: "disk.test"}, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = classes.Delete(context.Background(), "slow", meta.DeleteOptions{}) })
	want(t, checked(t, pre...), "failed", "no storage class is the default one: there are slow")
	want(t, checked(t, append(pre, "--set", "coordinator.state.storageClass=slow")...), "passed", "storage class slow (disk.test)")
	want(t, checked(t, append(pre, "--set", "coordinator.state.storageClass=gone")...), "failed", "there is no storage class gone")

	monitored := checked(t, append(pre, "--set", "monitoring.serviceMonitor.enabled=true")...)
	want(t, monitored, "failed", "ServiceMonitor (monitoring.coreos.com/v1)")
}

func TestCheckOfTEEs(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	only := []string{"--pre", "--only", "tee", "--kubeconfig", c.Kubeconfig(), "-n", ns}
	want(t, checked(t, only...), "warning", "no node says that it offers a TEE")

	q := resource.MustParse
	addNode(t, c, "check-sgx", nil, core.ResourceList{"sgx.intel.com/epc": q("128Mi"), "sgx.intel.com/enclave": q("20"), "sgx.intel.com/provision": q("20")})
	addNode(t, c, "check-snp", map[string]string{"amd.feature.node.kubernetes.io/snp": "true"}, nil)
	found := checked(t, only...)
	want(t, found, "passed", "1 node offers sgx (sgx.intel.com/epc")
	want(t, found, "passed", "profiles with nodes: intel (1 node)")
	want(t, found, "warning", "1 node has snp by label, but no pod can have it there")

	class := &node.RuntimeClass{ObjectMeta: meta.ObjectMeta{Name: "kata-qemu-snp"}, Handler: "kata-qemu-snp",
		Scheduling: &node.Scheduling{NodeSelector: map[string]string{"amd.feature.node.kubernetes.io/snp": "true"}}}
	if _, err := c.Client.NodeV1().RuntimeClasses().Create(t.Context(), class, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Client.NodeV1().RuntimeClasses().Delete(context.Background(), class.Name, meta.DeleteOptions{})
	})
	found = checked(t, only...)
	want(t, found, "passed", "intel (1 node), kata-qemu-snp (1 node)")
	want(t, found, "passed", "runtime classes: kata-qemu-snp")
	if says(found, "warning", "by label") {
		t.Errorf("a node whose TEE a runtime class gives is still warned of: %+v", found)
	}
}

// TestCheckByAUserOfOneNamespace sees what is refused to whoever may only read
// pods in one namespace.
func TestCheckByAUserOfOneNamespace(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	user, err := c.User("reader")
	if err != nil {
		t.Fatal(err)
	}
	role := &rbac.Role{ObjectMeta: meta.ObjectMeta{Name: "reader"}, Rules: []rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}}}}
	if _, err := c.Client.RbacV1().Roles(ns).Create(t.Context(), role, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbac.RoleBinding{ObjectMeta: meta.ObjectMeta{Name: "reader"}, RoleRef: rbac.RoleRef{Kind: "Role", Name: "reader"}, Subjects: []rbac.Subject{{Kind: "User", Name: "reader"}}}
	if _, err := c.Client.RbacV1().RoleBindings(ns).Create(t.Context(), binding, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config")
	if err := cluster.WriteKubeconfig(config, user, ns); err != nil {
		t.Fatal(err)
	}
	found := checked(t, "--pre", "--kubeconfig", config, "-n", ns)
	want(t, found, "passed", "can reach the cluster")
	want(t, found, "failed", "statefulsets.apps (create, get, patch, delete)")
	want(t, found, "failed", "listing nodes")
	for _, f := range found {
		if f.Text != "" && strings.Contains(f.Text, "listing nodes") && f.Code != "KUB-022" {
			t.Errorf("got code %s, want KUB-022", f.Code)
		}
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "manifest.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
