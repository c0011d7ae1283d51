package cli

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
)

func TestArguments(t *testing.T) {
	for _, c := range []struct{ argv, want []string }{
		{[]string{"/usr/bin/ashlar", "status", "-w"}, []string{"status", "-w"}},
		{[]string{"/usr/bin/kubectl-ashlar", "install"}, []string{"install"}},
		{[]string{"kubectl_complete-ashlar", "man", ""}, []string{"__complete", "man", ""}},
		{[]string{"ashlar"}, []string{}},
		{nil, nil},
	} {
		if got := Arguments(c.argv); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.argv, got, c.want)
		}
	}
}

func TestNameAsPlugin(t *testing.T) {
	for argv0, want := range map[string]string{"/bin/ashlar": "ashlar status", "/bin/kubectl-ashlar": "kubectl ashlar status", `kubectl-ashlar.exe`: "kubectl ashlar status"} {
		root, sub := &cobra.Command{Use: "ashlar"}, &cobra.Command{Use: "status"}
		root.AddCommand(sub)
		asPlugin(root, argv0)
		if got := sub.CommandPath(); got != want {
			t.Errorf("as %s: got %q, want %q", argv0, got, want)
		}
	}
}
