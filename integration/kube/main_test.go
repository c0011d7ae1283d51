//go:build linux

// Package kube holds the tests against a real Kubernetes control plane. One is
// started for all of them, when the first asks for it; each test has a namespace
// of its own.
package kube

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
	"github.com/ashlar-mesh/ashlar/integration/kube/node"
)

func TestMain(m *testing.M) {
	node.Main()
	if isolate.Available() != "" {
		os.Exit(m.Run()) // the tests say why they are skipped
	}
	os.Exit(isolate.Run(func() int {
		code := m.Run()
		one.close(code != 0)
		return code
	}))
}

// one is the control plane of all tests.
var one shared

type shared struct {
	once    sync.Once
	cluster *cluster.Cluster
	err     error
}

// controlPlane returns the running control plane.
func controlPlane(t *testing.T) *cluster.Cluster {
	t.Helper()
	need(t, isolate.Available())
	binary := os.Getenv(cluster.Variable)
	if binary == "" {
		need(t, cluster.Variable+" is not set: run make kubetest")
	}
	one.once.Do(func() { one.cluster, one.err = one.start(binary) })
	if one.err != nil {
		t.Fatal(one.err)
	}
	return one.cluster
}

func (s *shared) start(binary string) (*cluster.Cluster, error) {
	dir, err := os.MkdirTemp("", "ashlar-kube-")
	if err != nil {
		return nil, err
	}
	return cluster.Start(context.Background(), binary, dir)
}

// close ends the control plane. Its folder is kept, and the ends of its logs are
// shown, after a failure.
func (s *shared) close(failed bool) {
	if s.cluster == nil {
		return
	}
	s.cluster.Close()
	if failed {
		fmt.Fprintf(os.Stderr, "%skept in %s\n", s.cluster.Logs(), s.cluster.Dir)
		return
	}
	_ = os.RemoveAll(s.cluster.Dir)
}

// need skips a test for a reason, if there is one; in CI it fails.
func need(t *testing.T, reason string) {
	t.Helper()
	switch {
	case reason == "":
	case os.Getenv("CI") == "true":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}

// machines starts the machines of a test, with its images.
func machines(t *testing.T, images map[string]node.Image, all ...node.Machine) *node.Nodes {
	t.Helper()
	c := controlPlane(t)
	n, err := node.Start(context.Background(), node.Config{Cluster: c, Dir: t.TempDir(), Machines: all, Images: images})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}
