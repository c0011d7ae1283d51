package cli

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/shares"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func (a *app) recoverCmd() *cobra.Command {
	c := &cobra.Command{Use: "recover", Short: "Open a state by its holders' shares where no platform opens it",
		Example: "  ashlar recover status\n  ashlar recover share --recovery-key alice.age --user alice"}
	c.AddCommand(a.recoverStatusCmd(), a.recoverKeyCmd(),
		a.shareCmd(apiv1.PurposeRecover, "share", "Give your share to a coordinator that waits for recovery",
			"Verifies the coordinator's evidence first. Your share is decrypted here and\nencrypted again to the attested coordinator alone; your certificate's key signs\nfor which session. With the last share that is needed the state opens."),
		a.shareCmd(apiv1.PurposeDrill, "drill", "Rehearse with a running coordinator; nothing changes",
			"The same as ashlar recover share, with a coordinator that runs: it finds out if\nthe shares would open its state, writes that into the log, keeps none."),
		a.shareCmd(apiv1.PurposeRollback, "accept-rollback", "Give your share to accept that the state is an older one",
			"A coordinator that was shown proof of a newer state than its own issues nothing\nany more. Put the newest state back if you have it. If not, holders accept this\none with their shares: what the lost part of the log had done is gone, and a new\nepoch begins, which everybody sees who verifies the coordinator."))
	return c
}

// recoveryOptions are address and policy of a coordinator that may have no root to
// show.
func (a *app) recoveryOptions(name string) (string, client.Options, error) {
	addr := a.address
	if addr == "" {
		t, err := client.LoadTrust(a.trust)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", client.Options{}, err
		}
		addr = t.Address
	}
	if addr == "" {
		return "", client.Options{}, problem.New("CLI-007", "no address, and %s remembers none", a.trust)
	}
	if name == "" {
		name = filepath.Join(a.trust, policyName)
	}
	in, err := a.loadPolicy(name)
	return addr, client.Options{Policy: in.policy, Verifiers: in.verifiers, Timeout: a.timeout}, err
}

func (a *app) recoverStatusCmd() *cobra.Command {
	var policy string
	c := &cobra.Command{Use: "status", Short: "Show who holds shares, and whose are missing", Example: "  ashlar recover status\n  ashlar recover status -a new.example:4433 --policy policy.json",
		Long: "Works with a coordinator that waits for recovery and with one that runs.", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			addr, o, err := a.recoveryOptions(policy)
			if err != nil {
				return err
			}
			st, err := recoveryStatus(c.Context(), addr, o)
			if err != nil {
				return err
			}
			if done, err := a.p.Structured(st); done {
				return err
			}
			a.showRecovery(st)
			return nil
		}}
	c.Flags().StringVar(&policy, "policy", "", "what the coordinator must be; the trust directory's policy if empty")
	return c
}

// recoveryStatus asks whoever answers: a coordinator that waits, or one that
// runs, which attests itself as usual.
func recoveryStatus(ctx context.Context, addr string, o client.Options) (apiv1.Recovery, error) {
	r, err := client.DialRecovery(ctx, addr, apiv1.PurposeRecover, o)
	if err == nil {
		defer r.Close()
		return r.Status(ctx)
	}
	if code := problem.CodeOf(err); code != "REC-031" && code != "REC-005" {
		return apiv1.Recovery{}, err
	}
	cl, err := client.Dial(ctx, addr, o)
	if err != nil {
		return apiv1.Recovery{}, err
	}
	defer cl.Close()
	return cl.Recovery(ctx)
}

// sharesGiven says to whom a manifest gave shares.
func (a *app) sharesGiven(d *apiv1.RecoveryDocument) {
	if d == nil {
		return
	}
	var names []string
	for _, h := range d.Holders {
		names = append(names, h.User)
	}
	a.p.Printf("%s shares of generation %d were given out to %s; %d open the state\n", a.p.Green(term.OK), d.Generation, strings.Join(names, ", "), d.Threshold)
	a.p.Notef("  next: have each of them rehearse: ashlar recover drill\n")
}

// epochLine says that the state has been recovered, restored or rolled back.
func (a *app) epochLine(e apiv1.Epoch) {
	if e.Number > 1 {
		a.p.Printf("epoch         %d, since %s, by %s of the state at %d log entries\n", e.Number, e.Begun.UTC().Format(time.RFC3339), e.Cause, e.Size)
	}
}

func (a *app) showRecovery(st apiv1.Recovery) {
	a.p.Printf("%s\n", st.State)
	if st.Reason != "" {
		a.p.Printf("  %s\n", st.Reason)
	}
	d := st.Document
	if d == nil {
		a.p.Printf("nobody holds a share: a lost platform is a lost state\n")
		a.p.Notef("next: add \"recovery\" to the manifest\n")
		return
	}
	a.p.Printf("deployment %s, generation %d: %d of %d shares open the state\n", d.Deployment[:8], d.Generation, d.Threshold, len(d.Holders))
	var rows [][]string
	for _, h := range d.Holders {
		kind := "RSA"
		if strings.HasPrefix(h.Key, "age1") {
			kind = "age"
		}
		rows = append(rows, []string{h.User, kind})
	}
	a.p.Table([]string{"HOLDER", "KEY"}, rows)
	for _, p := range st.Sessions {
		a.showProgress(p)
	}
}

