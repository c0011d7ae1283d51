package mesh

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"

	"github.com/ashlar-mesh/ashlar/coordinator"
)

// modelProxy does what Envoy does with a delta stream, without one: it
// subscribes to the endpoints of its clusters and to the routes of its
// listeners, and answers in its own time.
type modelProxy struct {
	t    *testing.T
	s    *subscriber
	out  chan cache.DeltaResponse
	subs [kinds]stream.Subscription
	stop [kinds]func()
	has  [kinds]map[string]string // name to version
	want [kinds]map[string]bool   // names subscribed, for endpoints and routes
	warm map[string]bool          // clusters that wait for their endpoints
}

func newModel(t *testing.T, first *set) *modelProxy {
	p := &modelProxy{t: t, out: make(chan cache.DeltaResponse, 20), warm: map[string]bool{}}
	p.s = &subscriber{event: func(coordinator.ProxyEvent) {}, end: func(err error) { t.Fatalf("ended: %v", err) }, set: first}
	for k := range kinds {
		p.has[k], p.want[k] = map[string]string{}, map[string]bool{}
	}
	p.ask(Cluster, []string{"*"}, nil)
	p.ask(Listener, []string{"*"}, nil)
	return p
}

// ask sends a request, with changes of the subscription if there are any.
func (p *modelProxy) ask(k Kind, subscribe, unsubscribe []string) {
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: k.TypeURL(), ResourceNamesSubscribe: subscribe, ResourceNamesUnsubscribe: unsubscribe}
	if p.stop[k] == nil {
		p.subs[k] = stream.NewDeltaSubscription(subscribe, unsubscribe, nil, true)
	} else {
		p.stop[k]()
		p.subs[k].UpdateResourceSubscriptions(subscribe, unsubscribe)
	}
	stop, err := p.s.CreateDeltaWatch(req, p.subs[k], p.out)
	if err != nil {
		p.t.Fatal(err)
	}
	p.stop[k] = stop
}

// take applies one response and answers it; false if none waits.
func (p *modelProxy) take() bool {
	select {
	case r := <-p.out:
		m := r.(*response).message
		k, _ := kindOf(m.TypeUrl)
		for _, res := range m.Resources {
			if k != Cluster && k != Listener && !p.want[k][res.Name] {
				continue // unsubscribed meanwhile
			}
			p.has[k][res.Name] = res.Version
			if k == Cluster && strings.HasPrefix(res.Name, "out/") {
				p.warm[res.Name] = true
			}
			if k == Endpoint {
				delete(p.warm, res.Name)
			}
		}
		for _, name := range m.RemovedResources {
			delete(p.has[k], name)
			delete(p.warm, name)
		}
		p.check(k)
		p.ask(k, nil, nil)
		p.follow(Cluster, Endpoint, "out/")
		p.follow(Listener, Route, "in/http")
		return true
	default:
		return false
	}
}

// follow subscribes to what belongs to the resources of another kind.
func (p *modelProxy) follow(from, to Kind, prefix string) {
	var subscribe, unsubscribe []string
	for name := range p.has[from] {
		if strings.HasPrefix(name, prefix) && !p.want[to][name] {
			p.want[to][name] = true
			subscribe = append(subscribe, name)
		}
	}
	for name := range p.want[to] {
		if _, still := p.has[from][name]; !still {
			delete(p.want[to], name)
			delete(p.has[to], name)
			unsubscribe = append(unsubscribe, name)
		}
	}
	if len(subscribe)+len(unsubscribe) > 0 {
		p.ask(to, subscribe, unsubscribe)
	}
}

// check is the invariant: no listener leads to a cluster that is gone.
func (p *modelProxy) check(after Kind) {
	for name := range p.has[Listener] {
		if _, there := p.has[Cluster][name]; !there && strings.HasPrefix(name, "out/") {
			p.t.Fatalf("after %ss: listener %q leads nowhere", after, name)
		}
	}
}

// settle takes everything that comes, and compares with what the proxy should
// have.
func (p *modelProxy) settle() {
	p.t.Helper()
	for n := 0; p.take(); n++ {
		if n > 100 {
			p.t.Fatal("responses do not end")
		}
	}
	for k := range kinds {
		for name, r := range p.s.set.res[k] {
			if p.has[k][name] != r.Version {
				p.t.Fatalf("%s %q: got version %q, want %q", k, name, p.has[k][name], r.Version)
			}
		}
		if len(p.has[k]) != len(p.s.set.res[k]) {
			p.t.Fatalf("%ss: got %v, want %v", k, p.has[k], p.s.set.res[k].Names())
		}
	}
	if len(p.warm) > 0 {
		p.t.Fatalf("clusters wait for their endpoints: %v", p.warm)
	}
}

// randomView changes edges, addresses and identities of crowdView's first proxy.
func randomView(rng *rand.Rand, revision int) *coordinator.View {
	v := crowdView(1)
	v.Revision = fmt.Sprint(revision)
	m := v.Manifest.Marbles["web-0"]
	m.Calls = slices.Clone(m.Calls)
	rng.Shuffle(len(m.Calls), func(i, j int) { m.Calls[i], m.Calls[j] = m.Calls[j], m.Calls[i] })
	m.Calls = m.Calls[:rng.IntN(len(m.Calls)+1)]
	if rng.IntN(2) == 0 {
		m.Serves = v.Manifest.Marbles["svc-0"].Serves
	}
	v.Manifest.Marbles["web-0"] = m
	if rng.IntN(3) == 0 {
		v.TrustDomain = "other.example" // every cluster changes
	}
	for i := range services {
		v.Instances[i].Address = fmt.Sprintf("10.0.%d.%d", rng.IntN(3), i+1)
	}
	return v
}

// Whatever changes while the proxy is slow to answer, it ends up with exactly
// what it should have, and never with a listener that leads nowhere.
func TestSubscriberConverges(t *testing.T) {
	key := instanceKey{"web-0", "0"}
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		snap := new(snapshot).next(randomView(rng, 0))
		p := newModel(t, snap.sets[key])
		for step := range 30 {
			switch rng.IntN(3) {
			case 0:
				snap = snap.next(randomView(rng, step))
				p.s.update(snap.sets[key])
			default:
				p.take()
			}
			if rng.IntN(10) == 0 {
				p.settle()
			}
		}
		p.settle()
	}
}
