package attesttest

import (
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
)

// TestGrace judges real evidence after its endorsements have ended, and before
// they began: a grace accepts the first until it is over, and never the second.
func TestGrace(t *testing.T) {
	tried := 0
	for _, s := range All(t) {
		good := explain(t, s, evidence.Options{})
		tcb := good.Claims.TCB
		if !good.OK() || !tcb.RevocationChecked || !tcb.NextUpdate.Before(tcb.NotAfter.Add(-2*time.Hour)) {
			continue
		}
		tried++
		t.Run(s.Name, func(t *testing.T) {
			ended, until := tcb.NextUpdate.Add(time.Second), tcb.NextUpdate.Add(time.Hour)
			judge := func(at, until time.Time) attest.Verdict {
				return explain(t, s, evidence.Options{At: at, Platform: attest.Platform{Endorsements: attest.EndorsementRules{GraceUntil: until}}})
			}
			if v := judge(ended, time.Time{}); v.OK() {
				t.Error("without a grace: got accepted, want refused")
			}
			v := judge(ended, until)
			if !v.OK() || !v.Claims.TCB.ValidUntil().Equal(until) {
				t.Errorf("in the grace: got accepted=%t until %v, want accepted until %v; failed: %v", v.OK(), v.Claims.TCB.ValidUntil(), until, failed(v))
			}
			v = judge(until.Add(time.Second), until)
			if v.OK() || !strings.Contains(v.Failed()[0].Got, "over since") {
				t.Errorf("after the grace: got accepted=%t, %+v, want a refusal that says since when", v.OK(), v.Failed())
			}
			if v := judge(tcb.OldestIssue.Add(-time.Second), until); v.OK() {
				t.Error("before the endorsements began: got accepted, want refused")
			}
			if v := judge(tcb.NotAfter.Add(time.Second), tcb.NotAfter.Add(time.Hour)); v.OK() {
				t.Error("after the chain's end: got accepted, want refused")
			}
		})
	}
	if tried < 2 {
		t.Errorf("got %d sets with a CRL, want some", tried)
	}
}
