package cli

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// Names under which kubectl finds a plugin "ashlar" and its completions.
const (
	pluginName   = "kubectl-ashlar"
	completeName = "kubectl_complete-ashlar"
)

// Arguments are the words after the program's name. As kubectl_complete-ashlar,
// which kubectl calls with the words typed so far, they ask for completions.
func Arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if called(argv[0]) == completeName {
		return append([]string{cobra.ShellCompRequestCmd}, argv[1:]...)
	}
	return argv[1:]
}

// called is the program's name without folder and ending.
func called(argv0 string) string { return strings.TrimSuffix(filepath.Base(argv0), ".exe") }

// asPlugin gives the root the name that people call it by as a plugin of kubectl.
func asPlugin(root *cobra.Command, argv0 string) {
	if called(argv0) == pluginName {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl ashlar"}
	}
}
