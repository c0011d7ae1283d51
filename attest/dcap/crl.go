package dcap

import (
	"bytes"
	"crypto/x509"
	"fmt"
)

// crl is a revocation list whose signature holds.
type crl struct {
	valid   window
	revoked map[string]bool // serial numbers, decimal
}

// parseCRL reads a DER CRL and verifies it against the issuer of the
// certificates that it shall cover. Critical extensions (delta and partial
// lists) are refused. A list without nextUpdate is valid at no time.
func parseCRL(der []byte, issuer *x509.Certificate) (*crl, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(list.RawIssuer, issuer.RawSubject) {
		return nil, fmt.Errorf("issued by %q, not by %q", list.Issuer.CommonName, issuer.Subject.CommonName)
	}
	if err := list.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	for _, e := range list.Extensions {
		if e.Critical {
			return nil, fmt.Errorf("critical extension %v", e.Id)
		}
	}
	c := &crl{valid: window{list.ThisUpdate, list.NextUpdate}, revoked: make(map[string]bool, len(list.RevokedCertificateEntries))}
	for _, r := range list.RevokedCertificateEntries {
		c.revoked[r.SerialNumber.String()] = true
	}
	return c, nil
}

// revokes reports whether the list names the certificate.
func (c *crl) revokes(cert *x509.Certificate) bool { return c.revoked[cert.SerialNumber.String()] }
