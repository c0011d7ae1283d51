package marble_test

import (
	"crypto/tls"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/internal/transcript"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// running puts the tracker where a started program would have it.
func running(t *testing.T, cfg marble.Config) *marble.Marble {
	t.Helper()
	m := run(t, cfg)
	cfg.Tracker.Enter(stage.Status{Stage: stage.Running})
	return m
}

func serial(m *marble.Marble) string {
	lease, _ := m.Lease()
	return lease.Chain[0].SerialNumber.Text(16)
}

func TestRenewalSwapsKeyAndCertificateTogether(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{Life: time.Minute, RenewAfter: 30 * time.Millisecond,
		Parameters: &marblepb.Parameters{Files: map[string]string{"/pair": "{{ pem .Marble.Chain }}{{ pem .Marble.PrivateKey }}"}}})
	m := run(t, config(c))
	lease, changed := m.Lease()
	for range 5 {
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatal("the lease was not renewed")
		}
		old := lease
		lease, changed = m.Lease()
		if old.Chain[0].Equal(lease.Chain[0]) || string(old.KeyPEM()) == string(lease.KeyPEM()) {
			t.Error("key or certificate did not change")
		}
		r, err := m.Render()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tls.X509KeyPair(r.Files["/pair"], r.Files["/pair"]); err != nil {
			t.Errorf("rendered pair: %v", err)
		}
	}
	if activations, renewals := c.Counts(); activations != 1 || renewals < 5 {
		t.Errorf("got %d activations and %d renewals, want 1 and at least 5", activations, renewals)
	}
}

func TestDemand(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{})
	m := running(t, config(c))
	before := serial(m)
	demand := func() *marblepb.SessionResponse {
		return &marblepb.SessionResponse{Message: &marblepb.SessionResponse_Demand{Demand: &marblepb.Demand{Nonce: c.Nonce(), Reason: "test"}}}
	}
	await(t, "a session", func() bool { return c.Push(demand()) > 0 })
	await(t, "a new leaf", func() bool { return serial(m) != before })
	if s := m.Stage(); s.Stage != stage.Running {
		t.Errorf("got stage %+v, want running", s)
	}
}

// A renewal falls due while the answer to a demanded one is on its way: a second
// one would leave the coordinator with a leaf that the marble has no key of.
func TestRenewalFallsDueWhileOneIsOnItsWay(t *testing.T) {
	const due, answer = 500 * time.Millisecond, 800 * time.Millisecond
	c := marbletest.Start(t, marbletest.Behaviour{Life: time.Minute, RenewAfter: due, Renewed: func(*marblepb.Renewal) error {
		time.Sleep(answer) // a slow coordinator
		return nil
	}})
	m := running(t, config(c))
	for i := range 2 {
		before := serial(m)
		await(t, "a session", func() bool {
			return c.Push(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Demand{Demand: &marblepb.Demand{Nonce: c.Nonce(), Reason: "test"}}}) > 0
		})
		await(t, "a new leaf", func() bool { return serial(m) != before })
		if _, renewals := c.Counts(); renewals != i+1 {
			t.Errorf("got %d renewals for leaf %d, want one for each", renewals, i+1)
		}
	}
}

func TestRefusedRenewalIsRetriedWhileTheLeaseHolds(t *testing.T) {
	var refusals atomic.Int64
	c := marbletest.Start(t, marbletest.Behaviour{Life: time.Minute, RenewAfter: 10 * time.Millisecond, Renewed: func(*marblepb.Renewal) error {
		if refusals.Add(1) <= 3 {
			return problem.New("ATT-014", "tcb.status: wanted UpToDate, got OutOfDate")
		}
		return nil
	}})
	cfg := config(c)
	seen := make(chan stage.Status, 1)
	go func() {
		for {
			s, changed := cfg.Tracker.Current()
			if s.Stage == stage.Running && s.Code == "ATT-014" && !s.NextRetry.IsZero() {
				seen <- s
				return
			}
			<-changed
		}
	}()
	m := running(t, cfg)
	before := serial(m)
	await(t, "renewal after refusals", func() bool { return serial(m) != before })
	select {
	case <-seen:
	case <-time.After(time.Minute):
		t.Error("was not running with the code of the refusal")
	}
	if activations, _ := c.Counts(); activations != 1 {
		t.Errorf("got %d activations, want 1", activations)
	}
}

