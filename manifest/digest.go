package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// DigestOf returns the digest of a manifest's bytes.
func DigestOf(raw []byte) Digest { return sha256.Sum256(raw) }

// ParseDigest reads what String wrote: 64 hexadecimal digits. Upper case is
// accepted.
func ParseDigest(s string) (Digest, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Digest{}) {
		return Digest{}, fmt.Errorf("a manifest digest has 64 hexadecimal digits, not %q", clip(s))
	}
	return Digest(b), nil
}

// String returns the digest as 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short returns the first 8 hexadecimal digits, for tables.
func (d Digest) Short() string { return d.String()[:8] }

// IsZero reports whether d is no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(t []byte) error {
	v, err := ParseDigest(string(t))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// Digest returns SHA-256 of the bytes that m was parsed from.
func (m *Manifest) Digest() Digest { return m.digest }

// Raw returns a copy of the bytes that m was parsed from.
func (m *Manifest) Raw() []byte { return append([]byte(nil), m.raw...) }
