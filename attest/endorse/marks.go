package endorse

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// Codes of steps about marks.
const (
	CodeOlder      = "ATT-060" // an endorsement is older than one that was seen
	CodeClock      = "ATT-061" // the clock stands before what was seen
	CodeUnreadable = "ATT-062" // an endorsement cannot be compared with its mark
)

// ClockSlack is how far a clock may go back without notice: steps of NTP, and
// the differences between replicas.
const ClockSlack = 5 * time.Minute

// maxMarks bounds the marks; there are as many as platforms of different kinds.
const maxMarks = 4096

// Marks are monotone floors: the newest issue of each document that was ever
// relied on, and the latest time. Whoever owns the clock of the machine, and in
// front of a TEE that is the host, can set it back and play old endorsements; a
// relying party that keeps its marks in sealed state notices both. The zero
// Marks has seen nothing. A value is never modified.
type Marks struct {
	Documents map[string]Mark `json:"documents,omitempty"` // by Document.Identity
	Clock     time.Time       `json:"clock,omitzero"`
}

// Mark is the newest issue of one document.
type Mark struct {
	Issued time.Time `json:"issued"`
	Number uint64    `json:"number,omitempty"` // tcbEvaluationDataNumber or CRL number
}

func (m Mark) older(than Mark) bool {
	return m.Number < than.Number || m.Number == than.Number && m.Issued.Before(than.Issued)
}

// String returns "20 of 2026-11-22T10:00:00Z".
func (m Mark) String() string {
	if m.Number == 0 {
		return pki.Stamp(m.Issued)
	}
	return fmt.Sprintf("%d of %s", m.Number, pki.Stamp(m.Issued))
}

func (d Document) mark() Mark { return Mark{d.Issued, d.Number} }

// marked reports whether issues of the document supersede each other.
// Certificates do not: an older one is as good while it is valid.
func (d Document) marked() bool {
	return d.Kind != attest.KindVCEK && d.Kind != attest.KindVLEK && d.Kind != attest.KindAMDChain
}

// Check compares a set with the marks. There is a step for each document that
// has a mark, failed where the document is older (ATT-060), and a failed one for
// each that should have been compared and cannot be read (ATT-062).
func (m Marks) Check(en attest.Endorsements) []attest.Step {
	var steps []attest.Step
	for _, d := range Describe(en) {
		if !d.marked() {
			continue
		}
		if d.Error != "" {
			steps = append(steps, attest.Step{Code: CodeUnreadable, Field: field(d.Kind), Want: "a document that can be compared with those seen before",
				Got: d.Error, Source: d.Kind, Fix: fixFetch})
			continue
		}
		seen, ok := m.Documents[d.Identity]
		if !ok {
			continue
		}
		s := attest.Step{Code: CodeOlder, Field: field(d.Kind), OK: !d.mark().older(seen), Want: "not before " + seen.String(), Got: d.mark().String(),
			Source: d.Identity}
		if !s.OK {
			s.Fix = fixFetch
		}
		steps = append(steps, s)
	}
	return steps
}

var (
	fixFetch = attest.Fix{Who: attest.Operator, How: "fetch the endorsements again: ashlar endorsements fetch; a source or host that plays old ones is not to be trusted"}
	fixClock = attest.Fix{Who: attest.Operator, How: "set the clock of the coordinator's host"}
)

// field names the step: "tcbInfo.notOlder".
func field(kind string) string {
	return map[string]string{attest.KindTCBInfo: "tcbInfo", attest.KindQEIdentity: "qeIdentity", attest.KindPCKCRL: "pckCRL",
		attest.KindRootCRL: "rootCRL", attest.KindAMDCRL: "crl"}[kind] + ".notOlder"
}

// CheckClock compares the time of a decision with the latest time that was
// seen, less ClockSlack.
func (m Marks) CheckClock(at time.Time) attest.Step {
	s := attest.Step{Code: CodeClock, Field: "clock.notBefore", OK: !at.Before(m.Clock.Add(-ClockSlack)), Want: "not before " + pki.Stamp(m.Clock),
		Got: pki.Stamp(at), Source: "clock"}
	if !s.OK {
		s.Fix = fixClock
	}
	return s
}

// Raise returns the marks after a set was relied on, and whether any was raised.
// Call it only with the endorsements of an accepted verdict: what nobody signed
// would shut genuine documents out for ever. None is ever lowered. A set that
// mixes the documents of Intel and AMD raises nothing, since a verdict covers
// those of one vendor only. The issue dates raise the clock too.
func (m Marks) Raise(en attest.Endorsements) (Marks, bool) {
	all := Describe(en)
	if mixed(all) {
		return m, false
	}
	raised := false
	for _, d := range all {
		if d.Error != "" || !d.marked() {
			continue
		}
		seen, known := m.Documents[d.Identity]
		if known && !seen.older(d.mark()) || !known && len(m.Documents) >= maxMarks {
			continue
		}
		if !raised {
			m.Documents = maps.Clone(m.Documents)
		}
		if m.Documents == nil {
			m.Documents = map[string]Mark{}
		}
		m.Documents[d.Identity] = d.mark()
		raised = true
		if d.Issued.After(m.Clock) {
			m.Clock = d.Issued
		}
	}
	return m, raised
}

// RaiseClock returns the marks after an accepted decision at a time. The clock is
// raised in steps of ClockSlack, so that not every decision changes the marks.
// Validity windows bound how far a wrong clock can raise it.
func (m Marks) RaiseClock(at time.Time) (Marks, bool) {
	if at.Sub(m.Clock) < ClockSlack {
		return m, false
	}
	m.Clock = at.UTC()
	return m, true
}

// mixed reports whether documents are of more than one vendor.
func mixed(all []Document) bool {
	vendors := map[string]bool{}
	for _, d := range all {
		switch {
		case strings.HasPrefix(d.Identity, "sim/"):
			vendors["simulation"] = true
		case d.Kind == attest.KindTCBInfo || d.Kind == attest.KindQEIdentity || d.Kind == attest.KindPCKCRL || d.Kind == attest.KindRootCRL:
			vendors["Intel"] = true
		default:
			vendors["AMD"] = true
		}
	}
	return len(vendors) > 1
}
