package coordinator

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func TestLapseOf(t *testing.T) {
	due := time.Date(2026, 1, 2, 12, 0, 0, 500e6, time.UTC)
	of := func(degrade, drain, cut time.Duration) manifest.Renewal {
		return manifest.Renewal{DegradeAfter: attest.Duration(degrade), DrainAfter: attest.Duration(drain), CutAfter: attest.Duration(cut)}
	}
	const s, m = time.Second, time.Minute
	for _, c := range []struct {
		name                string
		left                time.Duration // from due to the end of the lease
		renewal             manifest.Renewal
		degrade, drain, cut time.Duration // after due
	}{
		{"nothing said", 40 * m, of(0, 0, 0), 10 * m, 30 * m, 40 * m},
		{"everything said", 40 * m, of(m, 2*m, 3*m+500*time.Millisecond), m, 2 * m, 3*m + 500*time.Millisecond},
		{"the cut is on a whole second", 40 * m, of(m, 2*m, 3*m), m, 2 * m, 3*m + 500*time.Millisecond},
		{"nothing is after the end", 40 * m, of(50*m, 60*m, 70*m), 40 * m, 40 * m, 40 * m},
		{"an early cut comes before the usual steps", 40 * m, of(0, 0, 5*m+500*time.Millisecond), 5*m + 500*time.Millisecond, 5*m + 500*time.Millisecond, 5*m + 500*time.Millisecond},
		{"an early drain comes before the usual degraded", 40 * m, of(0, m, 0), m, m, 40 * m},
		{"degraded alone is said, late", 40 * m, of(35*m, 0, 0), 30 * m, 30 * m, 40 * m},
		{"a cut at once leaves a second", 40 * m, of(0, 0, 1), 1500 * time.Millisecond, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{"ten seconds", 5*s + 500*time.Millisecond, of(0, 0, 0), 1375 * time.Millisecond, 4125 * time.Millisecond, 5*s + 500*time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := lapseOf(due, due.Add(c.left), c.renewal)
			if l.degrade.Sub(due) != c.degrade || l.drain.Sub(due) != c.drain || l.cut.Sub(due) != c.cut {
				t.Errorf("got %s, %s, %s after it was due; want %s, %s, %s", l.degrade.Sub(due), l.drain.Sub(due), l.cut.Sub(due), c.degrade, c.drain, c.cut)
			}
			for at, want := range map[time.Time]phase{due: onTime, l.cut: isCut, l.cut.Add(-1): l.phase(l.cut.Add(-1))} {
				if got := l.phase(at); got != want {
					t.Errorf("at %s: got %q, want %q", at.Sub(due), got, want)
				}
			}
		})
	}
}

// lapsing is a shop whose marbles are degraded, drained and cut 1, 2 and 3
// minutes after their renewal was due.
func lapsingShop(t testing.TB) []byte {
	return shop(t, func(m object) {
		for _, name := range []string{"web", "db"} {
			m["marbles"].(object)[name].(object)["renewal"] = object{"degradeAfter": "1m", "drainAfter": "2m", "cutAfter": "3m"}
		}
	})
}

func (d *deployment) only(marble string) (found *ViewInstance) {
	d.Helper()
	v, err := d.View(d.Context())
	if err != nil {
		d.Fatal(err)
	}
	for _, i := range v.Instances {
		if i.Marble == marble {
			found = &i
		}
	}
	return found
}

func (d *deployment) shows(code, subject string) bool {
	d.Helper()
	s, err := d.Status(d.Context())
	if err != nil {
		d.Fatal(err)
	}
	for _, a := range s.Attention {
		if a.Code == code && a.Subject == subject && a.Text != "" && strings.Contains(a.Next, "ashlar explain "+strings.Split(subject, "/")[0]) {
			return true
		}
	}
	return false
}

// The whole way: each step is taken at its time by the coordinator alone.
func TestLapse(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(lapsingShop(t))
	lease := d.mustActivate("db", "one").Lease
	if !lease.NotAfter.Equal(leafOfLease(t, lease).NotAfter) {
		t.Errorf("the cut is at %s, the leaf ends at %s", lease.NotAfter, leafOfLease(t, lease).NotAfter)
	}
	if got := lease.NotAfter.Sub(lease.RenewAfter); got < 3*time.Minute || got > 3*time.Minute+time.Second {
		t.Errorf("cut %s after the renewal is due, want 3m", got)
	}
	to := func(at time.Time) {
		t.Helper()
		d.clock.now.Store(at.UnixNano())
		before := d.changes.Load()
		if err := d.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d changes announced", d.changes.Load()-before)
	}
	stage := func(want string) {
		t.Helper()
		m, err := d.Marble(t.Context(), "db")
		if err != nil || len(m.Instances) != 1 || m.Instances[0].Stage != want {
			t.Errorf("got %+v, %v, want stage %q", m.Instances, err, want)
		}
	}
	to(lease.DegradeAt.Add(-1))
	stage("attested")
	to(lease.DegradeAt)
	stage("degraded")
	if !d.shows("CRD-090", "db/one") || d.only("db").Drained {
		t.Error("degraded: want it shown, and still in the View")
	}
	to(lease.DrainAt)
	stage("drained")
	if !d.shows("CRD-091", "db/one") || d.shows("CRD-090", "db/one") || !d.only("db").Drained || d.changes.Load() == 0 {
		t.Error("drained: want it shown as that alone, and taken out of the endpoints")
	}
	if got := d.Lapses(); got != (Lapses{Drained: 1}) {
		t.Errorf("got %+v", got)
	}
	d.restart()
	if !d.only("db").Drained {
		t.Error("drained no more after a restart")
	}
	to(lease.DrainAt.Add(time.Second))
	stage("drained")
	to(lease.NotAfter)
	if d.only("db") != nil || !d.shows("CRD-092", "db/one") {
		t.Error("cut: want it gone, and shown")
	}
	if s, _ := d.Status(t.Context()); s.Instances != 0 || s.Drained != 0 {
		t.Errorf("got %d instances, %d drained", s.Instances, s.Drained)
	}
	d.check()
	d.mustActivate("db", "one")
	if d.shows("CRD-092", "db/one") || d.only("db").Drained {
		t.Error("not healed by an activation")
	}
}

