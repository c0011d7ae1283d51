package marble

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// Limits on what a coordinator may send in a lease.
const (
	maxChain   = 8
	maxBundle  = 32
	maxSecrets = 4096
)

// Lease is an identity and what goes with it. It is immutable: a renewal makes
// a new one. It prints nothing secret.
type Lease struct {
	Chain      []*x509.Certificate // leaf first, then the mesh CA
	Bundle     []*x509.Certificate // trust anchors
	SPIFFEID   string
	Revision   string    // manifest digest, hex
	RenewAfter time.Time // when to offer fresh evidence
	DegradeAt  time.Time // when the marble is degraded if no renewal is granted
	DrainAt    time.Time // when it is to get no new requests
	NotAfter   time.Time // when it is cut: its identity ends

	key        *ecdsa.PrivateKey
	secrets    map[string]Secret
	parameters *manifest.Parameters // nil: those in hand stay
}

// Format prints the lease's name and end only.
func (l *Lease) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "lease of %s until %s", l.SPIFFEID, l.NotAfter.Format(time.RFC3339)) //nolint:errcheck // as fmt itself does
}

// LogValue gives the lease's name and end only.
func (l *Lease) LogValue() slog.Value {
	return slog.GroupValue(slog.String("spiffeID", l.SPIFFEID), slog.Time("notAfter", l.NotAfter), slog.String("revision", l.Revision))
}

// Secrets returns the secrets by name.
func (l *Lease) Secrets() map[string]Secret { return maps.Clone(l.secrets) }

// TrustDomain returns the trust domain of the SPIFFE ID.
func (l *Lease) TrustDomain() string {
	domain, _, _ := strings.Cut(strings.TrimPrefix(l.SPIFFEID, "spiffe://"), "/")
	return domain
}

// Certificate returns the leaf with its chain and key, for crypto/tls.
func (l *Lease) Certificate() *tls.Certificate {
	c := &tls.Certificate{Leaf: l.Chain[0]}
	if l.key != nil {
		c.PrivateKey = l.key
	}
	for _, cert := range l.Chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// Roots returns the trust anchors as a pool.
func (l *Lease) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range l.Bundle {
		pool.AddCert(c)
	}
	return pool
}

// ChainPEM returns the leaf and its chain.
func (l *Lease) ChainPEM() []byte { return certificatesPEM(l.Chain) }

// BundlePEM returns the trust anchors.
func (l *Lease) BundlePEM() []byte { return certificatesPEM(l.Bundle) }

// KeyPEM returns the leaf's private key, PKCS #8. Whoever has it is the marble.
// One that was revoked has none.
func (l *Lease) KeyPEM() []byte {
	if l.key == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: l.keyDER()})
}

func (l *Lease) keyDER() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(l.key)
	if err != nil { // not for a P-256 key
		panic("marble: encoding the leaf key: " + err.Error())
	}
	return der
}

