package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/cli/term"
)

type uninstallFlags struct {
	releaseFlags
	deleteState string
}

func (a *app) uninstallCmd() *cobra.Command {
	var f uninstallFlags
	c := &cobra.Command{
		Use:     "uninstall",
		Short:   "Remove a release from a Kubernetes cluster, and keep its state",
		Example: "  ashlar uninstall\n  ashlar uninstall --delete-state ashlar --yes",
		Long: `Removes what the release has made, the webhook first, so that nobody's pods
wait for an injector that is gone. The coordinator's volume with CA keys,
secrets and log is kept, and used again by a release of the same name in the
same namespace. With --delete-state NAME it goes too; NAME has to be the
release's, so that nobody deletes another's. Nothing brings it back but a
backup. A state that coordinators share in etcd stays in any case, and is
named.

Marbles go on running until their leases end; then peers refuse them. They
lose nothing that way if the release comes back before.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return a.uninstall(c.Context(), f) },
	}
	f.register(c)
	c.Flags().StringVar(&f.deleteState, "delete-state", "", "delete the volumes with state too: the name of the release")
	return c
}

func (a *app) uninstall(ctx context.Context, f uninstallFlags) error {
	if f.deleteState != "" && f.deleteState != f.release {
		return usage("--delete-state names %q, and the release is %q", f.deleteState, f.release).WithNext("--delete-state %s, if its state is meant", f.release)
	}
	cluster, err := a.connect(ctx, f.cluster)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, planLimit)
	defer cancel()
	r, err := cluster.PlanRemoval(limited, f.target())
	if err != nil {
		return err
	}
	a.announceRemoval(r, f)
	if f.dryRun {
		if done, err := a.p.Structured(r); done {
			return err
		}
		a.p.Printf("dry run: nothing was removed\n")
		return nil
	}
	if f.deleteState != "" {
		err = a.confirm("Uninstall %s and delete its state for good?", r.Release.Name)
	} else {
		err = a.confirm("Uninstall %s?", r.Release.Name)
	}
	if err != nil {
		return err
	}
	if err := cluster.Uninstall(limited, r, f.deleteState != ""); err != nil {
		return err
	}
	return a.showRemoved(r, f)
}

// announceRemoval says what goes and whom it concerns.
func (a *app) announceRemoval(r *kube.Removal, f uninstallFlags) {
	a.p.Notef("release %s in namespace %s: revision %d, ashlar %s, %d objects\n", r.Release.Name, r.Release.Namespace, r.Release.Revision, r.Release.App, len(r.Objects))
	switch {
	case r.Pods > 0:
		a.p.Notef("  %s %d pods run marbles in the cluster: they go on until their leases end, and then peers refuse them; new pods with the label get no premain\n", a.p.Yellow(term.Warn), r.Pods)
	case r.Pods < 0:
		a.p.Notef("  %s you may not list pods of other namespaces: whether marbles run there is not known\n", a.p.Yellow(term.Warn))
	}
	for _, claim := range r.Claims {
		if f.deleteState != "" {
			a.p.Notef("  %s volume claim %s is deleted with %s\n", a.p.Red(term.Bad), claim, contents(r))
		}
	}
}

// contents is what is lost with a release's volume.
func contents(r *kube.Removal) string {
	if r.Shared != "" {
		return "a coordinator's sealed key: without them holders of recovery shares have to open what stays in etcd"
	}
	return "CA keys, secrets and log; nothing brings it back but a backup"
}

func (a *app) showRemoved(r *kube.Removal, f uninstallFlags) error {
	kept, deleted := r.Claims, []string{}
	if f.deleteState != "" {
		kept, deleted = []string{}, r.Claims
	}
	if done, err := a.p.Structured(struct {
		Release kube.Release `json:"release"`
		Removed []string     `json:"removed"`
		Kept    []string     `json:"keptState"`
		Shared  string       `json:"keptShared,omitempty"`
		Deleted []string     `json:"deletedState"`
	}{r.Release, r.Objects, kept, r.Shared, deleted}); done {
		return err
	}
	a.p.Printf("%s release %s is removed\n", a.p.Green(term.OK), r.Release.Name)
	what := "the state"
	if r.Shared != "" {
		what = "a coordinator's sealed key"
		a.p.Printf("kept          the state in etcd below %s\n", r.Shared)
	}
	for _, claim := range kept {
		a.p.Printf("kept          volume claim %s with %s; ashlar install uses it again\n", claim, what)
	}
	for _, claim := range deleted {
		a.p.Printf("deleted       volume claim %s with %s\n", claim, what)
	}
	if len(kept) > 0 {
		a.p.Notef("to delete it too: kubectl -n %s delete pvc", r.Release.Namespace)
		for _, claim := range kept {
			a.p.Notef(" %s", claim)
		}
		a.p.Notef("\n")
	}
	return nil
}
