package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

type approveFlags struct {
	user   userFlags
	accept []string
	dryRun bool
}

func (a *app) approveCmd() *cobra.Command {
	var f approveFlags
	c := &cobra.Command{Use: "approve DIGEST", Short: "Sign a change that waits for approvals",
		Example: "  ashlar manifest proposals\n  ashlar manifest approve 8f1d77a0 --cert bob.pem --key bob.key",
		Long: `Fetches the bytes that are proposed, checks that they have the digest and
replace the manifest in force, shows what they change and cause, asks, and signs
exactly that with your key. What you sign counts for this proposal alone, until
it expires; ashlar manifest withdraw takes it back. With the last approval that
is needed the change takes effect.

DIGEST may be the beginning of one. A destructive effect has to be accepted by
its name by everybody who signs.`,
		Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			return a.withUser(c.Context(), f.user, func(cl *client.Client) error { return a.approve(c.Context(), cl, args[0], f) })
		}}
	f.user.register(c)
	registerAccept(c, &f.accept)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what it changes and sign nothing")
	return c
}

func (a *app) approve(ctx context.Context, cl *client.Client, prefix string, f approveFlags) error {
	p, document, err := a.findProposal(ctx, cl, prefix)
	if err != nil {
		return err
	}
	var effects []manifest.Effect
	if p.Kind == apiv1.ManifestProposal {
		effects, err = a.noteProposed(ctx, cl, p, document)
	} else {
		err = a.noteAction(document)
	}
	if err != nil {
		return err
	}
	a.noteProposal(p)
	if f.dryRun {
		if done, err := a.p.Structured(p); done {
			return err
		}
		a.p.Printf("dry run: nothing was signed\n")
		return nil
	}
	if err := a.acceptRisks(effects, f.accept); err != nil {
		return err
	}
	if err := a.confirm("Sign %s (%s)?", p.Text, p.Digest.String()[:8]); err != nil {
		return err
	}
	result, err := cl.Approve(ctx, p)
	if err != nil {
		return err
	}
	return a.showApproval(result)
}

// findProposal fetches the one open proposal whose digest begins with prefix.
func (a *app) findProposal(ctx context.Context, cl *client.Client, prefix string) (apiv1.Proposal, []byte, error) {
	all, err := cl.Proposals(ctx)
	if err != nil {
		return apiv1.Proposal{}, nil, err
	}
	var found []attest.Hex
	for _, p := range all {
		if prefix != "" && strings.HasPrefix(p.Digest.String(), strings.ToLower(prefix)) {
			found = append(found, p.Digest)
		}
	}
	switch len(found) {
	case 0:
		return apiv1.Proposal{}, nil, problem.New("CLI-052", "no proposal %s is open: it ended, or never was one", prefix)
	case 1:
	default:
		return apiv1.Proposal{}, nil, problem.New("CLI-052", "%q names %d of %d open proposals", prefix, len(found), len(all)).WithNext("give more digits: ashlar manifest proposals -o wide")
	}
	return cl.Proposal(ctx, found[0])
}

// noteProposed shows what a proposed manifest changes, against the one that the
// coordinator's evidence names. It returns the effects that have to be accepted,
// which must be those that are signed.
func (a *app) noteProposed(ctx context.Context, cl *client.Client, p apiv1.Proposal, document []byte) ([]manifest.Effect, error) {
	next, diags := manifest.Parse(document)
	if err := diags.Err(); err != nil {
		return nil, err
	}
	old, err := a.active(ctx, cl)
	if err != nil {
		return nil, err
	}
	a.p.Notef("manifest %s in place of %s\n", p.Digest, p.Predecessor)
	d := a.compared(old, next)
	if err := accepts(p, d); err != nil {
		return nil, err
	}
	plan, err := cl.Plan(ctx, apiv1.PlanRequest{Manifest: document})
	if err == nil && plan.Instances+plan.Gains > 0 {
		a.notePlan(plan)
	}
	return d.Effects, err
}

// accepts demands that what is signed accepts exactly the risks of the change
// that was shown.
func accepts(p apiv1.Proposal, d manifest.Diff) error {
	if !slices.Equal(d.Risks(), p.Accepts) && len(d.Risks())+len(p.Accepts) > 0 {
		return problem.New("GOV-014", "the proposal accepts %q, its manifest needs %q", p.Accepts, d.Risks())
	}
	return nil
}

// noteAction shows the bytes of an action.
func (a *app) noteAction(document []byte) error {
	var doc any
	if err := json.Unmarshal(document, &doc); err != nil {
		return problem.Because(err, "GOV-014", "the proposed action cannot be read")
	}
	pretty, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return problem.Because(err, "GOV-014", "the proposed action cannot be shown")
	}
	a.p.Note(string(pretty) + "\n")
	return nil
}

