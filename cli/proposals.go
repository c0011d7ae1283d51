package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func (a *app) proposalsCmd() *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "proposals", Short: "Changes that wait for approvals", Example: "  ashlar manifest proposals --cert bob.pem --key bob.key", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withUser(c.Context(), user, func(cl *client.Client) error {
				all, err := cl.Proposals(c.Context())
				if err != nil {
					return err
				}
				return a.showProposals(all)
			})
		}}
	user.register(c)
	return c
}

func (a *app) showProposals(all []apiv1.Proposal) error {
	if done, err := a.p.Structured(apiv1.Proposals{Proposals: all}); done {
		return err
	}
	if len(all) == 0 {
		a.p.Printf("nothing waits for approvals\n")
		return nil
	}
	rows := make([][]string, len(all))
	for i, p := range all {
		what := p.Text
		if p.Kind == apiv1.ManifestProposal {
			what = p.Kind
		}
		rows[i] = []string{a.p.Digest(p.Digest.String()), what, p.ProposedBy, a.p.Ahead(p.Expires), strings.Join(wants(p), "; ")}
	}
	if !a.p.TTY {
		a.p.Table([]string{"DIGEST", "WHAT", "BY", "EXPIRES", "NEEDS"}, rows)
		return nil
	}
	for i, r := range rows {
		a.p.Raw(a.p.Fold(term.Line(fmt.Sprintf("%s  %s, by %s, expires %s", r[0], r[1], r[2], r[3]))) + "\n")
		for _, line := range wants(all[i]) {
			a.p.Raw(a.p.Fold("  "+term.Line(line)) + "\n")
		}
	}
	return nil
}

func (a *app) historyCmd() *cobra.Command {
	return &cobra.Command{Use: "history", Short: "The manifests that are or were in force", Example: "  ashlar manifest history\n  ashlar manifest history -o json",
		Long: "Newest first: who set, approved and accepted each, and its record in the audit\nlog. Checks that each names the one before it.", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.withClient(c, a.history) }}
}

func (a *app) history(ctx context.Context, cl *client.Client) error {
	var all []apiv1.Revision
	for from := 1; from > 0; {
		page, err := cl.History(ctx, from, 0)
		if err != nil {
			return err
		}
		all, from = append(all, page.Revisions...), page.Next
	}
	if err := linked(all, cl.Verified().Statement); err != nil {
		return err
	}
	if done, err := a.p.Structured(apiv1.History{Revisions: slices.Concat([]apiv1.Revision{}, all)}); done {
		return err
	}
	var rows [][]string
	for _, r := range slices.Backward(all) {
		by := r.SetBy
		if len(r.ApprovedBy) > 0 {
			by += ", approved by " + strings.Join(r.ApprovedBy, ", ")
		}
		if r.Open {
			by = "anybody could"
		}
		rows = append(rows, []string{strconv.Itoa(r.Revision), a.p.Digest(r.Digest.String()), a.p.Since(r.SetAt), by, strings.Join(r.Accepted, " "), fmt.Sprint(r.Record)})
	}
	a.p.Table([]string{"REVISION", "DIGEST", "SINCE", "SET BY", "ACCEPTED", "RECORD"}, rows)
	return nil
}

func registerAccept(c *cobra.Command, accept *[]string) {
	_ = c.RegisterFlagCompletionFunc("accept", cobra.FixedCompletions(risks, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().StringSliceVar(accept, "accept", nil, "accept a risk by its name, such as drop-secrets")
}

// whoAmI is the name under which the manifest in force has the user's
// certificate; empty if it has none.
func (a *app) whoAmI(ctx context.Context, cl *client.Client, u userFlags) (string, error) {
	cert, err := u.load()
	if err != nil || cert == nil {
		return "", err
	}
	m, err := a.active(ctx, cl)
	if err != nil {
		return "", err
	}
	return nameOf(m, cert), nil
}

// nameOf is the user of a manifest with a certificate; empty if there is none.
func nameOf(m *manifest.Manifest, cert *tls.Certificate) string {
	if m == nil || cert == nil {
		return ""
	}
	for name, u := range m.Users {
		if block, _ := pem.Decode([]byte(u.Certificate)); block != nil && bytes.Equal(block.Bytes, cert.Certificate[0]) {
			return name
		}
	}
	return ""
}

// needs says, for each part that the same users may change, who has to agree:
// "needs 2 of 3 approvals: you (alice) + bob or carol". Nothing is said where
// oneself is enough.
func needs(old *manifest.Manifest, demands []manifest.Demand, me string) []string {
	type group struct {
		paths []string
		of    manifest.Approval
	}
	lines := []string{}
	var groups []*group
	known := map[string]*group{}
	for _, one := range manifest.Approvers(old, demands) {
		key := fmt.Sprintf("%d %q %q", one.Needed, one.Holders, one.Alone)
		if known[key] == nil {
			known[key] = &group{of: one}
			groups = append(groups, known[key])
		}
		known[key].paths = append(known[key].paths, one.Path)
	}
	for _, g := range groups {
		if len(manifest.Settled(old, []manifest.Demand{g.of.Demand}, []string{me})) == 0 {
			continue
		}
		text := "needs " + approvalsOf(g.of, me)
		if len(groups) > 1 {
			text = someOf(g.paths) + " " + text
		}
		lines = append(lines, text)
	}
	return lines
}

// approvalsOf is "2 of 3 approvals: you (alice) + bob or carol".
func approvalsOf(a manifest.Approval, me string) string {
	others := slices.DeleteFunc(slices.Clone(a.Holders), func(u string) bool { return u == me })
	for _, u := range a.Alone {
		if !slices.Contains(others, u) {
			others = append(others, u+" alone")
		}
	}
	text := fmt.Sprintf("%d of %d approvals: ", a.Needed, len(a.Holders))
	rest := a.Needed
	if slices.Contains(a.Holders, me) {
		text += "you (" + me + ")"
		if rest--; rest > 0 {
			text += " + "
		}
	}
	switch {
	case len(others) == 0 && rest > 0:
		return text + "nobody else has the right"
	case rest > 1:
		return text + fmt.Sprintf("%d of %s", rest, strings.Join(others, ", "))
	}
	return text + orWords(others)
}

func someOf(paths []string) string {
	if len(paths) > 3 {
		return strings.Join(paths[:3], ", ") + fmt.Sprintf(" and %d more", len(paths)-3)
	}
	return strings.Join(paths, ", ")
}

// linked checks that revisions are all there are, and that each names the one
// before it, up to the manifest that the coordinator's evidence names.
func linked(all []apiv1.Revision, s apiv1.Statement) error {
	var before attest.Hex
	for i, r := range all {
		if r.Revision != i+1 || !bytes.Equal(r.Previous, before) {
			return problem.New("CLI-053", "revision %d, in place %d, follows %s, and %s stands there", r.Revision, i+1, digestOrNone(r.Previous), digestOrNone(before))
		}
		before = r.Digest
	}
	if len(all) >= s.Revision && s.Revision > 0 && !bytes.Equal(all[s.Revision-1].Digest, s.Manifest) || len(all) < s.Revision {
		return problem.New("CLI-053", "of %d revisions none is %s, which the coordinator's evidence names", len(all), s.Manifest)
	}
	return nil
}
