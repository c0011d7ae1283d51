package marble

import (
	"bytes"
	"fmt"
	"log/slog"

	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

const redacted = "[redacted]"

// Secret is one secret that the manifest lets the marble read. It prints nothing
// of itself.
type Secret struct {
	value, privateKey, publicKey []byte
	certificates                 [][]byte
	version                      uint64
	previous                     *Secret
}

// Bytes returns the value of a symmetric or opaque secret.
func (s Secret) Bytes() []byte { return bytes.Clone(s.value) }

// PrivateKey returns the key of a key pair, PKCS #8 DER; nil if it is for use
// only.
func (s Secret) PrivateKey() []byte { return bytes.Clone(s.privateKey) }

// PublicKey returns the public key of a key pair, PKIX DER.
func (s Secret) PublicKey() []byte { return bytes.Clone(s.publicKey) }

// Certificates returns a certificate secret's chain, DER, leaf first.
func (s Secret) Certificates() [][]byte { return s.certificates }

// Version counts the values that the secret has had, from 1.
func (s Secret) Version() uint64 { return s.version }

// Previous returns the version before, while the two overlap; it has none itself.
func (s Secret) Previous() (Secret, bool) {
	if s.previous == nil {
		return Secret{}, false
	}
	return *s.previous, true
}

// Format hides the value from every verb.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) } //nolint:errcheck // as fmt itself does

// LogValue hides the value.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the value.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// readSecret takes a secret as the coordinator sent it. What stands before its
// previous version is left out.
func readSecret(p *marblepb.Secret) Secret {
	s := Secret{value: p.GetValue(), privateKey: p.GetPrivateKey(), publicKey: p.GetPublicKey(), certificates: p.GetCertificates(), version: p.GetVersion()}
	if before := p.GetPrevious(); before != nil {
		s.previous = &Secret{value: before.GetValue(), privateKey: before.GetPrivateKey(), publicKey: before.GetPublicKey(),
			certificates: before.GetCertificates(), version: before.GetVersion()}
	}
	return s
}

// data is what templates see of the secret.
func (s Secret) data() manifest.SecretData {
	d := manifest.SecretData{Value: manifest.NewPrivate(s.value), PrivateKey: manifest.NewPrivate(s.privateKey), PublicKey: s.publicKey,
		Chain: s.certificates, Version: s.version}
	if len(s.certificates) > 0 {
		d.Certificate = s.certificates[:1]
	}
	if s.previous != nil {
		before := s.previous.data()
		d.Previous = &before
	}
	return d
}
