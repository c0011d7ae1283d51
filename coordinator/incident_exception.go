package coordinator

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds of break-glass.
const (
	minBreakGlass = time.Minute
	maxBreakGlass = 24 * time.Hour
	maxExceptions = 32 // at a time: a statement lists them
)

func init() { acts["breakGlass"] = func() act { return &breakGlass{} } }

// breakGlass is the act of lifting a rule for a while.
type breakGlass struct {
	Lifts  apiv1.Exception `json:"lifts"`
	Reason string          `json:"reason"`
	For    attest.Duration `json:"for"`

	done apiv1.Incident
}

func (*breakGlass) right() string { return manifest.BreakGlass }

func (b *breakGlass) text() string {
	return fmt.Sprintf("%s for %s: %s", exceptionText(b.Lifts), time.Duration(b.For), b.Reason)
}

// exceptionText says in one line what is lifted.
func exceptionText(e apiv1.Exception) string {
	if e.Hop != nil {
		return fmt.Sprintf("hop %s → %s/%s", e.Hop.From, e.Hop.To, e.Hop.Port)
	}
	return fmt.Sprintf("TCB status %s on platform %s", e.Status.Status, e.Status.Platform)
}

// commit writes the exception; its time begins now.
func (b *breakGlass) commit(c *Coordinator, tx *store.Tx, by origin) error {
	if err := cmp.Or(liftable(c.current.Load(), b.Lifts), c.clash(c.current.Load(), b.Lifts)); err != nil {
		return err
	}
	if n := len(c.Incidents(apiv1.BreakGlass).Incidents); n >= maxExceptions {
		return problem.New("INC-014", "%d rules are lifted, which is the limit", n)
	}
	b.done = apiv1.Incident{Kind: apiv1.BreakGlass, Lifts: &b.Lifts, Reason: b.Reason, By: by.user, ApprovedBy: by.agreed, At: by.at,
		Until: by.at.Add(time.Duration(b.For)).Truncate(time.Second)}
	return c.keepIncident(tx, &b.done, audit.BreakGlass, by)
}

func (*breakGlass) publish(c *Coordinator) { c.publishIncidents() }

// BreakGlass lifts a rule for a limited time. The log has it before it takes
// effect, the coordinator's evidence binds it while it stands, and it ends by
// itself, or by Lift. Floors are not lifted by it.
//
// Errors: INC-012 (malformed), INC-014 (too many), INC-020 (no such rule), INC-021
// (time), GOV-001 (rights).
func (c *Coordinator) BreakGlass(ctx context.Context, user *Principal, req apiv1.BreakGlassRequest) (apiv1.IncidentResult, error) {
	a := &breakGlass{Lifts: req.Lifts, Reason: req.Reason, For: req.For}
	var result apiv1.IncidentResult
	err := checkReason(req.Reason)
	if d := time.Duration(req.For); err == nil && (d < minBreakGlass || d > maxBreakGlass) {
		err = problem.New("INC-021", "for %s", d)
	}
	rev := c.current.Load()
	switch {
	case err != nil:
	case rev.m == nil:
		err = problem.New("CRD-010", "no manifest was set yet, so there is no rule")
	default:
		err = cmp.Or(liftable(rev, req.Lifts), c.clash(rev, req.Lifts))
	}
	if err == nil {
		result.Proposal, err = c.perform(ctx, user, "breakGlass", a)
	}
	if err != nil {
		return result, c.refuseIncident(ctx, user, apiv1.Subject{Kind: apiv1.BreakGlass}, err)
	}
	if result.Proposal == nil {
		result.Incident = &a.done
	}
	return result, nil
}

// liftable refuses an exception that the manifest cannot have.
func liftable(rev *revision, e apiv1.Exception) error {
	switch {
	case (e.Hop == nil) == (e.Status == nil):
		return problem.New("INC-020", "wanted one rule: a hop or a status")
	case e.Status != nil:
		if !slices.Contains(lenient, e.Status.Status) {
			return problem.New("INC-020", "TCB status %.40q can not be accepted", e.Status.Status)
		}
		return knownPlatform(rev, e.Status.Platform)
	}
	return hopLiftable(rev, *e.Hop)
}

