package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

type upgradeFlags struct {
	releaseFlags
	valueFlags
	reset, atomic bool
	accept        []string
}

func (f *upgradeFlags) registerRisks(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.accept, "accept", nil, "accept a risk by name: downgrade, recovery")
	_ = c.RegisterFlagCompletionFunc("accept", cobra.FixedCompletions(kube.Risks, cobra.ShellCompDirectiveNoFileComp))
}

func (a *app) upgradeCmd() *cobra.Command {
	var f upgradeFlags
	c := &cobra.Command{
		Use:     "upgrade",
		Short:   "Change a release in a Kubernetes cluster",
		Example: "  ashlar upgrade --policy policy.json\n  ashlar upgrade --set injector.replicas=3 --atomic",
		Long: `Brings a release to the chart and programs of this command and to other
values, shows what that changes, and asks. The values that the release was
given stay, and the flags come on top of them; defaults are those of the new
chart. With --reset-values only what the flags say is given.

The state survives. What would part a workload from its volume, or have the
coordinator look for its state elsewhere, is refused. An older chart or older
programs need --accept downgrade; a change after which the coordinator may not
open its state by itself needs --accept recovery. With --atomic the revision
before comes back if the new one does not get ready or is not verified.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return a.upgrade(c.Context(), f) },
	}
	f.registerWait(c)
	f.valueFlags.register(c)
	f.registerRisks(c)
	c.Flags().BoolVar(&f.reset, "reset-values", false, "forget the values that the release was given before")
	c.Flags().BoolVar(&f.atomic, "atomic", false, "go back if it fails")
	return c
}

func (a *app) upgrade(ctx context.Context, f upgradeFlags) error {
	if f.atomic && f.wait == 0 {
		return usage("--atomic needs to wait, and --wait is 0: whether to go back is known at the end only")
	}
	ch, v, err := a.given(f.valueFlags)
	if err != nil {
		return err
	}
	cluster, err := a.connect(ctx, f.cluster)
	if err != nil {
		return err
	}
	planning, cancel := context.WithTimeout(ctx, planLimit)
	defer cancel()
	p, err := cluster.PlanUpgrade(planning, ch, f.target(), v, f.reset)
	if err != nil {
		return err
	}
	return a.change(ctx, cluster, p, f)
}

func (a *app) rollbackCmd() *cobra.Command {
	var f upgradeFlags
	c := &cobra.Command{
		Use:     "rollback [REVISION]",
		Short:   "Go back to an earlier revision of a release",
		Example: "  ashlar rollback\n  ashlar rollback 3",
		Long: `Brings the objects of a release back to what they were in a revision, the one
before if none is named, and makes that a new revision. The coordinator's
state is not rolled back: it stays as it is. What upgrade refuses and asks,
this does too.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			revision := 0
			if len(args) == 1 {
				n, err := strconv.Atoi(args[0])
				if err != nil || n < 1 {
					return usage("%q is no revision: want a number from 1 on", args[0])
				}
				revision = n
			}
			return a.rollback(c.Context(), revision, f)
		},
	}
	f.registerWait(c)
	f.registerRisks(c)
	return c
}

func (a *app) rollback(ctx context.Context, revision int, f upgradeFlags) error {
	cluster, err := a.connect(ctx, f.cluster)
	if err != nil {
		return err
	}
	planning, cancel := context.WithTimeout(ctx, planLimit)
	defer cancel()
	p, err := cluster.PlanRollback(planning, f.target(), revision)
	if err != nil {
		return err
	}
	return a.change(ctx, cluster, p, f)
}

// change shows what a plan changes, asks, and makes it.
func (a *app) change(ctx context.Context, cluster *kube.Cluster, p *kube.Plan, f upgradeFlags) error {
	if err := a.judgeable(p, f.releaseFlags); err != nil {
		return err
	}
	a.p.Notef("%s %s in namespace %s of %s: revision %d (%s, chart %s, ashlar %s) → chart %s, ashlar %s\n", verbing(p.Verb), p.Name, p.Namespace,
		cluster.Server, p.From.Revision, p.From.Status, p.From.Chart, p.From.App, p.Chart, p.App)
	a.showNotes(p)
	if f.dryRun {
		return a.rehearsed(p)
	}
	if a.p.Format == term.Text || a.p.Format == term.Wide {
		a.showChanges(p.Changes)
	}
	if err := acceptPlan(p, f.accept); err != nil {
		return err
	}
	if err := a.confirm("Make it revision %d?", p.From.Revision+1); err != nil {
		return err
	}
	rel, err := cluster.Apply(ctx, p)
	if err == nil {
		s := settling{p, rel, f.releaseFlags}
		v, failed := a.settled(ctx, cluster, s)
		if failed == nil {
			return a.showSettled(s, v)
		}
		err = failed
	}
	if !f.atomic || problem.CodeOf(err) == "KUB-016" {
		return err
	}
	return a.goBack(ctx, cluster, p, err)
}

// acceptPlan says which risk of a plan was not accepted by name.
func acceptPlan(p *kube.Plan, accepted []string) error {
	for _, name := range accepted {
		if !contains(kube.Risks, name) {
			return usage("--accept=%s is no risk", name).WithNext("%s", suggestion(name, kube.Risks, "--accept=", fmt.Sprintf("the risks are: %v", kube.Risks)))
		}
	}
	for _, r := range p.Risks {
		if !contains(accepted, r.Name) {
			return problem.New("KUB-010", "%s", r.Text).WithNext("if that is meant: --accept %s", r.Name)
		}
	}
	return nil
}

// goBack makes the revision before a failed change the newest one, and returns
// why it failed.
func (a *app) goBack(ctx context.Context, cluster *kube.Cluster, p *kube.Plan, why error) error {
	if ctx.Err() != nil { // the user has interrupted: nothing more is begun
		return why
	}
	a.p.Notef("%s %s\ngoing back to the revision before\n", a.p.Red(term.Bad), why)
	back, err := cluster.PlanRollback(ctx, p.Target, 0)
	if err == nil {
		var rel kube.Release
		if rel, err = cluster.Apply(ctx, back); err == nil {
			said := *problem.From(why)
			said.Detail += fmt.Sprintf("; revision %d is as revision %d was", rel.Revision, back.To)
			return &said
		}
	}
	return problem.Because(err, "KUB-013", "the change failed (%s), and going back too", why)
}
