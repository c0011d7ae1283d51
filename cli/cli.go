// Package cli is the ashlar command: what operators and outside clients use. It
// holds no decision of its own: it parses, calls the libraries, and explains.
//
// Results go to standard output, everything else to standard error. The exit
// codes are those of the problem kinds (`ashlar help exit-codes`).
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Version is the version that this binary was built as.
var Version = "devel"

// Main runs the command line and returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{in: stdin, p: &term.Printer{Out: stdout, Err: stderr, Now: time.Now}}
	root := a.root()
	root.SetArgs(args)
	asPlugin(root, os.Args[0])
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil { // whatever failed, failed because of the signal
		err = problem.New("CLI-005", "interrupted")
	}
	return a.report(err)
}

// app is one run of the command: its streams and its global flags.
type app struct {
	in      io.Reader
	p       *term.Printer
	address string
	trust   string
	output  string
	color   string
	timeout time.Duration
	verbose bool
	yes     bool
}

// exitError ends the command with a code after everything was said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// differentExit is the exit code of `diff --exit-code` when there are differences.
const differentExit exitError = 20

// report prints an error in at most three lines (what, why, what next) and
// returns its exit code.
func (a *app) report(err error) int {
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.Is(err, context.DeadlineExceeded) && problem.CodeOf(err) == "":
		err = problem.Because(err, "CLI-004", "no answer within %s", a.timeout)
	}
	var e *problem.Error
	if !errors.As(err, &e) {
		e = problem.New("CLI-001", "%s", err.Error())
	}
	a.p.Notef("%s %s  %s\n", a.p.Red("error:"), strings.TrimSpace(e.Detail), e.Code)
	if e.Next != "" {
		a.p.Notef("  next: %s\n", e.Next)
	}
	for cause := errors.Unwrap(e); a.verbose && cause != nil; cause = errors.Unwrap(cause) {
		a.p.Notef("  cause: %s\n", cause)
	}
	return e.Kind().ExitCode()
}

// usage returns a usage error: exit code 2.
func usage(format string, args ...any) *problem.Error {
	return problem.New("CLI-002", format, args...)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ashlar",
		Short: "Run and verify an attested service mesh",
		Long: `Ashlar runs services in trusted execution environments so that every hop is
mutually attested, and lets anybody outside verify the whole deployment.`,
		Example:           "  ashlar dev up\n  ashlar verify localhost:4433 --policy policy.json",
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.prepare,
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.address, "address", "a", os.Getenv("ASHLAR_ADDRESS"), "coordinator, HOST:PORT ($ASHLAR_ADDRESS)")
	f.StringVar(&a.trust, "trust", envOr("ASHLAR_TRUST", ".ashlar"), "directory with what verify wrote ($ASHLAR_TRUST)")
	f.StringVarP(&a.output, "output", "o", "text", "output: "+strings.Join(term.Formats, "|"))
	_ = root.RegisterFlagCompletionFunc("output", func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return formatsOf(c), cobra.ShellCompDirectiveNoFileComp
	})
	f.StringVar(&a.color, "color", "auto", "colour: auto|always|never")
	f.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long a command may take to be answered")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say what is asked of whom, and the causes of an error")
	f.BoolVar(&a.yes, "yes", false, "answer yes to the question that a terminal would be asked")
	root.AddCommand(a.manifestCmd(), a.verifyCmd(), a.statusCmd(), a.marbleCmd(), a.explainCmd(),
		a.planCmd(), a.forecastCmd(), a.floorCmd(), a.auditCmd(), a.endorsementsCmd(), a.caCmd(), a.secretCmd(),
		a.revokeCmd(), a.quarantineCmd(), a.breakGlassCmd(), a.blastRadiusCmd(), a.rotateCmd(),
		a.certCmd(), a.checkCmd(), a.initCmd(), a.inspectCmd(), a.devCmd(), a.recoverCmd(), a.backupCmd(),
		a.injectCmd(), a.installCmd(), a.upgradeCmd(), a.rollbackCmd(), a.uninstallCmd(), a.versionCmd(), a.completionCmd())
	root.AddCommand(helpTopics()...)
	root.Version = Version
	root.SetVersionTemplate("ashlar {{.Version}}\n")
	root.SetHelpTemplate(helpTemplate)
	root.SetHelpCommand(helpCmd(root))
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	suggestEverywhere(root)
	return root
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// ownFormats annotates a command with values of -o that it alone has.
const ownFormats = "formats"

// formatsOf lists the values of -o that a command knows.
func formatsOf(c *cobra.Command) []string {
	formats := append([]string(nil), term.Formats...)
	for _, own := range strings.Fields(c.Annotations[ownFormats]) {
		if !contains(formats, own) {
			formats = append(formats, own)
		}
	}
	return formats
}

// prepare checks the global flags and sets up the printer.
func (a *app) prepare(c *cobra.Command, _ []string) error {
	if formats := formatsOf(c); !contains(formats, a.output) {
		return usage("unknown output %q: want %s", a.output, strings.Join(formats, ", ")).WithNext("%s", didYouMean(a.output, formats))
	}
	if colors := []string{"auto", "always", "never"}; !contains(colors, a.color) {
		return usage("unknown colour mode %q: want auto, always or never", a.color).WithNext("%s", didYouMean(a.color, colors))
	}
	a.p.Format = term.Format(a.output)
	a.p.TTY = term.IsTerminal(a.p.Out)
	a.p.Dumb = os.Getenv("TERM") == "dumb"
	a.p.Color = term.UseColor(a.color, a.p.TTY, os.Getenv)
	return nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// suggestEverywhere gives every group a RunE that refuses an unknown word with
// a suggestion, and every command our usage errors for its arguments.
func suggestEverywhere(c *cobra.Command) {
	for _, sub := range c.Commands() {
		suggestEverywhere(sub)
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return noCommand(c, args)
		}
	} else if check := c.Args; check != nil && !c.HasSubCommands() {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return argumentError(c, args, err)
			}
			return nil
		}
	}
}

// noCommand is for Args of a group: what follows it is a command or nothing.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return usage("%q is not a command of %s", args[0], c.CommandPath()).
		WithNext("%s", suggestion(args[0], names, c.CommandPath()+" ", c.CommandPath()+" --help"))
}

// argumentError says what a command takes, and which of its words was meant.
func argumentError(c *cobra.Command, args []string, err error) error {
	next := strings.TrimSuffix(c.UseLine(), " [flags]")
	switch {
	case len(args) == 1 && len(c.ValidArgs) > 0:
		return usage("%s has no %q", c.CommandPath(), args[0]).WithNext("%s", suggestion(args[0], c.ValidArgs, c.CommandPath()+" ", next))
	case len(args) > 0 && !strings.Contains(c.Use, " "):
		return usage("%s takes no argument, and %q is one", c.CommandPath(), args[0]).WithNext("%s", next)
	}
	return usage("%s %s", c.CommandPath(), err).WithNext("%s", next)
}

// flagError turns pflag's errors into usage errors with a suggestion.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usage("%s", err).WithNext("%s --help", c.CommandPath())
	}
	name := unknown.GetSpecifiedName()
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return usage("%s has no flag --%s", c.CommandPath(), name).
		WithNext("%s", suggestion(name, names, "--", c.CommandPath()+" --help"))
}
