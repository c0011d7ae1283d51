package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// listed is how many marbles status shows; marble list shows them all.
const listed = 100

func (a *app) statusCmd() *cobra.Command {
	var watch bool
	var every time.Duration
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show the coordinator, marbles, proxies, and what needs attention",
		Example: "  ashlar status\n  ashlar status -w",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.dial(c.Context(), nil)
			if err != nil {
				return err
			}
			defer cl.Close()
			if !watch {
				return a.status(c.Context(), cl)
			}
			return a.watchStatus(c.Context(), cl, every)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it again until interrupted")
	c.Flags().DurationVar(&every, "every", 2*time.Second, "how often with --watch")
	return c
}

func (a *app) watchStatus(ctx context.Context, cl *client.Client, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if a.p.TTY && !a.p.Dumb {
			fmt.Fprint(a.p.Out, "\x1b[H\x1b[2J")
		}
		// A coordinator that is away for a moment does not end the watch.
		if err := a.status(ctx, cl); err != nil && ctx.Err() == nil {
			a.report(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) status(ctx context.Context, cl *client.Client) error {
	s, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	m, err := cl.Marbles(ctx, "", listed)
	if err != nil {
		return err
	}
	if done, err := a.p.Structured(struct {
		apiv1.Status
		MarbleList []apiv1.Marble `json:"marbleList"`
	}{s, m.Marbles}); done {
		return err
	}
	a.p.Simulation = s.Simulation
	a.p.Printf("%s ● %s   manifest %s (rev %d)\n", orDash(s.TrustDomain), s.State, orDash(a.p.Digest(s.Manifest.String())), s.Revision)
	a.p.Printf("mesh CA ends %s   audit %d records   refused %d\n", a.p.Ahead(s.CA.NotAfter), s.Checkpoint.Size, s.Refused)
	for _, f := range s.Floors {
		a.p.Printf("floor of platform %s: %s\n", f.Platform, strings.Join(floorFields(f.Floor), " "))
	}
	a.replicaTable(s.Replicas)
	a.marbleTable(m.Marbles)
	if m.Next != "" {
		a.p.Notef("%d of %d marbles are shown; ashlar marble list shows all\n", len(m.Marbles), s.Marbles)
	}
	if len(s.Attention) > 0 {
		a.p.Printf("needs attention\n")
	}
	for _, at := range s.Attention {
		a.p.Printf("  %s %s: %s (%s)\n", a.p.Yellow(term.Warn), at.Subject, a.p.Sentence(at.Text), at.Code)
		if at.Next != "" {
			a.p.Printf("    next: %s\n", at.Next)
		}
	}
	return nil
}

// replicaTable shows the coordinators that share the state, as they say of
// themselves; nothing where there is one alone.
func (a *app) replicaTable(replicas []apiv1.Replica) {
	if len(replicas) == 0 {
		return
	}
	header := []string{"COORDINATOR", "ROLE", "SINCE", "TEE", "VERSION", "NOTE"}
	rows := make([][]string, len(replicas))
	for i, r := range replicas {
		note := term.Line(a.p.Sentence(r.Reason))
		if note != "" && r.Role != apiv1.ReplicaActive {
			note = term.Warn + " " + note
		}
		rows[i] = []string{r.Name, r.Role, a.p.Since(r.Since), orDash(r.TEE), orDash(r.Version), orDash(note)}
	}
	a.p.Table(header, rows)
}

func (a *app) marbleTable(marbles []apiv1.Marble) {
	header := []string{"MARBLE", "TEE", "RUNNING", "CERT", "CALLS", "NOTE"}
	if a.p.Format == term.Wide {
		header = append(header, "PACKAGE", "INSTANCES", "ADDRESSES", "PROXIES")
	}
	rows := make([][]string, 0, len(marbles))
	for _, m := range marbles {
		row := []string{m.Name, teesOf(m), fmt.Sprint(running(m)), a.certOf(m), orDash(strings.Join(m.Calls, " ")), orDash(a.noteOf(m))}
		if a.p.Format == term.Wide {
			row = append(row, wideCells(m)...)
		}
		rows = append(rows, row)
	}
	a.p.Table(header, rows)
}

// disconnected is the stage of an instance whose session has ended: its leaf
// still counts, but nothing is heard of its program.
const disconnected = "disconnected"

// drained is the stage of an instance that gets no new requests: its renewal is
// overdue.
const drained = "drained"

// running counts the instances that are connected and take requests.
func running(m apiv1.Marble) int {
	n := 0
	for _, i := range m.Instances {
		if i.Stage != disconnected && i.Stage != drained {
			n++
		}
	}
	return n
}

// wideCells are what -o wide shows besides.
func wideCells(m apiv1.Marble) []string {
	var ids, addresses, proxies []string
	for _, i := range m.Instances {
		ids, addresses, proxies = append(ids, i.ID), append(addresses, i.Address), append(proxies, proxyText(i.Proxy))
	}
	return []string{m.Package, orDash(strings.Join(ids, " ")), orDash(strings.Join(addresses, " ")), orDash(strings.Join(proxies, "; "))}
}

func teesOf(m apiv1.Marble) string {
	var tees []string
	for _, i := range m.Instances {
		if !contains(tees, string(i.TEE)) {
			tees = append(tees, string(i.TEE))
		}
	}
	return orDash(strings.Join(tees, " "))
}

// certOf is how long the leaf of the instance that ends first still lasts.
func (a *app) certOf(m apiv1.Marble) string {
	var first time.Time
	for _, i := range m.Instances {
		if first.IsZero() || i.NotAfter.Before(first) {
			first = i.NotAfter
		}
	}
	return a.p.Until(first)
}

// noteOf is the one thing to know about a marble.
func (a *app) noteOf(m apiv1.Marble) string {
	if d := m.LastRefusal; d != nil {
		return fmt.Sprintf("%s refused %s (%s)", term.Bad, a.p.Since(d.Time), d.Code)
	}
	for _, i := range m.Instances {
		for _, t := range i.Proxy.Types {
			if t.State == "refused" {
				return fmt.Sprintf("%s Envoy refused its %s: %s", term.Warn, t.Type, t.Error)
			}
		}
		if i.Reason != "" {
			return i.Stage + ": " + i.Reason
		}
	}
	if len(m.Instances) == 0 {
		return "not running"
	}
	return ""
}

func (a *app) marbleCmd() *cobra.Command {
	group := &cobra.Command{Use: "marble", Short: "List marbles, or show one", Example: "  ashlar marble list\n  ashlar marble show web"}
	group.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List every marble of the manifest", Example: "  ashlar marble list -o json", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return a.withClient(c, a.marbleList) },
		},
		&cobra.Command{
			Use: "show NAME", Short: "Show one marble with its instances and proxies", Example: "  ashlar marble show web", Args: cobra.ExactArgs(1),
			ValidArgsFunction: a.completeMarbles,
			RunE: func(c *cobra.Command, args []string) error {
				return a.withClient(c, func(ctx context.Context, cl *client.Client) error { return a.marbleShow(ctx, cl, args[0]) })
			},
		})
	return group
}

