package charts_test

import (
	"net"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// place is one end of a connection: a pod of a namespace, or an address outside.
type place struct {
	namespace string
	pod       map[string]string
	address   string
}

var (
	marblePod      = place{namespace: "shop", pod: map[string]string{inject.Label: "web"}}
	otherPod       = place{namespace: "shop", pod: map[string]string{"app": "web"}}
	prometheusPod  = place{namespace: "monitoring", pod: map[string]string{"app": "prometheus"}}
	coordinatorPod = place{namespace: "mesh", pod: map[string]string{"app.kubernetes.io/name": "ashlar", "app.kubernetes.io/instance": "ashlar", "app.kubernetes.io/component": "coordinator"}}
	injectorPod    = place{namespace: "mesh", pod: map[string]string{"app.kubernetes.io/name": "ashlar", "app.kubernetes.io/instance": "ashlar", "app.kubernetes.io/component": "injector"}}
	etcdPod        = place{namespace: "store", pod: map[string]string{"app": "etcd"}}
	opsMachine     = place{address: "192.0.2.7"}
	apiServer      = place{address: "203.0.113.1"}
	stranger       = place{address: "198.18.0.1"}
)

// among reports whether a place is one of the peers of a policy of namespace mesh;
// no peers are everybody.
func among(t *testing.T, peers []networkingv1.NetworkPolicyPeer, p place) bool {
	t.Helper()
	for _, peer := range peers {
		if peer.IPBlock != nil {
			_, block, err := net.ParseCIDR(peer.IPBlock.CIDR)
			if err != nil {
				t.Fatal(err)
			}
			if p.address != "" && block.Contains(net.ParseIP(p.address)) {
				return true
			}
			continue
		}
		where := p.namespace == "mesh"
		if peer.NamespaceSelector != nil {
			where = p.namespace != "" && selects(t, peer.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": p.namespace})
		}
		if where && (peer.PodSelector == nil || selects(t, peer.PodSelector, p.pod)) {
			return true
		}
	}
	return len(peers) == 0
}

func open(ports []networkingv1.NetworkPolicyPort, port int32) bool {
	for _, p := range ports {
		if p.Port.IntVal == port {
			return true
		}
	}
	return false
}

// reaches reports whether the policy of a part lets a connection in, or out.
func reaches(t *testing.T, all []runtime.Object, part string, out bool, other place, port int32) bool {
	t.Helper()
	spec := find[*networkingv1.NetworkPolicy](t, all, part).Spec
	if len(spec.PolicyTypes) != 2 {
		t.Errorf("%s: got %v, want both ways", part, spec.PolicyTypes)
	}
	for _, r := range spec.Egress {
		if out && open(r.Ports, port) && among(t, r.To, other) {
			return true
		}
	}
	for _, r := range spec.Ingress {
		if !out && open(r.Ports, port) && among(t, r.From, other) {
			return true
		}
	}
	return false
}

// Coordinators that share an etcd reach one another and it, and nobody else more.
func TestNetworkPoliciesOfReplicas(t *testing.T) {
	const coordinator = "ashlar-coordinator"
	clients := []any{values{"ipBlock": values{"cidr": "192.0.2.0/24"}}}
	one := objects(t, mustRender(t, usual, values{"networkPolicy": values{"clients": clients}}))
	v := shared(values{"endpoints": []any{"etcd-0.etcd.store:2379", "[2001:db8::7]:12379"}})
	v["networkPolicy"] = values{"clients": clients, "etcd": []any{values{"namespaceSelector": values{}, "podSelector": values{"matchLabels": values{"app": "etcd"}}}}}
	several := objects(t, mustRender(t, usual, v))
	anywhere := objects(t, mustRender(t, usual, shared(nil)))
	for _, c := range []struct {
		what                   string
		out                    bool
		other                  place
		port                   int32
		one, several, anywhere bool
	}{
		{"another coordinator as a client", false, coordinatorPod, 4433, false, true, true},
		{"another coordinator for marbles", false, coordinatorPod, 2001, false, true, true},
		{"another coordinator for metrics", false, coordinatorPod, 9944, false, false, false},
		{"no marble", false, otherPod, 2001, false, false, false},
		{"no client", false, stranger, 4433, false, false, true},
		{"a client", false, opsMachine, 4433, true, true, true},
		{"the other's client API", true, coordinatorPod, 4433, false, true, true},
		{"the other's mesh port", true, coordinatorPod, 2001, false, true, true},
		{"somebody's client API", true, otherPod, 4433, false, false, false},
		{"etcd", true, etcdPod, 2379, false, true, true},
		{"etcd at its other port", true, etcdPod, 12379, false, true, false},
		{"etcd's peers", true, etcdPod, 2380, false, false, false},
		{"what is not etcd", true, otherPod, 2379, false, false, true},
	} {
		for name, got := range map[string][2]bool{"one": {reaches(t, one, coordinator, c.out, c.other, c.port), c.one},
			"several": {reaches(t, several, coordinator, c.out, c.other, c.port), c.several}, "anywhere": {reaches(t, anywhere, coordinator, c.out, c.other, c.port), c.anywhere}} {
			if got[0] != got[1] {
				t.Errorf("%s, %s: got %v, want %v", c.what, name, got[0], got[1])
			}
		}
	}
}

func TestNetworkPolicies(t *testing.T) {
	const coordinator, injector = "ashlar-coordinator", "ashlar-injector"
	usually := objects(t, mustRender(t, usual, values{"endorsements": values{"pccs": []any{"https://pccs.test:8081"}, "kds": []any{"https://kds.test"}}}))
	narrow := objects(t, mustRender(t, usual, values{"marble": values{"readyPort": 9200}, "networkPolicy": values{
		"clients":    []any{values{"ipBlock": values{"cidr": "192.0.2.0/24"}}},
		"marbles":    []any{values{"ipBlock": values{"cidr": "198.18.0.0/16"}}},
		"apiServer":  []any{"203.0.113.1/32"},
		"monitoring": []any{"monitoring"},
		"egress":     []any{values{"ports": []any{values{"port": 8443}}}},
	}}))
	for _, c := range []struct {
		what            string
		part            string
		out             bool
		other           place
		port            int32
		usually, narrow bool
	}{
		{"a client", coordinator, false, opsMachine, 4433, true, true},
		{"another client", coordinator, false, stranger, 4433, true, false},
		{"a pod as a client", coordinator, false, otherPod, 4433, true, false},
		{"the injector as a client", coordinator, false, injectorPod, 4433, true, true},
		{"a marble", coordinator, false, marblePod, 2001, true, true},
		{"no marble", coordinator, false, otherPod, 2001, false, false},
		{"a marble outside", coordinator, false, stranger, 2001, false, true},
		{"metrics", coordinator, false, prometheusPod, 9944, false, true},
		{"metrics, for a marble", coordinator, false, marblePod, 9944, false, false},
		{"the coordinator asks for names", coordinator, true, stranger, 53, true, true},
		{"the coordinator asks PCCS", coordinator, true, stranger, 8081, true, false},
		{"the coordinator asks KDS", coordinator, true, stranger, 443, true, false},
		{"the coordinator asks a witness", coordinator, true, stranger, 8443, false, true},
		{"the coordinator asks a marble", coordinator, true, marblePod, 9101, false, false},
		{"the API server asks", injector, false, apiServer, 9443, true, true},
		{"another asks the webhook", injector, false, stranger, 9443, true, false},
		{"metrics of the injector", injector, false, prometheusPod, 9944, false, true},
		{"metrics of the injector, for a stranger", injector, false, stranger, 9944, false, false},
		{"the injector asks the API server", injector, true, apiServer, 6443, true, true},
		{"the injector asks another", injector, true, stranger, 443, true, false},
		{"the injector asks the coordinator", injector, true, coordinatorPod, 4433, true, true},
		{"the injector asks no other coordinator", injector, true, otherPod, 4433, false, false},
		{"the injector asks a marble", injector, true, marblePod, 9101, true, false},
		{"the injector asks a marble at its port", injector, true, marblePod, 9200, false, true},
		{"the injector asks no marble", injector, true, otherPod, 9101, false, false},
		{"the injector asks for names", injector, true, stranger, 53, true, true},
	} {
		if got := reaches(t, usually, c.part, c.out, c.other, c.port); got != c.usually {
			t.Errorf("%s, usually: got %v, want %v", c.what, got, c.usually)
		}
		if got := reaches(t, narrow, c.part, c.out, c.other, c.port); got != c.narrow {
			t.Errorf("%s, narrowed: got %v, want %v", c.what, got, c.narrow)
		}
	}
}
