package derive

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// world is a random cluster: pods with labels in two namespaces, and policies.
type world struct {
	pods     []corev1.Pod
	policies []networkingv1.NetworkPolicy
}

var (
	spaces    = map[string]map[string]string{"one": {"zone": "a"}, "two": {"zone": "b"}}
	podValues = []string{"x", "y"}
)

func randomSelector(r *rand.Rand) metav1.LabelSelector {
	key := []string{"app", "tier"}[r.IntN(2)]
	switch r.IntN(5) {
	case 0:
		return metav1.LabelSelector{}
	case 1:
		return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpNotIn, Values: []string{podValues[r.IntN(2)]}}}}
	case 2:
		return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpExists}}}
	}
	return metav1.LabelSelector{MatchLabels: map[string]string{key: podValues[r.IntN(2)]}}
}

func randomPorts(r *rand.Rand) []networkingv1.NetworkPolicyPort {
	udp := corev1.ProtocolUDP
	end := int32(9000)
	number, name := intstr.FromInt32(8000), intstr.FromString("admin")
	switch r.IntN(6) {
	case 0:
		return []networkingv1.NetworkPolicyPort{{Port: &number}}
	case 1:
		return []networkingv1.NetworkPolicyPort{{Port: &name}}
	case 2:
		return []networkingv1.NetworkPolicyPort{{Protocol: &udp, Port: &number}}
	case 3:
		from := intstr.FromInt32(8500)
		return []networkingv1.NetworkPolicyPort{{Port: &from, EndPort: &end}}
	}
	return nil
}

func randomPeers(r *rand.Rand) []networkingv1.NetworkPolicyPeer {
	var peers []networkingv1.NetworkPolicyPeer
	for range r.IntN(3) {
		pods, zone := randomSelector(r), metav1.LabelSelector{MatchLabels: map[string]string{"zone": []string{"a", "b"}[r.IntN(2)]}}
		switch r.IntN(4) {
		case 0:
			peers = append(peers, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}})
		case 1:
			peers = append(peers, networkingv1.NetworkPolicyPeer{NamespaceSelector: &zone, PodSelector: &pods})
		case 2:
			peers = append(peers, networkingv1.NetworkPolicyPeer{NamespaceSelector: &zone})
		default:
			peers = append(peers, networkingv1.NetworkPolicyPeer{PodSelector: &pods})
		}
	}
	return peers
}

func randomWorld(r *rand.Rand) world {
	var w world
	for i := range 2 + r.IntN(4) {
		labels := map[string]string{}
		for _, key := range []string{"app", "tier"} {
			if r.IntN(3) > 0 {
				labels[key] = podValues[r.IntN(2)]
			}
		}
		p := corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i), Namespace: []string{"one", "two"}[r.IntN(2)], Labels: labels}}
		p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "main", ContainerPort: 8000}, {Name: []string{"admin", "other"}[r.IntN(2)], ContainerPort: 8600 + int32(r.IntN(2))*1000}}}}
		w.pods = append(w.pods, p)
	}
	for i := range r.IntN(4) {
		np := networkingv1.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}, ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Namespace: []string{"one", "two"}[r.IntN(2)]}}
		np.Spec.PodSelector = randomSelector(r)
		np.Spec.PolicyTypes = [][]networkingv1.PolicyType{nil, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}[r.IntN(4)]
		for range r.IntN(3) {
			np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: randomPeers(r), Ports: randomPorts(r)})
		}
		for range r.IntN(3) {
			np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: randomPeers(r), Ports: randomPorts(r)})
		}
		w.policies = append(w.policies, np)
	}
	return w
}

// The semantics again, from Kubernetes' documentation, with nothing of the
// package: brute force over each pod, policy, rule, peer and port.

func meets(s *metav1.LabelSelector, labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if labels[k] != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		v, has := labels[e.Key]
		switch e.Operator {
		case metav1.LabelSelectorOpExists:
			if !has {
				return false
			}
		case metav1.LabelSelectorOpNotIn:
			if has && slices.Contains(e.Values, v) {
				return false
			}
		}
	}
	return true
}

func isPeer(np *networkingv1.NetworkPolicy, peer networkingv1.NetworkPolicyPeer, pod *corev1.Pod) bool {
	if peer.IPBlock != nil {
		return false
	}
	if peer.NamespaceSelector == nil && pod.Namespace != np.Namespace || peer.NamespaceSelector != nil && !meets(peer.NamespaceSelector, spaces[pod.Namespace]) {
		return false
	}
	return peer.PodSelector == nil || meets(peer.PodSelector, pod.Labels)
}

