package coordinator

import (
	"context"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestRenew(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	first := d.mustActivate("web", "one").Lease
	p := d.peer(first)
	d.clock.advance(30 * time.Minute)
	second, err := d.renewal(p).renew(d, p)
	if err != nil {
		t.Fatal(err)
	}
	d.check()
	if !second.NotAfter.Equal(d.clock.Now().Add(time.Hour)) {
		t.Errorf("got end %s", second.NotAfter)
	}
	if string(first.Secrets["own"].Bytes) != string(second.Secrets["own"].Bytes) {
		t.Error("the instance's secret changed at renewal")
	}
	// Both leaves count while the older one lasts, so that one lost on its way
	// does no harm.
	q := d.peer(second)
	if got := d.peer(first); got != p || q.Instance != p.Instance {
		t.Errorf("got %+v and %+v", got, q)
	}
	third, err := d.renewal(p).renew(d, p)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Identify(leafOfLease(t, second))
	wantCode(t, err, "CRD-034")
	d.restart()
	d.check()
	d.peer(third)
	d.peer(first)

	d.clock.advance(31 * time.Minute)
	_, err = d.renewal(p).renew(d, p)
	wantCode(t, err, "CRD-033")
	_, err = d.Identify(leafOfLease(t, first))
	wantCode(t, err, "CRD-033")

	r := d.peer(third)
	taken := d.mustActivate("web", "one")
	_, err = d.renewal(r).renew(d, r)
	wantCode(t, err, "CRD-035")
	_, err = d.Identify(leafOfLease(t, third))
	wantCode(t, err, "CRD-034")
	if string(taken.Lease.Secrets["own"].Bytes) != string(first.Secrets["own"].Bytes) {
		t.Error("the instance's secret changed at a restart of the marble")
	}

	last := d.peer(taken.Lease)
	wrong := d.renewal(last)
	wrong.claims.Purpose = binding.Activate
	_, err = wrong.renew(d, last)
	wantCode(t, err, "ATT-071")
	tampered := d.renewal(last)
	tampered.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("evil"))
	_, err = tampered.renew(d, last)
	wantCode(t, err, "ATT-012")
	if dec, err := d.Decision(t.Context(), problem.From(err).Instance); err == nil && dec.Purpose != "renew" {
		t.Errorf("got %+v", dec)
	}

	d.clock.advance(61 * time.Minute)
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.check()
	_, err = d.renewal(last).renew(d, last)
	wantCode(t, err, "CRD-034")
	if s, _ := d.Status(t.Context()); s.Instances != 0 {
		t.Errorf("%d instances after the end of all leases", s.Instances)
	}
}

func TestRenewalFollowsTheManifestInForce(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	lease := d.mustActivate("web", "one").Lease
	p := d.peer(lease)
	d.mustSet(shop(t, func(m object) {
		m["packages"].(object)["web"] = m["packages"].(object)["job"]
	}))
	_, err := d.renewal(p).renew(d, p)
	wantCode(t, err, "ATT-012")
	d.mustSet(shop(t, func(m object) {
		delete(m["marbles"].(object), "web")
		m["secrets"] = object{}
		delete(m["marbles"].(object)["db"].(object), "parameters")
	}))
	_, err = d.Identify(leafOfLease(t, lease))
	wantCode(t, err, "CRD-036")
	_, err = d.renewal(p).renew(d, p)
	wantCode(t, err, "CRD-030")
}

func TestIdentifyRefusesStrangers(t *testing.T) {
	d, e := newDeployment(t), newDeployment(t)
	d.mustSet(shop(t))
	e.mustSet(shop(t))
	foreign := leafOfLease(t, e.mustActivate("web", "one").Lease)
	_, err := d.Identify(foreign)
	wantCode(t, err, "CRD-034")
	_, err = d.Identify(nil)
	wantCode(t, err, "CRD-036")
	_, err = d.Identify(alice())
	wantCode(t, err, "CRD-036")
	two := *foreign
	two.URIs = append(slices.Clone(two.URIs), two.URIs[0])
	_, err = e.Identify(&two)
	wantCode(t, err, "CRD-036")
	serving, err := d.ServerCertificate()
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Identify(serving.Leaf)
	wantCode(t, err, "CRD-036")
}

