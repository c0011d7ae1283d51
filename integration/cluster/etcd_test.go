//go:build linux

package cluster

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// The active replica is cut off from etcd; etcd's leader dies, then its majority.
// Whoever reaches etcd decides, and while nobody does, nobody: refusals have codes,
// and hops go on all the while.
func TestClusterWithoutEtcd(t *testing.T) {
	s := three(t, "2m", nil)
	log := s.history()
	visits, joins := s.visit(), s.activate(2, 50*time.Millisecond)
	joins.More(4)
	t.Run("the active one is cut off", func(*testing.T) { s.cutOff(log, joins) })
	t.Run("etcd's leader dies", func(t *testing.T) {
		dead := s.etcd.Leader()
		began := time.Now()
		s.etcd.Kill(dead)
		joins.More(4)
		t.Logf("marbles were activated again %s after etcd's leader was killed", time.Since(began).Round(10*time.Millisecond))
		s.etcd.Restart(dead)
		log.goesOn()
	})
	t.Run("etcd's majority dies", func(*testing.T) { s.withoutMajority(visits, joins) })
	s.settled(2)
	joins.More(4)
	joins.Halt()
	joins.Kept(s.connect())
	log.goesOn()
	visits.Flawless("the active replica lost etcd, etcd lost its leader, and then its majority")
}

// cutOff cuts the active replica off from etcd, and nothing else: marbles and
// clients still reach it.
func (s *site) cutOff(log *history, joins *drive.Activators) {
	t := s.t
	old := s.settled(2)
	began := time.Now()
	old.cut()
	drive.Eventually(t, patience, func() string { return s.settledWithout(old) })
	t.Logf("a successor served %s after the active replica lost etcd", time.Since(began).Round(10*time.Millisecond))
	joins.More(4)
	log.goesOn()
	old.until("not ready", func(p says) bool { return !p.Ready && p.Reason != "" })
	old.mend()
	s.settled(2)
	joins.More(4)
}

// withoutMajority kills two members of three.
func (s *site) withoutMajority(visits *drive.Traffic, joins *drive.Activators) {
	t := s.t
	s.etcd.Kill(0)
	s.etcd.Kill(1)
	// Whatever is asked is refused with a code that says to try again, or waits.
	drive.Eventually(t, patience, func() string {
		if _, err := s.join("stray", 1); err == nil {
			return "a marble was activated without etcd's majority"
		}
		return ""
	})
	var asked sync.WaitGroup
	for n, r := range s.replicas {
		asked.Go(func() {
			began := time.Now()
			_, err := s.joinAt(r.ip+":2001", "stray", 1+n)
			e, coded := marblepb.Problem(err)
			if err == nil || coded && e.Kind() != problem.Unavailable {
				t.Errorf("activation by %s without etcd's majority: got %v, want it refused, if with a code then one that says to try again", r.name, err)
			}
			t.Logf("%s refused after %s: %v", r.name, time.Since(began).Round(10*time.Millisecond), err)
		})
	}
	asked.Wait()
	for _, r := range s.replicas {
		r.until("not ready", func(p says) bool { return !p.Ready && p.Reason != "" })
	}
	if got := s.shell.Run("status"); got.Code != problem.Unavailable.ExitCode() || !strings.Contains(got.Stderr, "CRD-10") {
		t.Errorf("ashlar status without etcd's majority: got exit %d, %s%s, want it unavailable, with a code", got.Code, got.Stdout, got.Stderr)
	}
	visits.More(100)
	began := time.Now()
	s.etcd.Restart(0)
	s.etcd.Restart(1)
	joins.More(4)
	t.Logf("marbles were activated again %s after etcd's majority was started", time.Since(began).Round(10*time.Millisecond))
}

// join has one instance of a marble activated, through whoever answers.
func (s *site) join(marble string, n int) (probe.Activation, error) {
	return s.joinAt(s.mesh(), marble, n)
}

func (s *site) joinAt(address, marble string, n int) (probe.Activation, error) {
	c, err := probe.Dial(s.t.Context(), address, probe.Options{})
	if err != nil {
		return probe.Activation{}, err
	}
	defer c.Close()
	return c.Activate(s.t.Context(), probe.Attempt{Issuer: s.machines[0].issuer(),
		Instance: &marblepb.Instance{Marble: marble, Id: fmt.Sprintf("30000000-0000-4000-8000-%012d", n), Address: "10.77.0.2"}})
}

