package dcap

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// collateral is a set of endorsements after loading. What is nil is missing or
// unusable; steps say which.
type collateral struct {
	tcb             *tcbInfo
	qe              *qeIdentity
	tcbSigner       *x509.Certificate
	qeSigner        *x509.Certificate
	rootCRL, pckCRL *pki.CRL
	steps           []attest.Step
	usable          bool // every step holds
}

var (
	fixFetch = attest.Fix{Who: attest.Operator, How: "fetch the endorsements of this platform again"}
	fixCRL   = attest.Fix{Who: attest.Operator, How: "fetch the CRL again from the vendor"}
)

// load reads a set of endorsements and verifies its signatures. The PCK CRL is
// judged by the CA that issued the quote's PCK certificate; without ca it is
// left out. Only sets that hold entirely are remembered.
func (v *Verifier) load(en attest.Endorsements, ca *x509.Certificate) *collateral {
	var key [32]byte
	if ca != nil {
		digest := en.Digest()
		key = sha256.Sum256(append(digest[:], ca.Raw...))
		if c, ok := v.collateral.Get(key); ok {
			return c
		}
	}
	c := &collateral{}
	v.loadTCBInfo(c, en)
	v.loadQEIdentity(c, en)
	c.rootCRL = c.loadCRL(en, attest.KindRootCRL, v.root)
	if ca != nil {
		c.pckCRL = c.loadCRL(en, attest.KindPCKCRL, ca)
		v.checkCRLChain(c, en, ca)
	}
	c.usable = c.tcb != nil && c.qe != nil
	for _, s := range c.steps {
		c.usable = c.usable && s.OK
	}
	if c.usable && ca != nil {
		v.collateral.Put(key, c)
	}
	return c
}

func (c *collateral) add(s attest.Step, err error) {
	c.steps = append(c.steps, s.Outcome(err))
}

// document returns the body of a signed document and who signed it.
func (v *Verifier) document(en attest.Endorsements, kind, member string) ([]byte, *x509.Certificate, error) {
	item, ok := en.Get(kind)
	switch {
	case !ok:
		return nil, nil, errMissing
	case len(item.Body) > maxDocument || len(item.Chain) > maxChain:
		return nil, nil, fmt.Errorf("larger than %d bytes, or its chain than %d", maxDocument, maxChain)
	case len(item.Chain) == 0:
		return nil, nil, fmt.Errorf("issuer chain: %w", errMissing)
	}
	signer, err := v.signerChain(item.Chain)
	if err != nil {
		return nil, nil, fmt.Errorf("issuer chain: %w", err)
	}
	data, err := signed(item.Body, member, signer)
	return data, signer, err
}

var errMissing = errors.New("missing")

// codeOf tells which check an error of loading belongs to.
func codeOf(err error) string {
	switch {
	case errors.Is(err, errMissing):
		return attest.CodeNoEndorsement
	case errors.Is(err, errOtherTEE):
		return attest.CodeOtherPlatform
	}
	return attest.CodeEndorsement
}

func (v *Verifier) loadTCBInfo(c *collateral, en attest.Endorsements) {
	data, signer, err := v.document(en, attest.KindTCBInfo, "tcbInfo")
	if err == nil {
		if c.tcb, err = parseTCBInfo(data, v.tee.Shape()); err == nil {
			c.tcbSigner = signer
		}
	}
	c.add(attest.Step{Code: codeOf(err), Field: "tcbInfo.signature", Want: "TCB info version 3 signed under " + v.source, Got: "holds",
		Source: attest.KindTCBInfo, Fix: fixFetch}, err)
}

func (v *Verifier) loadQEIdentity(c *collateral, en attest.Endorsements) {
	data, signer, err := v.document(en, attest.KindQEIdentity, "enclaveIdentity")
	if err == nil {
		if c.qe, err = parseQEIdentity(data, v.tee.Shape()); err == nil {
			c.qeSigner = signer
		} else {
			c.qe = nil
		}
	}
	c.add(attest.Step{Code: codeOf(err), Field: "qeIdentity.signature", Want: "QE identity version 2 signed under " + v.source, Got: "holds",
		Source: attest.KindQEIdentity, Fix: fixFetch}, err)
}

// loadCRL reads a CRL. A missing one is no failure here: policy decides
// whether revocation must have been checked.
func (c *collateral) loadCRL(en attest.Endorsements, kind string, issuer *x509.Certificate) *pki.CRL {
	s := attest.Step{Code: attest.CodeCRL, Field: crlField[kind], Want: "CRL signed by " + issuer.Subject.CommonName, Got: "holds",
		Source: kind, Fix: fixCRL}
	item, ok := en.Get(kind)
	if !ok {
		s.Got = "no CRL supplied"
		c.add(s, nil)
		return nil
	}
	list, err := (*pki.CRL)(nil), fmt.Errorf("larger than %d bytes", maxDocument)
	if len(item.Body) <= maxDocument {
		list, err = pki.ParseCRL(item.Body, issuer)
	}
	c.add(s, err)
	return list
}

var crlField = map[string]string{attest.KindRootCRL: "rootCRL.signature", attest.KindPCKCRL: "pckCRL.signature"}

// checkCRLChain judges the chain that came beside the PCK CRL. The CRL itself
// was verified with the CA of the quote, so the chain must hold that CA's key.
func (v *Verifier) checkCRLChain(c *collateral, en attest.Endorsements, ca *x509.Certificate) {
	item, ok := en.Get(attest.KindPCKCRL)
	if !ok || len(item.Chain) == 0 {
		return
	}
	c.add(attest.Step{Code: attest.CodeCRL, Field: "pckCRL.chain", Want: "the chain of " + ca.Subject.CommonName, Got: "holds",
		Source: attest.KindPCKCRL, Fix: fixCRL}, v.crlChain(item.Chain, ca))
}

// rolesIn reads the chain beside a CRL.
func (v *Verifier) rolesIn(data []byte) (map[role]*x509.Certificate, error) {
	if len(data) > maxChain {
		return nil, fmt.Errorf("larger than %d bytes", maxChain)
	}
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, err
	}
	return v.byRole(certs)
}

func (v *Verifier) crlChain(data []byte, ca *x509.Certificate) error {
	roles, err := v.rolesIn(data)
	if err != nil {
		return err
	}
	for _, r := range []role{rolePlatform, roleProcessor} {
		if got := roles[r]; got != nil && got.Equal(ca) {
			return nil
		} else if got != nil && got.Subject.CommonName == ca.Subject.CommonName {
			return issued(got, v.root, true)
		}
	}
	return errors.New("of another CA")
}
