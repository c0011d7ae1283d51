package coordinator

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Bounds of incidents.
const (
	maxIncidents  = 10_000 // that stand
	maxReasonText = 512    // bytes
)

var (
	// incidentsTable has the incidents that stand, by number in 8 digits. They
	// outlive manifests.
	incidentsTable = store.NewTable[apiv1.Incident]("incidents")
	// incidentHeads has one record, under "current".
	incidentHeads = store.NewTable[incidentHead]("incidents-head")
)

// incidentHead changes with every incident.
type incidentHead struct {
	Version int `json:"version"` // how often incidents changed
	Last    int `json:"last"`    // newest number
}

// incidents are those that stand, with what is looked up in them. They are
// immutable.
type incidents struct {
	head    incidentHead
	all     []apiv1.Incident           // by number
	bars    map[barKey]*apiv1.Incident // a revocation before a quarantine
	changed chan struct{}              // closed when others take their place
}

// barKey is what a bar is found by: one field of a suspect.
type barKey struct {
	kind string // that of the subject, or "instance", "measurement", "machine"
	name string
	of   string // of an instance its id, of a measurement its hex
}

const (
	barInstance    = "instance"
	barMeasurement = "measurement"
	barMachine     = "machine"
)

// suspect is whoever is judged: all that bars are found by. Empty fields match
// none.
type suspect struct {
	marble, instance       string
	packageName, platform  string
	measurements, machines []string // hex
	user                   string
}

func barOf(s apiv1.Subject) barKey {
	switch {
	case s.Instance != "":
		return barKey{barInstance, s.Name, s.Instance}
	case len(s.Measurement) > 0:
		return barKey{barMeasurement, s.Name, s.Measurement.String()}
	case s.Kind == apiv1.PlatformSubject && machineID(s.Name):
		return barKey{barMachine, s.Name, ""}
	}
	return barKey{s.Kind, s.Name, ""}
}

// keys are those of a suspect, in the order in which its bars are told.
func (s suspect) keys() []barKey {
	keys := []barKey{{apiv1.UserSubject, s.user, ""}, {apiv1.MarbleSubject, s.marble, ""}, {barInstance, s.marble, s.instance}, {apiv1.PackageSubject, s.packageName, ""}}
	for _, m := range s.measurements {
		keys = append(keys, barKey{barMeasurement, s.packageName, m})
	}
	keys = append(keys, barOf(apiv1.Subject{Kind: apiv1.PlatformSubject, Name: s.platform})) // its name may look like a machine's
	for _, m := range s.machines {
		keys = append(keys, barKey{barMachine, m, ""})
	}
	return keys
}

func newIncidents(head incidentHead, all []apiv1.Incident) *incidents {
	i := &incidents{head: head, all: all, bars: map[barKey]*apiv1.Incident{}, changed: make(chan struct{})}
	for n := range all {
		in := &all[n]
		if in.Kind == apiv1.BreakGlass {
			continue
		}
		key := barOf(in.Subject)
		if old := i.bars[key]; old == nil || old.Kind == apiv1.Quarantine && in.Kind == apiv1.Revocation {
			i.bars[key] = in
		}
	}
	return i
}

// barred is the one judgement of who is revoked or in quarantine: it returns the
// incident that says so, a revocation before a quarantine, or nil. It is pure.
func (i *incidents) barred(s suspect) *apiv1.Incident {
	if len(i.bars) == 0 {
		return nil
	}
	var quarantine *apiv1.Incident
	for _, key := range s.keys() {
		in := i.bars[key]
		switch {
		case in == nil:
		case in.Kind == apiv1.Revocation:
			return in
		case quarantine == nil:
			quarantine = in
		}
	}
	return quarantine
}

// machineID reports whether a name is that of a machine: hexadecimal, of a
// length that evidence has.
func machineID(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && slices.Contains([]int{6, 8, 16, 64}, len(b)) && name == hex.EncodeToString(b)
}

var barCodes = map[string]problem.Code{
	apiv1.MarbleSubject: "INC-001", barInstance: "INC-002", apiv1.PackageSubject: "INC-003", barMeasurement: "INC-004",
	apiv1.PlatformSubject: "INC-005", barMachine: "INC-006", apiv1.UserSubject: "INC-007",
}

// refusalOf says that somebody is barred, why, and who to ask.
func refusalOf(in *apiv1.Incident) *problem.Error {
	code, done := barCodes[barOf(in.Subject).kind], "revoked"
	if in.Kind == apiv1.Quarantine {
		code, done = "INC-008", "put in quarantine"
	}
	return problem.New(code, "%s was %s by %s at %s (incident %d): %s", subjectText(in.Subject), done, in.By, stamp(in.At), in.ID, in.Reason)
}

// subjectText names a subject for people and for the log.
func subjectText(s apiv1.Subject) string {
	text := s.Kind + " " + s.Name
	switch {
	case s.Instance != "":
		return text + "/" + s.Instance
	case len(s.Measurement) > 0:
		return text + " with the measurement " + s.Measurement.String()
	}
	return text
}