// joined is join, again and again until somebody answers.
func (s *site) joined(marble string, n int) probe.Activation {
	s.t.Helper()
	var a probe.Activation
	drive.Eventually(s.t, patience, func() string {
		var err error
		if a, err = s.join(marble, n); err != nil {
			return err.Error()
		}
		return ""
	})
	return a
}

// etcd goes back to what it was before the newest decisions. A replica that has
// seen them refuses that, loudly, and nobody decides anything; with the newest state
// put back it goes on. When every replica was started anew none of them can know:
// then their clients do.
func TestClusterRolledBack(t *testing.T) {
	s := three(t, "2m", nil)
	s.joined("stray", 1)
	older := s.saved()
	active := s.settled(2)
	log := s.history()
	before := active.head()
	drive.Amend(s.t, s.connect(), func(doc map[string]any) {
		doc["marbles"].(map[string]any)["probe"].(map[string]any)["maxInstances"] = 77
	})
	newer := s.joined("stray", 2)
	log.goesOn()
	visits := s.visit()
	drive.Eventually(t, patience, func() string {
		for _, r := range s.replicas {
			if seen := r.head(); r != active && seen <= before {
				return fmt.Sprintf("%s has seen head %d, want one after %d", r.name, seen, before)
			}
		}
		return ""
	})
	s.etcd.KillAll()
	newest := s.etcd.Save()
	s.etcd.Load(older)
	s.etcd.RestartAll()
	for _, r := range s.replicas {
		r.until("refusing the older state", func(p says) bool { return !p.Ready && strings.Contains(p.Reason, "REP-031") })
		drive.Eventually(t, patience, func() string { // it is logged a moment after it is shown
			if !strings.Contains(r.said(), "REP-031") {
				return fmt.Sprintf("%s says nothing of it in its log:\n%s", r.name, r.tail())
			}
			return ""
		})
	}
	if _, err := s.join("stray", 3); err == nil {
		t.Error("a marble was activated on a state that went back")
	}
	visits.More(50)
	s.etcd.KillAll()
	s.etcd.Load(newest)
	s.etcd.RestartAll()
	s.settled(2)
	log.goesOn()
	visits.Flawless("etcd went back and came forth again")

	for _, r := range s.replicas {
		r.kill()
	}
	s.etcd.KillAll()
	s.etcd.Load(older)
	s.etcd.RestartAll()
	for _, r := range s.replicas {
		r.start()
	}
	s.behind()
	s.shown(newer)
}

// shown has a marble of the newer state come to the older one: its leaf proves that
// there was a newer one, and from then on nobody is activated.
func (s *site) shown(newer probe.Activation) {
	t := s.t
	certificate := newer.Certificate()
	drive.Eventually(t, patience, func() string {
		c, err := probe.Dial(t.Context(), s.mesh(), probe.Options{Certificate: &certificate})
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		_, told := c.Challenge(t.Context())
		if _, err := s.join("stray", 3); codeOf(err) != "REC-030" {
			return fmt.Sprintf("a marble of the newer state was told %v, and the next one %v; want REC-030", told, err)
		}
		return ""
	})
	drive.Wants(t, s.shell.Run("recover", "status", "--policy", s.policyFile()).Stdout, "behind")
}

// behind waits until a client that remembers the newer state refuses the older.
func (s *site) behind() {
	t := s.t
	drive.Eventually(t, patience, func() string {
		c, err := s.dial(t.Context())
		if err == nil {
			c.Close()
			t.Fatal("a client that remembers a newer log took the older one")
		}
		if code := problem.CodeOf(err); code == "LOG-050" || code == "LOG-051" || code == "CRD-103" || code == "CRD-104" {
			t.Logf("a client refuses the older state: %v", err)
			return ""
		}
		return err.Error()
	})
	got := s.shell.Run("verify")
	if got.Code != problem.Refused.ExitCode() || !strings.Contains(got.Stderr, "LOG-05") && !strings.Contains(got.Stderr, "CRD-10") {
		t.Errorf("ashlar verify: got exit %d, %s, want it refused", got.Code, got.Stderr)
	}
}

// saved copies what etcd has while it stands still.
func (s *site) saved() string {
	s.etcd.KillAll()
	defer s.etcd.RestartAll()
	return s.etcd.Save()
}
