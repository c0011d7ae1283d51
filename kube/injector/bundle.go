package injector

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"
)

const (
	maxBundle = 256 << 10 // bytes of a caBundle that are looked at
	maxCAs    = 16        // in a caBundle that the injector writes
)

// merge returns the caBundle to put in the place of have: our CAs and those of
// other replicas, the newest first to stay where there are too many. What has
// ended goes, and what no injector makes. So does what another process of our
// name left behind, since we run in its place.
func merge(have []byte, ours []*x509.Certificate, name string, now time.Time) []byte {
	kept := slices.Clone(ours)
	var others []*x509.Certificate
	for _, c := range parseBundle(have) {
		if c.Subject.CommonName != name && now.Before(c.NotAfter) {
			others = append(others, c)
		}
	}
	slices.SortStableFunc(others, func(a, b *x509.Certificate) int { return b.NotBefore.Compare(a.NotBefore) })
	for _, c := range others {
		if len(kept) < maxCAs && !slices.ContainsFunc(kept, c.Equal) {
			kept = append(kept, c)
		}
	}
	slices.SortFunc(kept, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	var out bytes.Buffer
	for _, c := range kept {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes everything
	}
	return out.Bytes()
}

// parseBundle returns the CAs of injectors that a caBundle holds. Anybody who
// may change the configuration has written it: what is not of that kind, or
// lies beyond the limit, is left out.
func parseBundle(raw []byte) []*x509.Certificate {
	raw = raw[:min(len(raw), maxBundle)]
	var cas []*x509.Certificate
	for len(raw) > 0 {
		block, rest := pem.Decode(raw)
		if block == nil {
			return cas
		}
		raw = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && ownKind(c) {
			cas = append(cas, c)
		}
	}
	return cas
}

// ownKind reports whether a certificate is such as newAuthority makes.
func ownKind(c *x509.Certificate) bool {
	return c.IsCA && c.PublicKeyAlgorithm == x509.ECDSA && slices.Equal(c.Subject.Organization, []string{organization}) &&
		c.NotAfter.Sub(c.NotBefore) <= caLife+backdate && c.CheckSignatureFrom(c) == nil
}
