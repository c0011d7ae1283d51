package cli

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

type explainFlags struct {
	at, root, manifest, marble string
	acceptTCB                  []string
	allowDebug, redacted       bool
	user                       userFlags
	cluster                    clusterFlags
}

func (a *app) explainCmd() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:     "explain DIR|FILE|DECISION|MARBLE|CODE",
		Short:   "Explain evidence, a decision, or an error code",
		Example: "  ashlar explain evidence/ --at 2025-08-30T05:09:06Z\n  ashlar explain pay/7f2c\n  ashlar explain ATT-012",
		Long: `DIR is a folder with quote.bin (or cert.pem) and the vendor's endorsements
beside it: tcb_info.json and qe_identity.json as served, their issuer chains,
pck_crl.der and root_ca_crl.der; or with report.bin of an AMD SEV-SNP guest and
vcek.der or vlek.der, and if at hand cert_chain.pem and crl.der. It is judged
offline: by default any measurement is accepted, debug is refused, and the TCB
must be UpToDate. AMD has no statuses: of SEV-SNP any TCB, SMT and provisional
firmware are accepted, and the steps say so. --manifest and --marble judge by a
manifest instead, and without --marble by the package that comes nearest; what
fails comes with the edit of the manifest that would accept it. Without --at,
the time in the folder's meta.json counts, or now. Exit code 3 if it is refused.

FILE is one of these alone (a quote, a report, a certificate), with endorsements
beside it, or evidence.json of a trust folder that verify has written.

DECISION is an id such as pay/7f2c19ab or its beginning; MARBLE stands for the
newest refusal of that marble, or else its newest decision. coordinators stands
for those that asked for the key of the state: coordinators/7f2c19ab.

pod NAME says why a pod is as it is: refused at admission, not injected, without
a node, waiting or refused; and where the trust folder has a coordinator, what
that decided. NAME may be of a pod that could not be created, or of a
Deployment, StatefulSet, DaemonSet or Job.`,
		Args: explainArgs, ValidArgsFunction: a.completeExplain(&f),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 2 {
				return a.explainPod(c.Context(), args[1], f)
			}
			return a.explain(c.Context(), args[0], f)
		},
	}
	c.Flags().StringVar(&f.at, "at", "", "judge as of this time, RFC 3339 or a date")
	c.Flags().StringVar(&f.root, "root", "", "trust anchor, a PEM file, instead of the vendor's")
	c.Flags().StringSliceVar(&f.acceptTCB, "accept-tcb", nil, "accept this TCB status too (repeatable)")
	c.Flags().BoolVar(&f.allowDebug, "allow-debug", false, "accept debug enclaves and guests")
	c.Flags().StringVar(&f.manifest, "manifest", "", "judge by this manifest")
	c.Flags().StringVar(&f.marble, "marble", "", "with --manifest: as this marble")
	f.user.register(c)
	f.cluster.register(c, "namespace of the pod")
	c.Flags().BoolVar(&f.redacted, "redacted", false, "show what the marble is told of a refusal")
	_ = c.RegisterFlagCompletionFunc("marble", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return a.marblesIn(f.manifest), cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

// coordinators stands for the manifest's section of that name where decisions are
// about a marble.
const coordinators = "coordinators"

var marbleArg = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// codeArg is a code, or what was meant as one.
var codeArg = regexp.MustCompile(`^([A-Za-z]{3})-?(\d{1,4})$`)

func (a *app) explain(ctx context.Context, arg string, f explainFlags) error {
	if m := codeArg.FindStringSubmatch(arg); m != nil {
		return a.explainCode(problem.Code(strings.ToUpper(m[1]) + "-" + m[2]))
	}
	if _, err := os.Stat(arg); err == nil {
		return a.explainEvidence(arg, f)
	}
	if marbleArg.MatchString(arg) && (a.hasTrust() || arg == coordinators) {
		return a.withUser(ctx, f.user, func(cl *client.Client) error { return a.explainNewest(ctx, cl, arg, f) })
	}
	if strings.Count(arg, "/") != 1 || strings.HasPrefix(arg, ".") || strings.HasPrefix(arg, "/") {
		return problem.New("CLI-003", "%s is no folder or file, no decision such as web/7f2c, and no code such as ATT-012", arg)
	}
	return a.withUser(ctx, f.user, func(cl *client.Client) error {
		err := a.explainDecision(ctx, cl, arg, f)
		if problem.CodeOf(err) == "CRD-050" {
			return a.otherDecision(ctx, cl, arg, err)
		}
		return err
	})
}

// otherDecision adds to an unknown decision which marble or decision was meant.
func (a *app) otherDecision(ctx context.Context, cl *client.Client, id string, err error) error {
	marble, _, _ := strings.Cut(id, "/")
	if _, err := cl.Marble(ctx, marble); err != nil && marble != coordinators {
		return err
	}
	decisions, listErr := cl.Decisions(ctx, marble, listed)
	if listErr != nil {
		return err
	}
	ids := make([]string, len(decisions))
	for i, d := range decisions {
		ids[i] = d.ID
	}
	return problem.From(err).WithNext("%s", suggestion(id, ids, "ashlar explain ", "ashlar explain "+marble+" shows the newest"))
}

// explainNewest explains the newest refusal of a marble, or else its newest
// decision.
func (a *app) explainNewest(ctx context.Context, cl *client.Client, marble string, f explainFlags) error {
	m, err := cl.Marble(ctx, marble)
	if err != nil && marble != coordinators {
		return err // with what was meant, if it is no marble
	}
	for _, i := range m.Instances {
		if i.Reason != "" {
			a.p.Note(fmt.Sprintf("%s %s/%s is %s: %s\n", a.p.Yellow(term.Warn), marble, a.p.Digest(i.ID), i.Stage, term.Line(i.Reason)))
		}
	}
	decisions, err := cl.Decisions(ctx, marble, listed)
	if err != nil {
		return err
	}
	if len(decisions) == 0 && marble == coordinators {
		return problem.New("CRD-050", "no further coordinator has asked for the key of the state lately")
	}
	if len(decisions) == 0 {
		return problem.New("CRD-050", "nobody has asked to join as %s lately", marble)
	}
	for _, d := range decisions {
		if !d.Accepted {
			return a.explainDecision(ctx, cl, d.ID, f)
		}
	}
	return a.explainDecision(ctx, cl, decisions[0].ID, f)
}

func (a *app) explainCode(code problem.Code) error {
	if !problem.Known(code) {
		var all []string
		for _, e := range problem.All() {
			all = append(all, string(e.Code))
		}
		return usage("%s is no code", code).WithNext("%s", suggestion(string(code), all, "", "docs/errors.md lists them all"))
	}
	e := problem.Lookup(code)
	if done, err := a.p.Structured(map[string]any{"code": e.Code, "kind": e.Kind.String(), "exit": e.Kind.ExitCode(),
		"status": e.Kind.HTTPStatus(), "title": e.Title, "next": e.Next}); done {
		return err
	}
	a.p.Printf("%s  %s\n", a.p.Bold(string(e.Code)), e.Title)
	a.p.Printf("  kind  %s (exit %d, HTTP %d)\n", e.Kind, e.Kind.ExitCode(), e.Kind.HTTPStatus())
	if e.Next != "" {
		a.p.Printf("  next  %s\n", e.Next)
	}
	return nil
}

// notJudged answers for evidence of a kind that there is no verifier for: in a
// machine format, a verdict like any other.
func (a *app) notJudged(err error) error {
	e := problem.From(err)
	v := attest.Verdict{Advisories: []string{}, Claims: attest.Claims{TCB: attest.TCBClaims{Advisories: []string{}}}, Verdict: attest.Refused,
		Steps: []attest.Step{{Code: string(e.Code), Field: "evidence.kind", Want: "a quote or report of SGX, TDX or SEV-SNP", Got: e.Detail,
			Source: "folder", Fix: attest.Fix{Who: attest.Operator, How: e.Next}}}}
	done, werr := a.p.Structured(v)
	if werr != nil {
		return werr
	}
	if done {
		return exitError(problem.Refused.ExitCode())
	}
	return err
}

func (a *app) explainDecision(ctx context.Context, cl *client.Client, id string, f explainFlags) error {
	d, err := cl.Decision(ctx, id)
	if err != nil {
		return err
	}
	changes, err := a.decisionChanges(ctx, cl, d, f)
	if err != nil {
		return err
	}
	if f.redacted {
		d = d.Redacted()
	}
	if done, err := a.p.Structured(struct {
		apiv1.Decision
		Changes []attest.Change `json:"changes,omitempty"`
	}{d, changes}); done {
		return err
	}
	a.p.Simulation = a.p.Simulation || d.Verdict.TEE.Simulated()
	a.decisionSentence(d)
	a.stepTable(d.Verdict.Steps)
	a.findings(d.Verdict)
	if d.Nearest != "" {
		a.p.Printf("nearest package: %s, fields that differ: %d\n", d.Nearest, d.Distance)
	}
	file := f.manifest
	if file == "" {
		file = "manifest in force"
	}
	a.changeReport(d.Verdict, changes, file)
	a.p.Printf("audit record %d, sha256 %s\n", d.Seq, a.p.Digest(d.Record.String()))
	if !f.redacted && slices.ContainsFunc(d.Verdict.Steps, func(s attest.Step) bool { return s.Want == attest.NotShown }) {
		a.p.Notef("what was wanted is shown to users of the manifest: --cert and --key\n")
	}
	return nil
}

// decisionChanges are the edits that would accept what a decision refused, with
// the lines of --manifest, or else of the manifest in force.
func (a *app) decisionChanges(ctx context.Context, cl *client.Client, d apiv1.Decision, f explainFlags) ([]attest.Change, error) {
	hidden := slices.ContainsFunc(d.Verdict.Steps, func(s attest.Step) bool { return s.Want == attest.NotShown })
	changes := d.Verdict.Changes()
	if hidden || f.redacted || len(changes) == 0 {
		return nil, nil
	}
	if f.manifest != "" {
		m, err := a.parseManifest(f.manifest)
		if err != nil {
			return nil, err
		}
		return located(changes, m.Raw()), nil
	}
	if m, err := a.active(ctx, cl); err == nil && m != nil {
		changes = located(changes, m.Raw())
	}
	return changes, nil // without lines where it cannot be read
}

// decisionSentence says how a decision ended, and what was asked when.
func (a *app) decisionSentence(d apiv1.Decision) {
	verb := map[string]string{"activate": "asked to join", "renew": "asked to renew its lease", "replica": "asked for the key of the state, as a further coordinator,"}[d.Purpose]
	if verb == "" {
		verb = "asked for " + d.Purpose
	}
	asked := fmt.Sprintf("It %s at %s", verb, d.Time.UTC().Format(time.RFC3339))
	if d.Accepted {
		a.p.Printf("%s %s was accepted.\n%s.\n", a.p.Green(term.OK), d.ID, asked)
		return
	}
	a.p.Printf("%s %s was refused.  %s\n%s: %s\n", a.p.Red(term.Bad), d.ID, d.Code, asked, a.p.Sentence(d.Reason))
}
