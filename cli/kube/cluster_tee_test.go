package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// lines are findings as a table shows them.
func lines(found ...check.Finding) []string {
	var out []string
	for _, f := range found {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.State, f.Code, f.Text)))
	}
	return out
}

func expect(t *testing.T, got []check.Finding, want ...string) {
	t.Helper()
	if !slices.Equal(lines(got...), want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(lines(got...), "\n  "), strings.Join(want, "\n  "))
	}
	for _, f := range got {
		if f.State != check.Passed && f.Next == "" {
			t.Errorf("%q has no next step", f.Text)
		}
	}
}

// node makes a node with resources ("name=quantity") and labels ("name:value").
func node(name string, has ...string) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{}}}
	for _, h := range has {
		if r, q, ok := strings.Cut(h, "="); ok {
			n.Status.Allocatable[corev1.ResourceName(r)] = resource.MustParse(q)
			continue
		}
		label, value, _ := strings.Cut(h, ":")
		n.Labels[label] = value
	}
	return n
}

func sgxNode(name string) corev1.Node {
	return node(name, "sgx.intel.com/epc=128Mi", "sgx.intel.com/enclave=20", "sgx.intel.com/provision=20")
}

func tainted(n corev1.Node, key string, effect corev1.TaintEffect) corev1.Node {
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect})
	return n
}

func class(name string, selector map[string]string) nodev1.RuntimeClass {
	return nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: name, Scheduling: &nodev1.Scheduling{NodeSelector: selector}}
}

