package envoytest

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"
)

// Agent stands in for a marble's agent.
type Agent struct {
	Socket string // where its Envoy finds it

	secret.UnimplementedSecretDiscoveryServiceServer
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	upstream *grpc.ClientConn

	mu       sync.Mutex // guards what follows
	identity *Identity
	bundle   []byte
	version  int
	rotated  chan struct{} // closed at each rotation
}

// NewAgent serves an identity and relays ADS to the coordinator at address,
// under that identity, until the test ends.
func NewAgent(t testing.TB, ca *CA, identity *Identity, address string) *Agent {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: ca.Pool(), ServerName: "coordinator",
		Certificates: []tls.Certificate{identity.Certificate},
	})))
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{
		Socket: filepath.Join(Dir(t), "agent.sock"), upstream: conn,
		identity: identity, bundle: ca.PEM(), rotated: make(chan struct{}),
	}
	lis, err := net.Listen("unix", a.Socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	secret.RegisterSecretDiscoveryServiceServer(srv, a)
	discovery.RegisterAggregatedDiscoveryServiceServer(srv, a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(lis)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
		_ = conn.Close()
	})
	return a
}

// Rotate replaces what SDS serves.
func (a *Agent) Rotate(identity *Identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identity = identity
	a.version++
	close(a.rotated)
	a.rotated = make(chan struct{})
}

// StreamSecrets implements SDS, state of the world.
func (a *Agent) StreamSecrets(stream secret.SecretDiscoveryService_StreamSecretsServer) error {
	requests := make(chan *discovery.DiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- req:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	var names []string
	sent := ""
	for {
		a.mu.Lock()
		rotated, version := a.rotated, strconv.Itoa(a.version)
		resp, err := a.secrets(names, version)
		a.mu.Unlock()
		if err != nil {
			return err
		}
		if len(names) > 0 && sent != version {
			if err := stream.Send(resp); err != nil {
				return err
			}
			sent = version
		}
		select {
		case req, ok := <-requests:
			if !ok {
				return nil
			}
			names = req.GetResourceNames()
			if req.GetResponseNonce() == "" {
				sent = ""
			}
		case <-rotated:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// secrets renders the named secrets. mu is held.
func (a *Agent) secrets(names []string, version string) (*discovery.DiscoveryResponse, error) {
	resp := &discovery.DiscoveryResponse{
		VersionInfo: version, Nonce: version, TypeUrl: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
	}
	for _, name := range names {
		s := &tlsv3.Secret{Name: name}
		switch name {
		case "default":
			s.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: inline(a.identity.Chain), PrivateKey: inline(a.identity.Key),
			}}
		case "ROOTCA":
			s.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(a.bundle)}}
		default:
			continue
		}
		packed, err := anypb.New(s)
		if err != nil {
			return nil, err
		}
		resp.Resources = append(resp.Resources, packed)
	}
	return resp, nil
}

func inline(b []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
}

// DeltaAggregatedResources relays ADS in both directions.
func (a *Agent) DeltaAggregatedResources(down discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx, cancel := context.WithCancel(down.Context())
	up, err := discovery.NewAggregatedDiscoveryServiceClient(a.upstream).DeltaAggregatedResources(ctx)
	if err != nil {
		cancel()
		return err
	}
	go func() {
		for {
			req, err := down.Recv()
			if err != nil || up.Send(req) != nil {
				cancel()
				return
			}
		}
	}()
	for {
		resp, err := up.Recv()
		if err == nil {
			err = down.Send(resp)
		}
		if err != nil {
			cancel()
			return err // ends down's context, and with it the other direction
		}
	}
}
