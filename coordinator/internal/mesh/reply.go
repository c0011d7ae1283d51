package mesh

import (
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// nobodyThere has a program whose call found no instance told why, with status
// 503: an instance that is drained or quarantined takes no requests, even the
// last one of its marble.
func nobodyThere(name string) *hcm.LocalReplyConfig {
	callee := strings.TrimPrefix(name, "out/")
	return &hcm.LocalReplyConfig{Mappers: []*hcm.ResponseMapper{{
		Filter: flagged("UH"),
		Body: &core.DataSource{Specifier: &core.DataSource_InlineString{
			InlineString: "no instance of " + callee + " takes requests: none runs, or all are drained for want of a renewal; see `ashlar status`\n",
		}},
	}}}
}
