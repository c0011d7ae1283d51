package coordinator

import (
	"crypto/x509"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Identify returns the instance that a leaf is of. The caller has verified by
// TLS that the leaf chains to Roots and that the peer has its key; Identify
// judges the rest: exactly one URI name, of a marble of the manifest in force,
// and the serial number of a live instance's leaf, which has not ended. Errors
// are CRD-033, CRD-034 and CRD-036, INC-001 to INC-006 for who is
// revoked, and REC-030 if the leaf proves that the state is an older one.
func (c *Coordinator) Identify(cert *x509.Certificate) (Peer, error) {
	rev := c.current.Load()
	if cert != nil {
		if err := c.compare(cert); err != nil {
			return Peer{}, err
		}
	}
	if cert == nil || rev.m == nil || len(cert.URIs) != 1 || cert.IsCA {
		return Peer{}, problem.New("CRD-036", "the certificate has no SPIFFE ID of a marble")
	}
	id := cert.URIs[0].String()
	marble, ours := strings.CutPrefix(id, authority.SPIFFEID(rev.m.TrustDomain, ""))
	if _, known := rev.m.Marbles[marble]; !ours || !known {
		return Peer{}, problem.New("CRD-036", "%.400q is no marble of this deployment", id)
	}
	serial := authority.Serial(cert)
	leaf, ok := c.live.find(serial)
	name, instance, _ := strings.Cut(leaf.key, "/")
	if !ok || name != marble {
		return Peer{}, problem.New("CRD-034", "the leaf of %s with serial %s", marble, serial)
	}
	if now := c.config.Now(); !now.Before(leaf.notAfter) || now.After(cert.NotAfter) {
		return Peer{}, problem.New("CRD-033", "the leaf of %s ended at %s", marble, stamp(cert.NotAfter))
	}
	if bar := c.barOfPeer(leaf.key); bar != nil && bar.Kind == apiv1.Revocation {
		return Peer{}, refusalOf(bar)
	}
	return Peer{Marble: marble, Instance: instance, Serial: serial, NotAfter: leaf.notAfter}, nil
}
