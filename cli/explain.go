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
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/ratls"
)

type explainFlags struct {
	at, root, manifest, marble string
	acceptTCB                  []string
	allowDebug                 bool
	user                       userFlags
}

func (a *app) explainCmd() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:     "explain DIR|DECISION|MARBLE|CODE",
		Short:   "Explain a folder of evidence, a decision, or an error code",
		Example: "  ashlar explain evidence/ --at 2025-08-30T05:09:06Z\n  ashlar explain pay/7f2c\n  ashlar explain ATT-012",
		Long: `DIR is a folder with quote.bin (or cert.pem) and the vendor's endorsements
beside it: tcb_info.json and qe_identity.json as served, their issuer chains,
pck_crl.der and root_ca_crl.der; or with report.bin of an AMD SEV-SNP guest and
vcek.der or vlek.der, and if at hand cert_chain.pem and crl.der. It is judged
offline: by default any measurement is accepted, debug is refused, and the TCB
must be UpToDate. AMD has no statuses: of SEV-SNP any TCB, SMT and provisional
firmware are accepted, and the steps say so. --manifest and --marble judge by a
manifest instead. Without --at, the time in the folder's meta.json counts, or
now. Exit code 3 if the evidence is refused.

DECISION is an id such as pay/7f2c19ab or its beginning; MARBLE stands for the
newest refusal of that marble, or else its newest decision.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeMarbles,
		RunE: func(c *cobra.Command, args []string) error { return a.explain(c.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.at, "at", "", "judge as of this time, RFC 3339 or a date")
	c.Flags().StringVar(&f.root, "root", "", "trust anchor, a PEM file, instead of the vendor's")
	c.Flags().StringSliceVar(&f.acceptTCB, "accept-tcb", nil, "accept this TCB status too (repeatable)")
	c.Flags().BoolVar(&f.allowDebug, "allow-debug", false, "accept debug enclaves and guests")
	c.Flags().StringVar(&f.manifest, "manifest", "", "judge by this manifest")
	c.Flags().StringVar(&f.marble, "marble", "", "with --manifest: as this marble")
	f.user.register(c)
	_ = c.RegisterFlagCompletionFunc("marble", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return a.marblesIn(f.manifest), cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

var marbleArg = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// codeArg is a code, or what was meant as one.
var codeArg = regexp.MustCompile(`^([A-Za-z]{3})-?(\d{1,4})$`)

func (a *app) explain(ctx context.Context, arg string, f explainFlags) error {
	if m := codeArg.FindStringSubmatch(arg); m != nil {
		return a.explainCode(problem.Code(strings.ToUpper(m[1]) + "-" + m[2]))
	}
	if info, err := os.Stat(arg); err == nil {
		if !info.IsDir() {
			return problem.New("CLI-003", "%s is a file, want a folder of evidence", arg)
		}
		return a.explainFolder(arg, f)
	}
	if name := marbleArg.MatchString(arg); name && a.hasTrust() {
		return a.withUser(ctx, f.user, func(cl *client.Client) error { return a.explainNewest(ctx, cl, arg) })
	}
	if strings.Count(arg, "/") != 1 || strings.HasPrefix(arg, ".") || strings.HasPrefix(arg, "/") {
		return problem.New("CLI-003", "%s is no folder, no decision such as web/7f2c, and no code such as ATT-012", arg)
	}
	return a.withUser(ctx, f.user, func(cl *client.Client) error {
		err := a.explainDecision(ctx, cl, arg)
		if problem.CodeOf(err) == "CRD-050" {
			return a.otherDecision(ctx, cl, arg, err)
		}
		return err
	})
}

// otherDecision adds to an unknown decision which marble or decision was meant.
func (a *app) otherDecision(ctx context.Context, cl *client.Client, id string, err error) error {
	marble, _, _ := strings.Cut(id, "/")
	if _, err := cl.Marble(ctx, marble); err != nil {
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
func (a *app) explainNewest(ctx context.Context, cl *client.Client, marble string) error {
	if _, err := cl.Marble(ctx, marble); err != nil {
		return err // with what was meant, if it is no marble
	}
	decisions, err := cl.Decisions(ctx, marble, listed)
	if err != nil {
		return err
	}
	if len(decisions) == 0 {
		return problem.New("CRD-050", "nobody has asked to join as %s lately", marble)
	}
	for _, d := range decisions {
		if !d.Accepted {
			return a.explainDecision(ctx, cl, d.ID)
		}
	}
	return a.explainDecision(ctx, cl, decisions[0].ID)
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

func (a *app) explainFolder(dir string, f explainFlags) error {
	set, err := evidence.Load(os.DirFS(dir))
	if problem.CodeOf(err) == "ATT-041" {
		return a.notJudged(err)
	}
	if err != nil {
		return err
	}
	o, err := a.explainOptions(set, f)
	if err != nil {
		return err
	}
	var binding []attest.Step
	if set.Certificate != nil {
		found, steps, err := fromCertificate(set.Certificate)
		if err != nil {
			return err
		}
		if set.Evidence.Raw == nil {
			set.SetQuote(found.Evidence.Raw)
		}
		binding = steps
	}
	v, err := evidence.Explain(set, o)
	if err != nil {
		return err
	}
	v = withSteps(v, binding)
	if done, err := a.p.Structured(v); done {
		if err == nil && !v.OK() {
			err = exitError(problem.Refused.ExitCode())
		}
		return err
	}
	a.p.Notef("judged as of %s\n", o.At.UTC().Format(time.RFC3339))
	a.verdictReport(v)
	if !v.OK() {
		return exitError(problem.Refused.ExitCode())
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

// fromCertificate takes the evidence out of an RA-TLS certificate and checks
// that it vouches for the certificate's key.
func fromCertificate(pemBytes []byte) (ratls.Found, []attest.Step, error) {
	cert, err := evidence.ParseRoot(pemBytes)
	if err != nil {
		return ratls.Found{}, nil, problem.Because(err, "CLI-003", "reading cert.pem")
	}
	found, err := ratls.Extract(cert)
	if err != nil {
		return ratls.Found{}, nil, err
	}
	return found, found.CheckBinding(cert), nil
}

// withSteps adds steps that were made outside of Judge.
func withSteps(v attest.Verdict, steps []attest.Step) attest.Verdict {
	v.Steps = append(v.Steps, steps...)
	for _, s := range steps {
		if !s.OK {
			v.Verdict = attest.Refused
		}
	}
	return v
}

func (a *app) explainOptions(set evidence.Set, f explainFlags) (evidence.Options, error) {
	o := evidence.Options{At: set.VerifyAt}
	if f.at != "" {
		at, err := evidence.ParseTime(f.at)
		if err != nil {
			return o, usage("--at %q is no time: want RFC 3339 such as 2026-01-15T00:00:00Z, or a date", f.at)
		}
		o.At = at
	}
	if o.At.IsZero() {
		o.At = a.p.Now()
	}
	if f.root != "" {
		raw, err := a.readFile(f.root)
		if err != nil {
			return o, err
		}
		if o.Root, err = evidence.ParseRoot(raw); err != nil {
			return o, problem.Because(err, "CLI-003", "reading %s", f.root)
		}
	}
	if f.manifest != "" {
		return o, a.manifestOptions(&o, f)
	}
	accepted := make([]attest.TCBStatus, len(f.acceptTCB))
	for i, s := range f.acceptTCB {
		accepted[i] = attest.TCBStatus(s)
	}
	floor := &attest.DCAPPlatform{AcceptedTCBStatuses: accepted}
	o.Platform = attest.Platform{SGX: floor, TDX: floor, SNP: evidence.AnySNPPlatform()}
	software := evidence.AnyPackage()
	software.AllowDebug = f.allowDebug
	if set.Evidence.TEE == attest.NVIDIA {
		software.Devices = evidence.AnyDevice()
	}
	o.Package = &software
	return o, nil
}

// manifestOptions judges by a marble of a manifest.
func (a *app) manifestOptions(o *evidence.Options, f explainFlags) error {
	m, err := a.parseManifest(f.manifest)
	if err != nil {
		return err
	}
	policy, ok := m.PolicyFor(f.marble)
	if !ok {
		return usage("%s has no marble %q", f.manifest, f.marble).WithNext("%s", suggestion(f.marble, sortedNames(m.Marbles), "--marble ", "pass --marble NAME"))
	}
	o.Package, o.Platform = &policy.Package, policy.Platform
	return nil
}

func (a *app) explainDecision(ctx context.Context, cl *client.Client, id string) error {
	d, err := cl.Decision(ctx, id)
	if err != nil {
		return err
	}
	if done, err := a.p.Structured(d); done {
		return err
	}
	a.p.Simulation = d.Verdict.TEE.Simulated()
	a.decisionSentence(d)
	a.stepTable(d.Verdict.Steps)
	a.findings(d.Verdict)
	if d.Nearest != "" {
		a.p.Printf("nearest package: %s, fields that differ: %d\n", d.Nearest, d.Distance)
	}
	a.p.Printf("audit record %d, sha256 %s\n", d.Seq, a.p.Digest(d.Record.String()))
	if slices.ContainsFunc(d.Verdict.Steps, func(s attest.Step) bool { return s.Want == attest.NotShown }) {
		a.p.Notef("what was wanted is shown to users of the manifest: --cert and --key\n")
	}
	return nil
}

// decisionSentence says how a decision ended, and what was asked when.
func (a *app) decisionSentence(d apiv1.Decision) {
	verb := map[string]string{"activate": "asked to join", "renew": "asked to renew its lease"}[d.Purpose]
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
