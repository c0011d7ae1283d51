package shares

import (
	"errors"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"
)

// CommitmentSize is the length of a commitment, in bytes: an element of
// Ristretto255 (RFC 9496).
const CommitmentSize = 32

// field is where secrets and shares are numbers: modulo the order of
// Ristretto255, whose arithmetic takes the same time for all values.
var field = group.Ristretto255

// split makes a random secret and the values of n shares of it, numbered from 1,
// of which threshold give it back.
func split(threshold, n int) (secret group.Scalar, values []group.Scalar, commitments [][]byte, err error) {
	secret = field.RandomNonZeroScalar(nil) // of crypto/rand
	sharing := secretsharing.New(nil, uint(threshold-1), secret)
	for _, s := range sharing.Share(uint(n)) {
		values = append(values, s.Value)
	}
	for _, c := range sharing.CommitSecret() {
		b, err := c.MarshalBinaryCompress()
		if err != nil {
			return nil, nil, nil, err
		}
		commitments = append(commitments, b)
	}
	return secret, values, commitments, nil
}

// point is a share as secretsharing knows it.
func (s Share) point() secretsharing.Share {
	return secretsharing.Share{ID: number(s.Index), Value: s.value}
}

func number(n int) group.Scalar { return field.NewScalar().SetUint64(uint64(n)) }

// committed reports whether a share is one of those that commitments were made
// for.
func committed(commitments [][]byte, s Share) (bool, error) {
	var all secretsharing.SecretCommitment
	for _, b := range commitments {
		e := field.NewElement()
		if len(b) != CommitmentSize || e.UnmarshalBinary(b) != nil {
			return false, errors.New("a commitment is no element of the group")
		}
		all = append(all, e)
	}
	return secretsharing.Verify(uint(len(all)-1), s.point(), all), nil
}
