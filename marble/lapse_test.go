package marble_test

import (
	"slices"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// stages collects what a tracker goes through until stop.
func stages(tracker *stage.Tracker) (stop func() []stage.Stage) {
	quit, done := make(chan struct{}), make(chan []stage.Stage)
	go func() {
		var seen []stage.Stage
		for {
			s, changed := tracker.Current()
			if len(seen) == 0 || seen[len(seen)-1] != s.Stage {
				seen = append(seen, s.Stage)
			}
			select {
			case <-changed:
			case <-quit:
				done <- seen
				return
			}
		}
	}()
	return func() []stage.Stage { close(quit); return <-done }
}

// lapsing makes leases of two seconds that are degraded, drained and cut half a
// second, one and one and a half after their renewal was due: somebody who is not
// given a processor for a while still sees each stage.
func lapsing(b marbletest.Behaviour) marbletest.Behaviour {
	b.Life, b.RenewAfter = 2*time.Second, 100*time.Millisecond
	b.Lease = func(l *marblepb.Lease) {
		due := l.RenewAfterUnixMs
		l.DegradeAtUnixMs, l.DrainAtUnixMs, l.CutAtUnixMs = due+500, due+1000, due+1500
	}
	return b
}

// A marble walks the whole way by its own clock, and back, whether its renewals
// are refused or the coordinator is not there.
func TestLapse(t *testing.T) {
	way := []stage.Stage{stage.Running, stage.Degraded, stage.Drained, stage.Cut, stage.Running}
	refuse := func(*marblepb.Renewal) error { return problem.New("ATT-014", "out of date") }
	for name, walk := range map[string]func(c *marbletest.Coordinator, cut func()){
		"refused": func(c *marbletest.Coordinator, cut func()) {
			cut()
			c.Behave(marbletest.Behaviour{})
		},
		"gone": func(c *marbletest.Coordinator, cut func()) {
			c.Stop()
			cut()
			c.Behave(marbletest.Behaviour{})
			c.Restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := marbletest.Start(t, lapsing(marbletest.Behaviour{Renewed: refuse, Activated: func() func(*marblepb.ActivateRequest) error {
				granted := false
				return func(*marblepb.ActivateRequest) error {
					if granted {
						return problem.New("ATT-014", "out of date")
					}
					granted = true
					return nil
				}
			}()}))
			cfg := config(c)
			m := running(t, cfg)
			stop := stages(cfg.Tracker)
			first := serial(m)
			walk(c, func() {
				await(t, "the cut", func() bool { return m.Stage().Stage == stage.Cut })
				if _, live, _ := m.Live(); live {
					t.Error("the lease counts after the cut")
				}
				if _, _, err := m.Upstream(t.Context()); problem.CodeOf(err) != "MRB-021" {
					t.Errorf("a connection to the coordinator after the cut: got %v, want MRB-021", err)
				}
			})
			await(t, "healed", func() bool { return m.Stage().Stage == stage.Running && serial(m) != first })
			if got := stop(); !slices.Equal(got, way) {
				t.Errorf("got %v, want %v", got, way)
			}
		})
	}
}

// The channel of the lease is closed at its end too, so that who serves it stops.
func TestEndOfLeaseIsAnnounced(t *testing.T) {
	c := marbletest.Start(t, lapsing(marbletest.Behaviour{Renewed: func(*marblepb.Renewal) error { return problem.New("ATT-014", "no") }}))
	m := running(t, config(c))
	for deadline := time.After(time.Minute); ; {
		_, live, changed := m.Live()
		if !live {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("the end was not announced")
		}
	}
}

func TestMomentsOfALease(t *testing.T) {
	t.Run("usual ones, if the coordinator gives none", func(t *testing.T) {
		m := run(t, config(marbletest.Start(t, marbletest.Behaviour{})))
		l, _ := m.Lease()
		left := l.NotAfter.Sub(l.RenewAfter)
		if l.DegradeAt.Sub(l.RenewAfter) != left/4 || l.DrainAt.Sub(l.RenewAfter) != left*3/4 {
			t.Errorf("got %s and %s of %s", l.DegradeAt.Sub(l.RenewAfter), l.DrainAt.Sub(l.RenewAfter), left)
		}
	})
	for name, spoil := range map[string]func(*marblepb.Lease){
		"degraded before due":     func(l *marblepb.Lease) { l.DegradeAtUnixMs = l.RenewAfterUnixMs - 1 },
		"drained before degraded": func(l *marblepb.Lease) { l.DrainAtUnixMs = l.RenewAfterUnixMs + 1 },
		"drained after the end":   func(l *marblepb.Lease) { l.DrainAtUnixMs = l.NotAfterUnixMs + 1 },
		"cut before due":          func(l *marblepb.Lease) { l.CutAtUnixMs = l.RenewAfterUnixMs - 1 },
		"cut before drained":      func(l *marblepb.Lease) { l.DrainAtUnixMs, l.CutAtUnixMs = l.NotAfterUnixMs-1, l.NotAfterUnixMs-2 },
	} {
		t.Run(name, func(t *testing.T) {
			c := marbletest.Start(t, marbletest.Behaviour{Lease: spoil})
			if _, err := marble.Run(t.Context(), config(c)); problem.CodeOf(err) != "MRB-009" {
				t.Errorf("got %v, want MRB-009", err)
			}
		})
	}
}

func TestRevocation(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{Secrets: map[string]*marblepb.Secret{"s": {Value: []byte{1}}},
		Parameters: &marblepb.Parameters{Files: map[string]string{"/s": "{{ hex .Secrets.s }}{{ pem .Marble.PrivateKey }}"}}})
	cfg := config(c)
	m := running(t, cfg)
	await(t, "a session", func() bool {
		return c.Push(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Revocation{
			Revocation: &marblepb.Revocation{Code: "INC-001", Reason: "the laptop was stolen"}}}) > 0
	})
	select {
	case <-m.Ended():
	case <-time.After(time.Minute):
		t.Fatal("not ended")
	}
	if e := m.Revoked(); e == nil || e.Code != "MRB-032" || e.Detail != "INC-001: the laptop was stolen" {
		t.Errorf("got %v", e)
	}
	if s := m.Stage(); s.Stage != stage.Cut || s.Code != "MRB-032" || s.Ready(time.Now()) {
		t.Errorf("got %+v", s)
	}
	lease, live, _ := m.Live()
	if live || len(lease.Secrets()) != 0 || lease.KeyPEM() != nil || lease.Certificate().PrivateKey != nil {
		t.Error("key or secrets are still there")
	}
	if _, err := m.Render(); problem.CodeOf(err) != "MRB-032" {
		t.Errorf("rendered: %v", err)
	}
	if err := exchange(t, m.ServerTLS("web"), m.ClientTLS("web")); err == nil {
		t.Error("TLS works after the revocation")
	}
	m.Close()
	if activations, _ := c.Counts(); activations != 1 {
		t.Errorf("got %d activations, want 1: a revoked marble does not ask again", activations)
	}
}
