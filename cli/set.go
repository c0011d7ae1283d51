package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func (a *app) graphCmd() *cobra.Command {
	return &cobra.Command{Use: "graph FILE", Short: "Draw who may call whom", Example: "  ashlar manifest graph manifest.json -o svg > graph.svg",
		Long: "Everything that is no arrow is refused. -o text, mermaid, dot or svg draws it;\njson and yaml list the edges.", Args: cobra.ExactArgs(1), ValidArgsFunction: completeJSON,
		Annotations: map[string]string{ownFormats: strings.Join(manifest.GraphFormats, " ")},
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := a.parseManifest(args[0])
			if err != nil {
				return err
			}
			if done, err := a.p.Structured(manifest.Edges(m)); done {
				return err
			}
			format := a.output
			if format == string(term.Wide) {
				format = string(term.Text)
			}
			drawing, err := manifest.Graph(m, format)
			if err != nil {
				return err
			}
			a.p.Raw(string(drawing))
			return nil
		}}
}

func (a *app) diffCmd() *cobra.Command {
	var exitCode bool
	c := &cobra.Command{Use: "diff [A] B", Short: "Show what a manifest changes, and what that causes", Example: "  ashlar manifest diff old.json new.json\n  ashlar manifest diff new.json --exit-code",
		Long: "With one file, compares the manifest in force with it.", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: completeJSON,
		RunE: func(c *cobra.Command, args []string) error {
			old, err := a.diffBase(c.Context(), args)
			if err != nil {
				return err
			}
			next, err := a.parseManifest(args[len(args)-1])
			if err != nil {
				return err
			}
			d := diffReport{Diff: manifest.Compare(old, next), Needs: manifest.Approvers(old, manifest.Demands(old, next))}
			if done, err := a.p.Structured(d); done {
				if err != nil {
					return err
				}
			} else {
				a.printDiff(d.Diff)
				for _, line := range needs(old, manifest.Demands(old, next), "") {
					a.p.Printf("%s\n", line)
				}
			}
			if exitCode && len(d.Changes) > 0 {
				return differentExit
			}
			return nil
		}}
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit 20 if they differ")
	return c
}

// diffReport is a diff, and who has to agree to it.
type diffReport struct {
	manifest.Diff
	Needs []manifest.Approval `json:"needs"` // by path; none for a first manifest
}

