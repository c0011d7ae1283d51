// Package snp verifies attestation reports of AMD SEV-SNP guests, versions 2 to
// 5, from Milan, Genoa and Turin machines, signed by a chip's key (VCEK) or by a
// provider's (VLEK).
//
// It owns the roots, the layout of a report, the order of checks and everything
// that differs between products, and imports nothing that a browser cannot run.
// Every signature is checked before anything that it covers is relied on. What a
// patch level is worth, and which software may run, is the policy's decision.
//
// It refuses to fetch anything, to read a clock, and to trust a root that comes
// with evidence. It never panics on hostile bytes.
//
// Sources: AMD 56860, SEV Secure Nested Paging Firmware ABI; AMD 57230,
// Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface.
package snp

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// The product lines, as they stand in the names of AMD's certificates. Bergamo
// and Siena are of the Genoa line.
const (
	Milan = "Milan"
	Genoa = "Genoa"
	Turin = "Turin"
)

// Products lists the product lines.
func Products() []string { return []string{Milan, Genoa, Turin} }

// Config says what a verifier trusts.
type Config struct {
	// Roots are the trust anchors, RSA CAs with common names "ARK-Milan",
	// "ARK-Genoa" and "ARK-Turin", at most one of each. A root that comes with
	// evidence counts only if it has the key of one of these.
	Roots []*x509.Certificate
	// Intermediates are the ASKs ("SEV-Milan") and ASVKs ("SEV-VLEK-Milan") for
	// evidence that comes without cert_chain.pem. Each is verified when used.
	Intermediates []*x509.Certificate
}

// Verifier verifies reports. It remembers certificate chains and CRLs whose
// signatures held, by SHA-256 of their exact bytes, in bounded caches; time and
// revocation are judged on every use. It is safe for concurrent use.
type Verifier struct {
	roots         map[string]*x509.Certificate // by product
	intermediates map[string]*x509.Certificate // by common name

	chains pki.Cache[*chain]
	crls   pki.Cache[*pki.CRL]
}

var _ attest.Verifier = (*Verifier)(nil)

// New returns a verifier. It fails if there is no root, if one is no RSA CA or
// has a name of no product, and if two certificates have one name.
func New(c Config) (*Verifier, error) {
	v := &Verifier{roots: map[string]*x509.Certificate{}, intermediates: map[string]*x509.Certificate{}}
	for _, root := range c.Roots {
		product, _ := strings.CutPrefix(root.Subject.CommonName, rootPrefix)
		if _, isRSA := root.PublicKey.(*rsa.PublicKey); !isRSA || !root.IsCA {
			return nil, fmt.Errorf("root %q is not a CA with an RSA key", root.Subject.CommonName)
		}
		if !known(product) || rootPrefix+product != root.Subject.CommonName || v.roots[product] != nil {
			return nil, fmt.Errorf("root %q is not the only one of ARK-Milan, ARK-Genoa or ARK-Turin", root.Subject.CommonName)
		}
		v.roots[product] = root
	}
	if len(v.roots) == 0 {
		return nil, fmt.Errorf("no root is given")
	}
	for _, ca := range c.Intermediates {
		if v.intermediates[ca.Subject.CommonName] != nil {
			return nil, fmt.Errorf("intermediate %q comes twice", ca.Subject.CommonName)
		}
		v.intermediates[ca.Subject.CommonName] = ca
	}
	return v, nil
}

func known(product string) bool { return product == Milan || product == Genoa || product == Turin }

// NewVerifier returns a verifier that trusts AMD's three product roots and
// nothing else. Make one and share it: it keeps caches.
func NewVerifier() attest.Verifier {
	v, err := New(amd())
	if err != nil {
		panic("snp: " + err.Error()) // the embedded roots are wrong: a defect of the build
	}
	return v
}

// TEE implements attest.Verifier.
func (v *Verifier) TEE() attest.TEE { return attest.SNP }

// sameKey reports whether two certificates hold one public key.
func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}