func TestEndedLeaseIsCutAndActivatedAnew(t *testing.T) {
	var granted atomic.Bool
	c := marbletest.Start(t, marbletest.Behaviour{Life: 200 * time.Millisecond, RenewAfter: 20 * time.Millisecond,
		Renewed: func(*marblepb.Renewal) error { return problem.New("ATT-012", "no") },
		Activated: func(*marblepb.ActivateRequest) error {
			if granted.Swap(true) {
				return problem.New("ATT-012", "no")
			}
			return nil
		}})
	cfg := config(c)
	m := running(t, cfg)
	await(t, "cut, and refused", func() bool {
		s := m.Stage()
		return s.Stage == stage.Cut && s.Code == "MRB-021" && !s.NextRetry.IsZero()
	})
	if s := m.Stage(); s.Ready(time.Now()) {
		t.Error("is ready without a lease")
	}
	if err := exchange(t, m.ServerTLS("web"), m.ClientTLS("web")); err == nil {
		t.Error("an ended lease was used for TLS")
	}
	before := serial(m)
	c.Behave(marbletest.Behaviour{})
	await(t, "a new activation", func() bool { return serial(m) != before })
	await(t, "running again", func() bool { s := m.Stage(); return s.Stage == stage.Running && s.Code == "" })
}

func TestLeafThatIsOverIsReplacedAtOnce(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{})
	m := running(t, config(c))
	before := serial(m)
	c.Behave(marbletest.Behaviour{Session: func(marblepb.Marble_SessionServer) error {
		c.Behave(marbletest.Behaviour{})
		return marblepb.Status(problem.New("CRD-034", "the instance is gone"))
	}})
	c.Stop() // ends the first session
	c.Restart()
	await(t, "a new activation", func() bool { return serial(m) != before })
	if activations, renewals := c.Counts(); activations != 2 || renewals != 0 {
		t.Errorf("got %d activations and %d renewals, want 2 and 0", activations, renewals)
	}
}

func TestCoordinatorRestart(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{})
	m := running(t, config(c))
	before := serial(m)
	for range 3 {
		c.Stop()
		await(t, "trouble", func() bool {
			s := m.Stage()
			return s.Stage == stage.Running && s.Code == "MRB-004" && !s.NextRetry.IsZero()
		})
		if s := m.Stage(); !s.Ready(time.Now()) {
			t.Error("is not ready though the lease holds")
		}
		c.Restart()
		await(t, "no trouble", func() bool { s := m.Stage(); return s.Stage == stage.Running && s.Code == "" })
	}
	if serial(m) != before {
		t.Error("the leaf changed")
	}
}

func TestSecretsArePushed(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{Parameters: &marblepb.Parameters{Env: map[string]string{"A": "{{ hex .Secrets.s }}"}},
		Secrets: map[string]*marblepb.Secret{"s": {Value: []byte{1}}}})
	m := running(t, config(c))
	lease, changed := m.Lease()
	push := &marblepb.Lease{Bundle: [][]byte{c.CA.Root.Raw}, SpiffeId: lease.SPIFFEID, Revision: "bb",
		RenewAfterUnixMs: lease.RenewAfter.UnixMilli(), NotAfterUnixMs: lease.NotAfter.UnixMilli(),
		Secrets: map[string]*marblepb.Secret{"s": {Value: []byte{2}}}}
	await(t, "a session", func() bool {
		return c.Push(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Lease{Lease: push}}) > 0
	})
	<-changed
	next, _ := m.Lease()
	if !next.Chain[0].Equal(lease.Chain[0]) || next.Revision != "bb" {
		t.Errorf("got another leaf, or revision %q", next.Revision)
	}
	r, err := m.Render()
	if err != nil || !slices.Equal(r.Env, []string{"A=02"}) {
		t.Errorf("got %v, %v", r.Env, err)
	}
}

