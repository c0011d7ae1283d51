package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func (a *app) endorsementsCmd() *cobra.Command {
	c := &cobra.Command{Use: "endorsements", Short: "The vendors' documents that evidence is judged with",
		Example: "  ashlar endorsements status\n  ashlar endorsements fetch evidence/ --pccs https://pccs.example:8081\n  ashlar endorsements import endorsements.json"}
	c.AddCommand(a.endorsementsStatusCmd(), a.endorsementsFetchCmd(), a.endorsementsExportCmd(), a.endorsementsImportCmd())
	return c
}

func (a *app) endorsementsStatusCmd() *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "status [FILE]", Short: "Show documents, their age and end, and what needs attention",
		Example: "  ashlar endorsements status\n  ashlar endorsements status endorsements.json",
		Long: `Asks the coordinator, which shows them to its users; or reads a bundle from
FILE, offline. A mark is the newest issue that a decision ever rested on:
whatever is older is refused, also by a clock that was set back.`, Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.bundleStatus(args[0])
			}
			return a.withUser(c.Context(), user, func(cl *client.Client) error {
				e, err := cl.Endorsements(c.Context())
				if err != nil {
					return err
				}
				return a.endorsementsReport(e)
			})
		}}
	user.register(c)
	return c
}

func (a *app) bundleStatus(file string) error {
	b, err := a.readEndorsements(file)
	if err != nil {
		return err
	}
	e := apiv1.Endorsements{Sets: []apiv1.EndorsementSet{}, Ending: []apiv1.EndingDocument{}, Marks: map[string]endorse.Mark{}}
	for _, s := range b.Sets() {
		digest := s.Endorsements.Digest()
		e.Sets = append(e.Sets, apiv1.EndorsementSet{Key: s.Need.Key(), Need: s.Need, Digest: digest[:], Documents: endorse.Describe(s.Endorsements),
			Missing: s.Need.Missing(s.Endorsements), Source: file})
	}
	return a.endorsementsReport(e)
}

func (a *app) readEndorsements(file string) (*endorse.Bundle, error) {
	raw, err := a.readUpTo(file, endorse.MaxBundle)
	if err != nil {
		return nil, err
	}
	return endorse.Import(raw)
}

// endorsementsReport writes a line for each document, and then what needs
// attention.
func (a *app) endorsementsReport(e apiv1.Endorsements) error {
	if done, err := a.p.Structured(e); done {
		return err
	}
	header := []string{"SET", "DOCUMENT", "NUMBER", "ISSUED", "ENDS", "MARK"}
	var rows [][]string
	now := time.Now()
	for _, s := range e.Sets {
		a.p.Simulation = a.p.Simulation || s.Need.TEE.Simulated()
		for _, d := range s.Documents {
			rows = append(rows, []string{a.short(s.Key), a.short(d.Identity), number(d.Number), day(d.Issued), ends(d, now), mark(e.Marks, d)})
		}
	}
	if len(rows) == 0 {
		a.p.Printf("no endorsements are at hand\n")
		return nil
	}
	a.p.Table(header, rows)
	for _, s := range e.Sets {
		for _, d := range s.Documents {
			if d.Error != "" {
				a.p.Printf("✗ %s: %s cannot be read: %s\n", a.short(s.Key), d.Kind, d.Error)
			}
		}
		if len(s.Missing) > 0 {
			a.p.Printf("! %s: no %s\n", a.short(s.Key), strings.Join(s.Missing, ", "))
		}
		if s.Error != "" {
			a.p.Printf("! %s: not renewed in full: %s\n", a.short(s.Key), s.Error)
		}
	}
	for _, d := range e.Ending {
		a.p.Printf("! %s of %s %s\n", a.short(d.Document.Identity), a.short(d.Key), ends(d.Document, now))
	}
	return nil
}

// short leaves the middle of a chip ID out, but not with -o wide.
func (a *app) short(key string) string {
	parts := strings.Split(key, "/")
	for i, part := range parts {
		if len(part) == 128 && a.p.Format != term.Wide {
			parts[i] = part[:8] + "…"
		}
	}
	return strings.Join(parts, "/")
}

func number(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateOnly)
}

