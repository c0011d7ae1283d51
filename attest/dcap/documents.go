package dcap

import (
	"bytes"
	"crypto/x509"
	"errors"

	"github.com/ashlar-mesh/ashlar/attest"
)

// VerifyDocuments judges endorsements without evidence: whether the vendor
// signed each document that is there. A step's Source is the document's kind.
// Windows are not judged, nor of which platform a document is.
func (v *Verifier) VerifyDocuments(en attest.Endorsements) []attest.Step {
	c := &collateral{}
	if _, ok := en.Get(attest.KindTCBInfo); ok {
		v.loadTCBInfo(c, en)
	}
	if _, ok := en.Get(attest.KindQEIdentity); ok {
		v.loadQEIdentity(c, en)
	}
	if _, ok := en.Get(attest.KindRootCRL); ok {
		c.loadCRL(en, attest.KindRootCRL, v.root)
	}
	if crl, ok := en.Get(attest.KindPCKCRL); ok {
		ca, err := v.crlIssuer(crl.Chain)
		if err != nil {
			c.add(attest.Step{Code: attest.CodeCRL, Field: "pckCRL.chain", Want: "the chain of a PCK CA", Source: attest.KindPCKCRL, Fix: fixCRL}, err)
		} else {
			c.loadCRL(en, attest.KindPCKCRL, ca)
		}
	}
	return c.steps
}

// crlIssuer returns the PCK CA of the chain beside a CRL, which the root issued.
func (v *Verifier) crlIssuer(data []byte) (*x509.Certificate, error) {
	roles, err := v.rolesIn(data)
	if err != nil {
		return nil, err
	}
	ca := roles[rolePlatform]
	if ca == nil {
		ca = roles[roleProcessor]
	}
	if ca == nil {
		return nil, errors.New("no PCK CA in it")
	}
	return ca, issued(ca, v.root, true)
}

// Identify says what evidence claims, without checking any signature but those
// of its certificates: a platform is named only if they lead to the root.
func (v *Verifier) Identify(e attest.Evidence) attest.Claims {
	r := &run{v: v}
	if !r.parse(e.Raw) {
		return attest.Claims{TEE: v.tee}
	}
	c := r.quote.claims(v.tee)
	if r.pck(); r.chain != nil {
		c.TCB.FMSPC, c.TCB.PCKIssuer = bytes.Clone(r.chain.platform.fmspc), r.chain.name
	}
	return c
}