func certificatesPEM(certs []*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// expectation is what a lease is checked against before anything uses it.
type expectation struct {
	marble string
	key    *ecdsa.PrivateKey // the key that the leaf must have
	// roots are trusted already; the new bundle must keep one of them.
	roots []*x509.Certificate
	now   time.Time
	// previous is the lease in hand; nil at activation. A lease pushed without
	// certificates keeps its chain.
	previous *Lease
}

// newLease reads and checks a lease. Whatever is wrong is MRB-009.
func newLease(p *marblepb.Lease, want expectation) (*Lease, error) {
	l, err := parseLease(p, want)
	if err != nil {
		return nil, problem.Because(err, "MRB-009", "reading the lease")
	}
	return l, nil
}

func parseLease(p *marblepb.Lease, want expectation) (*Lease, error) {
	if p == nil {
		return nil, fmt.Errorf("there is none")
	}
	l := &Lease{
		key: want.key, SPIFFEID: p.GetSpiffeId(), Revision: p.GetRevision(),
		RenewAfter: time.UnixMilli(p.GetRenewAfterUnixMs()), NotAfter: time.UnixMilli(p.GetNotAfterUnixMs()),
	}
	l.lapses(p)
	var err error
	if len(p.GetCertificates()) == 0 && want.previous != nil {
		l.Chain = want.previous.Chain
	} else if l.Chain, err = parseCertificates("chain", p.GetCertificates(), maxChain); err != nil {
		return nil, err
	}
	if l.Bundle, err = parseCertificates("bundle", p.GetBundle(), maxBundle); err != nil {
		return nil, err
	}
	if len(p.GetSecrets()) > maxSecrets {
		return nil, fmt.Errorf("%d secrets, limit %d", len(p.GetSecrets()), maxSecrets)
	}
	l.secrets = make(map[string]Secret, len(p.GetSecrets()))
	for name, s := range p.GetSecrets() {
		if s == nil {
			return nil, fmt.Errorf("secret %.64q is empty", name)
		}
		l.secrets[name] = readSecret(s)
	}
	if p.GetParameters() != nil {
		parameters, err := readParameters(p.GetParameters())
		if err != nil {
			return nil, err
		}
		l.parameters = &parameters
	}
	return l, l.check(want)
}

func parseCertificates(what string, ders [][]byte, limit int) ([]*x509.Certificate, error) {
	if len(ders) == 0 || len(ders) > limit {
		return nil, fmt.Errorf("%s of %d certificates, wanted 1 to %d", what, len(ders), limit)
	}
	certs := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the %s: %w", i, what, err)
		}
		certs[i] = c
	}
	return certs, nil
}

func (l *Lease) check(want expectation) error {
	leaf := l.Chain[0]
	if !want.key.PublicKey.Equal(leaf.PublicKey) {
		return fmt.Errorf("the leaf is of another key than the marble's")
	}
	if err := checkSPIFFEID(leaf, l.SPIFFEID, want.marble); err != nil {
		return err
	}
	if !sharesOne(l.Bundle, want.roots) {
		return fmt.Errorf("the bundle of %d roots holds none that was trusted before", len(l.Bundle))
	}
	if err := verifyChain(l.Chain, l.Roots(), want.now); err != nil {
		return fmt.Errorf("the leaf does not lead to the bundle: %w", err)
	}
	switch {
	case !l.NotAfter.After(want.now):
		return fmt.Errorf("it ended at %s, and it is %s", stamp(l.NotAfter), stamp(want.now))
	case l.NotAfter.After(leaf.NotAfter):
		return fmt.Errorf("it ends at %s, after its leaf (%s)", stamp(l.NotAfter), stamp(leaf.NotAfter))
	case !l.RenewAfter.Before(l.NotAfter):
		return fmt.Errorf("renewal would start at %s, after its end", stamp(l.RenewAfter))
	case l.DegradeAt.Before(l.RenewAfter) || l.DrainAt.Before(l.DegradeAt) || l.NotAfter.Before(l.DrainAt):
		return fmt.Errorf("renewal due at %s, degraded at %s, drained at %s, cut at %s: not in this order",
			stamp(l.RenewAfter), stamp(l.DegradeAt), stamp(l.DrainAt), stamp(l.NotAfter))
	}
	return nil
}

// checkSPIFFEID checks that the leaf names this marble, and nothing else, by
// exactly one URI (X.509-SVID, 2).
func checkSPIFFEID(leaf *x509.Certificate, id, marble string) error {
	u, err := url.Parse(id)
	if err != nil || u.Scheme != "spiffe" || u.Host == "" || u.Path != "/"+marble || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("SPIFFE ID %.128q is not one of marble %s", id, marble)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
		return fmt.Errorf("the leaf has URIs %v, wanted %s alone", leaf.URIs, id)
	}
	return nil
}

func sharesOne(a, b []*x509.Certificate) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Equal(y) {
				return true
			}
		}
	}
	return false
}

func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}
