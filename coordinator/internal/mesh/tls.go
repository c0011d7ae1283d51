package mesh

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// AgentCluster is the name that the bootstrap gives to the agent's socket.
const AgentCluster = "agent"

// Secret names by SPIFFE convention: the marble's own certificate, and the
// trust bundle of its trust domain.
const (
	ownCertificate = "default"
	trustBundle    = "ROOTCA"
)

// nobody is a SAN that no certificate of ours can carry. It stands for an empty
// list of peers, which Envoy would read as "anyone".
const nobody = "urn:ashlar:nobody"

// fromAgent asks the agent's socket for a secret. The timeout of zero keeps a
// listener or cluster warming until the secret is there.
func fromAgent(name string) *tls.SdsSecretConfig {
	return &tls.SdsSecretConfig{Name: name, SdsConfig: &core.ConfigSource{
		ResourceApiVersion:  core.ApiVersion_V3,
		InitialFetchTimeout: durationpb.New(0),
		ConfigSourceSpecifier: &core.ConfigSource_ApiConfigSource{ApiConfigSource: &core.ApiConfigSource{
			ApiType:                   core.ApiConfigSource_GRPC,
			TransportApiVersion:       core.ApiVersion_V3,
			SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*core.GrpcService{{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: AgentCluster},
			}}},
		}},
	}}
}

// commonTLS is TLS 1.3 with the own certificate, accepting exactly the peers.
func commonTLS(peers []string, alpn ...string) *tls.CommonTlsContext {
	if len(peers) == 0 {
		peers = []string{nobody}
	}
	var sans []*tls.SubjectAltNameMatcher
	for _, p := range peers {
		sans = append(sans, &tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_URI, Matcher: exactly(p)})
	}
	return &tls.CommonTlsContext{
		TlsParams: &tls.TlsParameters{
			TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tls.TlsParameters_TLSv1_3,
		},
		AlpnProtocols:                  alpn,
		TlsCertificateSdsSecretConfigs: []*tls.SdsSecretConfig{fromAgent(ownCertificate)},
		ValidationContextType: &tls.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tls.CertificateValidationContext{MatchTypedSubjectAltNames: sans},
				ValidationContextSdsSecretConfig: fromAgent(trustBundle),
			},
		},
	}
}

// acceptTLS requires a client certificate of one of the peers. Without
// resumption every connection proves again who it is.
func acceptTLS(peers []string, alpn ...string) (*core.TransportSocket, error) {
	return tlsSocket(&tls.DownstreamTlsContext{
		CommonTlsContext:                 commonTLS(peers, alpn...),
		RequireClientCertificate:         wrapperspb.Bool(true),
		DisableStatefulSessionResumption: true,
		SessionTicketKeysType: &tls.DownstreamTlsContext_DisableStatelessSessionResumption{
			DisableStatelessSessionResumption: true,
		},
	})
}

// dialTLS accepts exactly one peer as the server, and asks for the filter chain
// of the caller.
func dialTLS(peer, sni string, alpn ...string) (*core.TransportSocket, error) {
	return tlsSocket(&tls.UpstreamTlsContext{
		Sni:              sni,
		CommonTlsContext: commonTLS([]string{peer}, alpn...),
		MaxSessionKeys:   wrapperspb.UInt32(0),
	})
}

func tlsSocket(m validated) (*core.TransportSocket, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &core.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: a},
	}, nil
}

func exactly(s string) *matcher.StringMatcher {
	return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: s}}
}
