package snp

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

var (
	fixReport  = attest.Fix{Who: attest.Nobody, How: "the evidence is forged or damaged: ask the hardware for a new report"}
	fixKey     = attest.Fix{Who: attest.Operator, How: "fetch the certificate of this chip at its reported TCB from AMD's key service (KDS)"}
	fixClock   = attest.Fix{Who: attest.Operator, How: "check the clock; fetch what has ended again"}
	fixRevoked = attest.Fix{Who: attest.Nobody, How: "AMD has revoked it: nothing under it is trusted"}
)

// run is one verification.
type run struct {
	v     *Verifier
	at    time.Time
	steps []attest.Step

	report *report
	chain  *chain   // nil if it does not hold
	crl    *pki.CRL // nil if there is none that can be used
}

func (r *run) check(s attest.Step, ok bool) bool {
	r.steps = append(r.steps, s.Holding(ok))
	return ok
}

// Verify implements attest.Verifier. Its steps stand in the order of checking;
// a check that depends on one that failed is left out. Evidence that does not
// parse gives no claims.
func (v *Verifier) Verify(e attest.Evidence, en attest.Endorsements, at time.Time) (attest.Claims, []attest.Step) {
	r := &run{v: v, at: at, steps: make([]attest.Step, 0, 12)}
	if !r.parse(e.Raw) {
		return attest.Claims{TEE: attest.SNP}, r.steps
	}
	r.certificate(en)
	r.signature()
	r.revocationList(en)
	r.revocation()
	r.windows()
	r.consistency()
	return r.claims(), r.steps
}

func (r *run) parse(raw []byte) bool {
	p, err := parse(raw)
	s := attest.Step{Code: attest.CodeFormat, Field: "report.format", Want: "a complete SEV-SNP report", Source: "report", Fix: fixReport}
	switch {
	case err == nil:
		s.Got = fmt.Sprintf("version %d, signed by a %s", p.version, p.signer)
	case errors.Is(err, errVersion):
		s.Code, s.Field, s.Want = attest.CodeVersion, "report.version", "version 2 to 5, signed with ECDSA P-384"
	}
	if err != nil {
		s.Got = err.Error()
	}
	r.report = p
	return r.check(s, err == nil)
}

// certificate verifies the chain of the key that signed the report.
func (r *run) certificate(en attest.Endorsements) {
	key := r.report.signer
	s := attest.Step{Code: attest.CodeChain, Field: key.field("chain"), Want: "chain to a pinned root of AMD", Source: key.kind(), Fix: fixKey}
	leaf, ok := en.Get(key.kind())
	if !ok {
		s.Code, s.Got = attest.CodeNoEndorsement, "no "+key.kind()
		r.check(s, false)
		return
	}
	parts := [][]byte{[]byte(key), leaf.Body}
	var pemChain []byte
	if extra, ok := en.Get(attest.KindAMDChain); ok {
		pemChain = append([]byte{}, extra.Body...) // empty is damaged, nil is none
		parts = append(parts, pemChain)
	}
	id := digest(parts...)
	c, found := r.v.chains.Get(id)
	var err error
	if !found {
		if c, err = r.v.chain(key, leaf.Body, pemChain); err == nil {
			r.v.chains.Put(id, c)
		}
	}
	switch {
	case err == nil:
		s.Got = c.root.Subject.CommonName + ", " + c.ca.Subject.CommonName
		r.chain = c
	case errors.Is(err, errExtension):
		s.Code, s.Field, s.Want = attest.CodeCertExtension, key.field("extension"), "AMD's product, TCB and owner of the key"
	}
	if err != nil {
		s.Got = err.Error()
	}
	r.check(s, err == nil)
}

// signature checks that the key signed the report.
func (r *run) signature() {
	if r.chain == nil {
		return
	}
	ok := r.report.signedBy(r.chain.key)
	s := attest.Step{Code: attest.CodeQuoteSignature, Field: "report.signature", Want: "signed by the " + string(r.report.signer), Got: "holds",
		Source: r.report.signer.kind(), Fix: fixReport}
	if !ok {
		s.Got = "does not hold"
	}
	r.check(s, ok)
}

// revocationList verifies the CRL of the product's root.
func (r *run) revocationList(en attest.Endorsements) {
	item, ok := en.Get(attest.KindAMDCRL)
	if !ok || r.chain == nil {
		return // the claims say that revocation was not checked
	}
	root := r.chain.root
	id := digest(root.Raw, item.Body)
	list, found := r.v.crls.Get(id)
	var err error
	if !found {
		if list, err = pki.ParseCRL(item.Body, root); err == nil {
			r.v.crls.Put(id, list)
		}
	}
	s := attest.Step{Code: attest.CodeCRL, Field: "crl.signature", Want: "signed by " + root.Subject.CommonName, Got: "holds", Source: attest.KindAMDCRL,
		Fix: attest.Fix{Who: attest.Operator, How: "fetch the product's CRL again from AMD's key service (KDS)"}}
	if err != nil {
		s.Got = err.Error()
	} else {
		r.crl = list
	}
	r.check(s, err == nil)
}

