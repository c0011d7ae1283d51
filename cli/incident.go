package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

var subjectKinds = []string{apiv1.MarbleSubject, apiv1.PackageSubject, apiv1.PlatformSubject, apiv1.UserSubject}

// incidentFlags are those of revoke and quarantine.
type incidentFlags struct {
	user        userFlags
	reason      string
	measurement string
	accept      []string
	dryRun      bool
}

func (f *incidentFlags) register(c *cobra.Command) {
	f.user.register(c)
	c.Flags().StringVar(&f.reason, "reason", "", "why, for the log and for whoever is refused; up to 512 bytes")
}

func (a *app) revokeCmd() *cobra.Command {
	c := a.incidentGroup("revoke", apiv1.Revocation)
	c.Short = "Take an identity away, at once"
	c.Example = "  ashlar revoke marble web/7f2c19ab --reason 'its host was broken into'\n" +
		"  ashlar revoke package web --measurement 5c3f91ae --reason CVE-2026-1234\n" +
		"  ashlar revoke platform 00906ed50000 --reason 'board 7 is missing'\n" +
		"  ashlar revoke user bob --reason 'laptop stolen'\n" +
		"  ashlar revoke --lift 3 --reason 'the host was replaced'"
	c.Long = `Within two seconds no hop passes a request of theirs: their open connections
end, no lease is renewed, no secret is released. It stays through manifests and
restarts, until it is lifted with --lift. Secrets that they have read are
listed, and not rotated: ashlar blast-radius, ashlar rotate --touched-by.
Needs a user whose role has the action revoke:marbles/NAME and the like.`
	for _, one := range []struct{ kind, short, name, long string }{
		{apiv1.MarbleSubject, "Revoke a marble, or one instance of it", "web/7f2c19ab", "NAME is a marble (all instances), or NAME/INSTANCE. An instance chooses its own\nid, and may start again under another: to keep a machine or a program out,\nrevoke platform or package."},
		{apiv1.PackageSubject, "Revoke software: a package, or one release of it", "web", "All that the package accepts, or one measurement of it."},
		{apiv1.PlatformSubject, "Revoke a platform, or one machine", "00906ed50000", "NAME is a platform of the manifest, or a machine as evidence names it: FMSPC,\nPPID, platform instance id, chip id."},
		{apiv1.UserSubject, "Revoke a user", "bob", "Requests and approvals of the user count no more."},
	} {
		c.AddCommand(a.subjectCmd("revoke", apiv1.Revocation, one.kind, one.short, one.name, one.long))
	}
	return c
}

func (a *app) quarantineCmd() *cobra.Command {
	c := a.incidentGroup("quarantine", apiv1.Quarantine)
	c.Short = "Cut a marble off, and keep it for a look"
	c.Example = "  ashlar quarantine marble web/7f2c19ab --reason 'calls odd addresses'\n  ashlar quarantine --lift 4 --reason 'false alarm'"
	c.Long = `Nobody may call it and it may call nobody; it gets no secrets and may use none.
Its process and its identity stay, so that it can be examined.
Needs a user whose role has the action revoke:marbles/NAME.`
	c.AddCommand(a.subjectCmd("quarantine", apiv1.Quarantine, apiv1.MarbleSubject, "Put a marble, or one instance, in quarantine", "web/7f2c19ab", "NAME is a marble (all instances), or NAME/INSTANCE."))
	return c
}

// incidentGroup lifts with --lift; what sets an incident are its commands.
func (a *app) incidentGroup(name, kind string) *cobra.Command {
	var f incidentFlags
	var id int
	c := &cobra.Command{Use: name, Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			if id == 0 {
				return problem.New("CLI-068", "wanted --lift, or whom: %s", strings.Join(subjectKinds, ", ")).WithNext("ashlar %s --help", name)
			}
			return a.withUser(c.Context(), f.user, func(cl *client.Client) error { return a.liftIncident(c.Context(), cl, kind, id, f.reason) })
		}}
	f.register(c)
	c.Flags().IntVar(&id, "lift", 0, "number of an incident to lift")
	c.AddCommand(a.incidentListCmd(name, kind))
	return c
}

