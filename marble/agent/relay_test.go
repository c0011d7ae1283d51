package agent

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func open(t *testing.T, s *setup) discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
	t.Helper()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestRelayPassesBothWays(t *testing.T) {
	s := start(t, func(up discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		r, err := up.Recv()
		if err != nil {
			return err
		}
		name := r.GetNode().GetId()
		if err := up.Send(&discovery.DeltaDiscoveryResponse{TypeUrl: r.GetTypeUrl(), Nonce: "n1",
			Resources: []*discovery.Resource{{Name: name, Version: "1", Resource: packed(t, &cluster.Cluster{Name: name})}}}); err != nil {
			return err
		}
		if r, err = up.Recv(); err != nil {
			return err
		}
		return status.Error(codes.PermissionDenied, "nack "+r.GetErrorDetail().GetMessage())
	})
	stream := open(t, s)
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: clusterType}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil || r.GetNonce() != "n1" {
		t.Fatalf("got %v, %v", r, err)
	}
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: clusterType, ResponseNonce: "n1", ErrorDetail: status.New(codes.Internal, "no EDS config").Proto()}); err != nil {
		t.Fatal(err)
	}
	if r := <-s.refusals; r.Message != "no EDS config" || r.TypeURL != clusterType {
		t.Errorf("got refusal %+v", r)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "nack no EDS config") {
		t.Errorf("got %v, want the coordinator's own status", err)
	}
}

func TestRelayDropsSecrets(t *testing.T) {
	injected := packed(t, &tls.Secret{Name: "default"})
	for _, c := range []struct{ name, typeURL string }{{"as secrets", SecretType}, {"as clusters", clusterType}} {
		t.Run(c.name, func(t *testing.T) {
			answers := make(chan *discovery.DeltaDiscoveryRequest, 1)
			s := start(t, func(up discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
				bad := &discovery.DeltaDiscoveryResponse{TypeUrl: c.typeURL, Nonce: "bad", Resources: []*discovery.Resource{{Name: "default", Resource: injected}}}
				if err := up.Send(bad); err != nil {
					return err
				}
				r, err := up.Recv()
				if err != nil {
					return err
				}
				answers <- r
				if err := up.Send(&discovery.DeltaDiscoveryResponse{TypeUrl: clusterType, Nonce: "good"}); err != nil {
					return err
				}
				return silent(up)
			})
			stream := open(t, s)
			r, err := stream.Recv()
			if err != nil || r.GetNonce() != "good" {
				t.Fatalf("got %v, %v, want the secret dropped", r, err)
			}
			if a := <-answers; a.GetResponseNonce() != "bad" || !strings.Contains(a.GetErrorDetail().GetMessage(), "MRB-019") {
				t.Errorf("got answer %v, want MRB-019", a)
			}
			if r := <-s.refusals; !strings.Contains(r.Message, "MRB-019") {
				t.Errorf("got refusal %+v", r)
			}
		})
	}
}

func TestRelayAsksForNoSecrets(t *testing.T) {
	got := make(chan *discovery.DeltaDiscoveryRequest, 2)
	s := start(t, func(up discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		for {
			r, err := up.Recv()
			if err != nil {
				return err
			}
			got <- r
		}
	})
	stream := open(t, s)
	for _, typeURL := range []string{SecretType, clusterType} {
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{"default"}}); err != nil {
			t.Fatal(err)
		}
	}
	if r := <-got; r.GetTypeUrl() != clusterType {
		t.Errorf("the coordinator was asked for %s", r.GetTypeUrl())
	}
}

func TestRelayRefusesStateOfTheWorld(t *testing.T) {
	s := start(t, silent)
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "MRB-026") {
		t.Errorf("got %v, want MRB-026", err)
	}
}

func TestRelayWaitsForTheCoordinator(t *testing.T) {
	s := start(t, func(up discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		if err := up.Send(&discovery.DeltaDiscoveryResponse{TypeUrl: clusterType, Nonce: "here"}); err != nil {
			return err
		}
		return silent(up)
	})
	var attempts atomic.Int64
	s.setFail(func() error {
		if attempts.Add(1) == 3 {
			s.setFail(nil)
		}
		return errors.New("away")
	})
	if r, err := open(t, s).Recv(); err != nil || r.GetNonce() != "here" {
		t.Errorf("got %v, %v", r, err)
	}
	if got := len(s.dials); got != 4 {
		t.Errorf("got %d attempts, want 4", got)
	}
	// An Envoy that goes away ends the attempts.
	s.setFail(func() error { return errors.New("away") })
	conn, err := dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		<-s.dials
	}
	conn.Close()
	s.agent.Close() // waits for the handler
}

// A relay that waits because its leaf has ended does not wait on when there is
// a new one: here the wait is of an hour.
func TestRelayStopsWaitingForANewLeaf(t *testing.T) {
	s := start(t, func(up discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		if err := up.Send(&discovery.DeltaDiscoveryResponse{TypeUrl: clusterType, Nonce: "here"}); err != nil {
			return err
		}
		return silent(up)
	})
	s.agent.cfg.BackoffMin, s.agent.cfg.BackoffMax = time.Hour, time.Hour
	s.setFail(func() error { return errors.New("the lease ended") })
	stream := open(t, s)
	<-s.dials
	s.setFail(nil)
	s.source.set(named("two"))
	if r, err := stream.Recv(); err != nil || r.GetNonce() != "here" {
		t.Errorf("got %v, %v, want what the coordinator says", r, err)
	}
}

func TestRelayDialsAnewUnderANewLeaf(t *testing.T) {
	opened := make(chan struct{}, 8)
	s := start(t, func(up discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		opened <- struct{}{}
		return silent(up)
	})
	stream := open(t, s)
	<-opened
	same := named("one")
	same.BundlePEM = []byte("another bundle")
	s.source.set(same) // the leaf is the same
	s.source.set(named("two"))
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a regular end", err)
	}
	open(t, s)
	<-opened
	if got := len(s.dials); got != 2 {
		t.Errorf("got %d dials, want 2", got)
	}
}

func TestCloseEndsEveryStream(t *testing.T) {
	s := start(t, silent)
	stream := open(t, s)
	<-s.dials
	closed := make(chan struct{})
	go func() { s.agent.Close(); close(closed) }()
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("Close does not return")
	}
}
