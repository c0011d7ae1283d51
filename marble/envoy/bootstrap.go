// Package envoy runs a marble's Envoy: it writes the bootstrap, starts the
// process, starts it again when it dies, and leaves none behind.
//
// The bootstrap knows one thing only: the socket of the marble's agent.
// Everything else, keys included, comes over that socket, so the bootstrap holds
// no secret and no address of the network. It refuses hot restart (which needs
// shared memory, and does not survive a supervisor that is not a single thread)
// and an administration port on the network.
package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"text/template"
)

// Bootstrap is what Envoy is started with.
type Bootstrap struct {
	NodeID      string // for Envoy's log; decides nothing
	AgentSocket string // path of the agent's unix socket, at most 107 bytes
	AdminSocket string // path of the administration socket (0600); none if empty
}

// maxSocketPath is the length limit of sun_path on Linux, without its final 0.
const maxSocketPath = 107

// Stages of fetching listeners and clusters wait without end (timeout 0), so
// that Envoy is not ready before it is configured. Its stream ends at each
// renewal, and the wait before the next grows until something comes over it,
// which may be long when nothing changes: hence the short maximum. It is the
// agent that spares a coordinator that is away.
var bootstrapTemplate = template.Must(template.New("bootstrap").Funcs(template.FuncMap{"json": quote}).Parse(`{
  "node": {"id": {{json .NodeID}}, "cluster": "ashlar"},
{{- if .AdminSocket}}
  "admin": {
    "address": {"pipe": {"path": {{json .AdminSocket}}, "mode": 384}},
    "ignore_global_conn_limit": true,
    "allow_paths": [{"exact": "/ready"}, {"prefix": "/stats"}, {"exact": "/healthcheck/fail"}, {"exact": "/healthcheck/ok"}]
  },
{{- end}}
  "dynamic_resources": {
    "ads_config": {
      "api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
      "grpc_services": [{"envoy_grpc": {"cluster_name": "agent", "retry_policy": {"retry_back_off": {"base_interval": "0.2s", "max_interval": "1s"}}}}]
    },
    "lds_config": {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"},
    "cds_config": {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"}
  },
  "static_resources": {
    "clusters": [{
      "name": "agent", "type": "STATIC", "connect_timeout": "5s",
      "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
          "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
          "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "5s"}}}
        }
      },
      "load_assignment": {"cluster_name": "agent", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": {{json .AgentSocket}}}}}}]}]}
    }]
  },
  "overload_manager": {
    "resource_monitors": [{
      "name": "envoy.resource_monitors.global_downstream_max_connections",
      "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": 20000
      }
    }]
  },
  "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [
    {"prefix": "listener."}, {"prefix": "http."}, {"prefix": "tcp."}, {"prefix": "cluster."}, {"prefix": "in/"},
    {"prefix": "listener_manager."}, {"prefix": "cluster_manager."}, {"prefix": "control_plane."}, {"prefix": "sds."}, {"prefix": "server."}
  ]}}},
  "deferred_stat_options": {"enable_deferred_creation_stats": true}
}
`))

func quote(s string) (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

// RequiredBootstrap returns the bootstrap as JSON. It is pure. It fails if a
// socket's path is relative or longer than a unix socket allows.
func RequiredBootstrap(b Bootstrap) ([]byte, error) {
	sockets := []string{b.AgentSocket}
	if b.AdminSocket != "" {
		sockets = append(sockets, b.AdminSocket)
	}
	for _, path := range sockets {
		if !filepath.IsAbs(path) || len(path) > maxSocketPath {
			return nil, fmt.Errorf("wanted the absolute path of a socket, at most %d bytes, got %q", maxSocketPath, path)
		}
	}
	var out bytes.Buffer
	if err := bootstrapTemplate.Execute(&out, b); err != nil {
		return nil, fmt.Errorf("writing the bootstrap: %w", err)
	}
	return out.Bytes(), nil
}
