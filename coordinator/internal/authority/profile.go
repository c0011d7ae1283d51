package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// Limits of what goes into a certificate.
const (
	MaxMarble      = 63  // bytes of a marble's name; X.520 allows 64 for a common name
	MaxTrustDomain = 255 // bytes (SPIFFE ID, section 2.3)
	MaxDNSName     = 253 // bytes (RFC 1035)
	MaxNames       = 100 // DNS names and IPs of one certificate
	serialSize     = 16  // bytes
	// maxOrganizations is how many a subject has.
	maxOrganizations = 4
	maxLeafLife      = 25 * time.Hour
	maxSecretLife    = 366 * 24 * time.Hour
)

// SPIFFEID returns the identity of a marble.
func SPIFFEID(trustDomain, marble string) string { return "spiffe://" + trustDomain + "/" + marble }

// CoordinatorPath is the path of the coordinator's own SPIFFE ID. It has two
// segments, so that no marble can have it.
const CoordinatorPath = "ashlar/coordinator"

// profile says what a kind of certificate must be: lint and judge hold the
// result against it.
type profile struct {
	kind         string
	serial       SerialNumber // the zero one lets template draw one
	uri          string       // "" for none
	dns          []string
	ips          []net.IP
	eku          []x509.ExtKeyUsage
	subject      string // common name
	instance     string // serialNumber of the subject; "" for none
	organization []string
	spki         []byte // PKIX DER of the requested key
	public       crypto.PublicKey
	onlyP256     bool
	extension    []byte // value of apiv1.LeafOID; nil for none
	notAfter     time.Time
	maxLife      time.Duration
	at           time.Time
}

// LeafRequest asks for a marble's leaf. All names come from the manifest.
type LeafRequest struct {
	TrustDomain string
	Marble      string
	// Instance is what the instance calls itself: it tells the leaves of one
	// instance from those of its siblings, and grants nothing.
	Instance  string
	DNSNames  []string
	PublicKey []byte    // PKIX DER, ECDSA P-256: all else that the marble chose
	NotAfter  time.Time // the end of lease and evidence; the chain may end earlier
	Facts     apiv1.LeafFacts
	Serial    SerialNumber // from NewSerial; the zero one lets Prepare draw one
}

// ServingRequest asks for the certificate of the coordinator's own listeners.
type ServingRequest struct {
	TrustDomain string   // "" before the first manifest: no SPIFFE ID then
	Names       []string // DNS names and IPs
	PublicKey   []byte   // PKIX DER, ECDSA P-256
	NotAfter    time.Time
}

// SecretRequest asks for the certificate of a secret.
type SecretRequest struct {
	CommonName   string
	Organization []string
	DNSNames     []string
	IPAddresses  []string
	// ExtendedKeyUsages are "serverAuth" and "clientAuth"; both if empty.
	ExtendedKeyUsages []string
	PublicKey         []byte // PKIX DER
	NotAfter          time.Time
}

func (a *Authority) leafProfile(r LeafRequest, at time.Time) (profile, error) {
	ext, err := r.Facts.Encode()
	if err != nil {
		return profile{}, err
	}
	p := profile{
		kind: "leaf", serial: r.Serial, subject: r.Marble, instance: r.Instance, uri: SPIFFEID(r.TrustDomain, r.Marble), dns: r.DNSNames, spki: r.PublicKey, onlyP256: true,
		eku:       []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		extension: ext, notAfter: a.within(r.NotAfter), maxLife: maxLeafLife, at: at,
	}
	return p, CheckNames(r.TrustDomain, r.Marble, r.DNSNames)
}

func (a *Authority) servingProfile(r ServingRequest, at time.Time) (profile, error) {
	p := profile{
		kind: "serving", subject: "Ashlar coordinator", spki: r.PublicKey, onlyP256: true, eku: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		notAfter: a.within(r.NotAfter), maxLife: MeshLife, at: at,
	}
	for _, n := range r.Names {
		if ip := net.ParseIP(n); ip != nil {
			p.ips = append(p.ips, ip)
		} else {
			p.dns = append(p.dns, n)
		}
	}
	if r.TrustDomain == "" {
		return p, nil
	}
	p.uri = SPIFFEID(r.TrustDomain, CoordinatorPath)
	return p, checkTrustDomain(r.TrustDomain)
}

