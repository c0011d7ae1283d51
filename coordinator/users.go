package coordinator

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Owner is the principal of Config.Owner, who has a say only until the first
// manifest is set.
const Owner = "owner"

// Owned reports whether an owner alone may set the first manifest.
func (c *Coordinator) Owned() bool { return c.config.Owner != nil }

// Authenticate returns the user whose certificate is certs[0], byte for byte.
// The caller has checked by TLS that the peer has its key. It is CRD-040
// without a certificate, CRD-041 for one that the manifest in force does not
// name, and CRD-042 outside its validity window.
func (c *Coordinator) Authenticate(certs []*x509.Certificate) (*Principal, error) {
	if len(certs) == 0 {
		return nil, problem.New("CRD-040", "the connection has no client certificate")
	}
	rev, cert := c.current.Load(), certs[0]
	name := ""
	if rev.m == nil && c.config.Owner != nil && bytes.Equal(c.config.Owner.Raw, cert.Raw) {
		name = Owner
	} else if u, ok := rev.users[sha256.Sum256(cert.Raw)]; ok {
		name = u.name
	}
	if u, ok := rev.outcasts[sha256.Sum256(cert.Raw)]; ok && name == "" {
		return nil, refusalOf(c.incidents.Load().barred(suspect{user: u.name}))
	}
	if name == "" {
		sum := sha256.Sum256(cert.Raw)
		return nil, problem.New("CRD-041", "no user has the certificate with SHA-256 %x", sum[:8])
	}
	if now := c.config.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil, problem.New("CRD-042", "the certificate of %s is valid from %s to %s", name,
			cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return &Principal{Name: name}, nil
}
