package ratls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	codeValidity = "ATT-085"
	codeSession  = "ATT-086"
)

// Settings are what a TLS endpoint is made of.
type Settings struct {
	// Certificate returns the certificate to present, on each handshake; nil
	// presents none, which a server cannot do.
	Certificate func() (*tls.Certificate, error)
	// Verify decides on the peer, on every session and after its certificate's
	// key has been proven. nil refuses everybody. No chain, name or window has
	// been checked before: Verify does that, or judges evidence instead.
	Verify func(tls.ConnectionState) error
	// AllowAnonymous lets a server take clients without a certificate; Verify
	// is called for them too.
	AllowAnonymous bool
}

// ServerConfig returns TLS settings for accepting: TLS 1.3, no session tickets,
// a client certificate demanded unless anonymous clients are allowed.
func ServerConfig(s Settings) *tls.Config {
	c := base(s)
	c.ClientAuth = tls.RequireAnyClientCert
	if s.AllowAnonymous {
		c.ClientAuth = tls.RequestClientCert
	}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if s.Certificate == nil {
			return nil, problem.New(codeSession, "this server has no certificate")
		}
		return s.Certificate()
	}
	return c
}

// ClientConfig returns TLS settings for connecting: TLS 1.3, no resumption.
func ClientConfig(s Settings) *tls.Config {
	c := base(s)
	c.InsecureSkipVerify = true // VerifyConnection decides, and is never skipped
	if s.Certificate != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.Certificate() }
	}
	return c
}

func base(s Settings) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := fresh(cs); err != nil {
				return err
			}
			if s.Verify == nil {
				return problem.New(codeSession, "nothing says which peer to accept")
			}
			return s.Verify(cs)
		},
	}
}

// fresh refuses sessions that are not TLS 1.3 or were resumed.
func fresh(cs tls.ConnectionState) error {
	if cs.Version != tls.VersionTLS13 || cs.DidResume {
		return problem.New(codeSession, "wanted a fresh TLS 1.3 session, got %s, resumed: %t", tls.VersionName(cs.Version), cs.DidResume)
	}
	return nil
}

// Exporter returns the 32 bytes that both ends of a TLS session know and
// nobody else: what evidence for this session is bound to (binding.Claims). Call
// it after the handshake.
func Exporter(cs tls.ConnectionState) ([]byte, error) {
	if err := fresh(cs); err != nil {
		return nil, err
	}
	b, err := cs.ExportKeyingMaterial(binding.ExporterLabel, nil, binding.ExporterSize)
	if err != nil {
		return nil, problem.Because(err, codeSession, "exporting from the TLS session")
	}
	return b, nil
}

// Peer judges peers by the evidence in their certificates. The zero Peer
// refuses everybody.
type Peer struct {
	Verifiers attest.Verifiers
	Policy    attest.Policy
	// Endorse finds the endorsements for evidence, within Timeout; nil finds
	// none.
	Endorse func(ctx context.Context, e attest.Evidence) (attest.Endorsements, error)
	Timeout time.Duration    // 0: 10 s
	Now     func() time.Time // nil: time.Now
}

// VerifyConnection is for Settings.Verify: it refuses a peer without a
// certificate, outside its validity window, or whose evidence is refused.
func (p Peer) VerifyConnection(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return problem.New("ATT-080", "the peer presented no certificate")
	}
	timeout := p.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := p.Judge(ctx, cs.PeerCertificates[0])
	return err
}

// Judge returns the verdict on a certificate: its evidence is accepted and
// vouches for its key. The error is nil only if the verdict is "accepted"; it is
// coded, and carries the verdict where there is one. The window of the
// certificate is checked before a byte of evidence is read.
func (p Peer) Judge(ctx context.Context, cert *x509.Certificate) (attest.Verdict, error) {
	if p.Now == nil {
		p.Now = time.Now
	}
	at := p.Now()
	if at.Before(cert.NotBefore) || at.After(cert.NotAfter) {
		return attest.Verdict{}, problem.New(codeValidity, "wanted a certificate valid at %s, got one valid from %s to %s",
			at.UTC().Format(time.RFC3339), cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	f, err := Extract(cert)
	if err != nil {
		return attest.Verdict{}, err
	}
	var en attest.Endorsements
	if p.Endorse != nil {
		en, err = p.Endorse(ctx, f.Evidence)
	}
	if err != nil {
		return attest.Verdict{}, problem.Because(err, "ATT-022", "finding endorsements for evidence of %s", f.Evidence.TEE)
	}
	v := attest.Judge(p.Verifiers, f.Evidence, f.Binding(cert), en, p.Policy, at)
	v.Steps = append(v.Steps, f.CheckBinding(cert)...)
	bad := v.Failed()
	if v.OK() && len(bad) == 0 {
		return v, nil
	}
	v.Verdict = attest.Refused
	first := problem.New("ATT-011", "the evidence in the certificate was refused")
	if len(bad) > 0 {
		s := bad[0]
		first = problem.New(problem.Code(s.Code), "%s: wanted %s, got %s (%d checks failed)", s.Field, s.Want, s.Got, len(bad))
	}
	if first.Verdict, err = json.Marshal(v); err != nil {
		return v, problem.Because(err, codeKey, "encoding the verdict")
	}
	return v, first
}