func (a *app) subjectCmd(group, kind, subject, short, example, long string) *cobra.Command {
	var f incidentFlags
	c := &cobra.Command{Use: subject + " NAME", Short: short, Long: long, Args: cobra.ExactArgs(1),
		Example: "  ashlar " + group + " " + subject + " " + example + " --reason 'an incident'",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := subjectOf([]string{subject, args[0]}, f.measurement)
			if err != nil {
				return err
			}
			return a.withUser(c.Context(), f.user, func(cl *client.Client) error { return a.incident(c.Context(), cl, kind, s, f) })
		}}
	f.register(c)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would end, and do nothing")
	switch subject {
	case apiv1.PackageSubject:
		c.Flags().StringVar(&f.measurement, "measurement", "", "this one alone, hexadecimal")
	case apiv1.UserSubject:
		c.Flags().StringSliceVar(&f.accept, "accept", nil, "a risk by name: lock-out")
	}
	return c
}

func (a *app) incidentListCmd(of, kind string) *cobra.Command {
	var user userFlags
	c := &cobra.Command{Use: "list", Short: "List what stands", Example: "  ashlar " + of + " list\n  ashlar " + of + " list -o json", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list := func(cl *client.Client) error {
				all, err := cl.Incidents(c.Context(), kind)
				if err != nil {
					return err
				}
				return a.showIncidents(all, kind)
			}
			if kind == apiv1.BreakGlass {
				return a.withDial(c.Context(), list)
			}
			return a.withUser(c.Context(), user, list)
		}}
	if kind != apiv1.BreakGlass {
		user.register(c)
	}
	return c
}

func (a *app) showIncidents(all apiv1.Incidents, kind string) error {
	if done, err := a.p.Structured(all); done {
		return err
	}
	if len(all.Incidents) == 0 {
		a.p.Printf("no %s stands\n", map[string]string{apiv1.Revocation: "revocation", apiv1.Quarantine: "quarantine", apiv1.BreakGlass: "break-glass"}[kind])
		return nil
	}
	var rows [][]string
	for _, in := range all.Incidents {
		row := []string{strconv.Itoa(in.ID), incidentText(in), in.By, a.p.Since(in.At), in.Reason}
		if kind == apiv1.BreakGlass {
			row[3] = a.p.Ahead(in.Until)
		}
		rows = append(rows, row)
	}
	header := []string{"ID", "WHO", "BY", "SINCE", "REASON"}
	if kind == apiv1.BreakGlass {
		header[1], header[3] = "RULE", "ENDS"
	}
	a.p.Table(header, rows)
	return nil
}

// incidentText names who or what an incident is about.
func incidentText(in apiv1.Incident) string {
	if in.Lifts != nil {
		if h := in.Lifts.Hop; h != nil {
			return fmt.Sprintf("hop %s:%s/%s", h.From, h.To, h.Port)
		}
		return fmt.Sprintf("TCB status %s on %s", in.Lifts.Status.Status, in.Lifts.Status.Platform)
	}
	s := in.Subject
	text := s.Kind + " " + s.Name
	if s.Instance != "" {
		text += "/" + s.Instance
	}
	if len(s.Measurement) > 0 {
		text += " " + s.Measurement.String()
	}
	return text
}

// subjectOf reads KIND NAME.
func subjectOf(args []string, measurement string) (apiv1.Subject, error) {
	if len(args) != 2 || !slices.Contains(subjectKinds, args[0]) {
		return apiv1.Subject{}, problem.New("CLI-068", "wanted KIND NAME, with one of the kinds %s", strings.Join(subjectKinds, ", "))
	}
	s := apiv1.Subject{Kind: args[0], Name: args[1]}
	if s.Kind == apiv1.MarbleSubject {
		s.Name, s.Instance, _ = strings.Cut(args[1], "/")
	}
	if s.Kind == apiv1.PlatformSubject && machineName.MatchString(s.Name) {
		s.Name = strings.ToLower(s.Name)
	}
	if err := s.Measurement.UnmarshalText([]byte(measurement)); err != nil {
		return s, problem.New("CLI-068", "--measurement %q: %v", measurement, err)
	}
	return s, nil
}

