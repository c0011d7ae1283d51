package coordinator

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func TestActivate(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	before := d.changes.Load()
	a := d.attempt("web", "one")
	act, err := a.activate(d)
	if err != nil {
		t.Fatal(err)
	}
	d.check()
	if d.changes.Load() != before+1 {
		t.Errorf("got %d changes, want one more than %d", d.changes.Load(), before)
	}
	leaf := leafOfLease(t, act.Lease)
	mesh, err := x509.ParseCertificate(act.Lease.Certificates[1])
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	between.AddCert(mesh)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: d.Roots(), Intermediates: between, CurrentTime: d.clock.Now(), DNSName: "web.shop.example"}); err != nil {
		t.Errorf("leaf: %v", err)
	}
	if act.Lease.SPIFFEID != "spiffe://shop.example/web" || leaf.URIs[0].String() != act.Lease.SPIFFEID {
		t.Errorf("got identity %s and %v", act.Lease.SPIFFEID, leaf.URIs)
	}
	if want := d.clock.Now().Add(time.Hour); !act.Lease.NotAfter.Equal(want) {
		t.Errorf("lease ends %s, want %s", act.Lease.NotAfter, want)
	}
	if due := act.Lease.RenewAfter.Sub(d.clock.Now()); due < 24*time.Minute || due > 30*time.Minute {
		t.Errorf("renewal is due after %s, want 24 to 30 minutes", due)
	}
	if got := len(act.Lease.Secrets["sessionKey"].Bytes); got != 32 {
		t.Errorf("sessionKey has %d bytes, want 32", got)
	}
	if len(act.Lease.Secrets) != 2 || act.Parameters.Env["KEY"] == "" {
		t.Errorf("got %d secrets and parameters %v", len(act.Lease.Secrets), act.Parameters)
	}
	dec, err := d.Decision(t.Context(), act.Decision)
	if err != nil {
		t.Fatal(err)
	}
	if !dec.Accepted || !dec.Verdict.OK() || dec.Marble != "web" || dec.Instance != "one" || dec.Purpose != "activate" || len(dec.Record) != 32 {
		t.Errorf("got decision %+v", dec)
	}
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(apiv1.LeafOID) {
			continue
		}
		facts, err := apiv1.ParseLeafFacts(e.Value)
		if err != nil {
			t.Fatal(err)
		}
		asJSON, _ := json.Marshal(dec.Verdict)
		m, _ := d.Manifest(t.Context())
		want := apiv1.LeafFacts{Evidence: a.evidence.Digest(), Verdict: sha256.Sum256(asJSON), TEE: attest.SimSGX, Manifest: [32]byte(m.Digest), Log: facts.Log}
		if facts != want || facts.Log.Index != dec.Seq || !bytes.Equal(facts.Log.Leaf[:], dec.Record) {
			t.Errorf("leaf says %+v, want %+v and entry %d", facts, want, dec.Seq)
		}
		if err := transparency.VerifyPromise(facts.Log, d.LogKey()); err != nil {
			t.Error(err)
		}
		return
	}
	t.Error("the leaf has no facts")
}

// TestActivateRefusals changes one thing of a good attempt.
func TestActivateRefusals(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	otherCurve, _ := x509.MarshalPKIXPublicKey(p384.Public())
	other, err := platform.New(platform.Config{Now: d.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	victim := d.attempt("web", "victim")
	victim.quote(d)

	for _, c := range []struct {
		name   string
		code   problem.Code
		change func(a *attempt)
	}{
		{"unattested", "ATT-001", func(a *attempt) { a.evidence = attest.Evidence{TEE: attest.SimSGX, Raw: []byte{}} }},
		{"garbage", "ATT-004", func(a *attempt) { a.evidence = attest.Evidence{TEE: attest.SimSGX, Raw: make([]byte, 600)} }},
		{"no such TEE", "ATT-002", func(a *attempt) { a.evidence = attest.Evidence{TEE: attest.SNP, Raw: []byte{1}} }},
		{"production roots", "ATT-002", func(a *attempt) { a.quote(d); a.evidence.TEE = attest.SGX }},
		{"other platform", "ATT-006", func(a *attempt) { a.issuer = other.NewInsecureIssuer(attest.SimSGX, measured("web")) }},
		{"wrong measurement", "ATT-012", func(a *attempt) { a.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("evil")) }},
		{"other marble's program", "ATT-012", func(a *attempt) { a.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("db")) }},
		{"wrong purpose", "ATT-071", func(a *attempt) { a.claims.Purpose = binding.Renew }},
		{"key mismatch", "ATT-074", func(a *attempt) { a.key = newKeyDER() }},
		{"replayed evidence", "ATT-072", func(a *attempt) { a.claims, a.evidence, a.key = victim.claims, victim.evidence, victim.key }},
		{"relayed evidence", "ATT-073", func(a *attempt) { a.claims.Exporter = victim.session.Exporter }},
		{"nonce of another session", "CRD-020", func(a *attempt) { a.nonce = victim.nonce }},
		{"made-up nonce", "CRD-020", func(a *attempt) { a.nonce = make([]byte, 32) }},
		{"short nonce", "CRD-002", func(a *attempt) { a.nonce = a.nonce[:31] }},
		{"late", "CRD-021", func(a *attempt) { a.quote(d); d.clock.advance(61 * time.Second) }},
		{"damaged buffer", "ATT-070", func(a *attempt) { a.claims.Nonce = []byte("short"); a.quote(d) }},
		{"P-384", "CRD-038", func(a *attempt) { a.key = otherCurve }},
		{"key and more", "CRD-038", func(a *attempt) { a.key = append(a.key, 0) }},
		{"no key", "CRD-038", func(a *attempt) { a.key = nil }},
		{"unknown marble", "CRD-030", func(a *attempt) { a.info.Marble = "wep" }},
		{"path as marble", "CRD-030", func(a *attempt) { a.info.Marble = "web/../db" }},
		{"path as id", "CRD-002", func(a *attempt) { a.info.ID = "../db/x" }},
		{"no id", "CRD-002", func(a *attempt) { a.info.ID = "" }},
		{"no address", "CRD-002", func(a *attempt) { a.info.Address = "" }},
		{"any address", "CRD-002", func(a *attempt) { a.info.Address = "0.0.0.0" }},
		{"name as address", "CRD-002", func(a *attempt) { a.info.Address = "db.example" }},
		{"program elsewhere", "CRD-002", func(a *attempt) { a.info.Loopback = "10.0.0.66" }},
		{"program elsewhere, as IPv6", "CRD-002", func(a *attempt) { a.info.Loopback = "::ffff:10.0.0.66" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := d.attempt("web", "x")
			c.change(a)
			act, err := a.activate(d)
			wantCode(t, err, c.code)
			if act.Lease.Certificates != nil || act.Lease.Secrets != nil {
				t.Error("a refusal came with a lease")
			}
		})
	}
	d.check()
	if s, _ := d.Status(t.Context()); s.Instances != 0 {
		t.Errorf("%d instances after refusals, want 0", s.Instances)
	}
}

