// Package tpm verifies quotes of a TPM 2.0: of a machine that has nothing but a
// TPM (kind "tpm"), and, for package azure, of a vTPM that other hardware vouches
// for.
//
// It owns the form of such evidence and the order of checks. A quote is worth
// what its key is worth: the verifier says who stands for the key, by its
// certificate or nobody, and the policy decides. That the key is restricted, so
// that it signs only what the TPM itself made, is read from the key's public
// area; whoever certifies a key or lists it in a policy answers for that.
//
// It refuses to talk to a TPM, to fetch anything, and to trust a root by itself.
// It never panics on hostile bytes.
//
// Source: TCG TPM 2.0 Library Specification, parts 1 to 3, revision 1.59.
package tpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// Config says whom a verifier believes about attestation keys.
type Config struct {
	// Roots are CAs that certify attestation keys: a cloud's for its vTPMs, a
	// manufacturer's. Without any, nobody stands for a key and the policy must
	// list it.
	Roots []*x509.Certificate
}

// Verifier verifies evidence of the kind "tpm". It is safe for concurrent use.
type Verifier struct{ roots []*x509.Certificate }

var _ attest.Verifier = (*Verifier)(nil)

// New returns a verifier. It fails if a root is not a CA.
func New(c Config) (*Verifier, error) {
	for _, root := range c.Roots {
		if !root.IsCA {
			return nil, fmt.Errorf("root %q is not a CA", root.Subject.CommonName)
		}
	}
	return &Verifier{slices.Clone(c.Roots)}, nil
}

// NewVerifier returns a verifier without roots: a policy must list the keys
// that it accepts.
func NewVerifier() attest.Verifier { return &Verifier{} }

// TEE implements attest.Verifier.
func (v *Verifier) TEE() attest.TEE { return attest.TPM }

// Verify implements attest.Verifier. There are no endorsements of a TPM:
// nothing revokes a key, and claims say so. Evidence that does not parse gives
// no claims.
func (v *Verifier) Verify(e attest.Evidence, _ attest.Endorsements, at time.Time) (attest.Claims, []attest.Step) {
	d, format := read(e.Raw)
	if !format.OK {
		return attest.Claims{TEE: attest.TPM}, []attest.Step{format}
	}
	steps := []attest.Step{format}
	key, keyStep := d.key()
	steps = append(steps, keyStep)
	if key == nil {
		return attest.Claims{TEE: attest.TPM}, steps
	}
	c, quoted := Check(d.Quote, key.key)
	c.TEE = attest.TPM
	steps = append(steps, quoted...)
	if c.TPM == nil {
		return c, steps
	}
	voucher, valid, vouched := v.voucher(d.Certificates, key)
	steps = append(steps, vouched)
	if voucher != "" {
		c.TPM.Vouched, c.TCB.NotAfter = voucher, valid.Until
		steps = append(steps, window(valid, at))
	}
	steps = append(steps, CheckLog(e.EventLog, &c)...)
	return c, steps
}

func read(raw []byte) (Document, attest.Step) {
	d, err := decode(raw)
	s := attest.Step{Code: attest.CodeFormat, Field: "tpm.format", OK: err == nil, Want: "a document of a TPM's quote", Got: "version 1", Source: "evidence"}
	if err != nil {
		s.Got, s.Fix = err.Error(), fixQuote
	}
	if errors.Is(err, errVersion) {
		s.Code = attest.CodeVersion
	}
	return d, s
}

// key reads the attestation key and judges what kind of key it is; it is nil if
// it cannot be read.
func (d Document) key() (*public, attest.Step) {
	s := attest.Step{Code: attest.CodeTPMKeyKind, Field: "tpm.key", Want: "a restricted signing key that the TPM made and that never leaves it",
		Source: "attestation key", Fix: fixKey}
	p, err := parsePublic(d.Key)
	if err != nil {
		s.Got = err.Error()
		return nil, s
	}
	if err := p.restrictedSigner(); err != nil {
		s.Got = err.Error()
		return p, s
	}
	s.OK, s.Got, s.Fix = true, "such a key", attest.Fix{}
	return p, s
}

