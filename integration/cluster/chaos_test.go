//go:build linux

package cluster

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Whatever may happen to replicas and to etcd happens, in any order, and one thing
// before the last is over. After each the deployment has to come back by itself,
// and in the end nothing that was promised is missing. It takes a few minutes.
func TestClusterChaos(t *testing.T) {
	if !soak() {
		t.Skip("make soak runs this test: ASHLAR_SOAK=1")
	}
	s := three(t, "5m", nil)
	log := s.history()
	visits, joins := s.visit(), s.activate(4, 100*time.Millisecond)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	deeds := []struct {
		name string
		do   func(r *replica)
	}{
		{"killed", func(r *replica) { r.kill(); r.start() }},
		{"terminated", func(r *replica) { r.terminate(); r.start() }},
		{"paused", func(r *replica) {
			r.pause()
			time.Sleep(time.Duration(random.Int64N(int64(9 * time.Second))))
			r.resume()
		}},
		{"cut off", func(r *replica) { r.cut(); time.Sleep(time.Duration(random.Int64N(int64(9 * time.Second)))); r.mend() }},
		{"etcd's leader killed", func(*replica) { i := s.etcd.Leader(); s.etcd.Kill(i); s.etcd.Restart(i) }},
		{"etcd killed", func(*replica) { s.etcd.KillAll(); s.etcd.RestartAll() }},
	}
	for round := range 40 {
		d, r := deeds[random.IntN(len(deeds))], s.replicas[random.IntN(len(s.replicas))]
		began := time.Now()
		d.do(r)
		joins.Await(3, 2*patience)
		t.Logf("round %d: %s (%s): marbles were activated within %s", round, d.name, r.name, time.Since(began).Round(10*time.Millisecond))
		if round%5 == 4 {
			log.goesOn()
			joins.Kept(s.connect())
		}
	}
	s.settled(2)
	joins.Halt()
	joins.Kept(s.connect())
	log.goesOn()
	visits.Flawless("40 rounds of chaos")
}
