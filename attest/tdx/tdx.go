// Package tdx verifies evidence of Intel TDX guests, with the event log that
// may come with it.
//
// It owns the choice of Intel's root and that step; formats and checks of quotes
// are package dcap's, those of logs package eventlog's. It refuses to demand a
// log, which is the policy's decision; simulated guests are package sim's.
package tdx

import (
	"crypto/x509"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/attest/eventlog"
)

// NewVerifier returns a verifier of TDX quotes of versions 4 and 5 that trusts the
// Intel SGX root CA, which also stands over TDX, and nothing else. It is safe
// for concurrent use and keeps bounded caches, so make one and share it.
func NewVerifier() attest.Verifier {
	v, err := New(dcap.IntelRoot())
	if err != nil {
		panic("tdx: " + err.Error()) // the embedded root is wrong: a defect of the build
	}
	return v
}

// New returns the same under another root, an ECDSA P-256 CA.
func New(root *x509.Certificate) (attest.Verifier, error) {
	v, err := dcap.New(dcap.Config{TEE: attest.TDX, Root: root})
	if err != nil {
		return nil, err
	}
	return verifier{v}, nil
}

// verifier adds the event log to what the verifier of quotes finds.
type verifier struct{ quotes *dcap.Verifier }

// TEE implements attest.Verifier.
func (v verifier) TEE() attest.TEE { return v.quotes.TEE() }

// VerifyDocuments judges endorsements without evidence, as dcap does.
func (v verifier) VerifyDocuments(en attest.Endorsements) []attest.Step {
	return v.quotes.VerifyDocuments(en)
}

// Identify says what evidence claims, as dcap does.
func (v verifier) Identify(e attest.Evidence) attest.Claims { return v.quotes.Identify(e) }

// Verify implements attest.Verifier. An event log that does not replay to the
// runtime registers fails as the last step; without a log there is neither step
// nor event.
func (v verifier) Verify(e attest.Evidence, en attest.Endorsements, at time.Time) (attest.Claims, []attest.Step) {
	c, steps := v.quotes.Verify(e, en, at)
	if len(e.EventLog) == 0 || c.TDX == nil {
		return c, steps
	}
	events, step := eventlog.Check(e.EventLog, eventlog.TDX(), map[string]attest.Hex{
		"rtmr0": c.TDX.RTMR0, "rtmr1": c.TDX.RTMR1, "rtmr2": c.TDX.RTMR2, "rtmr3": c.TDX.RTMR3})
	c.Events = events
	return c, append(steps, step)
}
