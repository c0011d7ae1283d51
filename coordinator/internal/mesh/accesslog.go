package mesh

import (
	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	cel "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	stream "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Lines of the proxy's log: one JSON object for each refusal or failure, with
// both identities and nothing of a request but its method and path. What a
// stranger says cannot break out of a JSON string. A peer whose handshake failed
// has only claimed its identity.
var (
	connectionLine = map[string]any{
		"ashlar": "connection refused", "time": "%START_TIME%", "port": "%FILTER_CHAIN_NAME%", "claimed": "%DOWNSTREAM_PEER_URI_SAN%",
		"own": "%DOWNSTREAM_LOCAL_URI_SAN%", "from": "%DOWNSTREAM_REMOTE_ADDRESS%",
		"filter": "%CONNECTION_TERMINATION_DETAILS%", "tls": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
	}
	requestLine = map[string]any{
		"ashlar": "request refused", "time": "%START_TIME%", "port": "%FILTER_CHAIN_NAME%", "peer": "%DOWNSTREAM_PEER_URI_SAN%",
		"own": "%DOWNSTREAM_LOCAL_URI_SAN%", "method": "%REQ(:METHOD):20%", "path": "%PATH(NQ:PATH):200%",
		"status": "%RESPONSE_CODE%", "why": "%RESPONSE_CODE_DETAILS%",
	}
	callLine = map[string]any{
		"ashlar": "call failed", "time": "%START_TIME%", "to": "%UPSTREAM_CLUSTER_RAW%", "peer": "%UPSTREAM_PEER_URI_SAN%",
		"own": "%UPSTREAM_LOCAL_URI_SAN%", "host": "%UPSTREAM_HOST%", "flags": "%RESPONSE_FLAGS%",
		"why": "%RESPONSE_CODE_DETAILS%", "tls": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
	}
)

// logRefusals writes a line to the proxy's standard error for what the filter
// lets through.
func logRefusals(line map[string]any, filter *accesslog.AccessLogFilter) ([]*accesslog.AccessLog, error) {
	fields, err := structpb.NewStruct(line)
	if err != nil {
		return nil, err
	}
	a, err := pack(&stream.StderrAccessLog{AccessLogFormat: &stream.StderrAccessLog_LogFormat{
		LogFormat: &core.SubstitutionFormatString{
			OmitEmptyValues: true,
			Format:          &core.SubstitutionFormatString_JsonFormat{JsonFormat: fields},
		},
	}})
	if err != nil {
		return nil, err
	}
	return []*accesslog.AccessLog{{
		Name: "envoy.access_loggers.stderr", Filter: filter,
		ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: a},
	}}, nil
}

// flagged lets through what has one of Envoy's response flags.
func flagged(flags ...string) *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslog.ResponseFlagFilter{Flags: flags},
	}}
}

// refusedConnections lets through connections that ended in the handshake or
// were closed by a filter; Envoy sets no response flag for these.
func refusedConnections() (*accesslog.AccessLogFilter, error) {
	a, err := pack(&cel.ExpressionFilter{
		Expression: "has(connection.transport_failure_reason) && connection.transport_failure_reason != '' || has(connection.termination_details) && connection.termination_details != ''",
	})
	if err != nil {
		return nil, err
	}
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslog.ExtensionFilter{
			Name:       "envoy.access_loggers.extension_filters.cel",
			ConfigType: &accesslog.ExtensionFilter_TypedConfig{TypedConfig: a},
		},
	}}, nil
}

// withStatus lets through responses of one status.
func withStatus(code uint32) *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslog.StatusCodeFilter{Comparison: &accesslog.ComparisonFilter{
			Op:    accesslog.ComparisonFilter_EQ,
			Value: &core.RuntimeUInt32{DefaultValue: code, RuntimeKey: "ashlar.log.status"},
		}},
	}}
}
