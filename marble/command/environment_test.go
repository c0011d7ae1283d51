package command

import (
	"slices"
	"testing"
)

// TestEnvironmentSteersNobody checks that the host cannot have a measured program
// run other code through variables, and that the manifest can.
func TestEnvironmentSteersNobody(t *testing.T) {
	inherited := []string{"HOME=/root", "LD_PRELOAD=/evil.so", "LD_AUDIT=x", "GLIBC_TUNABLES=x", "PYTHONPATH=/evil", "NODE_OPTIONS=--require=/evil.js",
		"JAVA_TOOL_OPTIONS=-javaagent:/evil.jar", "BASH_ENV=/evil", "SSLKEYLOGFILE=/keys", "CORECLR_PROFILER=x", "ASHLAR_ROOT=x", "LDX=1", "PORT=1", "ENVIRONMENT=x"}
	env, dropped := environment(inherited, []string{"PORT=2", "PYTHONPATH=/app"})
	if want := []string{"HOME=/root", "LDX=1", "ENVIRONMENT=x", "PORT=2", "PYTHONPATH=/app"}; !slices.Equal(env, want) {
		t.Errorf("got %q, want %q", env, want)
	}
	want := []string{"LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "BASH_ENV", "SSLKEYLOGFILE", "CORECLR_PROFILER"}
	if !slices.Equal(dropped, want) {
		t.Errorf("dropped %q, want %q", dropped, want)
	}
}
