package dev

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHostChoosesNoCode checks that in the sample shop the host cannot have an
// attested interpreter run another script: the manifest says the whole command
// line, and Python imports nothing from where it is started.
func TestHostChoosesNoCode(t *testing.T) {
	for _, name := range []string{"python3", "node"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	services, err := (&Deployment{}).shop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		s.pinArguments()
		parameters, _ := s.marble["parameters"].(map[string]any)
		argv, _ := parameters["argv"].([]string)
		switch {
		case len(s.Args) > 0 && !slices.Equal(argv, append([]string{s.Program}, s.Args...)):
			t.Errorf("%s: the manifest says %q, want %s and %q", s.Name, argv, s.Program, s.Args)
		case strings.HasPrefix(filepath.Base(s.Program), "python") && !slices.Contains(argv, "-I"):
			t.Errorf("%s: got %q, want -I in it", s.Name, argv)
		}
	}
}