// A renewal heals, whatever the phase, and what was planned for the older leaf
// does not happen.
func TestRenewalHealsALapse(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(lapsingShop(t))
	lease := d.mustActivate("web", "one").Lease
	p := d.peer(lease)
	for _, at := range []time.Time{lease.DegradeAt, lease.DrainAt} {
		d.clock.now.Store(at.UnixNano())
		if err := d.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !d.only("web").Drained {
		t.Fatal("not drained")
	}
	before := d.changes.Load()
	next, err := d.renewal(p).renew(d, p)
	if err != nil {
		t.Fatal(err)
	}
	if d.only("web").Drained || d.Lapses() != (Lapses{}) || d.changes.Load() == before {
		t.Error("not healed, or not announced")
	}
	d.clock.now.Store(lease.NotAfter.Add(time.Minute).UnixNano())
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if in := d.only("web"); in == nil || in.Drained {
		t.Errorf("what was planned for the older leaf happened: %+v", in)
	}
	if d.clock.Now().After(next.DegradeAt) {
		t.Fatal("the test went too far")
	}
}

// An instance that says that it stops gets no new requests, and is no cause for
// alarm.
func TestLeaving(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(lapsingShop(t))
	lease := d.mustActivate("db", "one").Lease
	p := d.peer(lease)
	before := d.changes.Load()
	d.Report(t.Context(), p, "stopping", "the program ended")
	d.Disconnected(p)
	if !d.only("db").Drained || d.changes.Load() != before+1 {
		t.Error("an instance that stops gets requests")
	}
	d.restart()
	if m, err := d.Marble(t.Context(), "db"); err != nil || !d.only("db").Drained || m.Instances[0].Stage != "stopping" {
		t.Errorf("after a restart: got %+v (%v), wanted an instance that is stopping and drained", m, err)
	}
	for _, at := range []time.Time{lease.DegradeAt, lease.DrainAt, lease.NotAfter} {
		d.clock.now.Store(at.UnixNano())
		if err := d.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, code := range []string{"CRD-090", "CRD-091", "CRD-092"} {
			if d.shows(code, "db/one") {
				t.Errorf("%s is shown of an instance that was stopped", code)
			}
		}
	}
	if again := d.mustActivate("db", "one"); again.Lease.NotAfter.IsZero() || d.only("db").Drained {
		t.Error("drained after it started again")
	}
}

// An instance that starts again while the leaf of its last life counts gets
// requests at once.
func TestBackAfterLeaving(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(lapsingShop(t))
	d.Report(t.Context(), d.peer(d.mustActivate("db", "one").Lease), "stopping", "the program ended")
	before := d.changes.Load()
	d.mustActivate("db", "one")
	if d.only("db").Drained || d.changes.Load() != before+1 {
		t.Errorf("drained %v, and proxies were told %d times, want once that it is not", d.only("db").Drained, d.changes.Load()-before)
	}
}

// What needs attention stays bounded, and the counts right.
func TestManyLapse(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, func(m object) { m["marbles"].(object)["job"].(object)["maxInstances"] = 100 }))
	var last Lease
	for i := range maxAttention + 8 {
		last = d.mustActivate("job", fmt.Sprintf("job-%02d", i)).Lease
	}
	d.clock.now.Store(last.DrainAt.Add(time.Minute * 5).UnixNano())
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := d.Status(t.Context())
	if err != nil || s.Drained != maxAttention+8 || s.Degraded != 0 {
		t.Errorf("got %d drained, %d degraded, %v", s.Drained, s.Degraded, err)
	}
	shown := slices.DeleteFunc(s.Attention, func(a apiv1.Attention) bool { return !strings.HasPrefix(a.Code, "CRD-09") })
	if len(shown) != maxAttention {
		t.Errorf("got %d lines, want %d", len(shown), maxAttention)
	}
	d.clock.now.Store(last.NotAfter.UnixNano())
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.check()
	if got := d.Lapses(); got != (Lapses{}) {
		t.Errorf("got %+v after the cut", got)
	}
}

