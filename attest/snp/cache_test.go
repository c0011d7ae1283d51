package snp

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// Cached returns how many chains and CRLs are remembered.
func (v *Verifier) Cached() (chains, crls int) { return len(v.chains.m), len(v.crls.m) }

func TestCacheIsBounded(t *testing.T) {
	var c cache[int]
	for i := range 3 * cacheSize {
		c.put(digest([]byte{byte(i), byte(i >> 8)}), i)
	}
	if len(c.m) != cacheSize || len(c.order) != cacheSize {
		t.Errorf("got %d entries, %d in order, want %d", len(c.m), len(c.order), cacheSize)
	}
	last := 3*cacheSize - 1
	if v, ok := c.get(digest([]byte{byte(last), byte(last >> 8)})); !ok || v != last {
		t.Errorf("got %d, %t for the youngest, want %d", v, ok, last)
	}
	if _, ok := c.get(digest([]byte{0, 0})); ok {
		t.Error("the oldest entry is still there")
	}
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
