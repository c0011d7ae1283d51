//go:build linux

package cluster

import (
	"os"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// holders has alice and bob hold shares, both of which open the state.
func (s *site) holders(doc map[string]any) {
	s.t.Helper()
	keys := map[string]string{}
	for _, name := range []string{"alice", "bob"} {
		path := s.file(name + ".age")
		if _, err := os.Stat(path); err != nil {
			keys[name] = strings.TrimSpace(s.shell.Must(0, "recover", "key", path).Stdout)
		}
		doc["users"].(map[string]any)[name] = map[string]any{"certificate": s.user(name), "roles": []string{"operator"}}
	}
	doc["recovery"] = map[string]any{"keys": keys, "threshold": 2}
}

// share gives a holder's share to whoever takes it behind the Service.
func (s *site) share(name string) drive.Outcome {
	s.t.Helper()
	return s.shell.Must(0, append([]string{"recover", "share", "--user", name, "--recovery-key", s.file(name + ".age"), "--policy", s.policyFile()}, s.as(name)...)...)
}

// Every replica and both machines are gone; what is left is etcd. New replicas on a
// third machine cannot open the state, wait, and take the holders' shares through
// the one address; then all of them have the key.
func TestClusterRecovery(t *testing.T) {
	s := newSite(t, "first", "second", "third")
	old := []*replica{s.replica("a", s.machines[0]), s.replica("b", s.machines[1])}
	old[0].init()
	for _, r := range old {
		r.start()
	}
	s.set(s.manifest("10m", s.holders))
	s.settled(1)
	s.marbles()
	s.shell.Must(0, "verify", "--policy", s.policyFile())
	log, visits := s.history(), s.visit()
	epoch := s.connect().Verified().Epoch.Number
	for _, r := range old {
		r.kill()
		s.service.remove(r.ip + ":4433")
	}
	fresh := []*replica{s.replica("c", s.machines[2]), s.replica("d", s.machines[2])}
	for _, r := range fresh {
		r.start()
	}
	s.replicas = fresh
	var st drive.Outcome
	drive.Eventually(t, patience, func() string {
		if st = s.shell.Run("recover", "status", "--policy", s.policyFile()); st.Code != 0 {
			return st.Stderr
		}
		return ""
	})
	drive.Wants(t, st.Stdout, "waiting for recovery", "alice", "bob")
	for _, r := range fresh {
		r.until("waiting", func(p says) bool { return !p.Ready && p.Reason != "" })
	}
	drive.Wants(t, s.share("alice").Stdout, "bob")
	s.share("bob")
	active := s.settled(1)
	t.Logf("%s was recovered and is active", active.name)
	for _, r := range fresh {
		if _, err := os.Stat(r.state() + "/seal.json"); err != nil {
			t.Errorf("%s has no sealed key: %v", r.name, err)
		}
	}
	if now := s.connect().Verified().Epoch; now.Number != epoch+1 || now.Cause != "recovery" {
		t.Errorf("got epoch %d by %s, want %d by recovery", now.Number, now.Cause, epoch+1)
	}
	kinds := count(log.goesOn())
	if kinds["recovery"] != 1 || kinds["recoveryApproval"] != 2 || kinds["replicaAccepted"] != 1 {
		t.Errorf("got %v, want one recovery by two holders, and one replica that joined", kinds)
	}
	s.joined("probe", 1)
	// The other one takes over: it has the key for good.
	active.kill()
	s.joined("probe", 2)
	visits.Flawless("all replicas were lost with their machines")
}