func TestObstacle(t *testing.T) {
	table := inject.Profiles()
	cordoned, unready := sgxNode("n"), sgxNode("n")
	cordoned.Spec.Unschedulable = true
	unready.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
	kata := class("kata-qemu-snp", map[string]string{"amd.feature.node.kubernetes.io/snp": "true"})
	kata.Scheduling.Tolerations = []corev1.Toleration{{Key: "confidential"}}
	for _, c := range []struct {
		name, profile string
		node          corev1.Node
		classes       []nodev1.RuntimeClass
		want          string
	}{
		{"everything is there", "intel", sgxNode("n"), nil, ""},
		{"no device plugin", "intel", node("n"), nil, "it offers no sgx.intel.com/enclave"},
		{"the plugin has lost its devices", "intel", node("n", "sgx.intel.com/epc=0", "sgx.intel.com/enclave=20", "sgx.intel.com/provision=20"), nil, "it offers no sgx.intel.com/epc"},
		{"another cloud's resource", "alibaba", sgxNode("n"), nil, "it offers no alibabacloud.com/sgx_epc_MiB"},
		{"tolerated by the profile", "alibaba", tainted(node("n", "alibabacloud.com/sgx_epc_MiB=64"), "alibabacloud.com/sgx_epc_MiB", corev1.TaintEffectNoSchedule), nil, ""},
		{"not tolerated", "intel", tainted(sgxNode("n"), "dedicated", corev1.TaintEffectNoSchedule), nil, "its taint dedicated is not tolerated"},
		{"a taint that only prefers", "intel", tainted(sgxNode("n"), "dedicated", corev1.TaintEffectPreferNoSchedule), nil, ""},
		{"cordoned", "intel", cordoned, nil, "it is cordoned"},
		{"not ready", "intel", unready, nil, "it is not ready"},
		{"no runtime class", "kata-qemu-snp", node("n"), nil, "there is no runtime class kata-qemu-snp"},
		{"the runtime class is of other nodes", "kata-qemu-snp", node("n"), []nodev1.RuntimeClass{kata}, "it has no label amd.feature.node.kubernetes.io/snp=true"},
		{"the runtime class tolerates", "kata-qemu-snp", tainted(node("n", "amd.feature.node.kubernetes.io/snp:true"), "confidential", corev1.TaintEffectNoExecute), []nodev1.RuntimeClass{kata}, ""},
		{"the wrong label", "gke-tdx-node", node("n", "cloud.google.com/gke-confidential-nodes-instance-type:SEV_SNP"), nil, "it has no label cloud.google.com/gke-confidential-nodes-instance-type=TDX"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ok := table[c.profile]
			if !ok {
				t.Fatalf("there is no profile %s", c.profile)
			}
			if got := (cluster{classes: c.classes}).obstacle(p, c.node); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTEEFindings(t *testing.T) {
	table := inject.Profiles()
	t.Run("what nodes offer", func(t *testing.T) {
		c := cluster{nodes: []corev1.Node{sgxNode("a"), sgxNode("b"), node("c", "tdx.intel.com/keys=31"), node("d", "cpu=8"), node("e", "kubernetes.azure.com/sgx_epc_mem_in_MiB=8")}}
		expect(t, teeFindings(c, table),
			"passed  3 nodes offer sgx (sgx.intel.com/epc, sgx.intel.com/enclave, sgx.intel.com/provision, kubernetes.azure.com/sgx_epc_mem_in_MiB)",
			"passed  1 node offers tdx (tdx.intel.com/keys)")
	})
	t.Run("claimed by label alone", func(t *testing.T) {
		c := cluster{nodes: []corev1.Node{node("a", "intel.feature.node.kubernetes.io/sgx:true"), node("b", "sgx.intel.com/capable:true"), node("c", "intel.feature.node.kubernetes.io/sgx:false")}}
		got := teeFindings(c, table)
		expect(t, got, "warning KUB-030 2 nodes have sgx by label, but no pod can have it there")
		if !strings.Contains(got[0].Next, "device plugin") {
			t.Errorf("got next step %q, want the device plugin", got[0].Next)
		}
	})
	t.Run("claimed, and a profile needs no resource", func(t *testing.T) {
		label := "amd.feature.node.kubernetes.io/snp"
		c := cluster{nodes: []corev1.Node{node("a", label+":true")}, classes: []nodev1.RuntimeClass{class("kata-qemu-snp", map[string]string{label: "true"})}}
		expect(t, teeFindings(c, table))
	})
}

func TestProfileFindings(t *testing.T) {
	table := inject.Profiles()
	kata := cluster{nodes: []corev1.Node{sgxNode("a"), node("b")}, classes: []nodev1.RuntimeClass{class("kata-cc", nil)}}
	expect(t, profileFindings(kata, table),
		"passed  profiles with nodes: intel (1 node), kata-cc (2 nodes), kata-cc-tdx (2 nodes)", "passed  runtime classes: kata-cc")
	expect(t, profileFindings(cluster{nodes: []corev1.Node{node("a"), node("b")}}, table),
		"warning KUB-029 no node says that it offers a TEE: only simulation is sure to run here")
	expect(t, profileFindings(cluster{nodes: []corev1.Node{tainted(sgxNode("a"), "dedicated", corev1.TaintEffectNoSchedule)}}, table),
		"warning KUB-031 no node takes pods of a profile: intel: a: its taint dedicated is not tolerated")
}

func TestMarbleFinding(t *testing.T) {
	c := cluster{nodes: []corev1.Node{sgxNode("a"), sgxNode("b"), node("c")}}
	of := func(tees ...string) Wanted { return Wanted{"web", tees, "packages.web (manifest.json:3)"} }
	for _, tc := range []struct {
		name     string
		settings inject.Settings
		wanted   Wanted
		cluster  cluster
		want     string
	}{
		{"a node has it", inject.Settings{}, of("sgx"), c, "passed  marble web can run: sgx on 2 nodes (profile intel)"},
		{"one of two TEEs", inject.Settings{}, of("sgx", "tdx"), c, "passed  marble web can run: sgx on 2 nodes (profile intel)"},
		{"simulated", inject.Settings{}, of("sim:sgx", "sim:tdx"), c, "passed  marble web can run: sim:sgx on 3 nodes (profile sim)"},
		{"the injector would choose another profile", inject.Settings{Defaults: map[string]string{"sgx": "azure"}}, of("sgx"), c,
			"failed KUB-031 no node can run marble web: packages.web (manifest.json:3) allows sgx; azure: it offers no kubernetes.azure.com/sgx_epc_mem_in_MiB"},
		{"no runtime class", inject.Settings{Defaults: map[string]string{"snp": "kata-qemu-snp"}}, of("snp"), c,
			"failed KUB-031 no node can run marble web: packages.web (manifest.json:3) allows snp; kata-qemu-snp: there is no runtime class kata-qemu-snp"},
		{"a profile that fits every node", inject.Settings{Defaults: map[string]string{"snp": "snp-node"}}, of("snp"), c,
			"warning KUB-031 marble web: packages.web (manifest.json:3) allows snp, and profile snp-node asks nothing of a node: it may land on any"},
		{"nothing is known of the TEE", inject.Settings{}, of("cca"), c,
			"failed KUB-031 no node can run marble web: packages.web (manifest.json:3) allows cca, for which there is no profile"},
		{"no node at all", inject.Settings{Defaults: map[string]string{"sgx": "intel"}}, of("sgx"), cluster{},
			"failed KUB-031 no node can run marble web: packages.web (manifest.json:3) allows sgx; intel: there is no node"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			expect(t, []check.Finding{marbleFinding(tc.cluster, tc.settings, tc.wanted)}, tc.want)
		})
	}
}

func TestPlugins(t *testing.T) {
	set := func(namespace, image string, ready, wanted int32) appsv1.DaemonSet {
		s := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "any"}, Status: appsv1.DaemonSetStatus{NumberReady: ready, DesiredNumberScheduled: wanted}}
		s.Spec.Template.Spec.Containers = []corev1.Container{{Image: "other:1"}, {Image: image}}
		return s
	}
	got := pluginFindings(pluginsOf([]appsv1.DaemonSet{
		set("inteldeviceplugins-system", "docker.io/intel/intel-sgx-plugin:0.31.0", 3, 3),
		set("kube-system", "registry.example:5000/aks/acc/sgx-plugin@sha256:0123456789abcdef", 1, 2),
		set("kube-system", "registry.example/kube-proxy:v1.37.2", 3, 3),
	}))
	expect(t, got, "passed  Intel SGX device plugin 0.31.0 on 3 nodes (namespace inteldeviceplugins-system)",
		"warning KUB-030 Azure SGX device plugin sha256:0123456789ab is ready on 1 of 2 nodes (namespace kube-system)")
	for image, want := range map[string]string{"a/b:1.2": "1.2", "host:5000/a/b": "latest", "host:5000/a/b:v1@sha256:aa": "v1"} {
		if got := tagOf(image); got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}
