package cli

import (
	"context"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxSecret is the size limit of a value, in bytes.
const maxSecret = 64 << 10

func (a *app) secretCmd() *cobra.Command {
	c := &cobra.Command{Use: "secret", Short: "Secrets of the deployment: supply, look, rotate, refer to",
		Example: "  ashlar secret list\n  ashlar secret set apiToken --file token.txt\n  ashlar secret rotate sessionKey"}
	c.AddCommand(a.secretListCmd(), a.secretSetCmd(), a.secretGetCmd(), a.secretRotateCmd(), a.secretRefCmd())
	return c
}

func (a *app) secretListCmd() *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "list", Short: "List secrets with versions and who reads them; no values",
		Example: "  ashlar secret list\n  ashlar secret list -o json", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withUser(c.Context(), user, func(cl *client.Client) error { return a.listSecrets(c.Context(), cl) })
		}}
	user.register(c)
	return c
}

func (a *app) listSecrets(ctx context.Context, cl *client.Client) error {
	all := apiv1.Secrets{Secrets: []apiv1.Secret{}}
	for after := ""; ; {
		page, err := cl.Secrets(ctx, after, 1000)
		if err != nil {
			return err
		}
		all.Secrets = append(all.Secrets, page.Secrets...)
		if after = page.Next; after == "" {
			break
		}
	}
	if done, err := a.p.Structured(all); done {
		return err
	}
	if len(all.Secrets) == 0 {
		a.p.Printf("the manifest has no secrets\n")
		return nil
	}
	var rows [][]string
	for _, s := range all.Secrets {
		rows = append(rows, []string{s.Name, s.Type, secretVersion(s), a.age(s.MadeAt), a.ahead(s.RotatesAt), a.short(strings.Join(s.Readers, ","))})
	}
	a.p.Table([]string{"SECRET", "TYPE", "VERSION", "MADE", "ROTATES", "READERS"}, rows)
	for _, s := range all.Secrets {
		if s.Type == "opaque" && !s.Present {
			a.p.Printf("! %s was not supplied yet: ashlar secret set %s\n", s.Name, s.Name)
		}
	}
	return nil
}

// secretVersion says which version is the newest, and which counts besides.
func secretVersion(s apiv1.Secret) string {
	switch {
	case s.Type == "counter", s.Version == 0:
		return "-"
	case !s.Present:
		return fmt.Sprintf("%d, destroyed", s.Version)
	case s.Previous != 0:
		return fmt.Sprintf("%d, %d", s.Version, s.Previous)
	}
	return fmt.Sprint(s.Version)
}

func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return a.p.Since(t)
}

func (a *app) ahead(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return a.p.Ahead(t)
}

type secretSetFlags struct {
	user    userFlags
	file    string
	follows int64
}

