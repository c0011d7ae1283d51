package mesh

import (
	"context"
	"maps"
	"slices"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// subscriber is one stream: the configuration watcher and the callbacks of a
// go-control-plane delta server of its own, which keeps nonces and
// subscriptions. What to send, and in which order, is decided here.
//
// Clusters go first, then their endpoints, listeners and routes; clusters and
// endpoints are removed only when listeners and routes have been taken. At most
// one response of each kind is on its way; what changes meanwhile is sent as one
// when the proxy has answered.
type subscriber struct {
	peer  coordinator.Peer
	key   instanceKey
	event func(coordinator.ProxyEvent)
	end   context.CancelCauseFunc // closes the stream

	mu    sync.Mutex // guards what follows; held while deciding, never while sending
	set   *set
	kinds [kinds]kindState
	early map[string]struct{} // clusters that changed before endpoints were subscribed
	// unchanged is the newest revision that was reported as changing nothing.
	unchanged string

	sent [kinds][]sentResponse // not answered yet; only the stream's goroutine touches it
}

// kindState is what one stream knows of one kind.
type kindState struct {
	started  bool              // subscribed at least once
	open     bool              // the proxy waits for a response
	fresh    bool              // something was subscribed or forced since the last look
	greet    bool              // an empty first response is due, so that the proxy does not wait
	offered  uint64            // generation that the proxy has been sent all additions of
	synced   uint64            // generation that the proxy has been sent completely
	known    map[string]string // name to version that the proxy was sent
	missing  []string          // subscribed, but not there: the proxy is told once
	wildcard bool
	names    map[string]struct{} // explicitly subscribed; go-control-plane's, read only while open
	request  *discovery.DeltaDiscoveryRequest
	out      chan cache.DeltaResponse
}

// sentResponse is remembered until the proxy answers.
type sentResponse struct {
	nonce    string
	revision string
	response *discovery.DeltaDiscoveryResponse
}

// update gives the stream what it is to have from now on; nil ends it.
func (s *subscriber) update(to *set) {
	if to == nil {
		s.end(problem.New("MSH-005", "%s/%s has no live lease any more", s.key.marble, s.key.id))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.set
	s.set = to
	s.reportWithheld(was)
	s.flush()
	s.reportUnchanged()
}

// reportUnchanged says, once, that the proxy has all that a revision gives it
// where that is what it had before, on this stream or an earlier one. mu is held.
func (s *subscriber) reportUnchanged() {
	if s.set.failed != nil || s.unchanged == s.set.revision || !s.kinds[Cluster].started || !s.kinds[Listener].started {
		return
	}
	for kind := range kinds {
		if s.kinds[kind].started && !s.settled(kind) {
			return // its answer to what it is sent will say so
		}
	}
	s.unchanged = s.set.revision
	s.event(coordinator.ProxyEvent{Peer: s.peer, Revision: s.set.revision})
}

// reportWithheld says that the proxy keeps what it has, and why; once for each
// revision and reason.
func (s *subscriber) reportWithheld(was *set) {
	if s.set.failed == nil || was != nil && was.failed != nil && was.revision == s.set.revision && was.failed.Error() == s.set.failed.Error() {
		return
	}
	s.event(coordinator.ProxyEvent{Peer: s.peer, Type: Listener.String(), State: "withheld", Error: truncate(s.set.failed.Error()), Revision: s.set.revision})
}

// CreateDeltaWatch implements cache.ConfigWatcher: the proxy has answered, or
// asks for more, and waits for the next response.
func (s *subscriber) CreateDeltaWatch(req *discovery.DeltaDiscoveryRequest, sub cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	kind, _ := kindOf(req.GetTypeUrl()) // OnStreamDeltaRequest lets no other pass
	if len(sub.SubscribedResources()) > maxSubscriptions {
		return nil, toStatus(problem.New("MSH-006", "%s/%s subscribes to more than %d %ss", s.key.marble, s.key.id, maxSubscriptions, kind))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &s.kinds[kind]
	s.subscribe(kind, req)
	k.open, k.wildcard, k.names, k.request, k.out = true, sub.IsWildcard(), sub.SubscribedResources(), req, out
	s.flush()
	s.reportUnchanged()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		k.open = false
	}, nil
}

// subscribe takes over what changes in the proxy's subscription. A name that is
// subscribed again is sent again.
func (s *subscriber) subscribe(kind Kind, req *discovery.DeltaDiscoveryRequest) {
	k := &s.kinds[kind]
	if !k.started {
		k.started, k.fresh, k.known = true, true, map[string]string{}
		maps.Copy(k.known, req.GetInitialResourceVersions())
		k.greet = kind == Cluster || kind == Listener
		if kind == Endpoint {
			for name := range s.early {
				delete(k.known, name)
			}
			s.early = nil
		}
	} else {
		for _, name := range req.GetResourceNamesSubscribe() {
			delete(k.known, name)
		}
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		delete(k.known, name)
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if _, there := s.set.res[kind][name]; !there && name != "*" {
			k.missing = append(k.missing, name)
		}
	}
	if len(req.GetResourceNamesSubscribe())+len(req.GetResourceNamesUnsubscribe()) > 0 {
		k.fresh = true
	}
}

// flush queues whatever may be sent now, in order. mu is held.
func (s *subscriber) flush() {
	clusters := &s.kinds[Cluster]
	s.offer(Cluster, false)
	s.offer(Endpoint, false)
	if clusters.started && clusters.offered != s.set.gen[Cluster] {
		return // listeners must not come before the clusters that they lead to
	}
	s.offer(Listener, true)
	s.offer(Route, true)
	if s.settled(Listener) && (s.settled(Route) || !s.kinds[Route].started) {
		s.offer(Cluster, true)
		s.offer(Endpoint, true)
	}
}

// settled reports whether the proxy has answered to all there is of a kind.
func (s *subscriber) settled(kind Kind) bool {
	k := &s.kinds[kind]
	return k.open && !k.fresh && k.synced == s.set.gen[kind]
}

// offer queues a response of one kind if the proxy waits for one and lacks
// something. It costs nothing if nothing has changed.
func (s *subscriber) offer(kind Kind, removals bool) {
	k := &s.kinds[kind]
	if !k.open || !k.fresh && k.synced == s.set.gen[kind] {
		return
	}
	group := s.set.res[kind]
	resp := &discovery.DeltaDiscoveryResponse{TypeUrl: kind.TypeURL(), SystemVersionInfo: s.set.revision}
	if k.wildcard {
		for name := range group {
			k.add(resp, group[name])
		}
	} else {
		for name := range k.names {
			k.add(resp, group[name])
		}
	}
	k.offered = s.set.gen[kind]
	held := k.remove(resp, group, removals)
	if !held {
		k.synced, k.fresh = s.set.gen[kind], false
	}
	nothing := len(resp.Resources)+len(resp.RemovedResources) == 0
	if nothing && (!k.greet || len(k.known) > 0 || group == nil) {
		return
	}
	k.greet = false
	slices.SortFunc(resp.Resources, func(a, b *discovery.Resource) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	slices.Sort(resp.RemovedResources)
	if kind == Cluster {
		s.forceEndpoints(resp.Resources)
	}
	k.open = false
	select {
	case k.out <- &response{k.request, resp}:
	default:
		s.end(problem.New("MSH-006", "too many responses wait on the stream of %s/%s", s.key.marble, s.key.id))
	}
}

// add puts r into the response unless the proxy has it.
func (k *kindState) add(resp *discovery.DeltaDiscoveryResponse, r *discovery.Resource) {
	if r == nil || k.known[r.Name] == r.Version {
		return
	}
	k.known[r.Name] = r.Version
	resp.Resources = append(resp.Resources, r)
}

// remove puts into the response what the proxy has and shall not, and what it
// asked for in vain. It reports whether something was held back.
func (k *kindState) remove(resp *discovery.DeltaDiscoveryResponse, group Group, allowed bool) (held bool) {
	for name := range k.known {
		if _, there := group[name]; there {
			continue
		}
		if !allowed {
			held = true
			continue
		}
		delete(k.known, name)
		resp.RemovedResources = append(resp.RemovedResources, name)
	}
	for _, name := range k.missing {
		if _, there := group[name]; !there && !slices.Contains(resp.RemovedResources, name) {
			resp.RemovedResources = append(resp.RemovedResources, name)
		}
	}
	k.missing = nil
	return held
}

// forceEndpoints has the endpoints of changed clusters sent again: a proxy waits
// for them before it uses the cluster, and does not ask.
func (s *subscriber) forceEndpoints(changed []*discovery.Resource) {
	k := &s.kinds[Endpoint]
	for _, r := range changed {
		if k.started {
			delete(k.known, r.Name)
			k.fresh = true
			continue
		}
		if s.early == nil {
			s.early = map[string]struct{}{}
		}
		s.early[r.Name] = struct{}{}
	}
}

// CreateWatch implements cache.ConfigWatcher for the protocol that is refused.
func (s *subscriber) CreateWatch(*discovery.DiscoveryRequest, cache.Subscription, chan cache.Response) (func(), error) {
	return nil, toStatus(problem.New("MSH-004", "wanted delta ADS, got state-of-the-world"))
}

// OnStreamDeltaRequest implements delta.Callbacks. The node that the proxy
// claims to be is dropped unread.
func (s *subscriber) OnStreamDeltaRequest(_ int64, req *discovery.DeltaDiscoveryRequest) error {
	req.Node = &core.Node{}
	kind, ok := kindOf(req.GetTypeUrl())
	if !ok {
		if req.GetTypeUrl() == resource.SecretType {
			return toStatus(problem.New("MSH-003", "the coordinator has no keys to give; the agent of %s serves them", s.key.marble))
		}
		return toStatus(problem.New("MSH-004", "resource type %.100q is not served", req.GetTypeUrl()))
	}
	if req.GetResponseNonce() != "" {
		s.answered(kind, req)
	}
	return nil
}

// answered reports what the proxy did with a response. Nothing is sent again
// that it refused: only a change or a new stream makes another attempt.
func (s *subscriber) answered(kind Kind, req *discovery.DeltaDiscoveryRequest) {
	i := slices.IndexFunc(s.sent[kind], func(r sentResponse) bool { return r.nonce == req.GetResponseNonce() })
	if i < 0 {
		return
	}
	was := s.sent[kind][i]
	s.sent[kind] = s.sent[kind][i+1:]
	e := coordinator.ProxyEvent{Peer: s.peer, Type: kind.String(), State: "applied", Revision: was.revision}
	if detail := req.GetErrorDetail(); detail != nil {
		e.State, e.Error = "refused", truncate(detail.GetMessage())
		for _, r := range was.response.GetResources() {
			e.Names = append(e.Names, r.GetName())
		}
		e.Names = append(e.Names, was.response.GetRemovedResources()...)
	}
	s.event(e)
}

// truncate bounds what a proxy can make the coordinator keep.
func truncate(text string) string {
	const limit = 4 << 10
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}

// OnStreamDeltaResponse implements delta.Callbacks.
func (s *subscriber) OnStreamDeltaResponse(_ int64, _ *discovery.DeltaDiscoveryRequest, resp *discovery.DeltaDiscoveryResponse) {
	kind, _ := kindOf(resp.GetTypeUrl())
	s.sent[kind] = append(s.sent[kind], sentResponse{resp.GetNonce(), resp.GetSystemVersionInfo(), resp})
	s.event(coordinator.ProxyEvent{Peer: s.peer, Type: kind.String(), State: "sent", Revision: resp.GetSystemVersionInfo()})
}

// OnDeltaStreamOpen implements delta.Callbacks.
func (s *subscriber) OnDeltaStreamOpen(context.Context, int64, string) error { return nil }

// OnDeltaStreamClosed implements delta.Callbacks.
func (s *subscriber) OnDeltaStreamClosed(int64, *core.Node) {}

// connected is called under the Distributor's lock, so that the order is right.
func (s *subscriber) connected(yes bool) {
	s.event(coordinator.ProxyEvent{Peer: s.peer, Connected: &yes})
}

// response implements cache.DeltaResponse around a finished message.
type response struct {
	request *discovery.DeltaDiscoveryRequest
	message *discovery.DeltaDiscoveryResponse
}

func (r *response) GetDeltaDiscoveryResponse() (*discovery.DeltaDiscoveryResponse, error) {
	return r.message, nil
}
func (r *response) GetDeltaRequest() *discovery.DeltaDiscoveryRequest { return r.request }
func (r *response) GetSystemVersion() (string, error)                 { return r.message.SystemVersionInfo, nil }
func (r *response) GetResponseVersion() string                        { return r.message.SystemVersionInfo }
func (r *response) GetContext() context.Context                       { return context.Background() }

// GetNextVersionMap is empty: the subscriber keeps the versions itself.
func (r *response) GetNextVersionMap() map[string]string    { return map[string]string{} }
func (r *response) GetReturnedResources() map[string]string { return map[string]string{} }
