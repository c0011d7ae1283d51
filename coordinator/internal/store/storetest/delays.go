package storetest

import (
	"iter"
	"math/rand/v2"
	"time"
)

// Delays yields n rounds, each with how long to let a writer go on until it is
// killed: a random time below most. While none of them was acknowledged anything,
// most doubles and there are more rounds, since the machine is slower than that.
func Delays(n int, most time.Duration, acknowledged func() bool) iter.Seq2[int, time.Duration] {
	return func(yield func(int, time.Duration) bool) {
		for round := 0; round < n || !acknowledged() && most < time.Minute; round++ {
			if round > 0 && !acknowledged() {
				most *= 2
			}
			if !yield(round, rand.N(most)) {
				return
			}
		}
	}
}
