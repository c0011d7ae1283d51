package attest

import "time"

// accept makes what has ended acceptable until the rules' grace is over, and
// says so: only steps whose verifier found that a window is over, never one that
// has not begun, nor a certificate's.
func (r EndorsementRules) accept(steps []Step, at time.Time) {
	if r.GraceUntil.IsZero() {
		return
	}
	for i := range steps {
		s := &steps[i]
		if s.OK || s.Ended.IsZero() || s.Code != CodeWindow && s.Code != CodeCRLWindow {
			continue
		}
		if at.After(r.GraceUntil) {
			s.Got += "; the grace for what has ended is over since " + dated(r.GraceUntil)
			continue
		}
		s.OK, s.Grace, s.Fix = true, r.GraceUntil, Fix{}
		s.Want += ", or ended in the grace until " + dated(r.GraceUntil)
		s.Got += ": ended " + dated(s.Ended)
	}
}

// graces fills in how long the claims count where steps hold only by a grace.
func (t *TCBClaims) graces(steps []Step) {
	for _, s := range steps {
		if s.Grace.IsZero() || !s.OK {
			continue
		}
		if s.Code == CodeWindow || s.Code == CodeCRLWindow || s.Code == CodeNoRevocation {
			t.EndedUntil = s.Grace
		} else if t.GraceUntil.IsZero() || s.Grace.Before(t.GraceUntil) {
			t.GraceUntil = s.Grace
		}
	}
}
