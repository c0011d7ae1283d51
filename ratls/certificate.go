package ratls

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
)

// Template is what goes into a self-signed certificate besides its key and
// evidence. The names prove nothing; they are there for programs that look.
type Template struct {
	CommonName string
	DNSNames   []string
	NotBefore  time.Time
	NotAfter   time.Time
}

// CreateCertificate has the issuer vouch for key, with purpose "peer", and
// returns the self-signed certificate that carries the evidence.
func CreateCertificate(ctx context.Context, issuer attest.Issuer, key crypto.Signer, t Template) (tls.Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("encoding the public key: %w", err)
	}
	claims := binding.Claims{Purpose: binding.Peer, PublicKey: binding.KeyHash(spki)}
	e, err := issuer.Issue(ctx, claims.Binding())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("asking %s for evidence: %w", issuer.TEE(), err)
	}
	ext, err := Extension(e, claims.Encode())
	if err != nil {
		return tls.Certificate{}, err
	}
	return t.sign(key, ext)
}

// sign makes the certificate with its extensions.
func (t Template) sign(key crypto.Signer, ext ...pkix.Extension) (tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: t.CommonName}, DNSNames: t.DNSNames,
		NotBefore: t.NotBefore, NotAfter: t.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
		ExtraExtensions: ext,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("signing the RA-TLS certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading the RA-TLS certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
