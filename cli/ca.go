package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxRootsFile bounds a file of certificates, in bytes.
const maxRootsFile = 1 << 20

func (a *app) caCmd() *cobra.Command {
	c := &cobra.Command{Use: "ca", Short: "The CAs: when they are replaced, how to follow them",
		Example: "  ashlar ca show\n  ashlar ca rotate mesh\n  ashlar ca follow --from bundle.pem shop.example:4433"}
	c.AddCommand(a.caShowCmd(), a.caRotateCmd(), a.caFollowCmd())
	return c
}

func (a *app) caShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show", Short: "Show the CAs in use and when they are replaced", Example: "  ashlar ca show\n  ashlar ca show -o json", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withDial(c.Context(), func(cl *client.Client) error {
				cas, err := cl.CAs(c.Context())
				if err != nil {
					return err
				}
				return a.showCAs(cas)
			})
		}}
}

func (a *app) showCAs(cas apiv1.CAs) error {
	if done, err := a.p.Structured(cas); done {
		return err
	}
	var rows [][]string
	add := func(name string, s apiv1.CAState, next string) {
		rows = append(rows, []string{name, a.p.Digest(s.Serial), day(s.NotAfter), next + day(s.Next)})
	}
	add("root", cas.Root, "replaced ")
	for _, o := range cas.Older {
		add("older root", o, "trusted until ")
	}
	add("mesh", cas.Mesh, "replaced ")
	a.p.Table([]string{"CA", "SERIAL", "VALID UNTIL", "NEXT"}, rows)
	return nil
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (a *app) caRotateCmd() *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "rotate mesh|root", Short: "Replace a CA before its time", Example: "  ashlar ca rotate mesh\n  ashlar ca rotate root --yes",
		Long: `No certificate loses its validity, no request fails: leaves of the old CA
count until they end, and what is issued from now on leads to the old root as
well as to the new one until the overlap has passed (ca.overlap in the
manifest). Outside clients that trust the old root go on with it meanwhile, and
follow with ashlar verify or ashlar ca follow. Needs a user whose role has the
action rotateCA.`,
		Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"mesh", "root"},
		RunE: func(c *cobra.Command, args []string) error {
			return a.withUser(c.Context(), user, func(cl *client.Client) error {
				if err := a.confirm("Replace the %s CA?", args[0]); err != nil {
					return err
				}
				cas, err := cl.RotateCA(c.Context(), args[0])
				if err != nil {
					return err
				}
				return a.showCAs(cas)
			})
		}}
	user.register(c)
	return c
}

func (a *app) caFollowCmd() *cobra.Command {
	var from, out string
	c := &cobra.Command{Use: "follow --from FILE [ADDR]", Short: "From a root that you trust to the root of today",
		Example: "  ashlar ca follow --from bundle.pem shop.example:4433\n  ashlar ca follow --from old.pem --out new.pem shop.example:4433",
		Long: `Each root signs the next. This asks the coordinator for these signatures,
checks them from the root in FILE on, and replaces FILE (or writes --out) by the
root of today and older ones that are still trusted. Nothing else is verified:
the root in FILE is what you trust. ashlar verify does the same from evidence.`, Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			addr := a.address
			if len(args) > 0 {
				addr = args[0]
			}
			trusted, err := a.firstCertificate(from)
			if err != nil {
				return err
			}
			roots, err := client.FetchRoots(c.Context(), addr, a.timeout)
			if err != nil {
				return err
			}
			anchors, err := client.Follow(trusted, roots, a.p.Now())
			if err != nil {
				return err
			}
			return a.writeRoots(orText(out, from), trusted, anchors)
		}}
	c.Flags().StringVar(&from, "from", "", "PEM `FILE` whose first certificate is a root that you trust")
	c.Flags().StringVar(&out, "out", "", "write to this `FILE` in place of --from's")
	_ = c.MarkFlagRequired("from") // fails only for a flag that does not exist
	return c
}

func orText(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (a *app) firstCertificate(name string) (*x509.Certificate, error) {
	raw, err := a.readUpTo(name, maxRootsFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, problem.New("CLI-092", "%s holds no PEM certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, problem.Because(err, "CLI-092", "reading %s", name)
	}
	return cert, nil
}

// writeRoots writes the anchors, unless they are what is trusted already.
func (a *app) writeRoots(name string, trusted *x509.Certificate, anchors [][]byte) error {
	var text bytes.Buffer
	for _, der := range anchors {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	followed := !bytes.Equal(anchors[0], trusted.Raw)
	if err := durable.WriteFile(filepath.Clean(name), text.Bytes(), 0o644); err != nil {
		return problem.Because(err, "CLI-003", "writing %s", name)
	}
	if done, err := a.p.Structured(map[string]any{"file": name, "followed": followed, "anchors": len(anchors)}); done {
		return err
	}
	if !followed {
		a.p.Printf("The root in %s is the root of today\n", name)
		return nil
	}
	a.p.Printf("Followed the signed steps to the root of today. Wrote %s\n", name)
	return nil
}
