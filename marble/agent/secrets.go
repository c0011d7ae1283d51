package agent

import (
	"context"
	"slices"
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// SecretType is the type URL of a secret.
const SecretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// The names under which secrets are served, as SPIRE and Istio have them. The
// marble's SPIFFE ID names its certificate too, and the trust domain's ID the
// bundle.
const (
	NameCertificate = "default" // certificate chain and private key
	NameBundle      = "ROOTCA"  // trust anchors as trusted_ca
	NameAll         = "ALL"     // trust anchors for Envoy's SPIFFE validator
)

// spiffeValidator is Envoy's certificate validator extension by trust domain.
const spiffeValidator = "envoy.tls.cert_validator.spiffe"

// maxNames bounds the names that one stream may subscribe to.
const maxNames = 64

// secrets implements SDS: state of the world, delta and fetch.
type secrets struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	agent *Agent
}

// everything is what a wildcard subscription gives.
var everything = []string{NameCertificate, NameBundle}

// resource returns the secret of a name; a name that the marble does not own is
// refused.
func resource(id Identity, name string) (*anypb.Any, error) {
	s := &tls.Secret{Name: name}
	switch name {
	case NameCertificate, id.SPIFFEID:
		s.Type = &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{CertificateChain: inline(id.ChainPEM), PrivateKey: inline(id.KeyPEM)}}
	case NameBundle, "spiffe://" + id.TrustDomain:
		s.Type = &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{TrustedCa: inline(id.BundlePEM)}}
	case NameAll:
		config, err := anypb.New(&tls.SPIFFECertValidatorConfig{
			TrustDomains: []*tls.SPIFFECertValidatorConfig_TrustDomain{{Name: id.TrustDomain, TrustBundle: inline(id.BundlePEM)}}})
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		s.Type = &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
			CustomValidatorConfig: &core.TypedExtensionConfig{Name: spiffeValidator, TypedConfig: config}}}
	default:
		return nil, status.Error(codes.InvalidArgument, problem.New("MRB-018", "asked for %.128q, which is not owned by %s", name, id.SPIFFEID).Error())
	}
	return anypb.New(s)
}

func inline(pem []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: pem}}
}

func checkType(typeURL string) error {
	if typeURL != SecretType && typeURL != "" {
		return status.Errorf(codes.InvalidArgument, "SDS serves %s, not %.128q", SecretType, typeURL)
	}
	return nil
}

// FetchSecrets answers once.
func (s *secrets) FetchSecrets(_ context.Context, r *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	if err := checkType(r.GetTypeUrl()); err != nil {
		return nil, err
	}
	id, _ := s.agent.cfg.Source.Identity()
	if id.none() {
		return nil, status.Error(codes.Unavailable, problem.New("MRB-021", "there is no identity to serve").Error())
	}
	return world(id, r.GetResourceNames())
}

// world returns the named secrets, or everything if none is named.
func world(id Identity, names []string) (*discovery.DiscoveryResponse, error) {
	if len(names) > maxNames {
		return nil, status.Errorf(codes.InvalidArgument, "%d names, limit %d", len(names), maxNames)
	}
	if len(names) == 0 {
		names = everything
	}
	resp := &discovery.DiscoveryResponse{TypeUrl: SecretType, VersionInfo: id.version()}
	for _, name := range names {
		r, err := resource(id, name)
		if err != nil {
			return nil, err
		}
		resp.Resources = append(resp.Resources, r)
	}
	return resp, nil
}

// StreamSecrets serves the state of the world: all named secrets at the first
// request, when the names change, and at each renewal. Without an identity it says
// nothing.
func (s *secrets) StreamSecrets(stream grpc.BidiStreamingServer[discovery.DiscoveryRequest, discovery.DiscoveryResponse]) error {
	ctx, cancel := s.agent.stopping(stream.Context())
	defer cancel()
	requests := receive(ctx, stream.Recv)
	var names []string
	var nonce uint64
	subscribed := false
	id, changed := s.agent.cfg.Source.Identity()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-changed:
			sent := id.version()
			id, changed = s.agent.cfg.Source.Identity()
			if !subscribed || id.version() == sent {
				continue
			}
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			if err := checkType(r.GetTypeUrl()); err != nil {
				return err
			}
			if r.GetResponseNonce() != "" && r.GetResponseNonce() != strconv.FormatUint(nonce, 10) {
				continue // answers a message that a later one replaced
			}
			if e := r.GetErrorDetail(); e != nil {
				s.agent.refused(SecretType, e.GetMessage())
			}
			if subscribed && slices.Equal(names, r.GetResourceNames()) {
				continue
			}
			subscribed, names = true, r.GetResourceNames()
		}
		if id.none() {
			continue // Envoy waits until there is one again
		}
		resp, err := world(id, names)
		if err != nil {
			return err
		}
		nonce++
		resp.Nonce = strconv.FormatUint(nonce, 10)
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// receive hands out what recv gives until it fails or ctx ends; then it closes
// the channel. The goroutine ends with the stream, at the latest when its
// handler returns.
func receive[T any](ctx context.Context, recv func() (T, error)) <-chan T {
	out := make(chan T)
	go func() {
		defer close(out)
		for {
			r, err := recv()
			if err != nil {
				return
			}
			select {
			case out <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
