package snp

import (
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// VerifyDocuments judges endorsements without evidence: whether AMD signed each
// document that is there. A step's Source is the document's kind. Windows are
// not judged, nor of which chip a document is. AMD's chain alone proves nothing:
// it is judged with the certificate of a key, and without one by its root.
func (v *Verifier) VerifyDocuments(en attest.Endorsements) []attest.Step {
	var steps []attest.Step
	add := func(code, kind string, err error) {
		s := attest.Step{Code: code, Field: kind + ".signature", Want: "signed under a pinned root of AMD", Got: "holds", Source: kind, Fix: fixKey}
		steps = append(steps, s.Outcome(err))
	}
	var pemChain []byte
	if it, ok := en.Get(attest.KindAMDChain); ok {
		err := v.chainRoot(it.Body)
		if err == nil {
			pemChain = it.Body
		}
		add(attest.CodeChain, attest.KindAMDChain, err)
	}
	for _, key := range []signer{vcek, vlek} {
		if it, ok := en.Get(key.kind()); ok {
			_, err := v.chain(key, it.Body, pemChain)
			add(attest.CodeChain, key.kind(), err)
		}
	}
	if it, ok := en.Get(attest.KindAMDCRL); ok {
		add(attest.CodeCRL, attest.KindAMDCRL, v.crlHolds(it.Body))
	}
	return steps
}

// chainRoot checks that a chain holds a pinned root, which issued its other CAs.
func (v *Verifier) chainRoot(data []byte) error {
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return err
	}
	var root *x509.Certificate
	for _, c := range certs {
		if product, ok := strings.CutPrefix(c.Subject.CommonName, rootPrefix); ok {
			root = v.roots[product]
			if root == nil || !sameKey(c, root) {
				return fmt.Errorf("%q is no root that is trusted here", c.Subject.CommonName)
			}
		}
	}
	if root == nil {
		return fmt.Errorf("no %s certificate in it", rootPrefix)
	}
	for _, c := range certs {
		if c.IsCA && !sameKey(c, root) {
			if err := issued(c, root, true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *Verifier) crlHolds(der []byte) error {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return err
	}
	product, _ := strings.CutPrefix(list.Issuer.CommonName, rootPrefix)
	root := v.roots[product]
	if root == nil {
		return fmt.Errorf("issued by %q, which is no root that is trusted here", list.Issuer.CommonName)
	}
	_, err = pki.ParseCRL(der, root)
	return err
}
