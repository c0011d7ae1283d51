package manifest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// users checks users and their roles.
func (c *checker) users() {
	keys := make(map[[32]byte]string)
	mayUpdate := false
	c.section("users", func(m *jsonpos.Member, p *path) {
		u := c.m.Users[m.Key]
		for i, role := range u.Roles {
			r, ok := c.m.Roles[role]
			if !ok && role != "" {
				c.noSuch("MAN-019", p.member("roles").item(i), m.Value.Get("roles").Items[i], fmt.Sprintf("user %s has role %q, which does not exist", m.Key, role), c.roleNames)
			}
			mayUpdate = mayUpdate || slices.ContainsFunc(r.Actions, isUpdate)
		}
		n := m.Value.Get("certificate")
		if n == nil || c.bad[n] {
			return
		}
		p = p.member("certificate")
		cert, err := parseCertificate(u.Certificate)
		if err != nil {
			c.report(p, spanOf(n), finding{code: "MAN-027", message: fmt.Sprintf("certificate of user %s: %v", m.Key, err)})
			return
		}
		key := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		if other, dup := keys[key]; dup {
			c.report(p, spanOf(n), finding{code: "MAN-028", message: fmt.Sprintf("users %s and %s have the same key, so neither can be told from the other", other, m.Key)})
			return
		}
		keys[key] = m.Key
	})
	if mayUpdate {
		return
	}
	at, p := span{c.root.Start, c.root.Start + 1}, (*path)(nil)
	if m := c.root.Member("users"); m != nil {
		if c.bad[m.Value] || c.incomplete(m.Value) {
			return
		}
		at, p = keySpan(m), p.member("users")
	}
	c.report(p, at, finding{code: "MAN-039", warning: true, message: "no user may set the next manifest: once set, this one stays"})
}

// parseCertificate reads one PEM certificate whose key a client may use.
func parseCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, fmt.Errorf("it is not PEM")
	case block.Type != "CERTIFICATE":
		return nil, fmt.Errorf("it is a PEM block of type %q, not CERTIFICATE", clip(block.Type))
	case strings.TrimSpace(string(rest)) != "":
		return nil, fmt.Errorf("something follows the first certificate")
	case !strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN"):
		return nil, fmt.Errorf("something stands before the certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it does not parse: %w", err)
	}
	switch key := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if name := key.Params().Name; name != "P-256" && name != "P-384" {
			return nil, fmt.Errorf("its key is on curve %s, but P-256 and P-384 are allowed", name)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 4096 {
			return nil, fmt.Errorf("its RSA key has %d bits, but 2048 to 4096 are allowed", bits)
		}
	default:
		return nil, fmt.Errorf("its key is neither ECDSA, Ed25519 nor RSA")
	}
	return cert, nil
}