func (a *app) secretSetCmd() *cobra.Command {
	var f secretSetFlags
	c := &cobra.Command{Use: "set NAME", Short: "Supply the value of an opaque secret",
		Example: "  ashlar secret set apiToken --file token.txt\n  printf %s hunter2 | ashlar secret set password",
		Long: `Encrypts the value to the coordinator, whose evidence was verified on this
connection, before it leaves this machine: bound to the deployment, the secret
and the version that it follows. Whoever ends TLS in between, or sends it again,
gets nothing. All bytes count, the last line end too. Marbles that run get it at
once, and the version before for the overlap that the manifest gives.
Needs a user whose role has the action writeSecret:NAME or writeSecret:*.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			value, err := a.readUpTo(f.file, maxSecret)
			if err != nil {
				return err
			}
			if len(value) == 0 {
				return problem.New("CLI-061", "%s is empty", f.file)
			}
			return a.withUser(c.Context(), f.user, func(cl *client.Client) error { return a.setSecret(c.Context(), cl, args[0], value, f.follows) })
		}}
	f.user.register(c)
	c.Flags().StringVar(&f.file, "file", "-", "file with the value, at most 64 KiB; - is standard input")
	c.Flags().Int64Var(&f.follows, "follows", -1, "version that the value follows, 0 for the first; the newest if left out")
	return c
}

func (a *app) setSecret(ctx context.Context, cl *client.Client, name string, value []byte, follows int64) error {
	if follows < 0 {
		now, err := cl.Secret(ctx, name)
		if err != nil {
			return err
		}
		follows = int64(now.Version)
	}
	set, err := cl.SetSecret(ctx, name, value, uint64(follows))
	if err != nil {
		return err
	}
	if done, err := a.p.Structured(set); done {
		return err
	}
	a.p.Printf("%s secret %s has version %d\n", a.p.Green(term.OK), set.Name, set.Version)
	a.noteOverlap(set.Version, set.OverlapEnds)
	return nil
}

func (a *app) noteOverlap(version uint64, ends time.Time) {
	if !ends.IsZero() {
		a.p.Printf("  version %d counts until %s\n", version-1, ends.UTC().Format(time.RFC3339))
	}
}

type secretGetFlags struct {
	user          userFlags
	reveal        bool
	instance, out string
}

func (a *app) secretGetCmd() *cobra.Command {
	var f secretGetFlags
	c := &cobra.Command{Use: "get NAME", Short: "Show the value of a secret",
		Example: "  ashlar secret get apiToken --out token.txt\n  ashlar secret get apiToken --reveal\n  ashlar secret get own --instance web/7f2c19ab --out own.key",
		Long: `The answer is encrypted to a key that is made for it here. That you have seen
the value is in the log before you have. Keys for use only are shown to nobody.
Keys are written as PEM with their certificates, everything else as it is.
Needs a user whose role has the action readSecret:NAME or readSecret:*.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if a.p.TTY && f.out == "" && !f.reveal {
				return problem.New("CLI-060", "the value of secret %s would be shown on the terminal", args[0])
			}
			return a.withUser(c.Context(), f.user, func(cl *client.Client) error { return a.getSecret(c.Context(), cl, args[0], f) })
		}}
	f.user.register(c)
	c.Flags().BoolVar(&f.reveal, "reveal", false, "show it on a terminal too")
	c.Flags().StringVar(&f.instance, "instance", "", "of a secret that each instance has: MARBLE/ID")
	c.Flags().StringVar(&f.out, "out", "", "file to write it to, which only you may read")
	return c
}

func (a *app) getSecret(ctx context.Context, cl *client.Client, name string, f secretGetFlags) error {
	v, version, err := cl.RevealSecret(ctx, name, f.instance)
	if err != nil {
		return err
	}
	text := v.Value
	if len(v.PrivateKey) > 0 {
		text = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: v.PrivateKey})
		for _, der := range v.Certificates {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
	}
	if f.out != "" {
		if err := durable.WriteFile(f.out, text, 0o600); err != nil {
			return problem.Because(err, "CLI-003", "writing %s", f.out)
		}
		a.p.Notef("%s version %d of secret %s is in %s\n", a.p.Green(term.OK), version, name, f.out)
		return nil
	}
	if done, err := a.p.Structured(struct {
		Name    string `json:"name"`
		Version uint64 `json:"version"`
		apiv1.RevealedSecret
	}{name, version, v}); done {
		return err
	}
	// Byte for byte: a value is no text of ours.
	if _, err := a.p.Out.Write(text); err != nil {
		return problem.Because(err, "CLI-003", "writing the value")
	}
	return nil
}

func (a *app) secretRotateCmd() *cobra.Command {
	var user userFlags
	var instance string
	c := &cobra.Command{Use: "rotate NAME", Short: "Give a secret its next version now",
		Example: "  ashlar secret rotate sessionKey\n  ashlar secret rotate own --instance web/7f2c19ab",
		Long: `Marbles that run get the new version at once, and the one before for the overlap
that the manifest gives. Values that were supplied are not rotated but supplied
again: ashlar secret set.
Needs a user whose role has the action rotateSecret:NAME or rotateSecret:*.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withUser(c.Context(), user, func(cl *client.Client) error { return a.rotateSecret(c.Context(), cl, args[0], instance) })
		}}
	user.register(c)
	c.Flags().StringVar(&instance, "instance", "", "of a secret that each instance has: MARBLE/ID alone; all instances if left out")
	return c
}

func (a *app) rotateSecret(ctx context.Context, cl *client.Client, name, instance string) error {
	r, err := cl.RotateSecret(ctx, name, instance)
	if err != nil {
		return err
	}
	if done, err := a.p.Structured(r); done {
		return err
	}
	if r.Values > 1 {
		a.p.Printf("%s %d values of secret %s have new versions\n", a.p.Green(term.OK), r.Values, r.Name)
		return nil
	}
	a.p.Printf("%s secret %s has version %d\n", a.p.Green(term.OK), r.Name, r.Version)
	a.noteOverlap(r.Version, r.Until)
	return nil
}
