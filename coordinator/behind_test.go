package coordinator

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/shares"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// keeping gives a deployment a keeper over a folder and a key of its own.
func (d *deployment) keeping() {
	d.Helper()
	dir := d.TempDir()
	path := filepath.Join(dir, "seal.json")
	source := seal.Platform("test", "product", func(_ context.Context, _ string, _ []byte) ([]byte, []byte, error) {
		return []byte("0123456789abcdef"), nil, nil
	})
	key, err := seal.Create(d.Context(), path, source, rand.Reader)
	if err != nil {
		d.Fatal(err)
	}
	d.config.Keeper, err = recovery.Open(d.Context(), recovery.Config{Files: recovery.Folder(dir), SealPath: path, Key: key, Random: rand.Reader, Now: d.clock.Now,
		Source: func(manifest.SealMode) seal.Source { return source }}, recovery.Mark{})
	if err != nil {
		d.Fatal(err)
	}
	d.restart()
}

// holding is a user with a certificate that signs and a recovery key.
func holding(t testing.TB, name string) (shares.Holder, func(m object)) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2026, 12, 21, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	key, err := shares.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	return shares.Holder{User: name, Key: key, Signer: crypto.Signer(signer), Random: rand.Reader}, func(m object) {
		m["users"].(object)[name] = object{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "roles": []string{"operator"}}
		if m["recovery"] == nil {
			m["recovery"] = object{"keys": object{}, "threshold": 1}
		}
		m["recovery"].(object)["keys"].(object)[name] = public
	}
}

func TestRolledBackStateIsDetected(t *testing.T) {
	for _, forked := range []bool{false, true} {
		t.Run(map[bool]string{false: "shorter", true: "forked"}[forked], func(t *testing.T) {
			d := newDeployment(t)
			d.keeping()
			bob, add := holding(t, "bob")
			d.mustSet(shop(t, add))
			d.mustActivate("web", "one")
			old := d.disk.Clone()
			newer := d.mustActivate("web", "two")
			if _, err := d.Identify(leafOfLease(d, newer.Lease)); err != nil {
				t.Fatalf("the newest state: %v", err)
			}
			d.disk = old
			d.restart()
			if forked {
				for range 5 { // the older state goes on, past where the newer one was
					d.mustActivate("web", "one")
				}
			}
			for range 2 { // also after a restart
				_, err := d.Identify(leafOfLease(d, newer.Lease))
				if problem.CodeOf(err) != "REC-030" {
					t.Fatalf("a leaf of the newer state: got %v, want REC-030", err)
				}
				d.refusesWork(shop(t, add))
				d.restart()
			}
			d.acceptAs(bob)
			d.mustActivate("web", "three")
			if _, err := d.Identify(leafOfLease(d, newer.Lease)); problem.CodeOf(err) != "CRD-034" {
				t.Errorf("the lost leaf, once the rollback is accepted: got %v, want CRD-034", err)
			}
			e, err := d.epoch(t.Context())
			if err != nil || e.Number != 2 || e.Cause != causeRollback {
				t.Errorf("got epoch %+v, %v, want the second, of a rollback", e, err)
			}
			if n := len(d.entries(audit.RollbackAccepted)); n != 1 {
				t.Errorf("the log has %d accepted rollbacks, want 1", n)
			}
		})
	}
}

// refusesWork checks what a state that is behind does and does not.
func (d *deployment) refusesWork(raw []byte) {
	d.Helper()
	a := d.attempt("web", "late")
	if _, err := a.activate(d); problem.CodeOf(err) != "REC-030" {
		d.Errorf("activation: got %v, want REC-030", err)
	}
	if err := d.set(raw); problem.CodeOf(err) != "REC-030" {
		d.Errorf("setting a manifest: got %v, want REC-030", err)
	}
	st, err := d.Status(d.Context())
	if err != nil || st.State != "behind" || len(st.Attention) == 0 || st.Attention[0].Code != "REC-030" {
		d.Errorf("status: got %s %+v, %v, want behind", st.State, st.Attention, err)
	}
	if ok, stage, _ := d.Ready(); ok || stage != "behind" {
		d.Errorf("ready: got %v %s", ok, stage)
	}
	if err := d.Tick(d.Context()); err != nil {
		d.Errorf("tick: %v", err)
	}
	if _, err := d.Attest(d.Context(), make([]byte, 32), newKeyDER()); err != nil {
		d.Errorf("attesting: %v", err)
	}
	if _, err := d.RecoveryStatement(d.Context(), apiv1.PurposeRecover, make([]byte, 32), newKeyDER()); problem.CodeOf(err) != "REC-031" {
		d.Errorf("recovering: got %v, want REC-031", err)
	}
}

// acceptAs accepts the rollback with a holder's share.
func (d *deployment) acceptAs(h shares.Holder) {
	d.Helper()
	s, err := d.RecoveryStatement(d.Context(), apiv1.PurposeRollback, make([]byte, 32), newKeyDER())
	if err != nil {
		d.Fatal(err)
	}
	drill, err := d.RecoveryStatement(d.Context(), apiv1.PurposeDrill, make([]byte, 32), newKeyDER())
	if err != nil {
		d.Fatal(err)
	}
	r, err := d.Recovery(d.Context())
	if err != nil || r.State != "behind" || r.Document == nil {
		d.Fatalf("got %+v, %v", r, err)
	}
	m, err := h.Approve(*r.Document, drill.Session, d.clock.Now())
	if err != nil {
		d.Fatal(err)
	}
	if p, err := d.TakeShare(d.Context(), m); err != nil || !p.Done || p.Epoch != 0 || d.behind.Load() == nil {
		d.Fatalf("a drill: got %+v, %v, want it to accept nothing", p, err)
	}
	if m, err = h.Approve(*r.Document, s.Session, d.clock.Now()); err != nil {
		d.Fatal(err)
	}
	p, err := d.TakeShare(d.Context(), m)
	if err != nil || !p.Done || p.Epoch != 2 {
		d.Fatalf("got %+v, %v, want epoch 2", p, err)
	}
	d.clock.advance(2 * time.Second)
}
