package marble

import (
	"crypto/tls"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// ServerTLS returns TLS settings for serving the named callers, each a marble of
// the same trust domain or a whole SPIFFE ID. No caller means that everybody is
// refused. The certificate and the bundle are those of the lease in hand at each
// handshake, so a renewal needs nothing.
func (m *Marble) ServerTLS(callers ...string) *tls.Config {
	c := m.config(callers)
	c.ClientAuth = tls.RequireAnyClientCert // VerifyConnection verifies it
	return c
}

// ClientTLS returns TLS settings for calling one marble of the same trust
// domain, or one whole SPIFFE ID.
func (m *Marble) ClientTLS(callee string) *tls.Config {
	c := m.config([]string{callee})
	c.InsecureSkipVerify = true //nolint:gosec // VerifyConnection verifies the SPIFFE ID; there is no host name to
	return c
}

func (m *Marble) config(peers []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Time: m.cfg.Now,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.certificate() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.certificate() },
		VerifyConnection:     func(s tls.ConnectionState) error { return m.verifyPeer(s, peers) },
	}
}

// certificate returns the current leaf; one that has ended is shown to nobody.
func (m *Marble) certificate() (*tls.Certificate, error) {
	lease, err := m.inForce()
	if err != nil {
		return nil, err
	}
	return lease.Certificate(), nil
}

func (m *Marble) verifyPeer(s tls.ConnectionState, peers []string) error {
	if len(s.PeerCertificates) == 0 {
		return problem.New("MRB-027", "the peer showed no certificate")
	}
	lease, _ := m.Lease()
	if err := verifyChain(s.PeerCertificates, lease.Roots(), m.cfg.Now()); err != nil {
		return problem.Because(err, "MRB-027", "the peer's certificate does not lead to the bundle")
	}
	uris := s.PeerCertificates[0].URIs
	if len(uris) != 1 || !slices.ContainsFunc(peers, func(p string) bool { return spiffeID(p, lease) == uris[0].String() }) {
		return problem.New("MRB-027", "wanted %s, got %v", strings.Join(peers, " or "), uris)
	}
	return nil
}

// spiffeID completes a marble's name to its SPIFFE ID.
func spiffeID(peer string, l *Lease) string {
	if strings.HasPrefix(peer, "spiffe://") {
		return peer
	}
	return "spiffe://" + l.TrustDomain() + "/" + peer
}
