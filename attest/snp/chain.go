package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// Prefixes of the common names of AMD's CAs; the product follows.
const (
	rootPrefix = "ARK-"
	askPrefix  = "SEV-"
	asvkPrefix = "SEV-VLEK-"
)

// chain is an endorsement key's certificate whose signatures hold up to a root.
type chain struct {
	leaf, ca, root *x509.Certificate
	key            *ecdsa.PublicKey
	product        string
	extension      *extension
	valid          pki.Window
}

// issuerPrefix returns the prefix of the name of the CA of a kind of key.
func issuerPrefix(key signer) string {
	if key == vlek {
		return asvkPrefix
	}
	return askPrefix
}

// chain verifies a certificate up to the root of its product. The CA is taken
// from pemChain where that has it, and else from what was configured.
func (v *Verifier) chain(key signer, der, pemChain []byte) (*chain, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	issuer := leaf.Issuer.CommonName
	product, ok := strings.CutPrefix(issuer, issuerPrefix(key))
	root := v.roots[product]
	if !ok || root == nil || leaf.Subject.CommonName != askPrefix+string(key) {
		return nil, fmt.Errorf("certificate %q issued by %q is no %s of a product that is trusted here", leaf.Subject.CommonName, issuer, key)
	}
	ca := v.intermediates[issuer]
	if pemChain != nil {
		given, err := chainCA(pemChain, product, leaf, root)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", attest.KindAMDChain, err)
		}
		if given != nil {
			ca = given
		}
	}
	if ca == nil {
		return nil, fmt.Errorf("the certificate of %q is missing: supply %s", issuer, attest.KindAMDChain)
	}
	if err := issued(ca, root, true); err != nil {
		return nil, err
	}
	if err := issued(leaf, ca, false); err != nil {
		return nil, err
	}
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P384() {
		return nil, fmt.Errorf("key of %q is not ECDSA P-384", leaf.Subject.CommonName)
	}
	x, err := parseExtension(leaf, key, product)
	if err != nil {
		return nil, err
	}
	return &chain{leaf: leaf, ca: ca, root: root, key: public, product: product, extension: x, valid: pki.Validity(leaf, ca, root)}, nil
}

// chainCA returns leaf's issuer from AMD's chain, nil if another of the
// product's CAs is in it. A root in it must have the key of root, and an
// endorsement key's certificate must be leaf itself, which Azure puts there;
// certificates of other products and roles, and two of one name, are refused.
func chainCA(data []byte, product string, leaf, root *x509.Certificate) (*x509.Certificate, error) {
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return nil, err
	}
	byName := map[string]*x509.Certificate{}
	for _, c := range certs {
		name := c.Subject.CommonName
		switch {
		case byName[name] != nil:
			return nil, fmt.Errorf("certificate %q comes twice", name)
		case name == leaf.Subject.CommonName && !c.Equal(leaf):
			return nil, fmt.Errorf("%q is another certificate than that of the key", name)
		case name == rootPrefix+product && !sameKey(c, root):
			return nil, fmt.Errorf("%q has another key than the pinned root", name)
		case name != rootPrefix+product && name != askPrefix+product && name != asvkPrefix+product && name != leaf.Subject.CommonName:
			return nil, fmt.Errorf("certificate %q has no role here", name)
		}
		byName[name] = c
	}
	return byName[leaf.Issuer.CommonName], nil
}

// issued checks that parent issued child, signed RSA-PSS with SHA-384; CAs have
// RSA keys.
func issued(child, parent *x509.Certificate, ca bool) error {
	name := child.Subject.CommonName
	if _, isRSA := child.PublicKey.(*rsa.PublicKey); ca && !isRSA {
		return fmt.Errorf("key of %q is not RSA", name)
	}
	if child.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return fmt.Errorf("signature of %q is %s, want RSA-PSS with SHA-384", name, child.SignatureAlgorithm)
	}
	return pki.Issued(child, parent, ca)
}
