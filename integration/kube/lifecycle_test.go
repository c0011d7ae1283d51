//go:build linux

package kube

import (
	"strings"
	"testing"
)

func TestMeshLifecycle(t *testing.T) {
	m := newMesh(t)
	out := m.install("--set", "injector.enabled=false")
	if !strings.Contains(out, "Verified") {
		t.Errorf("the installation says %q, want that it verified the coordinator", out)
	}
	m.ashlar("verify", m.address(), "--policy", "policy.json")
}
