package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func (a *app) blastRadiusCmd() *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "blast-radius KIND NAME", Short: "What somebody touched: secrets, certificates, and what to do",
		Example: "  ashlar blast-radius marble web/7f2c19ab\n  ashlar blast-radius platform 00906ed50000\n  ashlar blast-radius user bob -o json",
		Long: `Lists every version of a secret and every leaf certificate that a marble, what
runs a package, a platform or machine, or a user has touched and that counts
still; who else reads it; and what makes it count no more. From durable records:
instances that are gone are in it.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := subjectOf(args, "")
			if err != nil {
				return err
			}
			return a.withUser(c.Context(), user, func(cl *client.Client) error {
				l, err := cl.Lineage(c.Context(), s)
				if err != nil {
					return err
				}
				return a.showLineage(l, args)
			})
		}}
	user.register(c)
	return c
}

var remedies = map[string]string{"rotate": "rotate", "supply": "supply anew", "end": "revoke", "": "nothing"}

func (a *app) showLineage(l apiv1.Lineage, args []string) error {
	if done, err := a.p.Structured(l); done {
		return err
	}
	if len(l.Secrets)+len(l.Leaves) == 0 {
		a.p.Printf("%s touched nothing that counts still\n", strings.Join(args, " "))
		return nil
	}
	var rows [][]string
	for _, it := range l.Secrets {
		name := it.Secret + " v" + strconv.FormatUint(it.Version, 10)
		if it.Of != "" {
			name += " of " + it.Of
		}
		rows = append(rows, []string{name, strings.Join(it.By, " "), strings.Join(it.Ways, " "), strings.Join(it.Readers, " "), remedies[it.Remedy]})
	}
	for _, it := range l.Leaves {
		rows = append(rows, []string{"leaf " + a.p.Digest(it.Serial), strings.Join(it.By, " "), "ends " + a.p.Ahead(it.NotAfter), "", remedies[it.Remedy]})
	}
	a.p.Table([]string{"WHAT", "TOUCHED BY", "HOW", "READERS", "REMEDY"}, rows)
	a.p.Notef("next: ashlar rotate --touched-by %s\n", strings.Join(args, " "))
	return nil
}

type rotateFlags struct {
	user      userFlags
	touchedBy string
	dryRun    bool
}

func (a *app) rotateCmd() *cobra.Command {
	var f rotateFlags
	c := &cobra.Command{Use: "rotate NAME --touched-by KIND", Short: "Rotate the secrets that somebody touched, and no others",
		Example: "  ashlar rotate --touched-by marble web/7f2c19ab --dry-run\n  ashlar rotate --touched-by user bob",
		Long: `Each gets its next version at once, without an overlap: what was touched is
destroyed. Values that were supplied are listed: somebody has to supply them
anew. Certificates of secrets are issued again, for new keys. One secret is
rotated with ashlar secret rotate, a CA with ashlar ca rotate.
Needs a user whose role has the action rotateSecret for each of them.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if f.touchedBy == "" {
				return problem.New("CLI-068", "wanted --touched-by with one of %s", strings.Join(subjectKinds, ", ")).WithNext("one secret: ashlar secret rotate NAME")
			}
			s, err := subjectOf([]string{f.touchedBy, args[0]}, "")
			if err != nil {
				return err
			}
			return a.withUser(c.Context(), f.user, func(cl *client.Client) error { return a.rotateTouched(c.Context(), cl, s, f.dryRun) })
		}}
	f.user.register(c)
	c.Flags().StringVar(&f.touchedBy, "touched-by", "", "marble, package, platform or user")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "list what would be rotated, and rotate nothing")
	return c
}

func (a *app) rotateTouched(ctx context.Context, cl *client.Client, s apiv1.Subject, dryRun bool) error {
	would, err := cl.RotateTouched(ctx, apiv1.RotateTouchedRequest{Subject: s, DryRun: true})
	if err != nil {
		return err
	}
	result := would
	if !dryRun {
		for _, r := range would.Rotated {
			a.p.Notef("  rotate: %s\n", r.Name)
		}
		if err := a.confirm("Rotate %d secrets?", len(would.Rotated)); err != nil {
			return err
		}
		if result, err = cl.RotateTouched(ctx, apiv1.RotateTouchedRequest{Subject: s}); err != nil {
			return err
		}
	}
	if done, err := a.p.Structured(result); done {
		return err
	}
	for _, r := range result.Rotated {
		if dryRun {
			a.p.Printf("would rotate %s\n", r.Name)
		} else {
			a.p.Printf("%s %s has version %d; what was touched is destroyed\n", a.p.Green(term.OK), r.Name, r.Version)
		}
	}
	for _, name := range result.Supply {
		a.p.Printf("%s %s must be supplied anew: ashlar secret set %s\n", a.p.Yellow(term.Warn), name, name)
	}
	if len(result.Rotated)+len(result.Supply) == 0 {
		a.p.Printf("nothing was touched that can be rotated\n")
	}
	return nil
}
