package etcdtest

import "testing"

func TestClusterSurvivesAMember(t *testing.T) {
	c := Start(t, 3)
	c.Kill(0)
	c.await(c.members[1])
	c.Restart(0)
}
