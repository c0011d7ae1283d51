package authority

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"
)

// Token stands for one certificate that was prepared and linted, and may be
// signed once, by the authority that prepared it.
type Token struct {
	issuer   *x509.Certificate // mesh CA that the bytes name
	profile  profile
	tbs      []byte // what was linted
	serial   string
	redeemed atomic.Bool
}

// Serial is the serial number that the certificate will have.
func (t *Token) Serial() string { return t.serial }

// NotAfter is when the certificate will end.
func (t *Token) NotAfter() time.Time { return t.profile.notAfter }

// Issued is a signed certificate with the chain below the root.
type Issued struct {
	Certificates [][]byte // DER, leaf first, then the mesh CA, then what leads to older roots
	Leaf         *x509.Certificate
	Serial       string
}

// PrepareLeaf builds and lints the leaf of a marble.
func (a *Authority) PrepareLeaf(r LeafRequest, at time.Time) (*Token, error) {
	p, err := a.leafProfile(r, at)
	if err != nil {
		return nil, fmt.Errorf("preparing a leaf: %w", err)
	}
	return a.prepare(p)
}

// PrepareServing builds and lints the coordinator's serving certificate.
func (a *Authority) PrepareServing(r ServingRequest, at time.Time) (*Token, error) {
	p, err := a.servingProfile(r, at)
	if err != nil {
		return nil, fmt.Errorf("preparing a serving certificate: %w", err)
	}
	return a.prepare(p)
}

// PrepareSecret builds and lints the certificate of a secret.
func (a *Authority) PrepareSecret(r SecretRequest, at time.Time) (*Token, error) {
	p, err := a.secretProfile(r, at)
	if err != nil {
		return nil, fmt.Errorf("preparing a secret's certificate: %w", err)
	}
	return a.prepare(p)
}

func (a *Authority) prepare(p profile) (*Token, error) {
	tmpl, err := p.template(a)
	if err != nil {
		return nil, fmt.Errorf("preparing a %s certificate: %w", p.kind, err)
	}
	return a.lintTemplate(p, tmpl)
}

// lintTemplate encodes the template and lints what came out.
func (a *Authority) lintTemplate(p profile, tmpl *x509.Certificate) (*Token, error) {
	d := &drafter{public: a.mesh.cert.PublicKey}
	if _, err := x509.CreateCertificate(a.random, tmpl, a.mesh.cert, p.public, d); d.tbs == nil {
		return nil, fmt.Errorf("preparing a %s certificate: %w", p.kind, err)
	}
	der, err := certificate(d.tbs, []byte("unsigned"))
	if err != nil {
		return nil, fmt.Errorf("preparing a %s certificate: %w", p.kind, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("preparing a %s certificate: %w", p.kind, err)
	}
	if err := lint(p, cert, a.mesh.cert); err != nil {
		return nil, fmt.Errorf("a %s certificate fails its lint: %w", p.kind, err)
	}
	return &Token{issuer: a.mesh.cert, profile: p, tbs: d.tbs, serial: Serial(cert)}, nil
}

// drafter is a crypto.MessageSigner that signs nothing: it keeps what it was to
// sign, and so has a template encoded without a signature.
type drafter struct {
	public crypto.PublicKey
	tbs    []byte
}

var errDraft = errors.New("a draft is not signed")

func (d *drafter) Public() crypto.PublicKey { return d.public }

func (d *drafter) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errDraft }

func (d *drafter) SignMessage(_ io.Reader, tbs []byte, _ crypto.SignerOpts) ([]byte, error) {
	d.tbs = bytes.Clone(tbs)
	return nil, errDraft
}

var (
	errRedeemed = errors.New("the token was redeemed already")
	errForeign  = errors.New("the token was prepared for another mesh CA")
)

// Issue signs what the token stands for. A token can be redeemed once.
func (a *Authority) Issue(t *Token) (Issued, error) {
	if t.issuer != a.mesh.cert {
		return Issued{}, errForeign
	}
	if t.redeemed.Swap(true) {
		return Issued{}, errRedeemed
	}
	der, err := a.sign(t.tbs)
	if err != nil {
		return Issued{}, fmt.Errorf("signing a %s certificate: %w", t.profile.kind, err)
	}
	leaf, err := judge(t, der, a.mesh.cert)
	if err != nil {
		return Issued{}, fmt.Errorf("the signed %s certificate is refused: %w", t.profile.kind, err)
	}
	return Issued{Certificates: a.chain(der), Leaf: leaf, Serial: t.serial}, nil
}

// ecdsaWithSHA256 is the algorithm identifier of RFC 5758, section 3.2.
var ecdsaWithSHA256 = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}

// sign puts the mesh CA's signature to the very bytes that were linted.
func (a *Authority) sign(tbs []byte) ([]byte, error) {
	digest := sha256.Sum256(tbs)
	sig, err := a.mesh.key.signer.Sign(a.random, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return certificate(tbs, sig)
}

// certificate is Certificate of RFC 5280, section 4.1.
func certificate(tbs, sig []byte) ([]byte, error) {
	return asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, ecdsaWithSHA256, asn1.BitString{Bytes: sig, BitLength: len(sig) * 8}})
}

// judge looks at the signed result with other eyes than lint: it trusts neither
// the token's bytes nor the signer.
func judge(t *Token, der []byte, issuer *x509.Certificate) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	p := t.profile
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	var ids []string
	for _, u := range cert.URIs {
		ids = append(ids, u.String())
	}
	switch {
	case !bytes.Equal(cert.RawTBSCertificate, t.tbs):
		return nil, errors.New("not the bytes that were linted")
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, p.spki):
		return nil, errors.New("not the requested key")
	case cert.IsCA || cert.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return nil, errors.New("it could sign certificates")
	case p.uri == "" && len(ids) != 0 || p.uri != "" && (len(ids) != 1 || ids[0] != p.uri):
		return nil, fmt.Errorf("identities %q, want %q alone", ids, p.uri)
	case cert.Subject.CommonName != p.subject || !alike(cert.Subject.Organization, p.organization):
		return nil, fmt.Errorf("subject %q, want the common name %q and the organization %q", cert.Subject, p.subject, p.organization)
	case !slices.Equal(cert.ExtKeyUsage, p.eku):
		return nil, errors.New("other uses than requested")
	case len(cert.DNSNames) != len(p.dns) || len(cert.IPAddresses) != len(p.ips) || len(cert.EmailAddresses) != 0:
		return nil, errors.New("other names than requested")
	case cert.NotAfter.After(p.notAfter) || cert.NotAfter.After(issuer.NotAfter):
		return nil, errors.New("it outlives what it rests on")
	case !cert.NotAfter.After(p.at):
		return nil, errors.New("it has ended already")
	}
	return cert, nil
}
