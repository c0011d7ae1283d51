package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// planFlags say what is assumed.
type planFlags struct {
	user         userFlags
	manifest, at string
	endorsements []string
	tcbInfo      string
	floors       []string
}

func (f *planFlags) register(c *cobra.Command) {
	f.user.register(c)
	c.Flags().StringSliceVar(&f.endorsements, "endorsements", nil, "endorsements in place of the kept ones: a folder or a bundle")
	c.Flags().StringVar(&f.tcbInfo, "tcb-info", "", "a TCB info as served, in place of the kept one")
	c.Flags().StringVar(&f.at, "at", "", "as if the fleet attested then: RFC 3339 or a date")
}

func (a *app) planCmd() *cobra.Command {
	var f planFlags
	c := &cobra.Command{
		Use:   "plan",
		Short: "Who would lose or get an identity if something were so",
		Example: "  ashlar plan --manifest new.json\n  ashlar plan --endorsements new/\n  ashlar plan --at 2027-03-01\n" +
			"  ashlar plan --floor default.sgx.minTCBEvaluation=20",
		Long: `The coordinator judges the newest evidence of every live instance, and of the
newest refusals, once more: with another manifest, other endorsements, at
another time, with higher floors, or all of these. Nothing is changed. Without
flags it tells who is going to be refused as things stand.

--endorsements replaces, wherever evidence was judged with them, documents of
the same kind about the same thing. --at judges with the endorsements that are
kept: after their end it tells that they must be fetched anew by then. --floor
is PLATFORM.TEE.FIELD=VALUE; without the platform, or with "platform" in its
place, it is for all of them. Fields are those of ashlar floor raise.

Needs a user of the manifest. Exit code 20 if somebody would lose an identity.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.plan(c.Context(), f) },
	}
	f.register(c)
	c.Flags().StringVar(&f.manifest, "manifest", "", "this manifest in place of the one in force")
	c.Flags().StringArrayVar(&f.floors, "floor", nil, "a higher floor (repeatable)")
	return c
}

func (a *app) plan(ctx context.Context, f planFlags) error {
	req, err := a.planRequest(f)
	if err != nil {
		return err
	}
	return a.withUser(ctx, f.user, func(cl *client.Client) error {
		p, err := cl.Plan(ctx, req)
		if err != nil {
			return err
		}
		return a.showPlan(p)
	})
}

// planRequest reads what the flags name.
func (a *app) planRequest(f planFlags) (apiv1.PlanRequest, error) {
	var req apiv1.PlanRequest
	if f.manifest != "" {
		m, err := a.parseManifest(f.manifest)
		if err != nil {
			return req, err
		}
		req.Manifest = m.Raw()
	}
	if f.at != "" {
		at, err := evidence.ParseTime(f.at)
		if err != nil {
			return req, usage("--at %q is no time: want RFC 3339 such as 2027-03-01T00:00:00Z, or a date", f.at)
		}
		req.At = at
	}
	for _, path := range f.endorsements {
		found, err := fetch.Documents(path)
		if err != nil {
			return req, err
		}
		req.Endorsements = append(req.Endorsements, found...)
	}
	if f.tcbInfo != "" {
		raw, err := a.readFile(f.tcbInfo)
		if err != nil {
			return req, err
		}
		req.Endorsements = append(req.Endorsements, attest.Endorsement{Kind: attest.KindTCBInfo, Body: raw})
	}
	for _, text := range f.floors {
		platform, setting := splitFloor(text)
		if req.Floors == nil {
			req.Floors = map[string]attest.Floor{}
		}
		floor := req.Floors[platform]
		if err := setFloor(&floor, setting); err != nil {
			return req, err
		}
		req.Floors[platform] = floor
	}
	return req, nil
}

func (a *app) forecastCmd() *cobra.Command {
	var f planFlags
	c := &cobra.Command{
		Use:     "forecast",
		Short:   "Who will lose an identity once coming endorsements count",
		Example: "  ashlar forecast --endorsements new/\n  ashlar forecast --tcb-info tcb_info.json",
		Long: `As ashlar plan --endorsements, for a TCB level set or revocation list that is to
come: where it is not yet valid, the fleet is judged as of its issue date, and
the output says so. What nobody has signed cannot be forecast: every platform
that it is about would be refused for its signature.

Needs a user of the manifest. Exit code 20 if somebody would lose an identity.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.forecast(c.Context(), f) },
	}
	f.register(c)
	return c
}

func (a *app) forecast(ctx context.Context, f planFlags) error {
	if len(f.endorsements) == 0 && f.tcbInfo == "" {
		return usage("forecast needs --endorsements or --tcb-info")
	}
	req, err := a.planRequest(f)
	if err != nil {
		return err
	}
	if begin := beginOf(req.Endorsements); req.At.IsZero() && begin.After(a.p.Now()) {
		req.At = begin
		a.p.Notef("not yet valid: judged as of its issue date, %s\n", begin.Format(time.RFC3339))
	}
	return a.withUser(ctx, f.user, func(cl *client.Client) error {
		p, err := cl.Plan(ctx, req)
		if err != nil {
			return err
		}
		if unsigned := slices.ContainsFunc(p.Effects, func(e apiv1.PlanEffect) bool { return failsBy(e, attest.CodeEndorsement) }); unsigned {
			a.p.Notef("%s a signature of the new endorsements does not hold: what is shown below is not what they will cause\n", a.p.Yellow(term.Warn))
		}
		return a.showPlan(p)
	})
}

