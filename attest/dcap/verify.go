package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

var (
	fixQuote = attest.Fix{Who: attest.Nobody, How: "the evidence is forged or damaged: ask the hardware for a new quote"}
	fixHost  = attest.Fix{Who: attest.HostOwner, How: "install the vendor's current software and provision the platform again"}
	fixClock = attest.Fix{Who: attest.Operator, How: "check the clock; fetch what has ended again"}
)

// run is one verification.
type run struct {
	v     *Verifier
	at    time.Time
	steps []attest.Step

	quote *quote
	chain *chain // nil if it does not hold
	col   *collateral
	// signed is true while every signature and chain has held.
	signed bool
}

func (r *run) check(s attest.Step, ok bool) bool {
	r.steps = append(r.steps, s.Holding(ok))
	return ok
}

// Verify implements attest.Verifier. Its steps stand in the order of checking;
// a check that depends on one that failed is left out. Evidence that does not
// parse gives no claims.
func (v *Verifier) Verify(e attest.Evidence, en attest.Endorsements, at time.Time) (attest.Claims, []attest.Step) {
	r := &run{v: v, at: at, steps: make([]attest.Step, 0, 32)}
	if !r.parse(e.Raw) {
		return attest.Claims{TEE: v.tee}, r.steps
	}
	c := r.quote.claims(v.tee)
	r.pck()
	r.qeSigned()
	r.quoteSigned()
	r.endorsements(en)
	r.revocation()
	r.windows()
	r.bounds(&c.TCB)
	r.status(&c)
	return c, r.steps
}

func (r *run) parse(raw []byte) bool {
	q, err := (*quote)(nil), fmt.Errorf("larger than %d bytes", attest.MaxEvidence)
	if len(raw) <= attest.MaxEvidence {
		q, err = parse(raw)
	}
	if err == nil && q.tee != r.v.tee.Shape() {
		err = fmt.Errorf("a quote of %s is %w by the verifier of %s", q.tee, errVersion, r.v.tee)
	}
	s := attest.Step{Code: attest.CodeFormat, Field: "quote.format", Want: "a complete quote of " + string(r.v.tee.Shape()), Source: "quote", Fix: fixQuote}
	switch {
	case err == nil:
		s.Got = "version " + string('0'+rune(q.version))
	case errors.Is(err, errVersion):
		s.Code, s.Field = attest.CodeVersion, "quote.version"
	case errors.Is(err, errCertData):
		s.Code, s.Field, s.Want = attest.CodeCertData, "quote.certificationData", "type 5, the PCK certificate chain"
		s.Fix = attest.Fix{Who: attest.HostOwner, How: "configure the quoting library to embed the PCK chain"}
	}
	if err != nil {
		s.Got = err.Error()
	}
	r.quote = q
	return r.check(s, err == nil)
}

// pck verifies the quote's certificate chain.
func (r *run) pck() {
	key := sha256.Sum256(r.quote.certs)
	c, known := r.v.chains.Get(key)
	var err error
	if !known {
		if c, err = r.v.pckChain(r.quote.certs); err == nil {
			r.v.chains.Put(key, c)
		}
	}
	s := attest.Step{Code: attest.CodeChain, Field: "pck.chain", Want: "chain to the pinned " + r.v.source, Source: r.v.source, Fix: fixQuote}
	switch {
	case err == nil:
		s.Got = c.name
		r.chain = c
	case errors.Is(err, errExtension):
		s.Code, s.Field, s.Want, s.Fix = attest.CodeCertExtension, "pck.extension", "FMSPC, PCEID and TCB of the platform", fixHost
	}
	if err != nil {
		s.Got = err.Error()
	}
	r.signed = r.check(s, err == nil)
}

// qeSigned checks that the platform key signed the quoting enclave's report,
// and that the report vouches for the attestation key.
func (r *run) qeSigned() {
	q := r.quote
	if r.chain != nil {
		h := sha256.New()
		for _, part := range [][]byte{q.certs, q.qeReport, q.qeSig} {
			h.Write(part)
		}
		key := [32]byte(h.Sum(nil))
		_, ok := r.v.reports.Get(key)
		if !ok {
			if ok = verifyP256(r.chain.key, q.qeReport, q.qeSig); ok {
				r.v.reports.Put(key, struct{}{})
			}
		}
		r.signed = r.check(attest.Step{Code: attest.CodeQESignature, Field: "qe.signature", Want: "signed by the PCK", Got: holds(ok),
			Source: "PCK certificate", Fix: fixQuote}, ok) && r.signed
	}
	h := sha256.New()
	h.Write(q.key)
	h.Write(q.qeAuth)
	want := h.Sum(make([]byte, 0, 64))
	ok := bytes.Equal(append(want, make([]byte, 32)...), sgxReport(q.qeReport).reportData())
	r.signed = r.check(attest.Step{Code: attest.CodeQEBinding, Field: "qe.reportData", Want: "SHA-256 of attestation key and QE data", Got: holds(ok),
		Source: "QE report", Fix: fixQuote}, ok) && r.signed
}

func holds(ok bool) string {
	if ok {
		return "holds"
	}
	return "does not hold"
}

// quoteSigned checks that the attestation key signed the quote.
func (r *run) quoteSigned() {
	q := r.quote
	s := attest.Step{Code: attest.CodeQuoteSignature, Field: "quote.signature", Want: "signed by the attestation key", Source: "quote", Fix: fixQuote}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.key...))
	ok := err == nil && verifyP256(key, q.signed, q.sig)
	if s.Got = holds(ok); err != nil {
		s.Got = "the attestation key is not on the curve"
	}
	r.signed = r.check(s, ok) && r.signed
}

// endorsements loads and verifies what the vendor says.
func (r *run) endorsements(en attest.Endorsements) {
	if r.chain != nil {
		r.col = r.v.load(en, r.chain.ca)
	} else {
		r.col = r.v.load(en, nil)
	}
	r.steps = append(r.steps, r.col.steps...)
	r.signed = r.signed && r.col.usable
}
