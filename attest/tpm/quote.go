package tpm

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/eventlog"
)

var (
	fixQuote = attest.Fix{Who: attest.Nobody, How: "the evidence is forged or damaged: ask the TPM for a new quote"}
	fixKey   = attest.Fix{Who: attest.ServiceOwner, How: "quote with a restricted signing key that the TPM made and that never leaves it"}
	fixClock = attest.Fix{Who: attest.Operator, How: "check the clock; have the key certified again"}
)

// Check verifies a quote under a key: its form, the signature, and that the
// registers are those that were quoted. Of the claims, ReportData holds the
// qualifying data, zeros after it up to 64 bytes, and TPM what the quote says;
// who stands for the key is the caller's to find out. Where the form does not
// hold, the claims are empty and the step is the only one.
func Check(q Quote, key crypto.PublicKey) (attest.Claims, []attest.Step) {
	s := attest.Step{Code: attest.CodeTPMQuote, Field: "tpm.quote", Want: "a TPM's quote of the SHA-256 bank", Got: "a quote", Source: "TPM quote", Fix: fixQuote}
	a, err := parseAttested(q.Attested)
	var registers [maxRegisters]attest.Hex
	if err == nil {
		registers, err = q.registers()
	}
	der, keyErr := x509.MarshalPKIXPublicKey(key)
	if err == nil {
		err = keyErr
	}
	s = s.Outcome(err)
	if err != nil {
		return attest.Claims{}, []attest.Step{s}
	}
	sig, signed := signedStep(q, key)
	steps := []attest.Step{s, signed}
	if sig != nil {
		steps = append(steps, a.registersStep(registers, sig.hash))
	}
	id := sha256.Sum256(der)
	c := attest.Claims{ReportData: make(attest.Hex, len(attest.Binding{})), TPM: &attest.TPMClaims{PCRs: q.PCRs, AttestationKey: id[:],
		Firmware: append(attest.Hex{}, a.firmware...), ResetCount: a.resetCount, RestartCount: a.restarts, Safe: a.safe}}
	copy(c.ReportData, a.extraData)
	return c, steps
}

// signedStep checks the signature; without one that can be read, nil is
// returned for it.
func signedStep(q Quote, key crypto.PublicKey) (*signature, attest.Step) {
	s := attest.Step{Code: attest.CodeQuoteSignature, Field: "tpm.signature", Want: "signed by the attestation key", Got: "holds", Source: "TPM quote", Fix: fixQuote}
	sig, err := parseSignature(q.Signature)
	if err == nil {
		err = sig.verify(key, q.Attested)
	}
	return sig, s.Outcome(err)
}

// registersStep checks that the values are those of the selected registers and
// of no other.
func (a *attested) registersStep(registers [maxRegisters]attest.Hex, hash crypto.Hash) attest.Step {
	s := attest.Step{Code: attest.CodeTPMRegisters, Field: "tpm.pcrs", Want: "the registers that were quoted, digest " + attest.Hex(a.digest).String(),
		Source: "TPM quote", Fix: fixQuote}
	h := hash.New()
	var other []string
	for n, value := range registers {
		if a.selected[n] != (value != nil) {
			other = append(other, fmt.Sprint(n))
		}
		h.Write(value)
	}
	sum := attest.Hex(h.Sum(nil)).String()
	switch {
	case len(other) > 0:
		s.Got = "other registers: " + strings.Join(other, ", ")
	case sum != attest.Hex(a.digest).String():
		s.Got = "digest " + sum
	default:
		s.OK, s.Got, s.Fix = true, "the same", attest.Fix{}
	}
	return s
}

// CheckLog replays the firmware's event log, if there is one, to the registers
// in the claims and adds its events to them.
func CheckLog(log []byte, c *attest.Claims) []attest.Step {
	if len(log) == 0 || c.TPM == nil {
		return nil
	}
	vouched := make(map[string]attest.Hex, len(c.TPM.PCRs))
	for n, value := range c.TPM.PCRs {
		vouched["pcr"+n] = value
	}
	events, step := eventlog.Check(log, eventlog.TPM(), vouched)
	c.Events = events
	return []attest.Step{step}
}
