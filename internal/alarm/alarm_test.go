package alarm

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// jumping is a clock that goes with time and can be put forward.
type jumping struct{ ahead atomic.Int64 }

func (j *jumping) now() time.Time { return time.Now().Add(time.Duration(j.ahead.Load())) }

// rings waits until a rings, and returns how long that took.
func rings(a *Alarm) time.Duration {
	start := time.Now()
	for range a.C() {
		if a.Ringing() {
			break
		}
	}
	return time.Since(start)
}

func TestAlarm(t *testing.T) {
	for _, tt := range []struct {
		name        string
		in          time.Duration
		jump, after time.Duration // the clock jumps by jump, after a time
		want        time.Duration
	}{
		{"soon", time.Second, 0, 0, time.Second},
		{"after many looks", time.Minute, 0, 0, time.Minute},
		{"passed", -time.Hour, 0, 0, 0},
		{"jumped over", time.Hour, 2 * time.Hour, 25 * time.Second, 30 * time.Second},
		{"jumped nearer", time.Hour, 59 * time.Minute, 25 * time.Second, time.Minute},
		{"put back", 20 * time.Second, -time.Minute, 5 * time.Second, 80 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			clock := &jumping{}
			a := New(clock.now, 0)
			a.In(tt.in)
			if tt.jump != 0 {
				time.AfterFunc(tt.after, func() { clock.ahead.Store(int64(tt.jump)) })
			}
			if got := rings(a); got != tt.want {
				t.Errorf("%s: rang after %s, want %s", tt.name, got, tt.want)
			}
			a.In(time.Second)
			if got := rings(a); got != time.Second {
				t.Errorf("%s: set again, it rang after %s, want 1s", tt.name, got)
			}
			a.In(time.Second)
			a.Stop()
			select {
			case <-a.C():
				t.Errorf("%s: it rang after Stop", tt.name)
			case <-time.After(time.Minute):
			}
		})
	}
}
