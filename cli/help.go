package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// helpTemplate shows an example first: it is what most readers came for.
const helpTemplate = `{{with .Short}}{{.}}

{{end}}{{if .HasExample}}Example:
{{.Example}}

{{end}}{{with .Long}}{{.}}

{{end}}{{if or .Runnable .HasSubCommands}}Usage:
{{if and .HasAvailableSubCommands (not .HasParent)}}  {{.CommandPath}} COMMAND{{else if .HasAvailableSubCommands}}  {{.CommandPath}} COMMAND{{else}}  {{.UseLine}}{{end}}
{{end}}{{if .HasAvailableSubCommands}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
Flags:
{{.LocalFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableInheritedFlags}}
Global flags:
{{.InheritedFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}
{{end}}{{if not .HasParent}}
Topics: ashlar help exit-codes | output | environment | trust
{{end}}`

// helpTopics are `ashlar help TOPIC`: commands without a run.
func helpTopics() []*cobra.Command {
	topics := []struct{ name, short, text string }{
		{"exit-codes", "What the exit codes mean", exitCodesText()},
		{"output", "Formats, colour and pipes", outputText},
		{"environment", "Environment variables", environmentText},
		{"trust", "What verify establishes, and where it is kept", trustText},
	}
	var cmds []*cobra.Command
	for _, t := range topics {
		c := &cobra.Command{Use: t.name, Short: t.short, Long: t.text}
		c.SetHelpTemplate("{{.Long}}\n")
		cmds = append(cmds, c)
	}
	return cmds
}

// helpCmd is `ashlar help`, which refuses an unknown topic instead of showing
// the root's help.
func helpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND|TOPIC]", Short: "Explain a command or a topic", Example: "  ashlar help exit-codes", Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			target, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				var names []string
				for _, c := range root.Commands() {
					names = append(names, c.Name())
				}
				word := args[len(args)-1]
				return usage("%q is no command and no topic", word).WithNext("%s", suggestion(word, names, "ashlar help ", "ashlar --help"))
			}
			return target.Help()
		},
	}
}

// exitCodesText is generated from the kinds, so that it can't differ from them.
func exitCodesText() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n\n   0  yes, done\n")
	seen := map[int][]string{}
	for k := problem.Internal; k <= problem.Busy; k++ {
		seen[k.ExitCode()] = append(seen[k.ExitCode()], k.String())
	}
	for code := 1; code <= 7; code++ {
		fmt.Fprintf(&b, "  %2d  %s\n", code, strings.Join(seen[code], ", "))
	}
	fmt.Fprintf(&b, "  %2d  different (manifest diff --exit-code)\n\nEvery error ends with a code such as ATT-012; `ashlar explain CODE` says more.", int(differentExit))
	return b.String()
}

const outputText = `Results go to standard output, everything else to standard error.

  -o text   tables: aligned on a terminal, tab-separated in a pipe
  -o wide   every column, digests in full
  -o json   stable field names, one document
  -o yaml   the same document as YAML

Colour is used on terminals only; --color, NO_COLOR and TERM=dumb decide.
In a pipe times are RFC 3339, and there is never an escape code.`

const environmentText = `Environment variables:

  ASHLAR_ADDRESS   coordinator, HOST:PORT; the flag --address wins
  ASHLAR_TRUST     directory with what verify wrote; the flag --trust wins
  ASHLAR_ENVOY     path of the Envoy binary (dev up)
  NO_COLOR         any value turns colour off`

const trustText = `Nothing that a coordinator says is believed before its evidence was verified.
'ashlar verify ADDR --policy FILE' does that: it asks for evidence over a nonce
of its own, judges it against the policy, checks that it binds the TLS key, the
root CA, the manifest and the audit log's checkpoint, and only then writes

  bundle.pem      the root CA: give it to curl or any TLS library
  evidence.json   the statement that was verified, to judge it again
  trust.json      what was seen: a coordinator that later shows an older
                  manifest or log is refused

into the trust directory (default .ashlar). Commands that talk to a coordinator
verify it again each time, against the policy kept there. Simulation is accepted
only if the policy file says "tee": "sim", and then every line says SIMULATION.`
