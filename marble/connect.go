package marble

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// maxStatement bounds the JSON of the coordinator's statement, in bytes.
const maxStatement = 2 << 20

// link is one TLS connection to the coordinator and the calls over it. Evidence
// is bound to it by its exporter; it is never replaced behind the caller's back.
type link struct {
	tls    *tls.Conn
	rpc    *grpc.ClientConn
	client marblepb.MarbleClient
}

func (l *link) close() {
	_ = l.rpc.Close()
	_ = l.tls.Close() // the connection may have ended before
}

// exporter returns the value that both ends of the TLS session derive from it.
func (l *link) exporter() ([]byte, error) {
	return ratls.Exporter(l.tls.ConnectionState())
}

// connect opens a connection and verifies the coordinator on it: against the
// roots, or in policy mode by a fresh statement. lease is shown as the marble's
// own identity; nil shows none.
func (m *Marble) connect(ctx context.Context, lease *Lease) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout())
	defer cancel()
	roots := m.trustedRoots()
	l, err := m.dial(ctx, lease, roots)
	if err != nil {
		return nil, err
	}
	if m.cfg.Trust.Policy == nil {
		return l, nil
	}
	root, err := m.attestCoordinator(ctx, l)
	if err != nil {
		l.close()
		return nil, err
	}
	m.trustRoot(root)
	return l, nil
}

// dial opens the TLS connection. Without roots the far end's certificate is
// taken as it is: only in policy mode, where the statement decides next.
func (m *Marble) dial(ctx context.Context, lease *Lease, roots []*x509.Certificate) (*link, error) {
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	raw, err := dialer.DialContext(ctx, "tcp", m.cfg.Coordinator)
	if err != nil {
		return nil, problem.Because(err, "MRB-004", "connecting to %s", m.cfg.Coordinator)
	}
	host, _, _ := net.SplitHostPort(m.cfg.Coordinator)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: host, Time: m.cfg.Now,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, //nolint:gosec // VerifyConnection below, or the statement, decides
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(roots) == 0 && m.cfg.Trust.Policy != nil {
				return nil
			}
			return checkCoordinator(s.PeerCertificates, roots, m.cfg.Now())
		},
	}
	if lease != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return lease.Certificate(), nil }
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close() //nolint:errcheck // the handshake's failure is reported
		var refused *problem.Error
		if errors.As(err, &refused) {
			return nil, refused
		}
		return nil, problem.Because(err, "MRB-004", "TLS handshake with %s", m.cfg.Coordinator)
	}
	return newLink(conn, m.cfg.Coordinator)
}

// window is what the coordinator may send ahead, in bytes.
const window = 1 << 20

// newLink runs gRPC over exactly this connection.
func newLink(conn *tls.Conn, address string) (*link, error) {
	once := make(chan net.Conn, 1)
	once <- conn
	rpc, err := grpc.NewClient("passthrough:///"+address,
		// The connection that the dialer hands out is verified TLS already.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, errors.New("the connection to the coordinator ended")
			}
		}),
		// A window that is never measured saves both ends two messages for each
		// connection, and TLS buffers what it reads.
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window), grpc.WithReadBufferSize(0),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(marblepb.MaxMessage), grpc.MaxCallSendMsgSize(marblepb.MaxMessage)),
	)
	if err != nil {
		conn.Close() //nolint:errcheck // unused
		return nil, problem.Because(err, "MRB-004", "address %s", address)
	}
	return &link{tls: conn, rpc: rpc, client: marblepb.NewMarbleClient(rpc)}, nil
}

// coordinatorPath is the path of the coordinator's own SPIFFE ID. It has two
// segments, so that no marble has it.
const coordinatorPath = "/ashlar/coordinator"

