package agent

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/grpc/status"
)

// The types whose removal leaves Envoy without a connection to anybody: its
// listeners first, then the clusters that they led to.
const (
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
)

// withdraw takes every listener and cluster back that Envoy says it has, and
// holds the stream until the marble has an identity again; then it ends, and
// Envoy opens another, over which it is configured anew.
func (r *relay) withdraw(ctx context.Context, down downstream) error {
	requests := receive(ctx, down.Recv)
	nonce := 0
	for {
		id, changed := r.agent.cfg.Source.Identity()
		if !id.none() {
			return nil
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-changed:
		case req, ok := <-requests:
			if !ok {
				return nil
			}
			has := slices.Sorted(maps.Keys(req.GetInitialResourceVersions()))
			if len(has) == 0 || req.GetTypeUrl() != listenerType && req.GetTypeUrl() != clusterType {
				continue
			}
			nonce++
			if err := down.Send(&response{TypeUrl: req.GetTypeUrl(), Nonce: "cut-" + strconv.Itoa(nonce), RemovedResources: has}); err != nil {
				return err
			}
			r.agent.cfg.Log.Warn("configuration taken back from Envoy: the marble has no identity", "type", req.GetTypeUrl(), "resources", len(has))
		}
	}
}