// machineName is a machine as evidence names it, in either case.
var machineName = regexp.MustCompile(`^[0-9A-Fa-f]{12,128}$`)

// incident revokes or puts in quarantine.
func (a *app) incident(ctx context.Context, cl *client.Client, kind string, s apiv1.Subject, f incidentFlags) error {
	req := apiv1.RevokeRequest{Subject: s, Reason: f.reason, Accepts: f.accept, DryRun: true}
	toll, err := cl.Revoke(ctx, kind, req)
	if err != nil {
		return err
	}
	if f.dryRun {
		if done, err := a.p.Structured(toll); done {
			return err
		}
	}
	a.noteToll(kind, toll)
	if f.dryRun {
		a.p.Printf("dry run: nothing was done\n")
		return nil
	}
	if err := a.confirm("%s: %s?", kind, incidentText(apiv1.Incident{Subject: s})); err != nil {
		return err
	}
	req.DryRun = false
	result, err := cl.Revoke(ctx, kind, req)
	if err != nil {
		return err
	}
	if result.Proposal != nil {
		return a.signAction(ctx, cl, *result.Proposal, map[string]any{"kind": kind, "subject": s, "reason": f.reason})
	}
	return a.showIncident(result, *result.Incident)
}

func (a *app) noteToll(kind string, t apiv1.RevokeResult) {
	a.p.Notef("live instances that are cut off: %d\n", len(t.Instances))
	for _, list := range []struct {
		title string
		lines []string
	}{{"instance", t.Instances}, {"hop closed", t.Hops}, {"secret that they have read", t.Secrets}} {
		for i, line := range list.lines {
			if i == maxReasons {
				a.p.Notef("  and %d more\n", len(list.lines)-i)
				break
			}
			a.p.Notef("  %s: %s\n", list.title, line)
		}
	}
	if len(t.Secrets) > 0 && kind == apiv1.Revocation {
		a.p.Notef("  none of them is rotated by this: ashlar rotate --touched-by\n")
	}
}

func (a *app) showIncident(all any, in apiv1.Incident) error {
	if done, err := a.p.Structured(all); done {
		return err
	}
	a.p.Printf("%s %s of %s stands (incident %d, audit record %d)\n", a.p.Green(term.OK), in.Kind, incidentText(in), in.ID, in.Record)
	if !in.Until.IsZero() {
		a.p.Printf("  ends by itself at %s\n", instant(in.Until))
	}
	return nil
}

func (a *app) liftIncident(ctx context.Context, cl *client.Client, kind string, id int, reason string) error {
	if err := a.confirm("End incident %d?", id); err != nil {
		return err
	}
	result, err := cl.Lift(ctx, kind, id, reason)
	if err != nil {
		return err
	}
	if result.Proposal != nil {
		return a.signAction(ctx, cl, *result.Proposal, map[string]any{"kind": kind, "id": id, "reason": reason})
	}
	if done, err := a.p.Structured(result); done {
		return err
	}
	a.p.Printf("%s incident %d is over: %s\n", a.p.Green(term.OK), id, incidentText(*result.Incident))
	return nil
}

// signAction signs the proposal that one's own request has become. It must say
// what was asked for.
func (a *app) signAction(ctx context.Context, cl *client.Client, p apiv1.Proposal, asked map[string]any) error {
	p, document, err := cl.Proposal(ctx, p.Digest)
	if err != nil {
		return err
	}
	var got struct {
		Arguments map[string]any `json:"arguments"`
	}
	if err := json.Unmarshal(document, &got); err != nil {
		return problem.Because(err, "CLI-069", "reading the proposal")
	}
	raw, err := json.Marshal(asked)
	if err != nil {
		return problem.Because(err, "CLI-069", "encoding the request")
	}
	var want map[string]any
	if err := json.Unmarshal(raw, &want); err != nil {
		return problem.Because(err, "CLI-069", "encoding the request")
	}
	for name, value := range want {
		if s, ok := got.Arguments[name].(map[string]any); ok && name == "subject" { // an instance may be given by its beginning
			w, _ := value.(map[string]any)
			if given, _ := w["instance"].(string); given != "" && strings.HasPrefix(fmt.Sprint(s["instance"]), given) {
				w["instance"] = s["instance"]
			}
		}
		if !reflect.DeepEqual(got.Arguments[name], value) {
			return problem.New("CLI-069", "%s: asked for %v, the proposal says %v", name, value, got.Arguments[name])
		}
	}
	result, err := cl.Approve(ctx, p)
	if err != nil {
		return err
	}
	return a.showApproval(result)
}

