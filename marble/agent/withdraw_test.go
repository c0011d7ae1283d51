package agent

import (
	"slices"
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Without an identity Envoy is told to drop listeners and clusters, and nothing
// else; with one again, its stream ends so that it is configured anew.
func TestConfigurationIsTakenBack(t *testing.T) {
	s := start(t, func(up discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		for {
			r, err := up.Recv()
			if err != nil {
				return err
			}
			if err := up.Send(&discovery.DeltaDiscoveryResponse{TypeUrl: r.GetTypeUrl(), Nonce: "n",
				Resources: []*discovery.Resource{{Name: "out/db/sql", Version: "1", Resource: packed(t, &cluster.Cluster{Name: "out/db/sql"})}}}); err != nil {
				return err
			}
		}
	})
	stream := open(t, s)
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: clusterType}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || len(r.GetResources()) != 1 {
		t.Fatalf("got %v, %v", r, err)
	}
	was, _ := s.source.Identity()
	s.source.set(Identity{})
	if r, err := stream.Recv(); err == nil {
		t.Fatalf("got %v, want the end of the stream", r)
	}
	again := open(t, s)
	for _, request := range []*discovery.DeltaDiscoveryRequest{
		{TypeUrl: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", InitialResourceVersions: map[string]string{"out/db/sql": "1"}},
		{TypeUrl: listenerType}, // it has none
		{TypeUrl: clusterType, InitialResourceVersions: map[string]string{"out/db/sql": "1", "in/http": "1"}},
	} {
		if err := again.Send(request); err != nil {
			t.Fatal(err)
		}
	}
	r, err := again.Recv()
	if err != nil || r.GetTypeUrl() != clusterType || !slices.Equal(r.GetRemovedResources(), []string{"in/http", "out/db/sql"}) || len(r.GetResources()) != 0 {
		t.Fatalf("got %v, %v, want both clusters removed", r, err)
	}
	if _, err := secret.NewSecretDiscoveryServiceClient(s.conn).FetchSecrets(t.Context(), &discovery.DiscoveryRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("secrets without an identity: got %v", err)
	}
	s.source.set(was)
	if r, err := again.Recv(); err == nil {
		t.Fatalf("got %v, want the end of the stream", r)
	}
}
