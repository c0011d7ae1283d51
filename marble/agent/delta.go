package agent

import (
	"maps"
	"slices"
	"strconv"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wildcard subscribes to everything.
const wildcard = "*"

// subscription is what one delta stream asked for.
type subscription struct {
	names map[string]string // name: version that Envoy has, "" for none
	nonce uint64
}

// apply takes a request's subscriptions in.
func (s *subscription) apply(r *discovery.DeltaDiscoveryRequest, first bool) error {
	subscribe := r.GetResourceNamesSubscribe()
	if first && len(subscribe) == 0 {
		subscribe = []string{wildcard}
	}
	for _, name := range subscribe {
		added := []string{name}
		if name == wildcard {
			added = everything
		}
		for _, n := range added {
			s.names[n] = "" // asked again: sent again
		}
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		delete(s.names, name)
	}
	if first {
		for name, version := range r.GetInitialResourceVersions() {
			if _, ok := s.names[name]; ok {
				s.names[name] = version
			}
		}
	}
	if len(s.names) > maxNames {
		return status.Errorf(codes.InvalidArgument, "%d names, limit %d", len(s.names), maxNames)
	}
	return nil
}

// response returns what Envoy does not have yet; nil if it has everything.
func (s *subscription) response(id Identity) (*discovery.DeltaDiscoveryResponse, error) {
	version := id.version()
	resp := &discovery.DeltaDiscoveryResponse{TypeUrl: SecretType, SystemVersionInfo: version}
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		if s.names[name] == version {
			continue
		}
		r, err := resource(id, name)
		if err != nil {
			return nil, err
		}
		s.names[name] = version
		resp.Resources = append(resp.Resources, &discovery.Resource{Name: name, Version: version, Resource: r})
	}
	if len(resp.Resources) == 0 {
		return nil, nil
	}
	s.nonce++
	resp.Nonce = strconv.FormatUint(s.nonce, 10)
	return resp, nil
}

// withdrawal takes back what Envoy has; nil if it has nothing.
func (s *subscription) withdrawal() *discovery.DeltaDiscoveryResponse {
	resp := &discovery.DeltaDiscoveryResponse{TypeUrl: SecretType}
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		if s.names[name] != "" {
			s.names[name] = ""
			resp.RemovedResources = append(resp.RemovedResources, name)
		}
	}
	if len(resp.RemovedResources) == 0 {
		return nil
	}
	s.nonce++
	resp.Nonce = strconv.FormatUint(s.nonce, 10)
	return resp
}

// DeltaSecrets serves what is new: at each subscription and at each renewal. What
// Envoy has is taken back when there is no identity any more.
func (s *secrets) DeltaSecrets(stream grpc.BidiStreamingServer[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]) error {
	ctx, cancel := s.agent.stopping(stream.Context())
	defer cancel()
	requests := receive(ctx, stream.Recv)
	sub := &subscription{names: make(map[string]string)}
	first := true
	id, changed := s.agent.cfg.Source.Identity()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-changed:
			id, changed = s.agent.cfg.Source.Identity()
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			if err := checkType(r.GetTypeUrl()); err != nil {
				return err
			}
			if e := r.GetErrorDetail(); e != nil {
				s.agent.refused(SecretType, e.GetMessage())
			}
			if err := sub.apply(r, first); err != nil {
				return err
			}
			first = false
		}
		if id.none() {
			if resp := sub.withdrawal(); resp != nil && stream.Send(resp) != nil {
				return nil
			}
			continue
		}
		resp, err := sub.response(id)
		if err != nil {
			return err
		}
		if resp == nil {
			continue
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}
