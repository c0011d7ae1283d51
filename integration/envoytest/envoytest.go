// Package envoytest starts the real Envoy for tests, with a stand-in for the
// marble's agent: it serves the identity by SDS and relays ADS, on a unix
// socket, and can rotate the identity and be told to misbehave.
//
// It owns nothing of the product: it is imported by tests only.
package envoytest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/marble/envoy"
)

// Binary returns the path of Envoy: $ASHLAR_ENVOY, else envoy on PATH, else
// build/tools/envoy of the checkout. Without one the test is skipped, except in
// CI (CI=true), where that is a failure.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("ASHLAR_ENVOY"); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			t.Fatalf("ASHLAR_ENVOY: %v", err)
		}
		return path
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	for dir, _ := os.Getwd(); ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "build", "tools", "envoy")
		if _, err := exec.LookPath(path); err == nil {
			return path
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	const missing = "Envoy is not installed: run `make tools`, or name it with ASHLAR_ENVOY"
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// Dir returns a short private directory: the path of a unix socket is limited
// to 107 bytes, which t.TempDir easily exceeds.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ashlar")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Start runs Envoy against an agent's socket until the test ends, and returns
// when it serves.
func Start(t testing.TB, agentSocket, nodeID string) *envoy.Proxy {
	t.Helper()
	p, err := envoy.Start(context.Background(), envoy.Config{
		Binary: Binary(t), Dir: Dir(t), AgentSocket: agentSocket, NodeID: nodeID, Stderr: &testLog{t: t, prefix: nodeID},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}