// TestRenewalRefusalsAreRecordedInAFlood wants a live instance's refusal in the
// log although strangers have used up what they may write.
func TestRenewalRefusalsAreRecordedInAFlood(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	p := d.peer(d.mustActivate("web", "one").Lease)
	for range 100 {
		a := d.attempt("web", "x")
		a.evidence = attest.Evidence{TEE: attest.SimSGX, Raw: []byte("no quote")}
		_, err := a.activate(d)
		wantCode(t, err, "ATT-003")
	}
	recorded := 0
	for range 5 {
		a := d.renewal(p)
		a.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("evil"))
		_, err := a.renew(d, p)
		wantCode(t, err, "ATT-012")
		if dec, err := d.Decision(t.Context(), problem.From(err).Instance); err == nil && dec.Record != nil {
			recorded++
		}
	}
	if recorded != 1 {
		t.Errorf("%d of 5 refusals at once are in the log, want 1", recorded)
	}
}

func TestNoncesCountOnce(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	a := d.attempt("web", "one")
	if _, err := a.activate(d); err != nil {
		t.Fatal(err)
	}
	_, err := a.activate(d)
	wantCode(t, err, "CRD-022")

	refused := d.attempt("web", "two")
	refused.claims.Purpose = binding.Renew
	_, err = refused.activate(d)
	wantCode(t, err, "ATT-071")
	refused.claims.Purpose, refused.evidence = binding.Activate, attest.Evidence{}
	_, err = refused.activate(d)
	wantCode(t, err, "CRD-022")

	old := d.attempt("web", "three")
	d.restart()
	_, err = old.activate(d)
	wantCode(t, err, "CRD-020")

	p := d.peer(d.mustActivate("web", "four").Lease)
	demand := d.renewal(p)
	demand.claims.Purpose, demand.info.Address = binding.Activate, "10.0.0.9"
	_, err = demand.activate(d)
	wantCode(t, err, "CRD-020")
}

func TestNoncesAreBounded(t *testing.T) {
	n, err := newNonces(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, at := newSession(), time.Unix(1_800_000_000, 0)
	for range maxBurnt {
		nonce, err := n.make("x", s, at)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.redeem(nonce, "x", s, at); err != nil {
			t.Fatal(err)
		}
	}
	nonce, _ := n.make("x", s, at)
	wantCode(t, n.redeem(nonce, "x", s, at), "CRD-007")
	later := at.Add(59 * time.Second)
	wantCode(t, n.redeem(nonce, "x", s, later), "CRD-007")
	fresh := at.Add(61 * time.Second)
	nonce, _ = n.make("x", s, fresh)
	wantCode(t, n.redeem(nonce, "x", s, fresh), "")
	wantCode(t, n.redeem(nonce, "x", s, fresh), "CRD-022")
	wantCode(t, n.redeem(nonce, "x", s, fresh.Add(59*time.Second)), "CRD-022")
	nonce, _ = n.make("x", s, fresh)
	wantCode(t, n.redeem(nonce, "y", s, fresh), "CRD-020")
	wantCode(t, n.redeem(nonce, "x", s, fresh.Add(-time.Hour)), "CRD-021")
}

// TestStrangersCannotStopRenewals fills what anybody can fill, the memory of
// spent challenges, and renews.
func TestStrangersCannotStopRenewals(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	p := d.peer(d.mustActivate("web", "one").Lease)
	session, at := newSession(), d.clock.Now()
	for range maxBurnt - 1 { // the activation spent one
		nonce, err := d.nonces.make(useActivate, session, at)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.nonces.redeem(nonce, useActivate, session, at); err != nil {
			t.Fatal(err)
		}
	}
	_, err := d.attempt("web", "stranger").activate(d)
	wantCode(t, err, "CRD-007")
	if _, err := d.renewal(p).renew(d, p); err != nil {
		t.Errorf("renewing: %v", err)
	}
}

// TestDecisionsFollowAManifestThatChangesMeanwhile sets another manifest while
// evidence is judged under the one before.
func TestDecisionsFollowAManifestThatChangesMeanwhile(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	strict := shop(t, func(m object) { m["packages"].(object)["web"] = m["packages"].(object)["job"] })
	asked := 0
	d.Coordinator.config.Endorse = func(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
		if asked++; asked == 1 {
			d.mustSet(strict)
		}
		return d.platform.Endorse(ctx, e)
	}
	_, err := d.attempt("web", "one").activate(d)
	wantCode(t, err, "ATT-012")
	if asked != 2 {
		t.Errorf("judged %d times, want 2", asked)
	}
	d.check()
}