// lenient are the statuses that break-glass may accept.
var lenient = []attest.TCBStatus{attest.SWHardeningNeeded, attest.ConfigurationNeeded, attest.ConfigurationAndSWHardeningNeeded,
	attest.OutOfDate, attest.OutOfDateConfigurationNeeded}

// hopLiftable refuses a hop between what is not there, one that is granted
// already, and one for which the caller has no port left.
func hopLiftable(rev *revision, h apiv1.ExtraHop) error {
	from, ok := rev.m.Marbles[h.From]
	if !ok {
		return unknownMarble(rev, h.From)
	}
	to, ok := rev.m.Marbles[h.To]
	if !ok {
		return unknownMarble(rev, h.To)
	}
	if _, ok := to.Serves[h.Port]; !ok {
		return problem.New("INC-020", "%s serves no port %.80q", h.To, h.Port)
	}
	listen := listens(rev.m, h)
	for _, own := range from.Serves {
		if own.Port == listen {
			return problem.New("INC-020", "the program of %s serves port %d itself: choose another to listen on", h.From, listen)
		}
	}
	for _, call := range from.Calls {
		switch {
		case call.Marble == h.To && call.Port == h.Port:
			return problem.New("INC-020", "%s may call %s/%s already", h.From, h.To, h.Port)
		case call.Listen == listen:
			return problem.New("INC-020", "%s reaches %s/%s on port %d: choose another to listen on", h.From, call.Marble, call.Port, listen)
		}
	}
	return nil
}

// listens is the port on which the caller of a hop reaches it.
func listens(m *manifest.Manifest, h apiv1.ExtraHop) uint16 {
	if h.Listen != 0 {
		return h.Listen
	}
	return m.Marbles[h.To].Serves[h.Port].Port
}

// clashes reports whether two hops cannot stand beside each other: they are the
// same, or have their caller listen on one port.
func clashes(m *manifest.Manifest, a, b apiv1.ExtraHop) bool {
	return a.From == b.From && (a.To == b.To && a.Port == b.Port || listens(m, a) == listens(m, b))
}

// clash refuses a hop that cannot stand beside one that break-glass adds already:
// its caller's proxy would take no configuration any more.
func (c *Coordinator) clash(rev *revision, e apiv1.Exception) error {
	if e.Hop == nil {
		return nil
	}
	for _, in := range c.incidents.Load().exceptions(c.latest()) {
		if h := in.Lifts.Hop; h != nil && clashes(rev.m, *h, *e.Hop) {
			return problem.New("INC-020", "incident %d has %s listen on port %d for %s", in.ID, h.From, listens(rev.m, *h), exceptionText(*in.Lifts))
		}
	}
	return nil
}

// exceptions are those that count at a time.
func (i *incidents) exceptions(at time.Time) []apiv1.Incident {
	var all []apiv1.Incident
	for _, in := range i.all {
		if in.Kind == apiv1.BreakGlass && at.Before(in.Until) {
			all = append(all, in)
		}
	}
	return all
}

// upcoming returns when the next exception ends; false if there is none.
func (i *incidents) upcoming() (next time.Time, any bool) {
	for _, in := range i.all {
		if in.Kind == apiv1.BreakGlass && (!any || in.Until.Before(next)) {
			next, any = in.Until, true
		}
	}
	return next, any
}

// latest is now, or the latest time that decisions rested on: an exception that
// was over does not begin again when the clock is put back.
func (c *Coordinator) latest() time.Time {
	now := c.config.Now()
	if seen := c.Marks().Clock; seen.After(now) {
		return seen
	}
	return now
}

// document is what a statement binds: nil where no rule is lifted. It has what
// stands until its end is in the log, whatever the time is: a clock that is put
// forward for a moment hides none.
func (i *incidents) document() ([]byte, error) {
	all := i.exceptions(time.Time{})
	if len(all) == 0 {
		return nil, nil
	}
	return json.Marshal(apiv1.Incidents{Incidents: all})
}

// accepted are the exceptions that a platform's policy has.
func (i *incidents) accepted(platform string, at time.Time) []apiv1.Incident {
	var all []apiv1.Incident
	for _, in := range i.exceptions(at) {
		if s := in.Lifts.Status; s != nil && s.Platform == platform {
			all = append(all, in)
		}
	}
	return all
}