// withClient runs f with a verified connection.
func (a *app) withClient(c *cobra.Command, f func(context.Context, *client.Client) error) error {
	return a.withDial(c.Context(), func(cl *client.Client) error { return f(c.Context(), cl) })
}

func (a *app) marbleList(ctx context.Context, cl *client.Client) error {
	all := []apiv1.Marble{}
	for after := ""; ; {
		page, err := cl.Marbles(ctx, after, 0)
		if err != nil {
			return err
		}
		all = append(all, page.Marbles...)
		if after = page.Next; after == "" {
			break
		}
	}
	if done, err := a.p.Structured(all); done {
		return err
	}
	a.marbleTable(all)
	return nil
}

func (a *app) marbleShow(ctx context.Context, cl *client.Client, name string) error {
	m, err := cl.Marble(ctx, name)
	if err != nil {
		return err
	}
	if done, err := a.p.Structured(m); done {
		return err
	}
	a.p.Printf("%s   package %s   calls %s\n", m.Name, m.Package, orDash(strings.Join(m.Calls, " ")))
	for _, i := range m.Instances {
		a.p.Columns([][]string{
			{"instance", i.ID}, {"  tee", string(i.TEE)}, {"  tcb", i.TCBStatus},
			{"  identity", i.SPIFFEID}, {"  address", i.Address}, {"  attested", a.p.Since(i.AttestedAt)},
			{"  leaf", i.Serial}, {"  ends", a.p.Ahead(i.NotAfter)}, {"  decision", i.Decision}})
		a.p.Printf("  stage     %s\n", strings.TrimSuffix(i.Stage+": "+i.Reason, ": "))
		a.p.Printf("  proxy     %s\n", proxyText(i.Proxy))
	}
	if d := m.LastRefusal; d != nil {
		a.p.Printf("%s last refusal %s: %s  %s\n  next: ashlar explain %s\n", a.p.Red(term.Bad), a.p.Since(d.Time), a.p.Sentence(d.Reason), d.Code, d.ID)
	}
	return nil
}

func proxyText(x apiv1.Proxy) string {
	if !x.Connected {
		return "not connected"
	}
	var parts []string
	for _, t := range x.Types {
		part := t.Type + " " + t.State
		if t.Error != "" {
			part += " (" + t.Error + ")"
		}
		parts = append(parts, part)
	}
	return "connected: " + strings.Join(parts, ", ")
}

// completionBudget is how long completion may ask a coordinator.
const completionBudget = 300 * time.Millisecond

// marblesIn are the marbles that a manifest file names, if there is one.
func (a *app) marblesIn(file string) []string {
	raw, err := a.readFile(file)
	if err != nil {
		return nil
	}
	m, diags := manifest.Parse(raw)
	if diags.HasErrors() {
		return nil
	}
	return sortedNames(m.Marbles)
}

func (a *app) completeMarbles(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := a.marblesIn("manifest.json")
	if len(names) > 0 {
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionBudget)
	defer cancel()
	a.timeout = completionBudget
	if cl, err := a.dial(ctx, nil); err == nil {
		defer cl.Close()
		if page, err := cl.Marbles(ctx, "", listed); err == nil {
			for _, m := range page.Marbles {
				names = append(names, m.Name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