func (a *app) showProgress(p apiv1.RecoveryProgress) {
	if p.Done {
		switch p.Purpose {
		case apiv1.PurposeDrill:
			a.p.Printf("%s the shares of %s would open the state; nothing was changed\n", a.p.Green(term.OK), strings.Join(p.Given, ", "))
		case apiv1.PurposeRollback:
			a.p.Printf("%s accepted by %s: epoch %d begins\n", a.p.Green(term.OK), strings.Join(p.Given, ", "), p.Epoch)
		default:
			a.p.Printf("%s the state is open, by the shares of %s\n", a.p.Green(term.OK), strings.Join(p.Given, ", "))
		}
		return
	}
	a.p.Printf("%s: %d of %d shares are in (%s), until %s\n", p.Purpose, len(p.Given), p.Needed, strings.Join(p.Given, ", "), p.Until.UTC().Format(time.RFC3339))
	a.p.Printf("  missing: %s\n", strings.Join(p.Missing, ", "))
}

type shareFlags struct {
	user, key, policy string
	cert              userFlags
}

// shareCmd gives a share for a purpose.
func (a *app) shareCmd(purpose, word, short, long string) *cobra.Command {
	var f shareFlags
	c := &cobra.Command{Use: word, Short: short, Long: long, Args: cobra.NoArgs,
		Example: "  ashlar recover " + word + " --user alice --recovery-key alice.age",
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.giveShare(c.Context(), purpose, f)
			if err != nil {
				return err
			}
			if done, err := a.p.Structured(p); done {
				return err
			}
			a.showProgress(p)
			return nil
		}}
	f.cert.register(c)
	c.Flags().StringVar(&f.user, "user", os.Getenv("ASHLAR_USER"), "your name in the manifest ($ASHLAR_USER)")
	c.Flags().StringVar(&f.key, "recovery-key", os.Getenv("ASHLAR_RECOVERY_KEY"), "your private recovery key: age or RSA ($ASHLAR_RECOVERY_KEY)")
	c.Flags().StringVar(&f.policy, "policy", "", "what the coordinator must be; the trust directory's policy if empty")
	return c
}

func (a *app) giveShare(ctx context.Context, purpose string, f shareFlags) (apiv1.RecoveryProgress, error) {
	var none apiv1.RecoveryProgress
	holder, err := a.holder(f)
	if err != nil {
		return none, err
	}
	addr, o, err := a.recoveryOptions(f.policy)
	if err != nil {
		return none, err
	}
	r, err := client.DialRecovery(ctx, addr, purpose, o)
	if err != nil {
		return none, err
	}
	defer r.Close()
	a.p.Notef("%s coordinator verified; session %s of deployment %s, generation %d\n", a.p.Green(term.OK), r.Session.Purpose, r.Session.Deployment[:8], r.Session.Generation)
	st, err := r.Status(ctx)
	if err != nil {
		return none, err
	}
	if st.Document == nil {
		return none, problem.New("REC-005", "the coordinator has no recovery document")
	}
	if c := r.Session.Checkpoint; c != nil {
		if err := a.confirm("Accept the state whose log has %d entries, root %s?", c.Size, c.Hash); err != nil {
			return none, err
		}
	}
	m, err := holder.Approve(*st.Document, r.Statement.Session, time.Now())
	if err != nil {
		return none, err
	}
	return r.Send(ctx, m)
}

// holder reads the keys of who gives a share.
func (a *app) holder(f shareFlags) (shares.Holder, error) {
	h := shares.Holder{User: f.user, Random: rand.Reader}
	if f.user == "" || f.key == "" {
		return h, problem.New("CLI-084", "wanted --user and --recovery-key")
	}
	cert, err := f.cert.load()
	if err != nil {
		return h, err
	}
	if cert == nil {
		return h, problem.New("CLI-084", "wanted --cert and --key: they sign what you send")
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return h, problem.New("CLI-084", "the key of your certificate cannot sign")
	}
	h.Signer = signer
	raw, err := a.readFile(f.key)
	if err != nil {
		return h, err
	}
	h.Key, err = shares.ParsePrivateKey(raw)
	return h, err
}

func (a *app) recoverKeyCmd() *cobra.Command {
	var bits int
	c := &cobra.Command{Use: "key FILE", Short: "Make a recovery key", Example: "  ashlar recover key alice.age\n  ashlar recover key alice.pem --rsa 4096",
		Long: "Writes the private key to FILE (mode 0600, never over a file that exists) and\nprints the public one, for \"recovery\" in the manifest. age by default. Keys of\nage-keygen and openssl do too.", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.makeKey(args[0], bits) }}
	c.Flags().IntVar(&bits, "rsa", 0, "an RSA key of so many bits, 2048 to 4096, in place of age")
	return c
}

func (a *app) makeKey(path string, bits int) error {
	key, err := shares.NewPrivateKey()
	if bits != 0 {
		key, err = shares.NewRSAKey(rand.Reader, bits)
	}
	if err != nil {
		return err
	}
	public, err := key.Public()
	if err != nil {
		return err
	}
	file, err := key.Reveal()
	if err != nil {
		return err
	}
	if err := durable.CreateFile(path, file, 0o600); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return problem.New("CLI-009", "%s exists", path)
		}
		return problem.Because(err, "CLI-003", "writing %s", path)
	}
	if done, err := a.p.Structured(map[string]string{"file": path, "public": public}); done {
		return err
	}
	a.p.Raw(strings.TrimSpace(public) + "\n")
	a.p.Notef("%s the private key is in %s: keep it apart from the coordinator, and a copy of it\n", a.p.Green(term.OK), path)
	return nil
}