type breakGlassFlags struct {
	user             userFlags
	allow            string
	status, platform string
	listen           uint16
	reason           string
	life             time.Duration
	end              int
}

func (a *app) breakGlassCmd() *cobra.Command {
	var f breakGlassFlags
	c := &cobra.Command{Use: "break-glass", Short: "Lift a rule for a limited time",
		Example: "  ashlar break-glass --allow repair:db/sql --for 2h --reason 'restore of orders'\n" +
			"  ashlar break-glass --accept-status OutOfDate --for 12h --reason 'patch night'\n  ashlar break-glass --end 7 --reason done",
		Long: `--allow lets a marble call a port that its manifest entry does not name, at
127.0.0.1 and the callee's port number: pass --listen where something on its
machine has that port.
--accept-status has a platform accept a TCB status, down to its floor. The log
has it before it takes effect. While it stands the coordinator's evidence says
so: ashlar status and verify show it, and verify refuses the deployment unless
--allow-break-glass is given. It ends by itself, or with --end.
Needs a user whose role has the action breakGlass.`,
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return a.breakGlass(c.Context(), f) }}
	f.user.register(c)
	c.Flags().StringVar(&f.allow, "allow", "", "a hop: FROM:TO/PORT")
	c.Flags().Uint16Var(&f.listen, "listen", 0, "loopback port on which FROM reaches it; the callee's number if left out")
	c.Flags().StringVar(&f.status, "accept-status", "", "a TCB status, such as OutOfDate")
	c.Flags().StringVar(&f.platform, "platform", "default", "the platform that accepts it")
	c.Flags().StringVar(&f.reason, "reason", "", "why, up to 512 bytes")
	c.Flags().DurationVar(&f.life, "for", 0, "how long: 1m to 24h")
	c.Flags().IntVar(&f.end, "end", 0, "number of a break-glass to end now")
	c.AddCommand(a.incidentListCmd("break-glass", apiv1.BreakGlass))
	return c
}

func (a *app) breakGlass(ctx context.Context, f breakGlassFlags) error {
	if f.end > 0 {
		return a.withUser(ctx, f.user, func(cl *client.Client) error { return a.liftIncident(ctx, cl, apiv1.BreakGlass, f.end, f.reason) })
	}
	req := apiv1.BreakGlassRequest{Reason: f.reason, For: attest.Duration(f.life)}
	switch {
	case (f.allow == "") == (f.status == ""):
		return problem.New("CLI-068", "wanted one of --allow, --accept-status and --end")
	case f.status != "":
		req.Lifts.Status = &apiv1.AcceptedStatus{Platform: f.platform, Status: attest.TCBStatus(f.status)}
	default:
		from, rest, colon := strings.Cut(f.allow, ":")
		to, port, slash := strings.Cut(rest, "/")
		if !colon || !slash || from == "" || to == "" || port == "" {
			return problem.New("CLI-068", "--allow %q: wanted FROM:TO/PORT", f.allow)
		}
		req.Lifts.Hop = &apiv1.ExtraHop{From: from, To: to, Port: port, Listen: f.listen}
	}
	if err := a.confirm("%s: lift this rule for %s?", incidentText(apiv1.Incident{Lifts: &req.Lifts}), f.life); err != nil {
		return err
	}
	return a.withUser(ctx, f.user, func(cl *client.Client) error {
		result, err := cl.BreakGlass(ctx, req)
		if err != nil {
			return err
		}
		if result.Proposal != nil {
			return a.signAction(ctx, cl, *result.Proposal, map[string]any{"lifts": req.Lifts, "reason": req.Reason, "for": req.For})
		}
		return a.showIncident(result, *result.Incident)
	})
}
