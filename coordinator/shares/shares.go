// Package shares splits a secret among the users of a manifest, so that some of
// them together can give it back: threshold Shamir with Feldman's commitments.
//
// It owns the bytes of a share, how one is encrypted to its holder, and the
// message in which a holder sends it to an attested coordinator and signs what
// for. It keeps nothing and talks to nobody. A holder's share leaves his machine
// only encrypted to a session that somebody has attested before.
package shares

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Sizes, in bytes.
const (
	DeploymentSize = 32
	SecretSize     = 32
	shareSize      = len(shareLabel) + DeploymentSize + 8 + 4 + SecretSize // 92
)

// MaxHolders is how many may hold a share.
const MaxHolders = 16

const (
	shareLabel = "ashlar share v1\x00"
	redacted   = "[redacted]"
)

// Secret is what shares give: a number below the order of Ristretto255, 32 bytes,
// little endian. It prints nothing of itself.
type Secret struct {
	_ [0]func()
	b *[SecretSize]byte
}

// Reveal returns a copy of the bytes, nil for the zero Secret.
func (s Secret) Reveal() []byte {
	if s.b == nil {
		return nil
	}
	return bytes.Clone(s.b[:])
}

// Format hides the secret from every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides it from log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides it from encoding/json.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Share is one part of a secret, and of which. It prints nothing of its value.
type Share struct {
	Deployment [DeploymentSize]byte
	Generation int
	Index      int // from 1
	value      group.Scalar
}

// Format hides the share from every verb.
func (Share) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides it from log/slog.
func (Share) LogValue() slog.Value { return slog.StringValue(redacted) }

// Split makes a new secret and n shares of it, of which threshold give it back.
// The commitments are public.
func Split(of Share, threshold, n int) (secret Secret, all []Share, commitments [][]byte, err error) {
	if threshold < 1 || threshold > n || n > MaxHolders {
		return secret, nil, nil, fmt.Errorf("wanted a threshold of 1 to the number of shares, at most %d; got %d of %d", MaxHolders, threshold, n)
	}
	number, values, commitments, err := split(threshold, n)
	if err != nil {
		return secret, nil, nil, fmt.Errorf("splitting a secret: %w", err)
	}
	for i, value := range values {
		share := of
		share.Index, share.value = i+1, value
		all = append(all, share)
	}
	secret, err = secretOf(number)
	return secret, all, commitments, err
}

func secretOf(s group.Scalar) (Secret, error) {
	b, err := s.MarshalBinary()
	if err != nil || len(b) != SecretSize {
		return Secret{}, fmt.Errorf("encoding the secret of %d bytes: %w", len(b), err)
	}
	secret := Secret{b: new([SecretSize]byte)}
	copy(secret.b[:], b)
	return secret, nil
}

// Combine gives the secret back from the first threshold shares, which Verify
// has passed and whose indices differ.
func Combine(threshold int, all []Share) (Secret, error) {
	if threshold < 1 || len(all) < threshold {
		return Secret{}, fmt.Errorf("wanted %d shares, got %d", threshold, len(all))
	}
	seen := map[int]bool{}
	var points []secretsharing.Share
	for _, s := range all[:threshold] {
		if s.value == nil || s.Index < 1 || seen[s.Index] {
			return Secret{}, fmt.Errorf("share %d is empty or there twice", s.Index)
		}
		seen[s.Index] = true
		points = append(points, s.point())
	}
	secret, err := secretsharing.Recover(uint(threshold-1), points)
	if err != nil {
		return Secret{}, fmt.Errorf("combining shares: %w", err)
	}
	return secretOf(secret)
}

// Verify checks a share against the commitments that were made when it was
// split off. Errors: REC-014; REC-002 for commitments that are none.
func (s Share) Verify(commitments [][]byte) error {
	if s.value == nil || s.Index < 1 || len(commitments) == 0 {
		return problem.New("REC-014", "the share is empty")
	}
	good, err := committed(commitments, s)
	if err != nil {
		return problem.Because(err, "REC-002", "checking share %d", s.Index)
	}
	if !good {
		return problem.New("REC-014", "share %d is not the one that was given out", s.Index)
	}
	return nil
}

// encode returns the 92 bytes of a share: "ashlar share v1" and a zero byte,
// deployment (32), generation (8, big endian), index (4, big endian), value
// (32, little endian).
func (s Share) encode() ([]byte, error) {
	value, err := s.value.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encoding a share: %w", err)
	}
	b := append([]byte(shareLabel), s.Deployment[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Generation))
	b = binary.BigEndian.AppendUint32(b, uint32(s.Index))
	return append(b, value...), nil
}

// parseShare reads what encode wrote, and nothing else.
func parseShare(b []byte) (Share, error) {
	var s Share
	rest, ok := bytes.CutPrefix(b, []byte(shareLabel))
	if !ok || len(b) != shareSize {
		return s, problem.New("REC-016", "wanted a share of %d bytes, got %d", shareSize, len(b))
	}
	copy(s.Deployment[:], rest)
	rest = rest[DeploymentSize:]
	generation, index := binary.BigEndian.Uint64(rest), binary.BigEndian.Uint32(rest[8:])
	if generation < 1 || generation > 1<<31 || index < 1 || index > MaxHolders {
		return s, problem.New("REC-016", "no share has generation %d and number %d", generation, index)
	}
	s.Generation, s.Index, s.value = int(generation), int(index), field.NewScalar()
	if err := s.value.UnmarshalBinary(rest[12:]); err != nil {
		return s, problem.New("REC-016", "its value is not below the order")
	}
	return s, nil
}
