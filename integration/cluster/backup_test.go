//go:build linux

package cluster

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// restore puts a state where a replica looks for its own: from a backup, or from
// the folder of a coordinator that has ended.
func (r *replica) restore(from string) {
	r.site.t.Helper()
	command := []string{r.program, "restore", "--from", from, "--state", r.state()}
	if r.store != "" {
		command = append(command, "--store", r.store)
	}
	p := spawn(r.site.t, r.site.file("logs"), r.name+"-restore", command)
	if code := p.ended(patience); code != 0 {
		r.site.t.Fatalf("restore of %s ended with %d:\n%s", r.name, code, p.tail())
	}
}

// An embedded deployment moves to etcd while its marbles run: its folder is restored
// there, replicas join, and everybody sees a new epoch. From there a backup goes into
// another prefix, and another back into an embedded state.
func TestClusterBackup(t *testing.T) {
	s := newSite(t, "first", "second")
	embedded := s.replica("embedded", s.machines[0])
	embedded.store = ""
	embedded.init()
	embedded.start()
	embedded.up()
	s.set(s.manifest(lease, nil))
	s.marbles()
	s.shell.Must(0, "verify", "--policy", s.policyFile())
	log, visits := s.history(), s.visit()
	a, b := s.replica("a", s.machines[0]), s.replica("b", s.machines[1])
	epoch := s.epoch()
	s.ends(embedded)
	s.goesOnAt(a, embedded.state())
	s.began(log, epoch+1)
	b.start()
	s.settled(1)
	// What is decided after a backup is not in it: no lease is renewed until the end.
	mark := log.mark()
	drive.Amend(s.t, s.connect(), func(doc map[string]any) {
		for _, name := range chain {
			doc["marbles"].(map[string]any)[name].(map[string]any)["lease"] = "1h"
		}
	})
	s.renewedSince(log, mark)
	a.terminate()
	s.joined("probe", 3)
	a.start()
	s.settled(1)
	s.ends(b)

	from := a
	for i, to := range []*replica{s.replica("elsewhere", s.machines[0]), s.replica("again", s.machines[0])} {
		if to.store = to.storeAt("ashlar/elsewhere"); to.name == "again" {
			to.store = ""
		}
		from.up()
		epoch, backup := s.epoch(), s.file(to.name+".backup")
		s.shell.Must(0, append([]string{"backup", backup}, s.as("alice")...)...)
		drive.Wants(t, s.shell.Must(0, "backup", backup, "--check").Stdout, "whole")
		s.ends(from)
		s.goesOnAt(to, backup)
		s.began(log, epoch+1)
		s.joined("probe", 10+i)
		from = to
	}
	log.goesOn()
	visits.Flawless("a deployment moved to etcd, within it, and back")
}

// ends terminates a replica, which does not come back.
func (s *site) ends(r *replica) {
	r.terminate()
	s.service.remove(r.ip + ":4433")
}

// goesOnAt has a replica go on from what another one left.
func (s *site) goesOnAt(to *replica, from string) {
	to.restore(from)
	to.start()
	to.up()
}

// epoch is the number of the epoch.
func (s *site) epoch() int { return s.connect().Verified().Epoch.Number }

// began checks that a restore has begun an epoch, which everybody sees.
func (s *site) began(log *history, epoch int) {
	t := s.t
	t.Helper()
	if now := s.connect().Verified().Epoch; now.Number != epoch || now.Cause != "restore" {
		t.Errorf("after a restore: got epoch %d by %q, want %d by restore", now.Number, now.Cause, epoch)
	}
	log.goesOn()
	if got := s.shell.Must(0, "verify").Stdout; !regexp.MustCompile(fmt.Sprintf(`epoch +%d, .*by restore`, epoch)).MatchString(got) {
		t.Errorf("ashlar verify shows no epoch %d:\n%s", epoch, got)
	}
}