// beginOf is when all of the documents are valid.
func beginOf(items []attest.Endorsement) time.Time {
	var begin time.Time
	for _, it := range items {
		for _, d := range endorse.Describe(attest.NewEndorsements(it)) {
			if d.Issued.After(begin) {
				begin = d.Issued
			}
		}
		if issued := bareIssue(it); issued.After(begin) {
			begin = issued
		}
	}
	return begin
}

// bareIssue is the issue date of a TCB info whose signer's chain is not at hand
// (Intel PCS API version 4); zero of anything else.
func bareIssue(it attest.Endorsement) time.Time {
	var doc struct {
		TCBInfo struct {
			IssueDate time.Time `json:"issueDate"`
		} `json:"tcbInfo"`
	}
	if it.Kind != attest.KindTCBInfo || len(it.Chain) > 0 || json.Unmarshal(it.Body, &doc) != nil {
		return time.Time{}
	}
	return doc.TCBInfo.IssueDate
}

func failsBy(e apiv1.PlanEffect, code string) bool {
	return slices.ContainsFunc(e.Failed, func(s attest.Step) bool { return s.Code == code })
}

// showPlan prints a plan; somebody who would lose an identity makes the exit
// code 20.
func (a *app) showPlan(p apiv1.Plan) error {
	done, err := a.p.Structured(p)
	if err != nil {
		return err
	}
	if !done {
		a.p.Printf("as of %s, manifest %s: of %d instances %d keep their identity, %d lose it; %d gain one\n",
			p.At.UTC().Format(time.RFC3339), a.p.Digest(p.Manifest.String()), p.Instances, p.Keeps, p.Loses, p.Gains)
		a.planChanges(p)
		a.planEffects(p)
	}
	if p.Loses > 0 {
		return differentExit
	}
	return nil
}

func (a *app) planChanges(p apiv1.Plan) {
	if len(p.Changes) > 0 {
		a.p.Printf("assumed\n")
	}
	for _, text := range p.Changes {
		a.p.Raw(a.p.Fold("  " + text + "\n"))
	}
	for _, name := range p.Unused {
		a.p.Printf("%s %s is about nothing that runs here\n", a.p.Yellow(term.Warn), name)
	}
	for _, name := range p.Unjudged {
		a.p.Printf("%s %s cannot be judged: its evidence is not kept; it will be from its next renewal on\n", a.p.Yellow(term.Warn), name)
	}
}

// planEffects lists who loses and who gains, and each reason once, with what
// mends it.
func (a *app) planEffects(p apiv1.Plan) {
	var rows [][]string
	var reasons []string
	for _, e := range p.Effects {
		mark, when, ends := term.Mark(false)+" loses", a.p.Until(e.Renewal), a.p.Until(e.NotAfter)
		if e.Outcome == apiv1.Gains {
			mark, when, ends = term.Mark(true)+" gains", "-", "-"
		}
		note := e.Code
		if e.Already {
			note += " (already)"
		}
		rows = append(rows, []string{e.Marble + "/" + shortID(e.Instance), string(e.TEE), mark, when, ends, note})
		if text := a.planReason(e); !slices.Contains(reasons, text) && len(reasons) < maxReasons {
			reasons = append(reasons, text)
		}
	}
	if len(rows) > 0 {
		a.p.Table([]string{"INSTANCE", "TEE", "", "REFUSED", "ENDS", "WHY"}, rows)
	}
	if p.More > 0 {
		a.p.Notef("and %d more (-o json shows 1,000)\n", p.More)
	}
	for _, text := range reasons {
		a.p.Raw(text)
	}
}

// maxReasons bounds the reasons that are told apart in a table of effects.
const maxReasons = 20

func (a *app) planReason(e apiv1.PlanEffect) string {
	var b strings.Builder
	if e.Outcome == apiv1.Gains {
		fmt.Fprintf(&b, "%s no longer in the way: %s  %s\n", term.Mark(true), a.p.Sentence(e.Reason), e.Code)
		return b.String()
	}
	fmt.Fprintf(&b, "%s %s  %s\n", term.Mark(false), a.p.Sentence(e.Reason), e.Code)
	next := problem.Lookup(problem.Code(e.Code)).Next
	for _, s := range e.Failed {
		if s.Code == e.Code && s.Fix.How != "" {
			next = fmt.Sprintf("%s (%s)", s.Fix.How, s.Fix.Who)
			break
		}
	}
	if next != "" {
		fmt.Fprintf(&b, "  next: %s\n", next)
	}
	return b.String()
}

// shortID cuts an instance's id for a table.
func shortID(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}