// ends says when a document ends, in days where that is near.
func ends(d endorse.Document, now time.Time) string {
	left := d.NextUpdate.Sub(now)
	switch {
	case d.NextUpdate.IsZero():
		return "-"
	case left < 0:
		return day(d.NextUpdate) + " ended"
	case left < 60*24*time.Hour:
		return fmt.Sprintf("%s in %d d", day(d.NextUpdate), int(left.Hours()/24))
	}
	return day(d.NextUpdate)
}

// mark says how a document stands against the newest that was relied on.
func mark(marks map[string]endorse.Mark, d endorse.Document) string {
	m, ok := marks[d.Identity]
	switch {
	case !ok:
		return "-"
	case d.Older(endorse.Document{Issued: m.Issued, Number: m.Number}):
		return "✗ older than " + m.String()
	}
	return "✓"
}

func (a *app) endorsementsExportCmd() *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "export FILE", Short: "Write all of the coordinator's endorsements to a bundle", Example: "  ashlar endorsements export endorsements.json",
		Long: "FILE is - for standard output. The bundle can be imported by another\ncoordinator, or put into its --endorsements folder as NAME.bundle.json.", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withUser(c.Context(), user, func(cl *client.Client) error {
				raw, err := cl.ExportEndorsements(c.Context())
				if err != nil {
					return err
				}
				b, err := endorse.Import(raw)
				if err != nil {
					return err
				}
				return a.writeEndorsements(args[0], b)
			})
		}}
	user.register(c)
	return c
}

// writeEndorsements writes a bundle, to standard output for "-".
func (a *app) writeEndorsements(file string, b *endorse.Bundle) error {
	raw, err := b.Export()
	if err != nil {
		return err
	}
	if file == "-" {
		_, err := a.p.Out.Write(raw)
		return err
	}
	if err := durable.WriteFile(file, raw, 0o644); err != nil {
		return problem.Because(err, "CLI-003", "writing %s", file)
	}
	sum := sha256.Sum256(raw)
	a.p.Notef("%s: %d sets, sha256 %x\n", file, len(b.Sets()), sum)
	return nil
}

func (a *app) endorsementsImportCmd() *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "import FILE", Short: "Give the coordinator a bundle of endorsements", Example: "  ashlar endorsements import endorsements.json --cert alice.pem --key alice.key",
		Long: `Needs a user whose role has the action manageEndorsements. Each document must be
signed by its vendor, of the platform of its set, and not older than what the
coordinator has; what is not is refused with its reason, and the rest counts.
Exit code 3 if anything was refused.`, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.readEndorsements(args[0]) // tells a wrong file without asking anybody
			if err != nil {
				return err
			}
			raw, err := b.Export()
			if err != nil {
				return err
			}
			return a.withUser(c.Context(), user, func(cl *client.Client) error { return a.importBundle(c.Context(), cl, raw) })
		}}
	user.register(c)
	return c
}

func (a *app) importBundle(ctx context.Context, cl *client.Client, raw []byte) error {
	got, err := cl.ImportEndorsements(ctx, raw)
	if err != nil {
		return err
	}
	refused := 0
	for _, s := range got.Sets {
		if s.Reason != "" {
			refused++
		}
	}
	done, err := a.p.Structured(got)
	if err != nil {
		return err
	}
	for _, s := range got.Sets {
		switch {
		case done:
		case s.Reason != "":
			a.p.Printf("✗ %s: %s\n", a.short(s.Key), s.Reason)
		case s.Changed:
			a.p.Printf("✓ %s\n", a.short(s.Key))
		default:
			a.p.Printf("✓ %s: nothing newer\n", a.short(s.Key))
		}
	}
	if refused > 0 {
		return problem.New("CLI-031", "documents of %d sets, of %d", refused, len(got.Sets))
	}
	return nil
}

// folderOrFile says whether out is meant as a folder.
func folderOrFile(out string) (folder bool) {
	info, err := os.Stat(out)
	return err == nil && info.IsDir() || strings.HasSuffix(out, "/")
}

// needLine says what a set is for.
func (a *app) needLine(n endorse.Need, en attest.Endorsements) string {
	line := a.short(n.Key())
	if missing := n.Missing(en); len(missing) > 0 {
		return line + ": no " + strings.Join(missing, ", ")
	}
	return line
}
