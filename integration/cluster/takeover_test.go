//go:build linux

package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// lease is of a marble: half of it, after which it is renewed, is longer than two
// takeovers, one right after the other, take on a machine that is busy.
const lease = "1m"

// Replicas join, and the active one is killed again and again under traffic, in
// every other round its successor too: somebody takes over, programs notice
// nothing, and nothing is lost.
func TestClusterTakeover(t *testing.T) {
	s := three(t, lease, nil)
	log := s.history()
	if got := count(log.records)["replicaAccepted"]; got != 2 {
		t.Errorf("the log has %d replicas that were accepted, want 2", got)
	}
	s.showsReplicas()
	s.eachAnswers()
	visits, joins := s.visit(), s.activate(2, 50*time.Millisecond)
	rounds := 3
	if soak() {
		rounds = 30
	}
	for round := range rounds {
		visits.More(50)
		s.killed(log, round, joins)
	}
	s.renewed(log)
	joins.Halt()
	joins.Kept(s.connect())
	log.goesOn()
	visits.Flawless(fmt.Sprintf("%d takeovers", rounds+rounds/2))
}

// showsReplicas looks at what an operator is shown.
func (s *site) showsReplicas() {
	s.t.Helper()
	st := drive.Document[apiv1.Status](s.shell, "status")
	if len(st.Replicas) != 3 {
		s.t.Errorf("status shows %+v, want three replicas", st.Replicas)
	}
	active := s.settled(2) // mostly the first, which had the key first
	for _, r := range s.replicas {
		role := "standby"
		if r == active {
			role = "active"
		}
		drive.Wants(s.t, s.shell.Must(0, "status").Stdout, r.name+"\t"+role)
	}
	drive.Wants(s.t, s.shell.Must(0, "audit", "list", "--kind", "replicaAccepted").Stdout, "coordinators")
}

// eachAnswers asks every replica itself: whoever is not active passes the question
// on.
func (s *site) eachAnswers() {
	s.t.Helper()
	for i, r := range s.replicas {
		s.shell.Must(0, "verify", r.ip+":4433", "--dry-run")
		if _, err := s.joinAt(r.ip+":2001", "stray", i); err != nil {
			s.t.Errorf("a marble through %s: %v", r.name, err)
		}
	}
}

// killed kills the active replica, in odd rounds its successor too as soon as it
// answers, and uses what is there then.
func (s *site) killed(log *history, round int, joins *drive.Activators) {
	t := s.t
	t.Helper()
	dead := []*replica{s.settled(2)}
	began := time.Now()
	dead[0].kill()
	s.connect()
	took := time.Since(began)
	if round%2 == 1 {
		next := s.settled(1)
		began = time.Now()
		next.kill()
		s.connect()
		t.Logf("round %d: the successor was killed, and a client verified its own after %s", round, time.Since(began).Round(10*time.Millisecond))
		dead = append(dead, next)
	}
	t.Logf("round %d: a client verified the successor %s after the kill", round, took.Round(10*time.Millisecond))
	log.goesOn()
	joins.More(3)
	c := s.connect()
	drive.Amend(s.t, c, func(doc map[string]any) {
		doc["marbles"].(map[string]any)["probe"].(map[string]any)["maxInstances"] = 1001 + round
	})
	log.goesOn()
	for _, r := range dead {
		r.start()
	}
	s.settled(2)
}

// renewed waits until every marble of the chain has renewed its lease with who is
// active now.
func (s *site) renewed(log *history) {
	s.t.Helper()
	s.renewedSince(log, log.mark())
}

// renewedSince waits until every service has renewed its lease since a mark.
func (s *site) renewedSince(log *history, mark int) {
	s.t.Helper()
	drive.Eventually(s.t, patience, func() string {
		log.goesOn()
		if got := subjects(log.records[mark:], "renewalAccepted"); got != "back front middle" {
			return fmt.Sprintf("%q have renewed their leases", got)
		}
		return ""
	})
}

// The active replica is stopped for longer than its lease, as a virtual machine
// that is moved or paused is. When it goes on it is the old one: what it was asked
// meanwhile it does not do, it steps down, and cuts its clients.
func TestClusterPaused(t *testing.T) {
	s := three(t, lease, nil)
	log := s.history()
	visits, joins := s.visit(), s.activate(2, 50*time.Millisecond)
	old := s.settled(2)
	// Those who ask the paused replica itself: an idle connection, and marbles.
	idle, err := tls.Dial("tcp", old.ip+":4433", &tls.Config{InsecureSkipVerify: true}) // nothing is asked over it
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	direct := drive.Activate(t, drive.Marbles{Mesh: old.ip + ":2001", Marble: "stray", Issuer: s.machines[0].issuer(), Workers: 2, Pause: 50 * time.Millisecond})
	direct.More(4)
	joins.More(4)
	began := time.Now()
	old.pause()
	drive.Eventually(t, patience, func() string { return s.settledWithout(old) })
	t.Logf("a successor served %s after the pause", time.Since(began).Round(10*time.Millisecond))
	joins.More(4)
	drive.Amend(s.t, s.connect(), func(doc map[string]any) {
		doc["marbles"].(map[string]any)["probe"].(map[string]any)["maxInstances"] = 900
	})
	log.goesOn()
	resumed := time.Now()
	old.resume()
	_ = idle.SetReadDeadline(time.Now().Add(patience)) // a TCP connection has deadlines
	if n, err := idle.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an idle client of the old one: got %d bytes, %v; want its connection closed", n, err)
	}
	s.settled(2)
	t.Logf("the old one was a standby %s after it went on", time.Since(resumed).Round(10*time.Millisecond))
	direct.More(4) // passed on to the active one
	direct.Halt()
	joins.Halt()
	c := s.connect()
	direct.Kept(c)
	joins.Kept(c)
	if m, err := c.Manifest(t.Context()); err != nil || m.Revision != 2 {
		t.Errorf("got revision %d, %v, want 2", m.Revision, err)
	}
	log.goesOn()
	visits.Flawless("the active replica was paused")
}

// settledWithout says why no other replica than one is active yet.
func (s *site) settledWithout(old *replica) string {
	c, err := s.dial(s.t.Context())
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	all, err := s.roles(c)
	if err != nil {
		return err.Error()
	}
	for _, r := range all {
		if r.Role == apiv1.ReplicaActive && r.Name != old.name {
			return ""
		}
	}
	return fmt.Sprintf("the replicas are %+v", all)
}
