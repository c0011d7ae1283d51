//go:build linux

package cluster

import (
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// codeFull refuses an instance because there are as many as may be.
const codeFull = "CRD-031"

// codeOf is the code of a refusal that came over gRPC.
func codeOf(err error) problem.Code {
	if e, ok := marblepb.Problem(err); ok {
		return e.Code
	}
	return ""
}

// Two hundred instances are activated at once while the active replica is killed:
// none that was acknowledged is lost, and there are never more than may be.
func TestClusterManyActivations(t *testing.T) {
	const workers, most = 25, 150 // of 200 instances
	s := three(t, "10m", func(doc map[string]any) {
		doc["marbles"].(map[string]any)["probe"].(map[string]any)["maxInstances"] = most
	})
	log := s.history()
	visits := s.visit()
	active := s.settled(2)
	began := time.Now()
	joins := s.activate(workers, 0)
	joins.More(most / 2)
	before, at := joins.Count(), time.Now()
	active.kill()
	joins.Await(1, patience)
	t.Logf("%d activations in %s, then none for %s", before, at.Sub(began).Round(10*time.Millisecond), time.Since(at).Round(10*time.Millisecond))
	joins.Await(most, patience)
	c := s.connect()
	drive.Eventually(t, patience, func() string {
		m, err := c.Marble(t.Context(), "probe")
		switch {
		case err != nil:
			return err.Error()
		case len(m.Instances) > most:
			t.Fatalf("there are %d instances, want %d at most", len(m.Instances), most)
		case len(m.Instances) < most:
			return "there are not enough instances yet"
		}
		return ""
	})
	full := 0
	drive.Eventually(t, patience, func() string { // 200 instances want to be
		full = 0
		for _, err := range joins.Failed() {
			if codeOf(err) == codeFull {
				full++
			}
		}
		if full == 0 {
			return "nobody was refused with " + codeFull
		}
		return ""
	})
	joins.Halt()
	joins.Kept(c)
	t.Logf("%d activations were acknowledged; %d were refused because there are %d instances; %d failed otherwise", joins.Count(), full, most, len(joins.Failed())-full)
	m, err := c.Marble(t.Context(), "probe")
	if err != nil || len(m.Instances) != most {
		t.Errorf("got %d instances, %v, want %d", len(m.Instances), err, most)
	}
	log.goesOn()
	visits.Flawless("200 instances wanted to be activated, and the active replica was killed")
}
