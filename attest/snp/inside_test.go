package snp

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// Cached returns how many chains and CRLs are remembered.
func (v *Verifier) Cached() (chains, crls int) { return v.chains.Len(), v.crls.Len() }

func TestDigestFramesItsParts(t *testing.T) {
	if digest([]byte("ab"), []byte("c")) == digest([]byte("a"), []byte("bc")) || digest(nil) == digest() {
		t.Error("two lists of parts have one digest")
	}
}

// Embedded returns the certificates embedded for a product.
func Embedded(product string) []*x509.Certificate {
	var certs []*x509.Certificate
	data := map[string][]byte{"milan": milanPEM, "genoa": genoaPEM, "turin": turinPEM}[product]
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			panic(err)
		}
		certs = append(certs, c)
	}
	return certs
}
