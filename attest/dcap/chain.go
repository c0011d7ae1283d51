package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// role is what a certificate is for, told by its common name.
type role string

const (
	roleRoot      role = " Root CA"
	rolePlatform  role = " PCK Platform CA"
	roleProcessor role = " PCK Processor CA"
	rolePCK       role = " PCK Certificate"
	roleSigner    role = " TCB Signing"
)

// parseCertificates reads a PEM chain, which in real quotes ends with a zero
// byte.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	return pki.ParseCertificates(bytes.TrimRight(data, "\x00 \t\r\n"))
}

// byRole sorts certificates into their roles. Two of one role, or one of none,
// are refused; a root must have the pinned key.
func (v *Verifier) byRole(certs []*x509.Certificate) (map[role]*x509.Certificate, error) {
	out := make(map[role]*x509.Certificate, len(certs))
	for _, c := range certs {
		suffix, ok := strings.CutPrefix(c.Subject.CommonName, v.names)
		r := role(suffix)
		switch r {
		case roleRoot, rolePlatform, roleProcessor, rolePCK, roleSigner:
		default:
			ok = false
		}
		switch {
		case !ok:
			return nil, fmt.Errorf("certificate %q has no role here", c.Subject.CommonName)
		case out[r] != nil:
			return nil, fmt.Errorf("certificate %q comes twice", c.Subject.CommonName)
		case r == roleRoot && !bytes.Equal(c.RawSubjectPublicKeyInfo, v.root.RawSubjectPublicKeyInfo):
			return nil, fmt.Errorf("%q has another key than the pinned root", c.Subject.CommonName)
		case r == roleRoot && !c.Equal(v.root):
			if err := issued(c, v.root, true); err != nil {
				return nil, err
			}
		}
		out[r] = c
	}
	return out, nil
}

// issued checks that parent issued child, whose key is ECDSA P-256.
func issued(child, parent *x509.Certificate, ca bool) error {
	if key, ok := child.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return fmt.Errorf("key of %q is not ECDSA P-256", child.Subject.CommonName)
	}
	return pki.Issued(child, parent, ca)
}

// chain is a PCK chain whose signatures hold up to the root.
type chain struct {
	leaf, ca *x509.Certificate
	key      *ecdsa.PublicKey // the leaf's
	platform platform
	serial   string // the leaf's, hexadecimal
	valid    pki.Window
	name     string // of who issued the leaf
}

var errExtension = errors.New("the SGX extension")

// pckChain reads and verifies the certificates of a quote.
func (v *Verifier) pckChain(data []byte) (*chain, error) {
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, err
	}
	roles, err := v.byRole(certs)
	if err != nil {
		return nil, err
	}
	leaf, ca := roles[rolePCK], roles[rolePlatform]
	if ca == nil {
		ca = roles[roleProcessor]
	}
	if leaf == nil || ca == nil || roles[rolePlatform] != nil && roles[roleProcessor] != nil || roles[roleSigner] != nil {
		return nil, errors.New("not one PCK certificate, its CA and the root")
	}
	if err := issued(ca, v.root, true); err != nil {
		return nil, err
	}
	if err := issued(leaf, ca, false); err != nil {
		return nil, err
	}
	p, err := parsePlatform(leaf)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errExtension, err)
	}
	return &chain{leaf: leaf, ca: ca, key: leaf.PublicKey.(*ecdsa.PublicKey), platform: p, serial: fmt.Sprintf("%x", leaf.SerialNumber),
		valid: pki.Validity(leaf, ca, v.root), name: ca.Subject.CommonName}, nil
}

// signerChain reads and verifies the chain of a signer of TCB info or of a QE
// identity.
func (v *Verifier) signerChain(data []byte) (*x509.Certificate, error) {
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, err
	}
	roles, err := v.byRole(certs)
	if err != nil {
		return nil, err
	}
	signer := roles[roleSigner]
	if signer == nil {
		return nil, errors.New("no TCB signing certificate in the issuer chain")
	}
	return signer, issued(signer, v.root, false)
}