// diffBase is what is compared with: the first of two files, or the manifest in
// force.
func (a *app) diffBase(ctx context.Context, args []string) (*manifest.Manifest, error) {
	if len(args) == 2 {
		return a.parseManifest(args[0])
	}
	cl, err := a.dial(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return a.active(ctx, cl)
}

func (a *app) printDiff(d manifest.Diff) {
	if len(d.Changes) == 0 {
		a.p.Printf("no difference in meaning\n")
		return
	}
	a.p.Raw(a.p.Fold(a.rendered(d)))
}

// rendered is a diff as text; "no difference" is text too.
func (a *app) rendered(d manifest.Diff) string {
	var b strings.Builder
	d.Render(&b, a.p.Color)
	return b.String()
}

// risks are the values of --accept.
var risks = manifest.AllRisks()

type setFlags struct {
	user   userFlags
	accept []string
	dryRun bool
}

func (a *app) setCmd() *cobra.Command {
	var f setFlags
	c := &cobra.Command{Use: "set FILE", Short: "Put a manifest in force", Example: "  ashlar manifest set manifest.json --cert alice.pem --key alice.key",
		Long: `Verifies the coordinator, validates the file, shows what changes and what that
causes, asks, and sets it on condition that the manifest in force is still the
one that was compared. The first manifest may be set by anybody who reaches the
coordinator, unless it was started with an owner; later ones need a user whose
roles give a right to every part that changes. Where the manifest in force wants
more users to agree, it becomes a proposal that you sign: they approve it with
ashlar manifest approve. That is success too: exit code 0.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeJSON,
		RunE: func(c *cobra.Command, args []string) error { return a.set(c.Context(), args[0], f) }}
	f.user.register(c)
	registerAccept(c, &f.accept)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show the effects and set nothing")
	return c
}

func (a *app) set(ctx context.Context, name string, f setFlags) error {
	next, err := a.parseManifest(name)
	if err != nil {
		return err
	}
	user, err := f.user.load()
	if err != nil {
		return err
	}
	cl, err := a.dial(ctx, user)
	if err != nil {
		return err
	}
	defer cl.Close()
	v := cl.Verified()
	old, err := a.active(ctx, cl)
	if err != nil {
		return err
	}
	a.p.Notef("%s coordinator verified (%s, %s)\nin force: manifest %s, revision %d\n", a.p.Green(term.OK), v.Verdict.TEE, v.Verdict.TCBStatus,
		a.p.Digest(digestOrNone(v.Statement.Manifest)), v.Statement.Revision)
	if next.Digest().String() == v.Statement.Manifest.String() {
		return a.isInForce(apiv1.SetResult{Digest: v.Statement.Manifest, Revision: v.Statement.Revision, Effects: []string{}}, "already")
	}
	d := a.compared(old, next)
	if err := a.planned(ctx, cl, user, next); err != nil {
		return err
	}
	missing := []string{}
	if old != nil && user != nil {
		missing = needs(old, manifest.Demands(old, next), nameOf(old, user))
	}
	verb := "Set"
	for _, line := range missing {
		verb = "Propose"
		a.p.Note(line + "\n")
	}
	if f.dryRun {
		if done, err := a.p.Structured(dryRun{d, missing}); done {
			return err
		}
		a.p.Printf("dry run: nothing was set\n")
		return nil
	}
	if err := a.acceptRisks(d.Effects, f.accept); err != nil {
		return err
	}
	if err := a.confirm("%s revision %d (%s)?", verb, v.Statement.Revision+1, next.Digest().Short()); err != nil {
		return err
	}
	result, err := cl.SetManifest(ctx, next.Raw(), v.Statement.Manifest, f.accept...)
	if err != nil {
		return err
	}
	if result.Proposal != nil {
		return a.signOwn(ctx, cl, next, d)
	}
	return a.isInForce(result, name)
}

// compared shows what a manifest changes.
func (a *app) compared(old, next *manifest.Manifest) manifest.Diff {
	d := manifest.Compare(old, next)
	if len(d.Changes) == 0 {
		a.p.Notef("no difference in meaning, only in the bytes\n")
	}
	a.p.Note(a.rendered(d))
	return d
}

// dryRun is what set would do.
type dryRun struct {
	manifest.Diff
	Needs []string `json:"needs"` // approvals, in words; none where the user's is enough
}

// signOwn signs the proposal that a manifest has become, whose changes were
// shown.
func (a *app) signOwn(ctx context.Context, cl *client.Client, next *manifest.Manifest, d manifest.Diff) error {
	digest := next.Digest()
	p, _, err := cl.Proposal(ctx, digest[:])
	if err != nil {
		return err
	}
	if err := accepts(p, d); err != nil {
		return err
	}
	result, err := cl.Approve(ctx, p)
	if err != nil {
		return err
	}
	return a.showApproval(result)
}

// planned shows who of those that run would lose or get an identity. The
// coordinator tells users of the manifest in force.
func (a *app) planned(ctx context.Context, cl *client.Client, user *tls.Certificate, next *manifest.Manifest) error {
	if user == nil {
		return nil
	}
	p, err := cl.Plan(ctx, apiv1.PlanRequest{Manifest: next.Raw()})
	switch problem.CodeOf(err) {
	case "":
	case "CRD-010", "CRD-014", "CRD-041", "CRD-063", "CRD-110": // none is in force; setting it is refused, or works without
		return nil
	}
	if err != nil || p.Instances+p.Gains == 0 {
		return err
	}
	a.notePlan(p)
	return nil
}

// isInForce reports the outcome of set. name is the file, or "already".
func (a *app) isInForce(result apiv1.SetResult, name string) error {
	if done, err := a.p.Structured(result); done {
		return err
	}
	if name == "already" {
		a.p.Printf("%s %s is in force already, revision %d\n", a.p.Green(term.OK), a.p.Digest(result.Digest.String()), result.Revision)
		return nil
	}
	a.p.Printf("%s revision %d is in force: %s\n", a.p.Green(term.OK), result.Revision, a.p.Digest(result.Digest.String()))
	if result.OpenFirstSet {
		a.p.Notef("%s this was the first manifest, and anybody who reached the coordinator could have set it.\n  next: ashlar verify --manifest %s before you rely on it\n", a.p.Yellow(term.Warn), name)
	}
	a.sharesGiven(result.Recovery)
	return nil
}

// acceptRisks demands that every risk of a change was accepted by name.
func (a *app) acceptRisks(effects []manifest.Effect, accepted []string) error {
	for _, risk := range accepted {
		if !contains(risks, risk) {
			return usage("--accept=%s is no risk", risk).WithNext("%s", suggestion(risk, risks, "--accept=", "the risks are: "+strings.Join(risks, ", ")))
		}
	}
	for _, e := range effects {
		if e.Risk != "" && !contains(accepted, e.Risk) {
			return problem.New("CLI-006", "%s: %s", e.Subject, e.Text).WithNext("accept it by name: --accept=%s", e.Risk)
		}
	}
	return nil
}

// confirm asks on a terminal; elsewhere --yes is needed.
func (a *app) confirm(format string, args ...any) error {
	if a.yes {
		return nil
	}
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(f) {
		return problem.New("CLI-006", "this changes the deployment").WithNext("pass --yes")
	}
	a.p.Notef(format+" [y/N] ", args...)
	answer, err := bufio.NewReader(f).ReadString('\n')
	if err != nil || !contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer))) {
		return problem.New("CLI-011", "nothing was set")
	}
	return nil
}
