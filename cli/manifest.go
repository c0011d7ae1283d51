package cli

import (
	"context"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func (a *app) manifestCmd() *cobra.Command {
	group := &cobra.Command{Use: "manifest", Short: "Check, compare, set and read manifests",
		Example: "  ashlar manifest validate manifest.json\n  ashlar manifest set manifest.json"}
	group.AddCommand(a.validateCmd(), a.fmtCmd(), a.digestCmd(), a.diffCmd(), a.setCmd(), a.getCmd(),
		a.approveCmd(), a.rejectCmd(), a.withdrawCmd(), a.proposalsCmd(), a.historyCmd(), a.graphCmd(), a.importCmd(), a.generateCmd(), a.whoCanCmd(), a.askCmd(), a.schemaCmd())
	return group
}

// completeJSON completes file arguments with JSON files.
func completeJSON(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
}

// parseManifest reads a manifest; its problems go to standard error.
func (a *app) parseManifest(name string) (*manifest.Manifest, error) {
	raw, err := a.readFile(name)
	if err != nil {
		return nil, err
	}
	m, diags := manifest.Parse(raw)
	if err := diags.Err(); err != nil {
		diags.Render(a.p.Err, name, a.p.Color)
		return nil, err
	}
	return m, nil
}

func (a *app) validateCmd() *cobra.Command {
	var strict bool
	c := &cobra.Command{Use: "validate FILE", Short: "Check schema, meaning and tests of a manifest", Example: "  ashlar manifest validate manifest.json --strict",
		Long: "Works offline. Reports every problem at once. Exit code 6 if there is one.", Args: cobra.ExactArgs(1), ValidArgsFunction: completeJSON,
		RunE: func(_ *cobra.Command, args []string) error { return a.validate(args[0], strict) }}
	c.Flags().BoolVar(&strict, "strict", false, "warnings fail too")
	return c
}

func (a *app) validate(name string, strict bool) error {
	raw, err := a.readFile(name)
	if err != nil {
		return err
	}
	m, diags := manifest.Parse(raw)
	bad := diags.HasErrors() || strict && len(diags) > 0
	if done, err := a.p.Structured(map[string]any{"file": name, "valid": !bad, "errors": diags.Errors(), "warnings": diags.Warnings(), "problems": nonNil(diags)}); done {
		if err == nil && bad {
			err = exitError(problem.Invalid.ExitCode())
		}
		return err
	}
	diags.Render(a.p.Out, name, a.p.Color)
	if bad {
		return exitError(problem.Invalid.ExitCode())
	}
	a.p.Printf("%s %s is valid: %d packages, %d marbles, %d calls, %d tests hold\n  digest %s\n", a.p.Green(term.OK), name,
		len(m.Packages), len(m.Marbles), len(manifest.Edges(m)), len(m.Tests), m.Digest())
	return nil
}

func nonNil(d manifest.Diagnostics) manifest.Diagnostics {
	if d == nil {
		return manifest.Diagnostics{}
	}
	return d
}

func (a *app) fmtCmd() *cobra.Command {
	var write, check bool
	c := &cobra.Command{Use: "fmt FILE", Short: "Format a manifest", Example: "  ashlar manifest fmt -w manifest.json",
		Long: "The digest is over the bytes, so formatting changes it.", Args: cobra.ExactArgs(1), ValidArgsFunction: completeJSON,
		RunE: func(_ *cobra.Command, args []string) error { return a.format(args[0], write, check) }}
	c.Flags().BoolVarP(&write, "write", "w", false, "write the file instead of printing")
	c.Flags().BoolVar(&check, "check", false, "only say whether it is formatted (exit 6 if not)")
	return c
}

func (a *app) format(name string, write, check bool) error {
	raw, err := a.readFile(name)
	if err != nil {
		return err
	}
	formatted, err := manifest.Format(raw)
	if err != nil {
		return err
	}
	same := string(formatted) == string(raw)
	switch {
	case check && same:
		a.p.Printf("%s %s is formatted\n", a.p.Green(term.OK), name)
		return nil
	case check:
		a.p.Printf("%s %s is not formatted\n", a.p.Red(term.Bad), name)
		a.p.Notef("next: ashlar manifest fmt -w %s\n", name)
		return exitError(problem.Invalid.ExitCode())
	case write && name == "-":
		return usage("-w needs a file, not standard input")
	case write && !same:
		if err := durable.WriteFile(name, formatted, 0o644); err != nil {
			return problem.Because(err, "CLI-003", "writing %s", name)
		}
		a.p.Notef("formatted %s; its digest is now %s\n", name, manifest.DigestOf(formatted).Short())
	case !write:
		_, err = a.p.Out.Write(formatted)
	}
	return err
}

func (a *app) digestCmd() *cobra.Command {
	return &cobra.Command{Use: "digest FILE", Short: "Print the digest of a manifest: SHA-256 of its bytes", Example: "  ashlar manifest digest manifest.json", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeJSON, RunE: func(_ *cobra.Command, args []string) error {
			raw, err := a.readFile(args[0])
			if err != nil {
				return err
			}
			d := manifest.DigestOf(raw)
			formatted, err := manifest.Format(raw)
			if done, err := a.p.Structured(map[string]any{"file": args[0], "digest": d.String(), "formatted": err == nil && string(formatted) == string(raw)}); done {
				return err
			}
			a.p.Printf("%s\n", d)
			if err == nil && string(formatted) != string(raw) {
				a.p.Notef("note: formatting this file would change its digest\n")
			}
			return nil
		}}
}

func (a *app) getCmd() *cobra.Command {
	return &cobra.Command{Use: "get [REVISION]", Short: "Print the manifest in force, or another revision", Example: "  ashlar manifest get > active.json\n  ashlar manifest get 3 > third.json", Args: cobra.MaximumNArgs(1),
		Long: "Byte for byte as it was uploaded.",
		RunE: func(c *cobra.Command, args []string) error {
			return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
				m, err := revisionOf(ctx, cl, args)
				if err != nil {
					return err
				}
				if got := manifest.DigestOf(m.Raw); got.String() != m.Digest.String() {
					return problem.New("CRD-107", "the manifest's bytes have digest %s, the coordinator says %s", got, m.Digest)
				}
				if done, err := a.p.Structured(m); done {
					return err
				}
				a.p.Notef("revision %d, digest %s, set by %s at %s\n", m.Revision, m.Digest, m.SetBy, m.SetAt.UTC().Format("2006-01-02T15:04:05Z"))
				_, err = a.p.Out.Write(m.Raw)
				return err
			})
		}}
}

