package integration

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// codeOf is the code of a refusal that came over gRPC.
func codeOf(err error) problem.Code {
	if e, ok := marblepb.Problem(err); ok {
		return e.Code
	}
	return ""
}

// TestRefusedEvidence has peers ask for an identity that they must not get: each
// is refused with its own code, and none of them becomes an instance.
func TestRefusedEvidence(t *testing.T) {
	d := bare(t, nil)
	if _, err := d.SetManifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := d.issuer(probeDigest)
	otherProgram := d.issuer(attest.Hex("somebody else's program, 32 byte"))
	other := d.dial(nil)
	otherKey := []byte("the SubjectPublicKeyInfo of another key")
	cases := []struct {
		name    string
		attempt probe.Attempt
		want    problem.Code
	}{
		{"other program", probe.Attempt{Issuer: otherProgram}, attest.CodeMeasurement},
		{"evidence for another purpose", probe.Attempt{Issuer: good, Purpose: binding.Renew}, "ATT-071"},
		{"made-up nonce", probe.Attempt{Issuer: good, Nonce: make([]byte, 32)}, "CRD-020"},
		{"another session's exporter", probe.Attempt{Issuer: good, Exporter: other.Exporter}, "ATT-073"},
		{"evidence for another key", probe.Attempt{Issuer: good, SignedKey: otherKey}, "ATT-074"},
		{"simulated evidence that says it is SGX", probe.Attempt{Issuer: good, TEE: attest.SGX}, attest.CodeChain},
		{"simulated SGX that says it is TDX", probe.Attempt{Issuer: good, TEE: attest.SimTDX}, attest.CodeVersion},
		{"unknown TEE", probe.Attempt{Issuer: good, TEE: "abacus"}, attest.CodeNoVerifier},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.attempt.Instance = probeInstance()
			_, err := d.dial(nil).Activate(t.Context(), c.attempt)
			if got := codeOf(err); got != c.want {
				t.Fatalf("got %q (%v), want %s", got, err, c.want)
			}
		})
	}
	t.Run("right program, other marble's name", func(t *testing.T) {
		in := probeInstance()
		in.Marble = "gateway"
		_, err := d.dial(nil).Activate(t.Context(), probe.Attempt{Issuer: good, Instance: in})
		if got := codeOf(err); got != attest.CodeMeasurement {
			t.Fatalf("got %q (%v), want %s", got, err, attest.CodeMeasurement)
		}
	})
	t.Run("replayed on the same connection", func(t *testing.T) { replayed(t, d) })
	t.Run("relayed over another connection", func(t *testing.T) { relayed(t, d) })
	t.Run("debug evidence", func(t *testing.T) { misbehaving(t, d, `{"debug": true}`, attest.CodeDebug) })
	t.Run("revoked platform", func(t *testing.T) { misbehaving(t, d, `{"revokedPCK": true}`, attest.CodeRevoked) })
	t.Run("platform out of date", func(t *testing.T) { misbehaving(t, d, `{"tcbStatus": "OutOfDate"}`, attest.CodeTCBStatus) })
	t.Run("nobody got in", func(t *testing.T) {
		drive.Eventually(t, patience, func() string {
			c, err := d.Dial(t.Context(), false)
			if err != nil { // until the platform's good endorsements are back
				return err.Error()
			}
			defer c.Close()
			m, err := c.Marble(t.Context(), "probe")
			if err != nil {
				return err.Error()
			}
			if n := len(m.Instances); n != 1 {
				t.Fatalf("got %d instances, want the one that was activated honestly before its replay", n)
			}
			return ""
		})
	})
}

// replayed sends accepted evidence a second time, with its nonce.
func replayed(t *testing.T, d *deployment) {
	c := d.dial(nil)
	a, err := c.Activate(t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Instance: probeInstance()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Send(t.Context(), probeInstance(), a)
	if got := codeOf(err); got != "CRD-022" {
		t.Fatalf("got %q (%v), want CRD-022", got, err)
	}
}

// relayed offers evidence that was made for one connection over another one: an
// attacker between a genuine marble and the coordinator.
func relayed(t *testing.T, d *deployment) {
	victim, attacker := d.dial(nil), d.dial(nil)
	nonce, err := victim.Challenge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The genuine marble's evidence is for its own session with the attacker.
	a, err := attacker.Activate(t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Instance: probeInstance(), Exporter: victim.Exporter})
	if got := codeOf(err); got != "ATT-073" {
		t.Fatalf("got %q (%v), want ATT-073", got, err)
	}
	// Nor does it help to use a nonce of the other connection.
	a.Nonce = nonce
	_, err = attacker.Send(t.Context(), probeInstance(), a)
	if got := codeOf(err); got != "CRD-020" {
		t.Fatalf("nonce of another connection: got %q (%v), want CRD-020", got, err)
	}
}

// misbehaving has the platform of the software TEE misbehave for one attempt.
func misbehaving(t *testing.T, d *deployment, how string, want problem.Code) {
	file := filepath.Join(d.PlatformDir(), "misbehaviour.json")
	if err := os.WriteFile(file, []byte(how), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	// The coordinator keeps endorsements for a while; what is new reaches it
	// when it asks again.
	drive.Eventually(t, patience, func() string {
		_, err := d.dial(nil).Activate(t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Instance: probeInstance()})
		if got := codeOf(err); got != want {
			return string(got) + " came, want " + string(want)
		}
		return ""
	})
}

// TestTamperedProgram runs a copy of a program with one byte more.
func TestTamperedProgram(t *testing.T) {
	d := bare(t, nil)
	if _, err := d.SetManifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	code, output, err := d.RunTampered(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if code != problem.Refused.ExitCode() {
		t.Fatalf("exit code %d, want %d\n%s", code, problem.Refused.ExitCode(), output)
	}
	ds, err := d.client().Decisions(t.Context(), "gateway", 5)
	if err != nil {
		t.Fatal(err)
	}
	if len(ds) != 1 || ds[0].Accepted || ds[0].Code != attest.CodeMeasurement {
		t.Fatalf("got decisions %+v, want one refusal with %s", ds, attest.CodeMeasurement)
	}
	if failed := ds[0].Verdict.Failed(); len(failed) != 1 || failed[0].Field != "sim.program" {
		t.Errorf("the kept verdict fails at %+v, want sim.program alone", failed)
	}
	if ds[0].Nearest != "gateway" {
		t.Errorf("nearest package %q, want gateway: only one byte differs", ds[0].Nearest)
	}
}

// TestOpenFirstSet says loudly that anybody could have set the manifest, and is
// closed by it.
func TestOpenFirstSet(t *testing.T) {
	d := bare(t, nil)
	r, err := d.SetManifest(t.Context())
	if err != nil || !r.OpenFirstSet || r.Revision != 1 {
		t.Fatalf("first set: got %+v, %v; want revision 1, open", r, err)
	}
	stranger, err := d.Dial(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	m, err := stranger.Manifest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = stranger.SetManifest(t.Context(), append(m.Raw, '\n'), m.Digest)
	if kind := problem.From(err).Kind(); err == nil || kind != problem.NotPermitted {
		t.Fatalf("a stranger's set: got %v (%s), want not permitted", err, kind)
	}
	audit := records(t, d)
	for _, a := range audit {
		if a.Kind == "manifestSet" {
			return
		}
	}
	t.Errorf("no manifestSet in the audit log: %+v", audit)
}

func records(t *testing.T, d *deployment) []apiv1.AuditRecord {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a, err := d.client().Audit(ctx, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return a.Records
}