func (p *public) restrictedSigner() error {
	for _, need := range []struct {
		bit  uint32
		name string
	}{{fixedTPM, "fixedTPM"}, {fixedParent, "fixedParent"}, {sensitiveDataOrigin, "sensitiveDataOrigin"}, {restricted, "restricted"}, {sign, "sign"}} {
		if p.attributes&need.bit == 0 {
			return fmt.Errorf("the key is not %s", need.name)
		}
	}
	if p.attributes&decrypt != 0 {
		return errors.New("the key decrypts as well")
	}
	if p.hash == 0 {
		return errors.New("the key has no signature scheme of its own with SHA-256, SHA-384 or SHA-512")
	}
	return nil
}

// voucher returns the common name of the root that the key's certificate leads
// to, and when the chain is valid. A chain that leads to no root of the verifier
// counts as none; one that is damaged, of another key, or falsely claims a root,
// fails.
func (v *Verifier) voucher(der [][]byte, key *public) (string, pki.Window, attest.Step) {
	s := attest.Step{Code: attest.CodeChain, Field: "tpm.chain", OK: true, Want: "a chain to a trusted root, or a key that the package lists",
		Source: "certificate of the attestation key"}
	name, valid, err := v.chain(der, key)
	switch {
	case errors.Is(err, errUnknownRoot):
		s.Got = "nobody stands for the key: " + err.Error()
	case err != nil:
		s.OK, s.Got, s.Fix = false, err.Error(), fixQuote
	case name == "":
		s.Got = "nobody stands for the key: it has no certificate"
	default:
		s.Got = name
	}
	return name, valid, s
}

var errUnknownRoot = errors.New("its chain leads to no root that is trusted here")

func (v *Verifier) chain(der [][]byte, key *public) (string, pki.Window, error) {
	if len(der) == 0 {
		return "", pki.Window{}, nil
	}
	var certs []*x509.Certificate
	for _, b := range der {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return "", pki.Window{}, err
		}
		certs = append(certs, c)
	}
	leaf := certs[0]
	if k, ok := key.key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(leaf.PublicKey) {
		return "", pki.Window{}, errors.New("the certificate is of another key")
	}
	if err := signsQuotes(leaf); err != nil {
		return "", pki.Window{}, err
	}
	nameless(leaf)
	last := certs[len(certs)-1]
	for _, root := range v.roots {
		if bytes.Equal(last.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) && len(certs) > 1 {
			certs = certs[:len(certs)-1]
			last = certs[len(certs)-1]
		}
		if !bytes.Equal(last.RawIssuer, root.RawSubject) {
			continue
		}
		path := append(slices.Clone(certs), root)
		for i, child := range path[:len(path)-1] {
			if err := pki.Issued(child, path[i+1], i > 0); err != nil {
				return "", pki.Window{}, err
			}
		}
		return root.Subject.CommonName, pki.Validity(path[0], path[1:]...), nil
	}
	return "", pki.Window{}, errUnknownRoot
}

// aikUsage is the extended key usage of attestation keys (TCG, tcg-kp-AIKCertificate).
var aikUsage = asn1.ObjectIdentifier{2, 23, 133, 8, 3}

// signsQuotes refuses a certificate of a key for something else: one that may
// not sign, or for TLS, code or mail alone. The public area beside it is the
// prover's word, so that such a key could sign a quote that no TPM made.
func signsQuotes(leaf *x509.Certificate) error {
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("the certificate is of a key that may not sign")
	}
	aik := slices.ContainsFunc(leaf.UnknownExtKeyUsage, aikUsage.Equal)
	if len(leaf.ExtKeyUsage) > 0 && !aik && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return errors.New("the certificate is of a key for TLS, code or mail, not for attestation")
	}
	return nil
}

// nameless accepts the critical subjectAltName of a certificate with an empty
// subject: it holds the TPM's manufacturer, model and version (TCG EK Credential
// Profile, section 3.2.9), which crypto/x509 does not read.
func nameless(c *x509.Certificate) {
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool { return id.Equal(san) })
}

func window(valid pki.Window, at time.Time) attest.Step {
	s := attest.Step{Code: attest.CodeCertWindow, Field: "tpm.validity", OK: valid.Contains(at), Want: "valid " + valid.String(), Got: "at " + pki.Stamp(at),
		Source: "certificate of the attestation key"}
	if !s.OK {
		s.Fix = fixClock
	}
	return s
}