// revisionOf fetches the manifest in force, or the revision of an argument.
func revisionOf(ctx context.Context, cl *client.Client, args []string) (apiv1.Manifest, error) {
	if len(args) == 0 {
		return cl.Manifest(ctx)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 {
		return apiv1.Manifest{}, usage("%q is no revision: want a number from 1", args[0])
	}
	return cl.ManifestRevision(ctx, n)
}

func (a *app) schemaCmd() *cobra.Command {
	var install string
	var dryRun bool
	c := &cobra.Command{Use: "schema", Short: "Print the JSON Schema of manifests", Example: "  ashlar manifest schema > manifest.schema.json", Args: cobra.NoArgs,
		Long: "Editors complete and check from it: name it in the manifest's \"$schema\", or let\n--install vscode write the workspace setting.",
		RunE: func(*cobra.Command, []string) error {
			switch install {
			case "":
				_, err := a.p.Out.Write(manifest.Schema())
				return err
			case "vscode":
				return a.installSchema(dryRun)
			}
			return usage("--install %q: want vscode", install).WithNext("ashlar manifest schema --install vscode")
		}}
	c.Flags().StringVar(&install, "install", "", "set up an editor in this directory: vscode")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "with --install, only say what would be written")
	return c
}

// installSchema writes the schema and VS Code's setting that points at it.
func (a *app) installSchema(dryRun bool) error {
	settings := filepath.Join(".vscode", "settings.json")
	if dryRun {
		a.p.Printf("Would write .vscode/ashlar-manifest.json and %s\n", settings)
		return nil
	}
	if _, err := os.Stat(settings); err == nil {
		return problem.New("CLI-009", "%s exists", settings).WithNext(`add to it: "json.schemas": [{"fileMatch": ["manifest*.json"], "url": "./.vscode/ashlar-manifest.json"}]`)
	}
	if err := os.MkdirAll(".vscode", 0o755); err != nil {
		return problem.Because(err, "CLI-003", "making .vscode")
	}
	if err := durable.WriteFile(filepath.Join(".vscode", "ashlar-manifest.json"), manifest.Schema(), 0o644); err != nil {
		return problem.Because(err, "CLI-003", "writing the schema")
	}
	setting := "{\n  \"json.schemas\": [{\"fileMatch\": [\"manifest*.json\"], \"url\": \"./.vscode/ashlar-manifest.json\"}]\n}\n"
	if err := durable.WriteFile(settings, []byte(setting), 0o644); err != nil {
		return problem.Because(err, "CLI-003", "writing %s", settings)
	}
	a.p.Printf("Wrote .vscode/ashlar-manifest.json and %s\n", settings)
	return nil
}

// active fetches and parses the manifest in force; nil if there is none yet.
func (a *app) active(ctx context.Context, cl *client.Client) (*manifest.Manifest, error) {
	if len(cl.Verified().Statement.Manifest) == 0 {
		return nil, nil
	}
	doc, err := cl.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	if got, want := manifest.DigestOf(doc.Raw), cl.Verified().Statement.Manifest; got.String() != want.String() {
		return nil, problem.New("CRD-107", "the manifest's bytes have digest %s, the coordinator's evidence names %s", got, want)
	}
	m, diags := manifest.Parse(doc.Raw)
	return m, diags.Err()
}

func digestOrNone(h attest.Hex) string {
	if len(h) == 0 {
		return "none"
	}
	return h.String()
}
