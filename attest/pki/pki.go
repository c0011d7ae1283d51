// Package pki holds what checking the vendors' certificates has in common: PEM
// chains, who issued whom, revocation lists, validity windows, and bounded
// memory of what was verified.
//
// It judges no time and trusts no root: its callers do.
package pki

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"
)

// Issued checks that parent issued child: names, CA flag, usage and signature.
// Unknown critical extensions are refused. Which keys and algorithms a vendor
// uses, the caller checks.
func Issued(child, parent *x509.Certificate, ca bool) error {
	name := child.Subject.CommonName
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("%q was issued by %q, not by %q", name, child.Issuer.CommonName, parent.Subject.CommonName)
	}
	if child.IsCA != ca {
		return fmt.Errorf("CA flag of %q is %t", name, child.IsCA)
	}
	if len(child.UnhandledCriticalExtensions) > 0 {
		return fmt.Errorf("%q has unknown critical extensions", name)
	}
	if err := child.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("signature of %q: %w", name, err)
	}
	return nil
}

// CRL is a revocation list whose signature holds.
type CRL struct {
	Valid   Window
	revoked map[string]bool // serial numbers, decimal
}

// ParseCRL reads a DER CRL (RFC 5280 section 5) and verifies it against the
// issuer of the certificates that it shall cover. Critical extensions (delta and
// partial lists) are refused. A list without nextUpdate is valid at no time.
func ParseCRL(der []byte, issuer *x509.Certificate) (*CRL, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if len(list.Raw) != len(der) {
		return nil, fmt.Errorf("%d bytes after the list", len(der)-len(list.Raw))
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
	c := &CRL{Valid: Window{list.ThisUpdate, list.NextUpdate}, revoked: make(map[string]bool, len(list.RevokedCertificateEntries))}
	for _, r := range list.RevokedCertificateEntries {
		c.revoked[r.SerialNumber.String()] = true
	}
	return c, nil
}

// Revokes reports whether the list names the certificate, which the list's
// issuer must have issued: serial numbers count within one issuer.
func (c *CRL) Revokes(cert *x509.Certificate) bool { return c.revoked[cert.SerialNumber.String()] }

// Window is a validity window; both ends belong to it.
type Window struct{ From, Until time.Time }

// Contains reports whether at lies in the window.
func (w Window) Contains(at time.Time) bool { return !at.Before(w.From) && !at.After(w.Until) }

// Ended returns when the window ended, if it began and is over at that time; and
// else the zero time.
func (w Window) Ended(at time.Time) time.Time {
	if at.Before(w.From) || !at.After(w.Until) {
		return time.Time{}
	}
	return w.Until
}

// meet narrows the window to what it has in common with o.
func (w Window) meet(o Window) Window {
	if o.From.After(w.From) {
		w.From = o.From
	}
	if o.Until.Before(w.Until) {
		w.Until = o.Until
	}
	return w
}

// String returns both ends, RFC 3339 in UTC.
func (w Window) String() string { return Stamp(w.From) + " to " + Stamp(w.Until) }

// Stamp writes a time as RFC 3339 in UTC.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Validity is what the windows of certificates have in common.
func Validity(first *x509.Certificate, more ...*x509.Certificate) Window {
	w := Window{first.NotBefore, first.NotAfter}
	for _, c := range more {
		w = w.meet(Window{c.NotBefore, c.NotAfter})
	}
	return w
}
