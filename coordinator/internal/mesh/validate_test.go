package mesh

import (
	"os"
	"path/filepath"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3" // named by the bootstrap
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ashlar-mesh/ashlar/integration/envoytest"
	"github.com/ashlar-mesh/ashlar/marble/envoy"
)

// Envoy itself reads what was compiled, as if it were a static configuration.
func TestEnvoyAcceptsWhatIsCompiled(t *testing.T) {
	binary := envoytest.Binary(t)
	v := shopView()
	for _, in := range v.Instances {
		t.Run(in.Marble+"/"+in.ID, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "static.json")
			if err := os.WriteFile(path, static(t, mustCompile(t, v, in.Marble, in.ID)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := envoy.Validate(t.Context(), binary, path); err != nil {
				t.Error(err)
			}
		})
	}
}

// static puts clusters and listeners into the marble's own bootstrap.
func static(t *testing.T, r *Resources) []byte {
	t.Helper()
	raw, err := envoy.RequiredBootstrap(envoy.Bootstrap{NodeID: "static", AgentSocket: "/run/agent.sock"})
	if err != nil {
		t.Fatal(err)
	}
	b := new(bootstrap.Bootstrap)
	if err := protojson.Unmarshal(raw, b); err != nil {
		t.Fatal(err)
	}
	for _, name := range r[Cluster].Names() {
		c := new(cluster.Cluster)
		if err := r[Cluster][name].Resource.UnmarshalTo(c); err != nil {
			t.Fatal(err)
		}
		b.StaticResources.Clusters = append(b.StaticResources.Clusters, c)
	}
	for _, name := range r[Listener].Names() {
		l := new(listener.Listener)
		if err := r[Listener][name].Resource.UnmarshalTo(l); err != nil {
			t.Fatal(err)
		}
		b.StaticResources.Listeners = append(b.StaticResources.Listeners, l)
	}
	if raw, err = protojson.Marshal(b); err != nil {
		t.Fatal(err)
	}
	return raw
}