func TestRefusalExplainsItself(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	a := d.attempt("web", "x")
	a.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("db"))
	_, err := a.activate(d)
	p := problem.From(err)
	var v attest.Verdict
	if err := json.Unmarshal(p.Verdict, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Failed()) == 0 || p.Next == "" || !strings.HasPrefix(p.Instance, "web/") {
		t.Errorf("got %+v with %d failed steps", p, len(v.Failed()))
	}
	if strings.Contains(string(p.Verdict), "packages.db") {
		t.Error("the refusal shows reference values of another package")
	}
	got, err := d.Decision(t.Context(), p.Instance)
	if err != nil {
		t.Fatal(err)
	}
	if got.Accepted || got.Code != "ATT-012" || got.Nearest != "db" || got.Distance != 0 {
		t.Errorf("got %+v, want a refusal, nearest db", got)
	}
	if short, err := d.Decision(t.Context(), p.Instance[:len("web/")+4]); err != nil || short.ID != got.ID {
		t.Errorf("by the beginning of its id: %v, %v", short.ID, err)
	}
	m, err := d.Marble(t.Context(), "web")
	if err != nil || m.LastRefusal == nil || m.LastRefusal.ID != p.Instance {
		t.Errorf("last refusal %+v, %v", m.LastRefusal, err)
	}
	status, _ := d.Status(t.Context())
	if len(status.Attention) == 0 || status.Attention[0].Subject != "web" || status.Refused != 1 {
		t.Errorf("got attention %+v and %d refused", status.Attention, status.Refused)
	}
	d.restart()
	if m, _ := d.Marble(t.Context(), "web"); m.LastRefusal == nil {
		t.Error("the refusal is forgotten after a restart")
	}
	d.mustActivate("web", "x")
	if m, _ := d.Marble(t.Context(), "web"); m.LastRefusal != nil {
		t.Error("the refusal is shown after a newer acceptance")
	}
	_, err = d.Decision(t.Context(), "web/zz")
	if code := problem.CodeOf(err); code != "CRD-050" {
		t.Errorf("got %v, want CRD-050", err)
	}
}

func TestMisbehavingPlatform(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	for _, c := range []struct {
		name string
		code problem.Code
		m    platform.Misbehaviour
	}{
		{"debug", "ATT-013", platform.Misbehaviour{Debug: true}},
		{"other binding", "ATT-011", platform.Misbehaviour{OtherBinding: true}},
		{"bad signature", "ATT-010", platform.Misbehaviour{BadSignature: true}},
		{"revoked", "ATT-019", platform.Misbehaviour{RevokedPCK: true}},
		{"out of date", "ATT-014", platform.Misbehaviour{TCBStatus: attest.OutOfDate}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d.platform.Misbehave(c.m)
			defer d.platform.Misbehave(platform.Misbehaviour{})
			_, err := d.attempt("web", "x").activate(d)
			wantCode(t, err, c.code)
		})
	}
	d.platform.Misbehave(platform.Misbehaviour{})
	d.mustActivate("web", "x")
}

