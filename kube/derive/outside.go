package derive

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// programs tells what of pods a manifest has no word for.
func (j *job) programs(m *marble) {
	for _, w := range m.runs {
		c, at := w.container(), w.containerAt()
		if w.spec.HostNetwork {
			j.note(w.pod.at("spec.hostNetwork"), importer.NoCounterpart, "", "the pod has the node's address, and NetworkPolicies do not hold for it: what is derived for it may be more than is meant")
		}
		for i := range w.spec.InitContainers {
			j.note(w.pod.at("spec.initContainers[%d]", i), importer.NoCounterpart, "", "runs before the marble and is not measured where the program alone is")
		}
		for _, p := range []struct {
			field string
			probe *corev1.Probe
		}{{"readinessProbe", c.ReadinessProbe}, {"livenessProbe", c.LivenessProbe}, {"startupProbe", c.StartupProbe}} {
			if p.probe != nil && (p.probe.HTTPGet != nil || p.probe.TCPSocket != nil) {
				j.note(at.at("%s", p.field), importer.Maps, "", "the injector hands it to the marble, which asks the program on loopback")
			}
		}
		if n := len(j.environment(w)); n > 0 {
			j.note(at.at("env"), importer.NoCounterpart, m.path("parameters.env"), "variables that the host chooses (%d): what matters of them belongs into the manifest", n)
		}
		if w.kind == "StatefulSet" {
			j.note(w.at.at("spec.serviceName"), importer.NoCounterpart, "marbles."+m.name, "all pods have one identity; the names of single pods (%s-0.%s) are none", w.name, w.headless)
		}
	}
}

// outside tells of Services and policies that reach beyond the workloads.
func (j *job) outside() {
	for _, s := range j.services {
		spec := &s.svc.Spec
		switch {
		case spec.Type == corev1.ServiceTypeExternalName:
			j.note(s.at.at("spec.externalName"), importer.NoCounterpart, "", "what stands outside has no evidence: it is called past the mesh")
			continue
		case spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer:
			j.note(s.at.at("spec.type"), importer.Stricter, "", "%s: the port accepts attested marbles only", spec.Type)
		case len(spec.ExternalIPs) > 0:
			j.note(s.at.at("spec.externalIPs"), importer.Stricter, "", "the port accepts attested marbles only")
		}
		behind := false
		for _, w := range j.workloads {
			behind = behind || s.selects(w)
		}
		if !behind {
			j.note(s.at.at("spec.selector"), importer.NoCounterpart, "", "no pod of what was read stands behind it")
		}
	}
	for _, p := range j.policies {
		for i, r := range p.np.Spec.Ingress {
			j.beyond(p, fmt.Sprintf("spec.ingress[%d].from", i), r.From, r.Ports)
		}
		for i, r := range p.np.Spec.Egress {
			j.beyond(p, fmt.Sprintf("spec.egress[%d].to", i), r.To, r.Ports)
		}
	}
}

// beyond tells what of a rule is about no workload, or about no TCP.
func (j *job) beyond(p policy, field string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	for i, peer := range peers {
		at := p.at.at("%s[%d]", field, i)
		switch {
		case peer.IPBlock != nil:
			j.note(at.at("ipBlock"), importer.NoCounterpart, "", "addresses are no identities")
		case peer.NamespaceSelector != nil && !j.anybody(p, peer):
			j.note(at, importer.NoCounterpart, "", "no workload of what was read is meant; labels of namespaces count if their Namespace was read")
		}
	}
	for i, port := range ports {
		if port.Protocol != nil && *port.Protocol != corev1.ProtocolTCP {
			j.note(p.at.at("%s ports[%d].protocol", field, i), importer.NoCounterpart, "", "%s: the mesh carries TCP and HTTP only", *port.Protocol)
		}
	}
}

// anybody reports whether a peer means a workload.
func (j *job) anybody(p policy, peer networkingv1.NetworkPolicyPeer) bool {
	r, err := j.net.rule(j.Cluster, p, []networkingv1.NetworkPolicyPeer{peer}, nil, p.at)
	for _, is := range r.peers {
		if is && err == nil {
			return true
		}
	}
	return false
}
