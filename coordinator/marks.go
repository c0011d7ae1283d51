package coordinator

import (
	"context"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// marksTable has one record, under "current": the newest endorsements and the
// latest time that an accepted decision rested on.
var marksTable = store.NewTable[endorse.Marks]("marks")

// maxCompared bounds the endorsement sets whose comparison is remembered.
const maxCompared = 1024

// marks are monotone floors of endorsements and of the clock. Comparing a set
// means reading its documents, so what came of it is remembered by the set's
// digest for as long as the marks stand.
type marks struct {
	mu       sync.Mutex // guards what follows
	current  endorse.Marks
	compared map[[32]byte]comparison
}

// comparison is what comparing a set with the marks gave.
type comparison struct {
	failed []attest.Step
	raises bool // to rely on the set raises the marks
}

// load takes in the marks that the store holds.
func (m *marks) load(ctx context.Context, s *store.Store) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.View(ctx, func(tx *store.Tx) error {
		m.current, _ = marksTable.Get(tx, keyCurrent)
		m.compared = map[[32]byte]comparison{}
		return nil
	})
}

// compare returns the checks that do not hold for a set at a time, and whether
// an accepted decision has to raise the marks of documents.
func (m *marks) compare(en attest.Endorsements, at time.Time) (failed []attest.Step, raises bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, known := m.compared[en.Digest()]
	if !known {
		c.failed = failedSteps(m.current.Check(en))
		_, c.raises = m.current.Raise(en)
		if len(m.compared) >= maxCompared {
			clear(m.compared)
		}
		m.compared[en.Digest()] = c
	}
	failed = append(failed, c.failed...)
	if clock := m.current.CheckClock(at); !clock.OK {
		failed = append(failed, clock)
	}
	return failed, c.raises
}

// late reports whether an accepted decision of a time has to raise the clock's
// mark.
func (m *marks) late(at time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, late := m.current.RaiseClock(at)
	return late
}

// failed returns the checks that do not hold for a set, whatever the time.
func (m *marks) failed(en attest.Endorsements) []attest.Step {
	m.mu.Lock()
	current := m.current
	m.mu.Unlock()
	return failedSteps(current.Check(en))
}

// raiseMarks raises the marks that the store holds, for an accepted decision;
// those of documents alone at the zero time.
func raiseMarks(tx *store.Tx, en attest.Endorsements, at time.Time) error {
	m, _ := marksTable.Get(tx, keyCurrent)
	m, documents := m.Raise(en)
	m, clock := m.RaiseClock(at)
	if !documents && !clock {
		return nil
	}
	return marksTable.Put(tx, keyCurrent, m)
}

func failedSteps(steps []attest.Step) []attest.Step {
	return attest.Verdict{Steps: steps}.Failed()
}

// withSteps adds checks that do not hold at the end of a verdict.
func withSteps(v attest.Verdict, failed []attest.Step) attest.Verdict {
	if len(failed) == 0 {
		return v
	}
	v.Verdict = attest.Refused
	v.Steps = append(v.Steps[:len(v.Steps):len(v.Steps)], failed...)
	return v
}
