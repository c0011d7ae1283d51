//go:build linux

package cluster

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// restore puts a backup where a replica looks for its state.
func (r *replica) restore(backup string) {
	r.site.t.Helper()
	command := []string{r.program, "restore", "--from", backup, "--state", r.state()}
	if r.store != "" {
		command = append(command, "--store", r.store)
	}
	p := spawn(r.site.t, r.site.file("logs"), r.name+"-restore", command)
	if code := p.ended(patience); code != 0 {
		r.site.t.Fatalf("restore of %s ended with %d:\n%s", r.name, code, p.tail())
	}
}

// An embedded deployment moves to etcd while its marbles run: its backup is
// restored there, replicas join, and everybody sees a new epoch. From there a
// backup goes into another prefix, and back into an embedded state.
func TestClusterBackup(t *testing.T) {
	s := newSite(t, "first", "second")
	embedded := s.replica("embedded", s.machines[0])
	embedded.store = ""
	embedded.init()
	embedded.start()
	embedded.up()
	s.set(s.manifest("10m", nil))
	s.marbles()
	s.shell.Must(0, "verify", "--policy", s.policyFile())
	log, visits := s.history(), s.visit()
	s.moved(log, 1, embedded, s.replica("a", s.machines[0]))
	b := s.replica("b", s.machines[1])
	b.start()
	active := s.settled(1)
	active.terminate()
	if _, err := s.join("probe", 3); err != nil {
		t.Errorf("a marble after a takeover: %v", err)
	}
	active.start()
	s.settled(1)

	for _, r := range []*replica{active, b} {
		if r != s.named("a") {
			r.terminate()
			s.service.remove(r.ip + ":4433")
		}
	}
	s.named("a").up()
	elsewhere := s.replica("elsewhere", s.machines[0])
	elsewhere.store = elsewhere.storeAt("ashlar/elsewhere")
	s.moved(log, 2, s.named("a"), elsewhere)
	again := s.replica("again", s.machines[0])
	again.store = ""
	s.moved(log, 3, elsewhere, again)
	visits.Flawless("a deployment moved to etcd, within it, and back")
}

// moved takes a backup of the only replica, ends it, and has another one on the
// same machine go on from the backup.
func (s *site) moved(log *history, n int, from, to *replica) {
	t := s.t
	t.Helper()
	epoch := s.connect().Verified().Epoch.Number
	backup := s.file(to.name + ".backup")
	s.shell.Must(0, append([]string{"backup", backup}, s.as("alice")...)...)
	drive.Wants(t, s.shell.Must(0, "backup", backup, "--check").Stdout, "whole")
	from.terminate()
	s.service.remove(from.ip + ":4433")
	to.restore(backup)
	to.start()
	to.up()
	now := s.connect().Verified().Epoch
	if now.Number != epoch+1 || now.Cause != "restore" {
		t.Errorf("after a restore to %s: got epoch %d by %q, want %d by restore", to.name, now.Number, now.Cause, epoch+1)
	}
	log.goesOn()
	if _, err := s.join("probe", 10*n); err != nil {
		t.Errorf("a marble after a restore to %s: %v", to.name, err)
	}
	log.goesOn()
}