// statusesOn are what break-glass has a platform accept.
func (i *incidents) statusesOn(platform string, at time.Time) []attest.TCBStatus {
	var all []attest.TCBStatus
	for _, in := range i.accepted(platform, at) {
		all = append(all, in.Lifts.Status.Status)
	}
	return all
}

// accepting is a platform that accepts further TCB statuses.
func accepting(p attest.Platform, more []attest.TCBStatus) attest.Platform {
	if len(more) == 0 {
		return p
	}
	for _, rules := range []**attest.DCAPPlatform{&p.SGX, &p.TDX, &p.Sim} {
		d := attest.DCAPPlatform{}
		if *rules != nil {
			d = **rules
		}
		d.AcceptedTCBStatuses = append(slices.Clip(d.AcceptedTCBStatuses), more...)
		*rules = &d
	}
	return p
}

// excusedUntil is when the earliest exception that evidence may rest on ends;
// zero if it rests on none.
func (r *ruling) excusedUntil() time.Time {
	var end time.Time
	for _, in := range r.incidents.accepted(r.matter.policy.PlatformName, r.at) {
		if in.Lifts.Status.Status == r.verdict.Claims.TCB.Status && (end.IsZero() || in.Until.Before(end)) {
			end = in.Until
		}
	}
	return end
}

// widened remembers the manifest with the hops that exceptions add, so that the
// same one is shown while nothing changes.
type widened struct {
	mu    sync.Mutex // guards what follows
	rev   *revision
	until []int // numbers of the incidents in it
	m     *manifest.Manifest
}

// hops is the manifest in force with the hops that break-glass adds.
func (c *Coordinator) hops(rev *revision) *manifest.Manifest {
	var numbers []int
	var add []apiv1.ExtraHop
	for _, in := range c.incidents.Load().exceptions(c.latest()) {
		h := in.Lifts.Hop
		if h == nil || rev.m == nil || hopLiftable(rev, *h) != nil {
			continue
		}
		if !slices.ContainsFunc(add, func(o apiv1.ExtraHop) bool { return clashes(rev.m, o, *h) }) {
			numbers, add = append(numbers, in.ID), append(add, *h)
		}
	}
	if len(add) == 0 {
		return rev.m
	}
	w := &c.widened
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m != nil && w.rev == rev && slices.Equal(w.until, numbers) {
		return w.m
	}
	m := *rev.m
	m.Marbles = maps.Clone(m.Marbles)
	for _, h := range add {
		from := m.Marbles[h.From]
		from.Calls = append(slices.Clip(from.Calls), manifest.Call{Marble: h.To, Port: h.Port, Listen: listens(&m, h)})
		m.Marbles[h.From] = from
	}
	w.rev, w.until, w.m = rev, numbers, &m
	return w.m
}

// endExceptions removes exceptions whose time is over, and records it.
func (c *Coordinator) endExceptions(ctx context.Context) error {
	now, latest := c.config.Now(), c.latest()
	over := func(in apiv1.Incident) bool { return in.Kind == apiv1.BreakGlass && !latest.Before(in.Until) }
	if !slices.ContainsFunc(c.incidents.Load().all, over) {
		return nil
	}
	c.setting.Lock()
	defer c.setting.Unlock()
	err := c.update(ctx, func(tx *store.Tx) error {
		for _, in := range c.incidents.Load().all {
			if _, stands := incidentsTable.Get(tx, numbered(in.ID)); !stands || !over(in) {
				continue
			}
			err := c.endIncident(tx, in, audit.Record{Time: now, Kind: audit.BreakGlassEnded, Details: map[string]string{"until": stamp(in.Until)},
				Text: fmt.Sprintf("break-glass %d ended by itself: %s", in.ID, aboutText(in))})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ending break-glass: %w", err)
	}
	c.publishIncidents()
	return nil
}

// breakGlassAttention shows that a rule is lifted.
func breakGlassAttention(in apiv1.Incident) apiv1.Attention {
	return apiv1.Attention{Code: "INC-022", Subject: "BREAK-GLASS", Since: in.At, Next: fmt.Sprintf("ashlar break-glass --end %d", in.ID),
		Text: fmt.Sprintf("%s is allowed until %s, by %s (incident %d): %s", aboutText(in), stamp(in.Until), in.By, in.ID, in.Reason)}
}
