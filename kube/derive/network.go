package derive

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxWork bounds how many rules are held against connections.
const maxWork = 20_000_000

// maxGrants bounds how many rules are named for one connection.
const maxGrants = 4

// grant is what one side of a connection says of it.
type grant int

// The grants. Only named says who.
const (
	denied grant = iota // policies select the pod, and no rule lets it
	open                // no policy selects the pod, or a rule lets anybody
	named               // a rule names the other end
)

// rule is a rule of a policy for one direction.
type rule struct {
	at    Place
	anon  bool   // it names nobody: everybody
	peers []bool // by index of the workload
	ports []networkingv1.NetworkPolicyPort
}

// network evaluates NetworkPolicies as Kubernetes documents them: a pod that no
// policy selects for a direction is open in it; one that is selected accepts what
// any rule of any such policy lets; a connection needs both ends.
type network struct {
	ingress, egress     [][]rule // by index of the workload
	isolated, confined  []bool   // a policy selects it for ingress, for egress
	byIngress, byEgress []Place  // one such policy
	work                int
}

func newNetwork(c *Cluster) (*network, error) {
	n := len(c.workloads)
	net := &network{ingress: make([][]rule, n), egress: make([][]rule, n), isolated: make([]bool, n), confined: make([]bool, n),
		byIngress: make([]Place, n), byEgress: make([]Place, n)}
	for _, p := range c.policies {
		if err := net.add(c, p); err != nil {
			return nil, err
		}
	}
	return net, nil
}

func (n *network) add(c *Cluster, p policy) error {
	spec := &p.np.Spec
	selected, err := metav1.LabelSelectorAsSelector(&spec.PodSelector)
	if err != nil {
		return problem.New("KUB-094", "%s: the selector is none that Kubernetes takes", p.at.at("spec.podSelector"))
	}
	in, out := directions(spec)
	var ingress, egress []rule
	for i, r := range spec.Ingress {
		made, err := n.rule(c, p, r.From, r.Ports, p.at.at("spec.ingress[%d]", i))
		if err != nil {
			return err
		}
		ingress = append(ingress, made)
	}
	for i, r := range spec.Egress {
		made, err := n.rule(c, p, r.To, r.Ports, p.at.at("spec.egress[%d]", i))
		if err != nil {
			return err
		}
		egress = append(egress, made)
	}
	for i, w := range c.workloads {
		if w.namespace != p.np.Namespace || !selected.Matches(labels.Set(w.labels)) {
			continue
		}
		if in {
			n.isolated[i], n.byIngress[i] = true, p.at
			n.ingress[i] = append(n.ingress[i], ingress...)
		}
		if out {
			n.confined[i], n.byEgress[i] = true, p.at
			n.egress[i] = append(n.egress[i], egress...)
		}
	}
	return nil
}

// directions says which directions a policy is for: ingress, and egress where it
// has such rules, if it does not say.
func directions(spec *networkingv1.NetworkPolicySpec) (in, out bool) {
	if len(spec.PolicyTypes) == 0 {
		return true, len(spec.Egress) > 0
	}
	return slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress), slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

func (n *network) rule(c *Cluster, p policy, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, at Place) (rule, error) {
	r := rule{at: at, anon: len(peers) == 0, peers: make([]bool, len(c.workloads)), ports: ports}
	for _, peer := range peers {
		if err := n.spend(len(c.workloads), at); err != nil {
			return rule{}, err
		}
		if peer.IPBlock != nil || peer.PodSelector == nil && peer.NamespaceSelector == nil {
			continue // addresses are no identities; outside says so
		}
		pods, err := selector(peer.PodSelector)
		spaces, err2 := selector(peer.NamespaceSelector)
		if err != nil || err2 != nil {
			return rule{}, problem.New("KUB-094", "%s: a selector is none that Kubernetes takes", at)
		}
		for i, w := range c.workloads {
			near := peer.NamespaceSelector == nil && w.namespace == p.np.Namespace
			if (near || peer.NamespaceSelector != nil && spaces.Matches(c.namespace(w.namespace))) && pods.Matches(labels.Set(w.labels)) {
				r.peers[i] = true
			}
		}
	}
	return r, nil
}

// selector makes a selector; of nil, one that everything meets.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// namespace returns a namespace's labels: those that were read, and the name that
// every namespace bears.
func (c *Cluster) namespace(name string) labels.Set {
	set := labels.Set{}
	for k, v := range c.namespaces[name] {
		set[k] = v
	}
	set[corev1.LabelMetadataName] = name
	return set
}

func (n *network) spend(work int, at Place) error {
	if n.work += work; n.work > maxWork {
		return problem.New("KUB-091", "%s: the NetworkPolicies are too many to be held against all workloads", at)
	}
	return nil
}

// may says what both ends say of a connection, and where.
func (n *network) may(from, to *workload, port uint16) (in, out grant, at []Place, err error) {
	if err := n.spend(1+len(n.ingress[to.index])+len(n.egress[from.index]), to.at); err != nil {
		return denied, denied, nil, err
	}
	in, at = side(n.isolated[to.index], n.ingress[to.index], from, to, port)
	out, also := side(n.confined[from.index], n.egress[from.index], to, to, port)
	return in, out, append(at, also...), nil
}

// side evaluates one direction: the rules of a pod, its peer, and where the port
// is.
func side(selected bool, rules []rule, peer, at *workload, port uint16) (grant, []Place) {
	if !selected {
		return open, nil
	}
	best, where := denied, []Place(nil)
	for _, r := range rules {
		if !r.anon && !r.peers[peer.index] || !carries(r.ports, at, port) {
			continue
		}
		if r.anon {
			best = max(best, open)
			continue
		}
		if best = named; len(where) < maxGrants {
			where = append(where, r.at)
		}
	}
	return best, where
}

// carries reports whether a rule is for a port of a pod. A name is looked up at
// the pod that is connected to, for both directions.
func carries(ports []networkingv1.NetworkPolicyPort, w *workload, number uint16) bool {
	if len(ports) == 0 {
		return true
	}
	for _, p := range ports {
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			if w.calls(p.Port.StrVal, number) {
				return true
			}
		case p.EndPort != nil:
			if int32(number) >= p.Port.IntVal && int32(number) <= *p.EndPort {
				return true
			}
		case int32(number) == p.Port.IntVal:
			return true
		}
	}
	return false
}

// calls reports whether a container of the workload calls a TCP port by a name.
func (w *workload) calls(name string, number uint16) bool {
	for i := range w.spec.Containers {
		for _, p := range w.spec.Containers[i].Ports {
			if p.Name == name && p.ContainerPort == int32(number) && (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP) {
				return true
			}
		}
	}
	return false
}
