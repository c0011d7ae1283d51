package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// devices are the resources by which a node says that pods get a TEE there, as
// the vendors' device plugins name them.
var devices = []struct{ resource, tee string }{
	{"sgx.intel.com/epc", "sgx"},
	{"sgx.intel.com/enclave", "sgx"},
	{"sgx.intel.com/provision", "sgx"},
	{"alibabacloud.com/sgx_epc_MiB", "sgx"},
	{"kubernetes.azure.com/sgx_epc_mem_in_MiB", "sgx"},
	{"tdx.intel.com/keys", "tdx"},
	{"sev-snp.amd.com/esids", "snp"},
	{"amd.com/sev-snp", "snp"},
}

// features are the labels by which node feature discovery says what a node's
// processor can do, whether or not a pod gets it.
var features = []struct{ label, tee string }{
	{"intel.feature.node.kubernetes.io/sgx", "sgx"},
	{"sgx.intel.com/capable", "sgx"},
	{"intel.feature.node.kubernetes.io/tdx", "tdx"},
	{"amd.feature.node.kubernetes.io/snp", "snp"},
}

// offered lists the resources of TEEs that pods can have on a node, by TEE.
func offered(n corev1.Node) map[string][]string {
	out := map[string][]string{}
	for _, d := range devices {
		if q := n.Status.Allocatable[corev1.ResourceName(d.resource)]; !q.IsZero() {
			out[d.tee] = append(out[d.tee], d.resource)
		}
	}
	return out
}

// labelled lists the TEEs that a node's labels claim.
func labelled(n corev1.Node) []string {
	var tees []string
	for _, f := range features {
		if n.Labels[f.label] == "true" && !slices.Contains(tees, f.tee) {
			tees = append(tees, f.tee)
		}
	}
	return tees
}

// cluster is what a pod's place is chosen from.
type cluster struct {
	nodes   []corev1.Node
	classes []nodev1.RuntimeClass
}

// obstacle is why a pod of a profile cannot run on a node; empty if it can. How
// much of a resource other pods already hold is the scheduler's to say.
func (c cluster) obstacle(p inject.Profile, n corev1.Node) string {
	if why := outOfService(n); why != "" {
		return why
	}
	wanted := map[string]string{}
	maps.Copy(wanted, p.NodeLabels)
	tolerated := slices.Clone(p.Tolerations)
	if p.RuntimeClass != "" {
		i := slices.IndexFunc(c.classes, func(r nodev1.RuntimeClass) bool { return r.Name == p.RuntimeClass })
		if i < 0 {
			return "there is no runtime class " + p.RuntimeClass
		}
		if s := c.classes[i].Scheduling; s != nil {
			maps.Copy(wanted, s.NodeSelector)
			for _, t := range s.Tolerations {
				tolerated = append(tolerated, t.Key)
			}
		}
	}
	if why := lacksResource(p, n); why != "" {
		return why
	}
	for _, label := range slices.Sorted(maps.Keys(wanted)) {
		if n.Labels[label] != wanted[label] {
			return fmt.Sprintf("it has no label %s=%s", label, wanted[label])
		}
	}
	for _, t := range n.Spec.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !slices.Contains(tolerated, t.Key) && !slices.Contains(tolerated, "") {
			return "its taint " + t.Key + " is not tolerated"
		}
	}
	return ""
}

// outOfService says why a node takes no pods at all.
func outOfService(n corev1.Node) string {
	if n.Spec.Unschedulable {
		return "it is cordoned"
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			return "it is not ready"
		}
	}
	return ""
}

// lacksResource names the first resource of a profile that a node does not
// offer.
func lacksResource(p inject.Profile, n corev1.Node) string {
	names := slices.Sorted(maps.Keys(p.Resources))
	if p.EPC != nil && !slices.Contains(names, p.EPC.Name) {
		names = append(names, p.EPC.Name)
	}
	for _, name := range names {
		if q := n.Status.Allocatable[corev1.ResourceName(name)]; q.IsZero() {
			return "it offers no " + name
		}
	}
	return ""
}

// fitting lists the nodes that a profile's pods can run on, and what keeps them
// from the others, the commonest obstacle first.
func (c cluster) fitting(p inject.Profile) (nodes []string, obstacles []string) {
	count := map[string]int{}
	for _, n := range c.nodes {
		if why := c.obstacle(p, n); why != "" {
			count[why]++
			continue
		}
		nodes = append(nodes, n.Name)
	}
	obstacles = slices.Sorted(maps.Keys(count))
	slices.SortStableFunc(obstacles, func(a, b string) int { return cmp.Compare(count[b], count[a]) })
	return nodes, obstacles
}

// plugins are the programs that make a TEE usable in a cluster, by a part of
// their image's name.
var plugins = []struct{ image, name string }{
	{"intel-sgx-plugin", "Intel SGX device plugin"},
	{"intel-deviceplugin-operator", "Intel device plugins operator"},
	{"sgx-device-plugin", "SGX device plugin"},
	{"aks/acc/sgx-plugin", "Azure SGX device plugin"},
	{"node-feature-discovery", "node feature discovery"},
	{"kata-deploy", "Kata Containers"},
	{"cloud-api-adaptor", "cloud-api-adaptor"},
}

// plugin is a program on the nodes, with how many of them it is ready on.
type plugin struct {
	name, version, where string
	ready, wanted        int32
}

// tagOf is the tag of an image, or the beginning of its digest.
func tagOf(image string) string {
	name, digest, pinned := strings.Cut(image, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		return name[i+1:]
	}
	if pinned {
		return fmt.Sprintf("%.19s", digest)
	}
	return "latest"
}

func (c cluster) hasClass(name string) bool {
	return slices.ContainsFunc(c.classes, func(r nodev1.RuntimeClass) bool { return r.Name == name })
}

// offers reports whether some node has a resource.
func (c cluster) offers(name corev1.ResourceName) bool {
	return slices.ContainsFunc(c.nodes, func(n corev1.Node) bool { q := n.Status.Allocatable[name]; return !q.IsZero() })
}
