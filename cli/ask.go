package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// askFlags say which manifests a question is about.
type askFlags struct {
	file, since string
	exitCode    bool
}

func (f *askFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "manifest", "", "the manifest that is asked about (default: the one in force)")
	_ = c.RegisterFlagCompletionFunc("manifest", completeJSON)
}

func (a *app) whoCanCmd() *cobra.Command {
	var f askFlags
	c := &cobra.Command{
		Use:   "who-can NAME",
		Short: "Who can call, read or do something, and what it can",
		Example: "  ashlar manifest who-can db --manifest manifest.json\n" +
			"  ashlar manifest who-can sessionKey\n  ashlar manifest who-can updateManifest",
		Long: `Of a marble: who calls it and whom it calls, directly and through others, what
it can read and what can run as it. Of a secret: who can ever read it. Of a
user: what it can do. Of a right: who has it. Of a platform: who could raise its
floor. Each answer comes with the places of the manifest that grant it.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) { return a.names(f.file) },
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.asked(c.Context(), f.file)
			if err != nil {
				return err
			}
			answers, err := manifest.About(m, args[0])
			if err != nil {
				return err
			}
			if done, err := a.p.Structured(map[string]any{"name": args[0], "answers": answers}); done {
				return err
			}
			for _, answer := range answers {
				a.showAnswer(answer, f.file)
			}
			return nil
		},
	}
	f.register(c)
	return c
}

func (a *app) askCmd() *cobra.Command {
	var f askFlags
	c := &cobra.Command{
		Use:   "ask QUESTION",
		Short: "Answer a question about a manifest, with the lines that say so",
		Example: "  ashlar manifest ask \"who can ever read sessionKey\" --manifest manifest.json\n" +
			"  ashlar manifest ask \"may web reach db\"",
		Long: `The questions, with your names in place of the words in capitals; a word in
brackets may be left out:

  ` + strings.Join(manifest.Questions(), "\n  ") + `

What is newly allowed is told of --manifest, compared with --since, or else with
the manifest in force. Where it cannot be told that a rule of a package or
platform only became stricter, the change is told.

A question that begins with "may" exits 0 for yes and 3 for no. Every other
question exits 0; with --exit-code, 20 if something is newly allowed.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			return a.ask(c.Context(), strings.Join(args, " "), f)
		},
	}
	f.register(c)
	c.Flags().StringVar(&f.since, "since", "", "the manifest before (default: the one in force)")
	c.Flags().BoolVar(&f.exitCode, "exit-code", false, "exit 20 if something is newly allowed")
	_ = c.RegisterFlagCompletionFunc("since", completeJSON)
	return c
}

func (a *app) ask(ctx context.Context, question string, f askFlags) error {
	compares := manifest.Compares(question)
	switch {
	case !compares && (f.since != "" || f.exitCode):
		return usage("--since and --exit-code go with the question %q", manifest.NewlyAllowed)
	case compares && f.since == "" && f.file == "":
		return usage("nothing to compare the manifest in force with").WithNext("name the next one with --manifest FILE, or the one before with --since FILE")
	}
	m, err := a.asked(ctx, f.file)
	if err != nil {
		return err
	}
	var since *manifest.Manifest
	switch {
	case f.since != "":
		since, err = a.parseManifest(f.since)
	case compares:
		since, err = a.inForce(ctx)
	}
	if err != nil {
		return err
	}
	answer, err := manifest.Ask(m, since, question)
	if err != nil {
		return err
	}
	done, err := a.p.Structured(answer)
	if err != nil {
		return err
	}
	if !done {
		a.showAnswer(answer, f.file)
	}
	switch {
	case answer.Yes != nil && !*answer.Yes:
		return exitError(problem.Refused.ExitCode())
	case f.exitCode && len(answer.Facts) > 0:
		return differentExit
	}
	return nil
}

// asked is the manifest that a question is about: a file, or the one in force.
func (a *app) asked(ctx context.Context, file string) (*manifest.Manifest, error) {
	if file != "" {
		return a.parseManifest(file)
	}
	m, err := a.inForce(ctx)
	if err == nil && m == nil {
		err = problem.New("CLI-022", "the coordinator has no manifest yet").WithNext("ask about a file with --manifest FILE")
	}
	return m, err
}

// inForce is the manifest in force; nil if there is none yet.
func (a *app) inForce(ctx context.Context) (*manifest.Manifest, error) {
	cl, err := a.dial(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return a.active(ctx, cl)
}

// names completes the names of a manifest file.
func (a *app) names(file string) ([]string, cobra.ShellCompDirective) {
	if file == "" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	raw, err := a.readFile(file)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	m, _ := manifest.Parse(raw)
	if m == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return manifest.Names(m), cobra.ShellCompDirectiveNoFileComp
}

// showAnswer prints the answer, and each fact with the places that grant it.
func (a *app) showAnswer(answer manifest.Answer, file string) {
	if file == "" || file == "-" {
		file = "manifest"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", answer.Summary)
	for _, f := range answer.Facts {
		fmt.Fprintf(&b, "  %s\n", f)
		for _, g := range f.Grants {
			if g.Line > 0 {
				fmt.Fprintf(&b, "    %s:%d:%d  %s\n", file, g.Line, g.Column, g.Path)
			} else {
				fmt.Fprintf(&b, "    not given: %s\n", g.Path)
			}
		}
	}
	a.p.Raw(a.p.Fold(b.String()))
	if answer.More > 0 {
		a.p.Notef("and %d more\n", answer.More)
	}
}