func TestNoManifest(t *testing.T) {
	d := newDeployment(t)
	_, err := d.attempt("web", "x").activate(d)
	wantCode(t, err, "CRD-011")
	_, err = d.Marble(t.Context(), "web")
	wantCode(t, err, "CRD-010")
	if ok, stage, reason := d.Ready(); !ok || stage != "waiting for a manifest" || reason == "" {
		t.Errorf("got %t, %q, %q", ok, stage, reason)
	}
	d.mustSet(shop(t))
	if ok, stage, _ := d.Ready(); !ok || stage != "serving" {
		t.Errorf("got %t, %q", ok, stage)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = d.Challenge(t.Context(), newSession())
	wantCode(t, err, "CRD-003")
	if ok, stage, _ := d.Ready(); ok || stage != "stopping" {
		t.Errorf("got %t, %q", ok, stage)
	}
}

func TestEndorsementsCannotBeHad(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	d.Coordinator.config.Endorse = func(context.Context, attest.Evidence) (attest.Endorsements, error) {
		return attest.Endorsements{}, errMadeUp
	}
	_, err := d.attempt("web", "x").activate(d)
	wantCode(t, err, "CRD-004")
}

func TestMaxInstances(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	d.mustActivate("job", "a")
	b := d.mustActivate("job", "b")
	_, err := d.attempt("job", "c").activate(d)
	wantCode(t, err, "CRD-031")
	if dec, err := d.Decision(t.Context(), problem.From(err).Instance); err != nil || dec.Accepted || dec.Code != "CRD-031" || !dec.Verdict.OK() {
		t.Errorf("got decision %+v, %v", dec, err)
	}
	d.mustActivate("job", "a") // the same instance again is no further one
	d.check()

	d.clock.advance(30 * time.Minute)
	if _, err := d.renewal(d.peer(b.Lease)).renew(d, d.peer(b.Lease)); err != nil {
		t.Fatal(err)
	}
	d.clock.advance(31 * time.Minute) // a's lease has ended, b's has not
	d.mustActivate("job", "c")
	d.check()
	_, err = d.attempt("job", "d").activate(d)
	wantCode(t, err, "CRD-031")
}

func TestConcurrentActivations(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range 6 {
				marble := []string{"web", "db"}[j%2]
				a := d.attempt(marble, fmt.Sprintf("i%d", (i+j)%8)) // ids collide on purpose
				if _, err := a.activate(d); err != nil {
					t.Errorf("activating: %v", err)
				}
				if _, err := d.Status(t.Context()); err != nil {
					t.Error(err)
				}
				if _, err := d.View(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	d.check()
	d.restart()
	d.check()
}

// TestMemoryIsFlat activates few instances many times.
func TestMemoryIsFlat(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	run := func(n int) {
		for i := range n {
			d.mustActivate("web", fmt.Sprintf("i%d", i%20))
		}
	}
	run(200)
	onDisk := d.disk.Commits()
	before := heap()
	n := 1000
	if os.Getenv("ASHLAR_SOAK") != "" {
		n = 10_000
	}
	run(n)
	// The disk of this test is in memory and keeps the log: a few kilobytes for
	// each commit, which are not the coordinator's.
	grown := int64(heap()) - int64(before)
	perCommit := grown / int64(d.disk.Commits()-onDisk)
	if perCommit > 16<<10 {
		t.Errorf("memory grew by %d bytes for each activation, log included; want at most 16 KiB", perCommit)
	}
	err := d.Tick(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.check()
	if n := len(d.live.runs); n != 20 {
		t.Errorf("%d instances are remembered, want 20", n)
	}
}

// TestAnonymousRefusalsAreBounded floods the coordinator with refusals.
func TestAnonymousRefusalsAreBounded(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	before, _ := d.Status(t.Context())
	for range 300 {
		a := d.attempt("web", "x")
		a.evidence = attest.Evidence{TEE: attest.SimSGX, Raw: []byte("no quote")}
		if _, err := a.activate(d); err == nil {
			t.Fatal("garbage was accepted")
		}
	}
	status, _ := d.Status(t.Context())
	if grown := status.Checkpoint.Size - before.Checkpoint.Size; grown > 60 {
		t.Errorf("the log grew by %d records", grown)
	}
	if status.Refused != 300 {
		t.Errorf("%d refusals counted, want 300", status.Refused)
	}
	m, _ := d.Marble(t.Context(), "web")
	if got, err := d.Decision(t.Context(), m.LastRefusal.ID); err != nil || got.ID != m.LastRefusal.ID {
		t.Errorf("newest refusal, not in the log: got %v, %v", got.ID, err)
	}
}

func BenchmarkActivate(b *testing.B) {
	d := newDeployment(b)
	d.mustSet(shop(b, func(m object) {
		delete(m["marbles"].(object)["web"].(object), "parameters")
		delete(m, "secrets")
		delete(m["marbles"].(object)["db"].(object), "parameters")
	}))
	for b.Loop() {
		b.StopTimer()
		a := d.attempt("web", "one")
		a.quote(d)
		req := ActivateRequest{Session: a.session, Instance: a.info, Evidence: a.evidence, ClaimsBuffer: a.claims.Encode(), PublicKey: a.key, Nonce: a.nonce}
		b.StartTimer()
		if _, err := d.Activate(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}