// Watch needs nobody: it wakes when the next moment is there, also for one that
// came earlier than what it waited for.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(t)
		start := time.Now()
		d.Coordinator.config.Now = time.Now
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); d.Watch(ctx, func(err error) { t.Error(err) }) }()
		record := instanceRecord{Serial: "01", RenewAfter: start, DegradeAt: start.Add(time.Minute), DrainAt: start.Add(2 * time.Minute), NotAfter: start.Add(3 * time.Minute)}
		put := func(key string, r instanceRecord) {
			d.live.mu.Lock()
			defer d.live.mu.Unlock()
			d.live.put(key, r)
		}
		put("db/one", record)
		soon := record
		soon.Serial, soon.DegradeAt, soon.DrainAt = "02", start.Add(time.Second), start.Add(2*time.Second)
		put("db/two", soon)
		at := func(after time.Duration, want Lapses) {
			t.Helper()
			time.Sleep(time.Until(start.Add(after)))
			synctest.Wait()
			if got := d.Lapses(); got != want {
				t.Errorf("after %s: got %+v, want %+v", after, got, want)
			}
		}
		at(999*time.Millisecond, Lapses{})
		at(time.Second, Lapses{Degraded: 1})
		at(2*time.Second, Lapses{Drained: 1})
		at(time.Minute, Lapses{Degraded: 1, Drained: 1})
		at(2*time.Minute, Lapses{Drained: 2})
		at(3*time.Minute, Lapses{})
		cancel()
		<-ended
	})
}

// Records of an earlier release say nothing of lapses: the usual moments hold.
func TestOlderRecordsLapse(t *testing.T) {
	due := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	r := instanceRecord{RenewAfter: due, NotAfter: due.Add(40 * time.Minute)}
	if got, want := r.lapse(), lapseOf(due, r.NotAfter, manifest.Renewal{}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	r.RenewAfter = time.Time{}
	if got := r.lapse(); got.phase(r.NotAfter.Add(-1)) != onTime || got.phase(r.NotAfter) != isCut {
		t.Errorf("got %+v for a record without any time but its end", got)
	}
}

// No leaf outlives the root, though it is the mesh CA that signs it.
func TestLeaseEndsWithTheRoot(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	root, err := x509.ParseCertificate(d.Bundle()[0])
	if err != nil {
		t.Fatal(err)
	}
	d.clock.now.Store(root.NotAfter.Add(-20 * time.Minute).UnixNano())
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	lease := d.mustActivate("web", "one").Lease
	if lease.NotAfter.After(root.NotAfter) || lease.NotAfter.Before(root.NotAfter.Add(-time.Second)) {
		t.Errorf("got end %s, want that of the root, %s", lease.NotAfter, root.NotAfter)
	}
	if !lease.RenewAfter.Before(lease.DegradeAt) || lease.DrainAt.After(lease.NotAfter) {
		t.Errorf("got %s, %s, %s, %s", lease.RenewAfter, lease.DegradeAt, lease.DrainAt, lease.NotAfter)
	}
}

// A lease is the minimum over the whole chain, and its renewal is due at half of
// that.
func TestLeaseEnd(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	at := d.clock.Now()
	in := at.Add
	for _, c := range []struct {
		name string
		tcb  attest.TCBClaims
		want time.Duration
		code problem.Code
	}{
		{"the lease", attest.TCBClaims{}, time.Hour, ""},
		{"longer endorsements", attest.TCBClaims{NextUpdate: in(48 * time.Hour), NotAfter: in(96 * time.Hour)}, time.Hour, ""},
		{"endorsements that end", attest.TCBClaims{NextUpdate: in(30 * time.Minute)}, 30 * time.Minute, ""},
		{"the evidence's chain", attest.TCBClaims{NextUpdate: in(30 * time.Minute), NotAfter: in(10 * time.Minute)}, 10 * time.Minute, ""},
		{"a grace", attest.TCBClaims{GraceUntil: in(20 * time.Minute)}, 20 * time.Minute, ""},
		{"endorsements that count after their end", attest.TCBClaims{NextUpdate: in(-time.Hour), EndedUntil: in(15 * time.Minute)}, 15 * time.Minute, ""},
		{"too little is left", attest.TCBClaims{NextUpdate: in(4 * time.Second)}, 0, "CRD-032"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &ruling{rev: d.current.Load(), asked: question{info: InstanceInfo{Marble: "web"}}, incidents: d.incidents.Load()}
			r.at, r.verdict.Claims.TCB = at, c.tcb
			end, err := leaseEnd(r, manifest.Marble{Lease: attest.Duration(time.Hour)}, d.authority.Load())
			if problem.CodeOf(err) != c.code || c.code == "" && end.Sub(at) != c.want {
				t.Fatalf("got %s, %v, want %s, %q", end.Sub(at), err, c.want, c.code)
			}
			if due := renewAfter(at, end, "01").Sub(at); c.code == "" && (due > c.want/2 || due < c.want*2/5) {
				t.Errorf("renewal is due after %s of %s", due, c.want)
			}
		})
	}
}