// revocation looks up the CA of the key. AMD does not revoke keys of chips: an
// old TCB has another key.
func (r *run) revocation() {
	if r.crl == nil {
		return
	}
	revoked := r.crl.Revokes(r.chain.ca)
	s := attest.Step{Code: attest.CodeRevoked, Field: "ca.revocation", Want: "not revoked", Got: "not revoked", Source: attest.KindAMDCRL, Fix: fixRevoked}
	if revoked {
		s.Got = r.chain.ca.Subject.CommonName + " is revoked"
	}
	r.check(s, !revoked)
}

// windows judges every validity pki.Window by the time of the verification.
func (r *run) windows() {
	look := func(code, field, source string, w pki.Window) {
		r.check(attest.Step{Code: code, Field: field, Want: "valid " + w.String(), Got: "at " + pki.Stamp(r.at), Source: source, Fix: fixClock,
			Ended: w.Ended(r.at)}, w.Contains(r.at))
	}
	if r.chain != nil {
		look(attest.CodeCertWindow, r.report.signer.field("validity"), r.report.signer.kind(), r.chain.valid)
	}
	if r.crl != nil {
		look(attest.CodeCRLWindow, "crl.validity", attest.KindAMDCRL, r.crl.Valid)
	}
}

// consistency compares the report with what AMD certified of its key.
func (r *run) consistency() {
	f, key := r.report, r.report.signer
	product := r.product()
	if r.chain != nil {
		r.productMatches()
		certified := r.chain.extension.tcb(product)
		r.check(attest.Step{Code: attest.CodeOtherPlatform, Field: key.field("tcb"), Want: level(product, certified).String(),
			Got: level(product, f.reportedTCB).String(), Source: key.kind(), Fix: fixKey}, certified == f.reportedTCB)
		r.chipMatches()
	}
	current := level(product, f.currentTCB)
	low := append(current.Below(level(product, f.committedTCB)), current.Below(level(product, f.reportedTCB))...)
	s := attest.Step{Code: attest.CodeFormat, Field: "report.tcb", Want: "committed and reported TCB not above the current one", Got: "holds",
		Source: "report", Fix: fixReport}
	if len(low) > 0 {
		s.Got = "current TCB " + current.String() + " is below one of them"
	}
	r.check(s, len(low) == 0)
}

// product returns the product line: by the report itself, which Verify compares
// with the certificate, or in version 2 by the certificate.
func (r *run) product() string {
	if r.report.product == "" && r.report.cpu == "" && r.chain != nil {
		return r.chain.product
	}
	return r.report.product
}

func (r *run) productMatches() {
	if r.report.cpu == "" {
		return
	}
	got := r.report.cpu + ": " + r.report.product
	if r.report.product == "" {
		got = r.report.cpu + ": no product that is known here"
	}
	r.check(attest.Step{Code: attest.CodeOtherPlatform, Field: "report.product", Want: r.chain.product, Got: got,
		Source: r.report.signer.kind(), Fix: fixKey}, r.report.product == r.chain.product)
}

// chipMatches compares the chip ID. A host may mask it with zeros; the key that
// signed is then the chip's all the same. On Turin it has 8 bytes, then zeros.
func (r *run) chipMatches() {
	if r.report.signer != vcek {
		return
	}
	id, want := r.report.chipID, make([]byte, hwidSize)
	copy(want, r.chain.extension.hwid)
	s := attest.Step{Code: attest.CodeOtherPlatform, Field: vcek.field("chipID"), Want: attest.Hex(want).String(), Got: attest.Hex(id).String(),
		Source: attest.KindVCEK, Fix: fixKey}
	masked := bytes.Equal(id, make([]byte, hwidSize))
	if masked {
		s.Got = "masked by the host"
	}
	r.check(s, masked || bytes.Equal(id, want))
}

func (r *run) claims() attest.Claims {
	c := r.report.claims(r.product())
	if r.chain != nil {
		c.SNP.Provider = r.chain.extension.provider
		c.TCB.NotAfter = r.chain.valid.Until
	}
	if r.crl != nil {
		c.TCB.OldestIssue, c.TCB.NextUpdate = r.crl.Valid.From, r.crl.Valid.Until
		c.TCB.Issued.CRL = r.crl.Valid.From
		c.TCB.RevocationChecked = r.crl.Valid.Contains(r.at)
		c.TCB.CRLsEnded = !r.crl.Valid.Ended(r.at).IsZero()
	}
	return c
}
