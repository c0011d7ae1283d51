package shares

import (
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/ecc/bls12381"
)

// CommitmentSize is the length of a commitment, in bytes: an element of G1 of
// BLS12-381, compressed.
const CommitmentSize = bls12381.G1SizeCompressed

// scalar is a number modulo the order of G1. Its operations take the same time
// for all values, except Inv, which is given public ones alone.
type scalar = bls12381.Scalar

// randomScalar draws until a number of 255 bits is below the order.
func randomScalar(random io.Reader) (*scalar, error) {
	var b [SecretSize]byte
	for {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return nil, fmt.Errorf("reading random bytes: %w", err)
		}
		b[0] &= 0x7f
		s := new(scalar)
		if s.UnmarshalBinary(b[:]) == nil && s.IsZero() == 0 {
			return s, nil
		}
	}
}

// polynomial is Shamir's: the secret is its value at 0.
type polynomial []*scalar

func randomPolynomial(random io.Reader, coefficients int) (polynomial, error) {
	p := make(polynomial, coefficients)
	for i := range p {
		var err error
		if p[i], err = randomScalar(random); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// at is Horner's rule.
func (p polynomial) at(index int) *scalar {
	x, sum := number(index), new(scalar)
	for i := len(p) - 1; i >= 0; i-- {
		sum.Mul(sum, x)
		sum.Add(sum, p[i])
	}
	return sum
}

// commit is Feldman's: the generator times each coefficient.
func (p polynomial) commit() [][]byte {
	var all [][]byte
	for _, c := range p {
		all = append(all, times(c).BytesCompressed())
	}
	return all
}

func number(n int) *scalar {
	s := new(scalar)
	s.SetUint64(uint64(n))
	return s
}

func times(s *scalar) *bls12381.G1 {
	p := new(bls12381.G1)
	p.ScalarMult(s, bls12381.G1Generator())
	return p
}

// committed reports whether value is that of the committed polynomial at index.
func committed(commitments [][]byte, index int, value *scalar) (bool, error) {
	x, sum := number(index), new(bls12381.G1)
	sum.SetIdentity()
	for i := len(commitments) - 1; i >= 0; i-- {
		c := new(bls12381.G1)
		if len(commitments[i]) != CommitmentSize || c.SetBytes(commitments[i]) != nil {
			return false, errors.New("a commitment is no element of G1")
		}
		sum.ScalarMult(x, sum)
		sum.Add(sum, c)
	}
	return times(value).IsEqual(sum), nil
}

// interpolate is Lagrange's value at 0 of the polynomial through points with
// different indices from 1 on.
func interpolate(indices []int, values []*scalar) *scalar {
	sum := new(scalar)
	for i := range indices {
		above, below := number(1), number(1)
		for j := range indices {
			if i == j {
				continue
			}
			above.Mul(above, number(indices[j]))
			d := number(indices[j])
			d.Sub(d, number(indices[i]))
			below.Mul(below, d)
		}
		below.Inv(below)
		above.Mul(above, below)
		above.Mul(above, values[i])
		sum.Add(sum, above)
	}
	return sum
}
