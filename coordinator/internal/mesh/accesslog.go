package mesh

import (
	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	stream "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
)

// Formats of the proxy's log. One line for each refusal or failure, with both
// identities; nothing of a request but its method and path.
const (
	inboundFormat = "ashlar %START_TIME% in %FILTER_CHAIN_NAME% peer=%DOWNSTREAM_PEER_URI_SAN% own=%DOWNSTREAM_LOCAL_URI_SAN% from=%DOWNSTREAM_REMOTE_ADDRESS% " +
		"flags=%RESPONSE_FLAGS% why=\"%CONNECTION_TERMINATION_DETAILS%\" tls=\"%DOWNSTREAM_TRANSPORT_FAILURE_REASON%\"\n"
	requestFormat = "ashlar %START_TIME% in %FILTER_CHAIN_NAME% peer=%DOWNSTREAM_PEER_URI_SAN% own=%DOWNSTREAM_LOCAL_URI_SAN% " +
		"\"%REQ(:METHOD)% %PATH(NQ:PATH):200%\" %RESPONSE_CODE% flags=%RESPONSE_FLAGS% why=%RESPONSE_CODE_DETAILS%\n"
	outboundFormat = "ashlar %START_TIME% out %UPSTREAM_CLUSTER_RAW% peer=%UPSTREAM_PEER_URI_SAN% own=%UPSTREAM_LOCAL_URI_SAN% to=%UPSTREAM_HOST% " +
		"flags=%RESPONSE_FLAGS% why=%RESPONSE_CODE_DETAILS% tls=\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\"\n"
)

// logRefusals writes a line to the proxy's standard error for what the filter
// lets through.
func logRefusals(format string, filter *accesslog.AccessLogFilter) ([]*accesslog.AccessLog, error) {
	a, err := pack(&stream.StderrAccessLog{AccessLogFormat: &stream.StderrAccessLog_LogFormat{
		LogFormat: &core.SubstitutionFormatString{
			OmitEmptyValues: true,
			Format: &core.SubstitutionFormatString_TextFormatSource{TextFormatSource: &core.DataSource{
				Specifier: &core.DataSource_InlineString{InlineString: format},
			}},
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

// flagged lets through what has any response flag; with the names of flags,
// only those.
func flagged(flags ...string) *accesslog.AccessLogFilter {
	return &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslog.ResponseFlagFilter{Flags: flags},
	}}
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