// provenance is what a leaf's evidence says of software and machine.
type provenance struct {
	Measurements []attest.Hex `json:"measurements,omitempty"`
	Machines     []attest.Hex `json:"machines,omitempty"`
	NotAfter     time.Time    `json:"notAfter"` // of the leaf
}

// maxProvenances bounds those that one instance has had within one lease.
const maxProvenances = 16

// provenanceOf reads what evidence says.
func provenanceOf(c attest.Claims, notAfter time.Time) provenance {
	o := provenance{NotAfter: notAfter}
	note := func(to *[]attest.Hex, values ...attest.Hex) {
		for _, v := range values {
			if slices.ContainsFunc(v, func(b byte) bool { return b != 0 }) && !slices.ContainsFunc(*to, func(x attest.Hex) bool { return slices.Equal(x, v) }) {
				*to = append(*to, v)
			}
		}
	}
	if c.SGX != nil {
		note(&o.Measurements, c.SGX.UniqueID, c.SGX.SignerID)
	}
	if c.TDX != nil {
		note(&o.Measurements, c.TDX.MRTD, c.TDX.RTMR0, c.TDX.RTMR1, c.TDX.RTMR2, c.TDX.RTMR3)
	}
	if c.SNP != nil {
		note(&o.Measurements, c.SNP.Measurement)
		note(&o.Machines, c.SNP.ChipID)
	}
	for _, r := range c.Registers {
		note(&o.Measurements, r)
	}
	slices.SortFunc(o.Measurements, func(a, b attest.Hex) int { return slices.Compare(a, b) })
	note(&o.Machines, c.TCB.FMSPC, c.TCB.PPID, c.TCB.PlatformInstance)
	return o
}

func (o provenance) same(p provenance) bool {
	equal := func(a, b attest.Hex) bool { return slices.Equal(a, b) }
	return slices.EqualFunc(o.Measurements, p.Measurements, equal) && slices.EqualFunc(o.Machines, p.Machines, equal)
}

// provenances are those of all leaves of an instance that have not ended: an older
// leaf may come from another machine.
func provenances(old []provenance, now provenance, at time.Time) []provenance {
	kept := []provenance{now}
	for _, o := range old {
		if at.Before(o.NotAfter) && !o.same(now) && len(kept) < maxProvenances {
			kept = append(kept, o)
		}
	}
	return kept
}

// suspectOf is an instance as it is known from its leaves.
func suspectOf(rev *revision, key string, all []provenance) suspect {
	s := rev.suspect(key)
	for _, o := range all {
		s.add(o)
	}
	return s
}

func (s *suspect) add(o provenance) {
	for _, m := range o.Measurements {
		s.measurements = append(s.measurements, m.String())
	}
	for _, m := range o.Machines {
		s.machines = append(s.machines, m.String())
	}
}

// suspect is an instance as the manifest knows it.
func (r *revision) suspect(key string) suspect {
	marble, id, _ := strings.Cut(key, "/")
	s := suspect{marble: marble, instance: id}
	if r.m != nil {
		mb := r.m.Marbles[marble]
		s.packageName, s.platform = mb.Package, mb.Platform
	}
	return s
}

// suspect is the one who asks in a ruling.
func (r *ruling) suspect() suspect {
	s := suspect{packageName: r.matter.policy.PackageName, platform: r.matter.policy.PlatformName}
	if !r.asked.joins() {
		s.marble, s.instance = r.asked.info.Marble, r.asked.info.ID
	}
	s.add(provenanceOf(r.verdict.Claims, time.Time{}))
	return s
}

// loadIncidents takes in what the store holds, and tells who waits for a change.
func (c *Coordinator) loadIncidents(ctx context.Context) error {
	var next *incidents
	err := c.store.View(ctx, func(tx *store.Tx) error {
		next = readIncidents(tx)
		return nil
	})
	if err != nil {
		return err
	}
	c.outlaw(next)
	if old := c.incidents.Swap(next); old != nil {
		close(old.changed)
	}
	return nil
}

func readIncidents(tx *store.Tx) *incidents {
	head, _ := incidentHeads.Get(tx, keyCurrent)
	var all []apiv1.Incident
	for _, in := range incidentsTable.All(tx) {
		all = append(all, in)
	}
	slices.SortFunc(all, func(a, b apiv1.Incident) int { return a.ID - b.ID })
	return newIncidents(head, all)
}

// outlaw takes the users who are revoked out of the revision in force, so that
// neither their certificates nor their signatures count. Whoever changes either
// holds c.setting.
func (c *Coordinator) outlaw(i *incidents) {
	if rev := c.current.Load(); rev != nil && rev.m != nil {
		c.current.Store(rev.without(i))
	}
}

// without is a revision whose users are those that are not revoked.
func (r *revision) without(i *incidents) *revision {
	next := *r
	next.users, next.outcasts = map[[32]byte]user{}, map[[32]byte]user{}
	for _, from := range []map[[32]byte]user{r.users, r.outcasts} {
		for sum, u := range from {
			if i.barred(suspect{user: u.name}) != nil {
				next.outcasts[sum] = u
			} else {
				next.users[sum] = u
			}
		}
	}
	return &next
}