// journal keeps what is logged: each stage that was entered, however briefly.
type journal struct{ transcript.Buffer }

func (j *journal) count(code string) int { return strings.Count(j.String(), "stage.code="+code) }

func record(cfg *marble.Config) *journal {
	j := new(journal)
	cfg.Log = slog.New(slog.NewTextHandler(j, nil))
	cfg.Tracker = stage.NewTracker(cfg.Log, time.Now)
	return j
}

func TestMalformedPushLeavesTheLease(t *testing.T) {
	foreign := marbletest.NewCA(t)
	push := func(l *marblepb.Lease) *marblepb.SessionResponse {
		return &marblepb.SessionResponse{Message: &marblepb.SessionResponse_Lease{Lease: l}}
	}
	for _, tc := range []struct {
		name    string
		message *marblepb.SessionResponse
		renews  bool // after a demand that cannot be met a renewal is offered unasked
	}{
		{"empty", &marblepb.SessionResponse{}, false},
		{"empty lease", push(&marblepb.Lease{}), false},
		{"foreign bundle", push(&marblepb.Lease{Bundle: [][]byte{foreign.Root.Raw}, SpiffeId: "spiffe://test.example/web"}), false},
		{"short nonce", &marblepb.SessionResponse{Message: &marblepb.SessionResponse_Demand{Demand: &marblepb.Demand{Nonce: []byte{1}}}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// A marble of its own for each: a session that ends still takes messages.
			c := marbletest.Start(t, marbletest.Behaviour{})
			cfg := config(c)
			stages := record(&cfg)
			m := running(t, cfg)
			before, _ := m.Lease()
			await(t, "a session", func() bool { return c.Push(tc.message) > 0 })
			await(t, "degraded", func() bool { return stages.count("MRB-009") > 0 })
			if now, _ := m.Lease(); now != before && !tc.renews {
				t.Error("the lease was replaced")
			}
		})
	}
}

func TestReports(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{})
	cfg := config(c)
	m := run(t, cfg)
	next := func(want func(*marblepb.SessionRequest) bool) {
		t.Helper()
		for {
			select {
			case r := <-c.Requests():
				if want(r) {
					return
				}
			case <-time.After(time.Minute):
				t.Fatal("a report is missing")
			}
		}
	}
	next(func(r *marblepb.SessionRequest) bool {
		h := r.GetHello()
		return h.GetInstance().GetMarble() == "web" && h.GetInstance().GetId() == cfg.ID && h.GetRevision() == "aa"
	})
	cfg.Tracker.Enter(stage.Status{Stage: stage.Running})
	next(func(r *marblepb.SessionRequest) bool { return r.GetStage().GetStage() == "running" })
	m.ReportProxy(true, "listener:\x1b[31m refused")
	next(func(r *marblepb.SessionRequest) bool {
		return r.GetProxy().GetUp() && r.GetProxy().GetReason() == "listener: [31m refused"
	})
}

func TestCoordinatorThatAnswersNoRenewal(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{Life: time.Minute, RenewAfter: time.Millisecond,
		Session: func(s marblepb.Marble_SessionServer) error { <-s.Context().Done(); return nil }})
	cfg := config(c)
	cfg.CallTimeout = 100 * time.Millisecond
	stages := record(&cfg)
	m := running(t, cfg)
	before := serial(m)
	await(t, "degraded by MRB-020", func() bool { return stages.count("MRB-020") > 0 })
	c.Behave(marbletest.Behaviour{})
	await(t, "renewal", func() bool { return serial(m) != before })
}