func (a *Authority) secretProfile(r SecretRequest, at time.Time) (profile, error) {
	p := profile{
		kind: "secret", subject: r.CommonName, organization: r.Organization, dns: r.DNSNames, spki: r.PublicKey,
		notAfter: a.within(r.NotAfter), maxLife: maxSecretLife, at: at,
	}
	for _, text := range r.IPAddresses {
		ip := net.ParseIP(text)
		if ip == nil {
			return p, fmt.Errorf("%.80q is no IP address", text)
		}
		p.ips = append(p.ips, ip)
	}
	for _, usage := range r.ExtendedKeyUsages {
		eku, ok := usages[usage]
		if !ok {
			return p, fmt.Errorf("unknown extended key usage %.80q", usage)
		}
		p.eku = append(p.eku, eku)
	}
	if len(p.eku) == 0 {
		p.eku = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	return p, nil
}

// usages are the extended key usages that a secret's certificate may have.
var usages = map[string]x509.ExtKeyUsage{"serverAuth": x509.ExtKeyUsageServerAuth, "clientAuth": x509.ExtKeyUsageClientAuth}

// within returns the earlier of t and the end of the chain, in whole seconds.
func (a *Authority) within(t time.Time) time.Time {
	if end := a.mesh.cert.NotAfter; end.Before(t) {
		t = end
	}
	return t.UTC().Truncate(time.Second)
}

// template turns a profile into what is signed.
func (p *profile) template(a *Authority) (*x509.Certificate, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	serial := p.serial
	if serial.n == nil {
		var err error
		if serial, err = a.NewSerial(); err != nil {
			return nil, err
		}
	}
	t := &x509.Certificate{
		SerialNumber: serial.n, Subject: pkix.Name{CommonName: p.subject, SerialNumber: p.instance, Organization: p.organization},
		NotBefore: p.at.Add(-Backdate).UTC().Truncate(time.Second), NotAfter: p.notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: p.eku, BasicConstraintsValid: true,
		DNSNames: p.dns, IPAddresses: p.ips, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	if t.NotBefore.Before(a.mesh.cert.NotBefore) {
		t.NotBefore = a.mesh.cert.NotBefore
	}
	if p.uri != "" {
		u, err := url.Parse(p.uri)
		if err != nil {
			return nil, fmt.Errorf("reading the SPIFFE ID: %w", err)
		}
		t.URIs = []*url.URL{u}
	}
	if p.extension != nil {
		t.ExtraExtensions = []pkix.Extension{{Id: apiv1.LeafOID, Value: p.extension}}
	}
	return t, nil
}

// check judges the request and reads its key.
func (p *profile) check() error {
	if err := checkNames(p.dns, len(p.ips)); err != nil {
		return err
	}
	if len(p.subject) > 64 {
		return fmt.Errorf("common name of %d bytes, at most 64", len(p.subject))
	}
	if p.instance != "" && !instanceID.MatchString(p.instance) {
		return fmt.Errorf("instance %.80q is not 1 to 64 letters, digits and dashes", p.instance)
	}
	if len(p.organization) > maxOrganizations {
		return fmt.Errorf("%d organizations, at most %d", len(p.organization), maxOrganizations)
	}
	for _, o := range p.organization {
		if o == "" || len(o) > 4*64 { // X.520 allows 64 characters
			return fmt.Errorf("organization of %d bytes, wanted 1 to 64 characters", len(o))
		}
	}
	if !p.notAfter.After(p.at) {
		return fmt.Errorf("nothing left to certify: lease, evidence or chain ends at %s", p.notAfter.Format(time.RFC3339))
	}
	pub, err := x509.ParsePKIXPublicKey(p.spki)
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	p.public = pub
	if k, ok := pub.(*ecdsa.PublicKey); p.onlyP256 && (!ok || k.Curve != elliptic.P256()) {
		return errNotP256
	}
	return nil
}

var (
	errNotP256 = errors.New("the key is not ECDSA P-256")
	instanceID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)
	segment    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	dnsName    = regexp.MustCompile(`^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)
)

// CheckNames tells whether a leaf can be made out for a marble of a manifest.
func CheckNames(trustDomain, marble string, dns []string) error {
	if !segment.MatchString(marble) || len(marble) > MaxMarble {
		return fmt.Errorf("marble name %.80q is not 1 to %d of a-z, 0-9, '.', '_' and '-'", marble, MaxMarble)
	}
	if err := checkNames(dns, 0); err != nil {
		return err
	}
	return checkTrustDomain(trustDomain)
}

func checkNames(dns []string, ips int) error {
	if len(dns)+ips > MaxNames {
		return fmt.Errorf("%d names, at most %d", len(dns)+ips, MaxNames)
	}
	for _, n := range dns {
		if len(n) > MaxDNSName || !dnsName.MatchString(n) {
			return fmt.Errorf("%.80q is no DNS name of at most %d bytes", n, MaxDNSName)
		}
	}
	return nil
}

func checkTrustDomain(td string) error {
	if len(td) > MaxTrustDomain || !segment.MatchString(td) {
		return fmt.Errorf("%.80q is no trust domain of at most %d bytes", td, MaxTrustDomain)
	}
	return nil
}
