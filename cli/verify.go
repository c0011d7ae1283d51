package cli

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

type verifyFlags struct {
	breakGlass                               bool
	policy, manifest, out, bundle, at, nonce string
	dryRun                                   bool
	witnesses                                witnessFlags
}

func (a *app) verifyCmd() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:     "verify [ADDR|BUNDLE]",
		Short:   "Attest a coordinator, write the trust bundle, or judge a bundle",
		Example: "  ashlar verify shop.example:4433 --policy policy.json --manifest manifest.json\n  ashlar verify shop.example:4433 --policy policy.json --bundle bundle.json\n  ashlar verify bundle.json --policy policy.json\n  curl --cacert .ashlar/bundle.pem https://shop.example:4433/v1/status",
		Long: `Ask the coordinator for evidence over a fresh nonce, judge it against the
policy, and check that it binds the TLS key, the root CA, the manifest and the
log. Where the trust directory remembers the deployment, its log must begin with
the one that was seen, and the manifest in force be the one that was set last.
--witness demands co-signatures of the log besides, as a policy file may.
Nothing is written unless everything holds. Without --policy, the policy that an
earlier verify kept in the trust directory is used.

--bundle FILE keeps all that was seen, so that anybody can judge it again later.
BUNDLE is such a file (or - for standard input): it is judged offline, as of the
time that it names or --at, by --policy or the trust directory's. Without a
policy it is shown what the evidence says, and the exit code is 3.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && isBundle(args[0]) {
				return a.verifyBundle(args[0], f)
			}
			return a.verify(c.Context(), args, f)
		},
	}
	c.Flags().StringVar(&f.policy, "policy", "", "what the coordinator must be, a policy file")
	c.Flags().StringVar(&f.manifest, "manifest", "", "what must be in force: a manifest file or its digest")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "judge, and write nothing")
	c.Flags().StringVar(&f.out, "out", "", "write to this directory instead of the trust directory, with bundle.json")
	c.Flags().StringVar(&f.bundle, "bundle", "", "write all that was seen into this file, to be judged again")
	c.Flags().StringVar(&f.nonce, "nonce", "", "ask with this nonce, or hold a bundle to it: 64 hex digits, from who will read the bundle")
	f.witnesses.register(c)
	c.Flags().BoolVar(&f.breakGlass, "allow-break-glass", false, "accept a deployment in which rules of the manifest are lifted for a while")
	c.Flags().StringVar(&f.at, "at", "", "judge a bundle as of this time, RFC 3339 or a date")
	return c
}

func (a *app) verify(ctx context.Context, args []string, f verifyFlags) error {
	if f.at != "" {
		return problem.New("CLI-029", "--at is for bundles: a coordinator is judged as of now")
	}
	if f.out != "" {
		a.trust = f.out
		if f.bundle == "" {
			f.bundle = filepath.Join(f.out, bundleName)
		}
	}
	trust, err := client.LoadTrust(a.trust)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	remembered := &trust.Remembered
	if err != nil {
		remembered = nil
	}
	addr := cmp.Or(strings.Join(args, ""), a.address, trust.Address)
	if addr == "" {
		return problem.New("CLI-007", "no address was given")
	}
	if f.policy == "" {
		if remembered == nil {
			return usage("verify needs a policy: what should the coordinator be?").WithNext("ashlar verify %s --policy FILE", addr)
		}
		f.policy = filepath.Join(a.trust, policyName)
	}
	in, err := a.loadPolicy(f.policy)
	if err != nil {
		return err
	}
	o, err := a.demands(in, f)
	if err != nil {
		return err
	}
	o.Remembered = remembered
	v, err := a.attested(ctx, addr, in, o, f)
	if err != nil {
		return err
	}
	return a.verified(v, f)
}

// attested judges the coordinator at an address, and keeps what it showed.
func (a *app) attested(ctx context.Context, addr string, in trustInput, o client.Options, f verifyFlags) (established, error) {
	o.Entries = entriesToRead(o.Remembered)
	cl, err := client.Dial(ctx, addr, o)
	if err != nil {
		return established{}, a.refusedCoordinator(err)
	}
	defer cl.Close()
	v := established{Verified: cl.Verified()}
	v.inForce, v.unread = a.active(ctx, cl)
	if err := a.lifted(v.Verified, f); err != nil || f.dryRun {
		return v, err
	}
	if err := client.WriteTrust(a.trust, v.Verified); err != nil {
		return v, err
	}
	if err := a.keepPolicy(in.raw); err != nil {
		return v, err
	}
	return v, a.writeBundle(ctx, cl, f.bundle)
}

// demands is what a coordinator is dialled with, by a policy and the flags.
func (a *app) demands(in trustInput, f verifyFlags) (client.Options, error) {
	o := client.Options{Policy: in.policy, Verifiers: in.verifiers, Timeout: a.timeout}
	var err error
	if o.Manifest, err = a.wantedManifest(f.manifest); err != nil {
		return o, err
	}
	if o.Nonce, err = f.challenge(); err != nil {
		return o, err
	}
	o.Witnessing, err = a.witnessing(in, f.witnesses)
	return o, err
}

// wantedManifest turns --manifest into a digest: of the file, or as given.
func (a *app) wantedManifest(s string) (attest.Hex, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := hex.DecodeString(s); err == nil && len(d) == 32 {
		return d, nil
	}
	raw, err := a.readFile(s)
	if err != nil {
		return nil, err
	}
	d := manifest.DigestOf(raw)
	return d[:], nil
}

// refusedCoordinator shows the table of a refusal before its error.
func (a *app) refusedCoordinator(err error) error {
	v, ok := verdictOf(err)
	if !ok {
		return err
	}
	if done, werr := a.p.Structured(v); done {
		if werr != nil {
			return werr
		}
		return err
	}
	a.verdictReport(v)
	failed := v.Failed()
	return problem.New("CRD-100", "the coordinator is not what the policy wants: %s, %d of %d checks fail", failed[0].Field, len(failed), len(v.Steps)).
		WithNext("ashlar explain %s", failed[0].Code)
}

// verifiedDocument is what a verification establishes, for machines.
type verifiedDocument struct {
	Address    string           `json:"address"`
	Verdict    attest.Verdict   `json:"verdict"`
	Manifest   attest.Hex       `json:"manifest,omitempty"`
	Revision   int              `json:"revision"`
	Floors     apiv1.Floors     `json:"floors,omitzero"`
	BreakGlass []apiv1.Incident `json:"breakGlass,omitempty"`
	// Coordinators may hold the state too: as the manifest in force says, where it
	// could be read.
	Coordinators *manifest.Coordinators `json:"coordinators,omitempty"`
	Log          logDocument            `json:"log"`
	Trust        string                 `json:"trust"`
	Simulation   bool                   `json:"simulation"`
}

func (a *app) documentOf(v established) verifiedDocument {
	s := v.Statement
	return verifiedDocument{v.Address, v.Verdict, s.Manifest, s.Revision, v.Floors, v.BreakGlass, v.coordinators(), logOf(v.Verified), a.trust, s.Evidence.TEE.Simulated()}
}

func (a *app) verified(v established, f verifyFlags) error {
	if done, err := a.p.Structured(a.documentOf(v)); done {
		return err
	}
	a.showVerified(v, f)
	host := v.Address
	if strings.HasPrefix(host, ":") {
		host = "localhost" + host
	}
	if !f.dryRun {
		a.p.Notef("next: curl --cacert %s https://%s/v1/status\n", filepath.Join(a.trust, client.BundleFile), host)
	}
	return nil
}

// showVerified is what a verification establishes, for people.
func (a *app) showVerified(v established, f verifyFlags) {
	s := v.Statement
	p, ok := a.p, a.p.Green(term.OK)
	p.Printf("evidence      %s quote, %d bytes, fresh (our nonce)\n", s.Evidence.TEE, len(s.Evidence.Raw))
	p.Printf("  tcb         %s %s%s\n", ok, orDash(string(v.Verdict.TCBStatus)), advisories(v.Verdict.Advisories))
	p.Printf("  binding     %s this TLS key, root CA, manifest and audit head\n", ok)
	p.Printf("policy\n")
	a.stepTable(v.Verdict.Steps)
	switch {
	case len(s.Manifest) == 0:
		p.Printf("manifest      %s none is set yet: unless the coordinator has an owner, whoever comes first may set it\n", p.Yellow(term.Warn))
	case f.manifest != "":
		p.Printf("manifest      %s %s is %s, byte for byte\n", p.Green(term.OK), p.Digest(s.Manifest.String()), f.manifest)
	default:
		p.Printf("manifest      %s, revision %d, not compared (--manifest FILE)\n", p.Digest(s.Manifest.String()), s.Revision)
	}
	a.coordinatorLines(v)
	a.logLines(v.Verified)
	a.epochLine(v.Epoch)
	a.floorLines(v.Floors)
	if f.dryRun {
		p.Printf("Verified. Dry run: nothing was written\n")
		return
	}
	p.Printf("Verified. Wrote %s (root CA, valid to %s)\n", filepath.Join(a.trust, client.BundleFile), v.Root.NotAfter.UTC().Format("2006-01-02"))
	if f.bundle != "" {
		p.Printf("bundle        %s, to be judged again: ashlar verify %s\n", f.bundle, f.bundle)
	}
}