// checkCoordinator checks that certs are a coordinator's under one of roots. A
// marble's leaf, and the certificate of a secret, lead to the same root: they
// are no coordinator.
func checkCoordinator(certs, roots []*x509.Certificate, now time.Time) error {
	if len(certs) == 0 {
		return problem.New("MRB-005", "it showed no certificate")
	}
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	if err := verifyChain(certs, pool, now); err != nil {
		return problem.Because(err, "MRB-005", "its certificate %q does not lead to the pinned root", certs[0].Subject.CommonName)
	}
	if !ofCoordinator(certs[0]) {
		return problem.New("MRB-005", "wanted the certificate of a coordinator, got one of %v", names(certs[0]))
	}
	return nil
}

// ofCoordinator tells a coordinator's serving certificate from all others under
// its root. Before the first manifest it has no SPIFFE ID; but it alone is for
// servers only, while leaves and secrets are for clients too.
func ofCoordinator(leaf *x509.Certificate) bool {
	if len(leaf.URIs) == 0 {
		return len(leaf.ExtKeyUsage) == 1 && leaf.ExtKeyUsage[0] == x509.ExtKeyUsageServerAuth && len(leaf.UnknownExtKeyUsage) == 0
	}
	return len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" && leaf.URIs[0].Path == coordinatorPath
}

func names(c *x509.Certificate) []string {
	var n []string
	for _, u := range c.URIs {
		n = append(n, u.String())
	}
	return append(n, c.DNSNames...)
}

// attestCoordinator asks for a statement with a fresh nonce and judges it. It
// returns the root that the statement binds.
func (m *Marble) attestCoordinator(ctx context.Context, l *link) (*x509.Certificate, error) {
	nonce := make([]byte, binding.NonceSize)
	rand.Read(nonce) //nolint:errcheck // never fails
	resp, err := l.client.Challenge(ctx, &marblepb.ChallengeRequest{Nonce: nonce})
	if err != nil {
		return nil, m.callError(err, "asking for the coordinator's statement")
	}
	if len(resp.GetStatement()) == 0 || len(resp.GetStatement()) > maxStatement {
		return nil, problem.New("MRB-009", "statement of %d bytes, wanted 1 to %d", len(resp.GetStatement()), maxStatement)
	}
	var s apiv1.Statement
	if err := json.Unmarshal(resp.GetStatement(), &s); err != nil {
		return nil, problem.Because(err, "MRB-009", "reading the coordinator's statement")
	}
	certs := l.tls.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return nil, problem.New("MRB-006", "the coordinator showed no certificate")
	}
	in := client.VerifyInput{
		Policy: *m.cfg.Trust.Policy, Verifiers: m.cfg.Trust.Verifiers, Nonce: nonce,
		TLSKey: certs[0].RawSubjectPublicKeyInfo, At: m.cfg.Now(),
	}
	for _, c := range certs {
		in.Certificates = append(in.Certificates, c.Raw)
	}
	verified, err := client.VerifyStatement(s, in)
	if err != nil {
		e := problem.Because(err, "MRB-006", "judging the statement of %s", m.cfg.Coordinator)
		e.Verdict = problem.From(err).Verdict
		return nil, e
	}
	return verified.Root, nil
}

// trustedRoots are the roots that a coordinator's certificate may lead to: the
// bundle of the lease in hand, else the pinned root. There are none in policy
// mode before the first lease.
func (m *Marble) trustedRoots() []*x509.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.lease != nil:
		return m.lease.Bundle
	case m.cfg.Trust.Policy != nil:
		return nil
	}
	return m.roots
}

// trustRoot keeps the root of an accepted statement.
func (m *Marble) trustRoot(root *x509.Certificate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roots = []*x509.Certificate{root}
}

// Upstream opens a connection to the coordinator under the lease in hand, for
// relaying. The caller closes it with the function returned. Under a lease that
// has ended it opens none (MRB-021).
func (m *Marble) Upstream(ctx context.Context) (*grpc.ClientConn, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout())
	defer cancel()
	lease, err := m.inForce()
	if err != nil {
		return nil, nil, err
	}
	l, err := m.dial(ctx, lease, lease.Bundle)
	if err != nil {
		return nil, nil, err
	}
	return l.rpc, l.close, nil
}

// short keeps a peer's text to one printable line.
func short(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > 512 {
		text = strings.ToValidUTF8(text[:512], "") + "…"
	}
	return text
}