func forPort(ports []networkingv1.NetworkPolicyPort, to *corev1.Pod, number int32) bool {
	for _, p := range ports {
		if p.Protocol != nil && *p.Protocol != "TCP" {
			continue
		}
		if p.Port == nil || p.Port.Type == intstr.Int && p.Port.IntVal == number || p.EndPort != nil && p.Port.IntVal <= number && number <= *p.EndPort {
			return true
		}
		for _, c := range to.Spec.Containers[0].Ports {
			if p.Port.Type == intstr.String && c.Name == p.Port.StrVal && c.ContainerPort == number {
				return true
			}
		}
	}
	return len(ports) == 0
}

// asks returns what the policies for one direction say: whether it goes, and
// whether a rule with peers says so.
func (w world) asks(ingress bool, from, to *corev1.Pod, number int32) (goes, byName bool) {
	self, other := from, to
	if ingress {
		self, other = to, from
	}
	selected := false
	for i := range w.policies {
		np := &w.policies[i]
		applies := slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) || len(np.Spec.PolicyTypes) == 0
		if !ingress {
			applies = slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) || len(np.Spec.PolicyTypes) == 0 && len(np.Spec.Egress) > 0
		}
		if !applies || np.Namespace != self.Namespace || !meets(&np.Spec.PodSelector, self.Labels) {
			continue
		}
		selected = true
		try := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
			if !forPort(ports, to, number) {
				return
			}
			if len(peers) == 0 {
				goes = true
			}
			for _, peer := range peers {
				if isPeer(np, peer, other) {
					goes, byName = true, true
				}
			}
		}
		if ingress {
			for _, r := range np.Spec.Ingress {
				try(r.From, r.Ports)
			}
		} else {
			for _, r := range np.Spec.Egress {
				try(r.To, r.Ports)
			}
		}
	}
	return goes || !selected, byName
}

// TestCallsAreWhatPoliciesSay holds the calls and tests of random clusters
// against a brute-force evaluation.
func TestCallsAreWhatPoliciesSay(t *testing.T) {
	rounds, calls, denials := 1200, 0, 0
	if testing.Short() {
		rounds = 300
	}
	for seed := range uint64(rounds) {
		w := randomWorld(rand.New(rand.NewPCG(seed, 6)))
		var want []string
		kept := map[string]bool{}
		for i := range w.pods {
			for k := range w.pods {
				from, to := &w.pods[i], &w.pods[k]
				if i == k {
					continue
				}
				any := false
				for _, p := range to.Spec.Containers[0].Ports {
					in, inNamed := w.asks(true, from, to, p.ContainerPort)
					out, outNamed := w.asks(false, from, to, p.ContainerPort)
					any = any || in && out
					if in && out && (inNamed || outNamed) {
						want = append(want, from.Name+" "+to.Name+" "+p.Name)
					}
				}
				kept[from.Name+" "+to.Name] = !any
			}
		}
		m := w.derive(t, seed)
		var got []string
		for name, mb := range m.Marbles {
			for _, c := range mb.Calls {
				got = append(got, name+" "+c.Marble+" "+c.Port)
			}
		}
		sort.Strings(got)
		sort.Strings(want)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: got calls %v, want %v", seed, got, want)
		}
		for _, test := range m.Tests {
			if test.Allow || !kept[test.From+" "+test.To] {
				t.Fatalf("seed %d: test %v, but the policies do not keep them apart", seed, test)
			}
		}
		calls, denials = calls+len(got), denials+len(m.Tests)
	}
	if calls < rounds/2 || denials < rounds/2 {
		t.Errorf("only %d calls and %d tests in %d clusters: nothing was tried", calls, denials, rounds)
	}
}

// derive makes the manifest of a world and checks that it holds its own tests.
func (w world) derive(t *testing.T, seed uint64) *manifest.Manifest {
	t.Helper()
	var b strings.Builder
	for name, labels := range spaces {
		raw, _ := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": labels}})
		b.Write(raw)
	}
	for _, objects := range []any{w.pods, w.policies} {
		raw, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
		if err != nil {
			t.Fatal(err)
		}
		if string(raw) != `{"apiVersion":"v1","items":null,"kind":"List"}` {
			b.Write(raw)
		}
	}
	c, err := Read([]Source{{"world.json", []byte(b.String())}})
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	o := Options{TrustDomain: "shop.example", Packages: map[string]attest.Package{"i": anyProgram}}
	r, err := c.Manifest(o)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	m, diags := manifest.Parse(r.Manifest)
	if m == nil || !r.Valid {
		t.Fatalf("seed %d: the manifest is not valid: %v\n%s", seed, diags, r.Manifest)
	}
	return m
}