// noteProposal says who proposed a change and what it still needs.
func (a *app) noteProposal(p apiv1.Proposal) {
	a.p.Notef("proposed by %s at %s, expires %s\n", p.ProposedBy, instant(p.ProposedAt), a.p.Ahead(p.Expires))
	for _, one := range p.Approvals {
		a.p.Notef("  signed by %s at %s\n", one.User, instant(one.At))
	}
	for _, line := range wants(p) {
		a.p.Notef("  %s\n", line)
	}
}

// wants says what each demand of a proposal needs.
func wants(p apiv1.Proposal) []string {
	var lines []string
	for _, d := range p.Demands {
		text := wanted(d)
		if len(p.Demands) > 1 {
			text = d.Path + ": " + text
			if d.Others > 0 {
				text = fmt.Sprintf("%s and %d more: %s", d.Path, d.Others, wanted(d))
			}
		}
		lines = append(lines, text)
	}
	return lines
}

// wanted says in a line what a demand needs, and who could give it.
func wanted(d apiv1.Demand) string {
	if d.Settled {
		return "approved by " + strings.Join(d.Approved, ", ")
	}
	have := 0
	var could []string
	for _, user := range d.Holders {
		if slices.Contains(d.Approved, user) {
			have++
		} else {
			could = append(could, user)
		}
	}
	for _, user := range d.Alone {
		if !slices.Contains(could, user) {
			could = append(could, user+" alone")
		}
	}
	text := fmt.Sprintf("%d of %d approvals", have, d.Needed)
	if len(d.Approved) > 0 {
		text += " (" + strings.Join(d.Approved, ", ") + ")"
	}
	return text + ", waits for " + orWords(could)
}

// orWords is "a", "a or b", "a, b or c".
func orWords(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// showApproval reports what an approval did.
func (a *app) showApproval(result apiv1.ApproveResult) error {
	if done, err := a.p.Structured(result); done {
		return err
	}
	p := result.Proposal
	if result.Set != nil {
		return a.isInForce(*result.Set, "")
	}
	if result.Settled {
		a.p.Printf("%s took effect: %s\n", a.p.Green(term.OK), p.Text)
		return nil
	}
	a.p.Printf("%s signed: %s, open until %s\n", a.p.Green(term.OK), p.Text, instant(p.Expires))
	for _, line := range wants(p) {
		a.p.Printf("  %s\n", line)
	}
	a.p.Notef("next: they run ashlar manifest approve %.8s\n", p.Digest.String())
	return nil
}

type endFlags struct {
	user     userFlags
	dryRun   bool
	approval bool
}

func (a *app) rejectCmd() *cobra.Command {
	var f endFlags
	c := &cobra.Command{Use: "reject DIGEST", Short: "End a change that waits for approvals", Example: "  ashlar manifest reject 8f1d77a0 --cert bob.pem --key bob.key",
		Long: "Whoever has a say in a change may end it. That is logged; it can be proposed\nagain.", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.end(c.Context(), args[0], f, "reject") }}
	f.user.register(c)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only say what would end")
	return c
}

func (a *app) withdrawCmd() *cobra.Command {
	var f endFlags
	c := &cobra.Command{Use: "withdraw DIGEST", Short: "Take back a change that you proposed, or your approval", Example: "  ashlar manifest withdraw 8f1d77a0\n  ashlar manifest withdraw 8f1d77a0 --approval",
		Long: "Ends a change that you proposed. Of somebody else's, and with --approval, only\nyour approval is taken back.", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.end(c.Context(), args[0], f, "withdraw") }}
	f.user.register(c)
	c.Flags().BoolVar(&f.approval, "approval", false, "only your approval, of your own proposal too")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only say what would be withdrawn")
	return c
}

func (a *app) end(ctx context.Context, prefix string, f endFlags, verb string) error {
	return a.withUser(ctx, f.user, func(cl *client.Client) error {
		p, _, err := a.findProposal(ctx, cl, prefix)
		if err != nil {
			return err
		}
		me, err := a.whoAmI(ctx, cl, f.user)
		if err != nil {
			return err
		}
		own := verb == "withdraw" && (f.approval || p.ProposedBy != me)
		what := verb + " " + p.Text
		if own {
			what = "withdraw your approval of " + p.Text
		}
		if f.dryRun {
			a.p.Printf("Would %s\n", what)
			return nil
		}
		if err := a.confirm("%s?", strings.ToUpper(what[:1])+what[1:]); err != nil {
			return err
		}
		end := cl.EndProposal
		if own {
			end = cl.WithdrawApproval
		}
		if p, err = end(ctx, p); err != nil {
			return err
		}
		if done, err := a.p.Structured(p); done {
			return err
		}
		a.p.Printf("%s done: %s\n", a.p.Green(term.OK), what)
		return nil
	})
}
