//go:build linux

package cluster

import "testing"

// The parts of a site work together around one coordinator on its embedded
// store: what fails in the other tests is not the harness.
func TestClusterOfOne(t *testing.T) {
	s := newSite(t, "first", "second")
	r := s.replica("a", s.machines[0])
	r.store = ""
	r.init()
	r.start()
	r.up()
	s.set(s.manifest("1h", nil))
	s.marbles()
	visits, joins := s.visit(), s.activate(4, 0)
	visits.More(50)
	joins.More(20)
	r.kill()
	visits.More(50)
	r.start()
	r.up()
	joins.More(20)
	joins.Halt()
	joins.Kept(s.connect())
	visits.Flawless("the only coordinator was killed and started again")
}
