package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // hashes of signatures
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// Constants of the TPM 2.0 Library, part 2: TPM_GENERATED, TPM_ST, TPM_ALG_ID,
// TPM_ECC_CURVE and TPMA_OBJECT.
const (
	magic         = 0xff544347
	attestQuote   = 0x8018
	algRSA        = 0x0001
	algSHA256     = 0x000B
	algSHA384     = 0x000C
	algSHA512     = 0x000D
	algNull       = 0x0010
	algRSASSA     = 0x0014
	algRSAPSS     = 0x0016
	algECDSA      = 0x0018
	algECC        = 0x0023
	curveP256     = 0x0003
	curveP384     = 0x0004
	maxRegisters  = 24
	digestSize    = 32
	minRSABits    = 2048
	maxRSABits    = 4096
	usualExponent = 65537
	maxQualifying = 64 // bytes of extraData; a TPM with SHA-512 takes 66
)

const (
	fixedTPM            = 1 << 1
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18
)

var (
	errTruncated = errors.New("ends before its length fields say")
	errTrailing  = errors.New("has bytes after its end")
)

// reader walks a structure, big endian, and remembers that it ran out of it.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.err = errTruncated
		return make([]byte, min(n, 8))
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

// sized reads a TPM2B.
func (r *reader) sized() []byte { return r.take(int(r.u16())) }

// end returns the reader's error, or that something is left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return errTrailing
	}
	return r.err
}

// attested is a TPMS_ATTEST of a quote (part 2, section 10.12.8).
type attested struct {
	extraData            []byte
	resetCount, restarts uint32
	safe                 bool
	firmware             []byte
	selected             [maxRegisters]bool
	digest               []byte // of the selected registers, by the signature's hash
}

// parseAttested reads a quote of the SHA-256 bank alone.
func parseAttested(raw []byte) (*attested, error) {
	r := &reader{b: raw}
	if m := r.u32(); r.err == nil && m != magic {
		return nil, fmt.Errorf("starts with %#08x: no TPM made it", m)
	}
	if kind := r.u16(); r.err == nil && kind != attestQuote {
		return nil, fmt.Errorf("attests %#04x, a quote is %#04x", kind, attestQuote)
	}
	r.sized() // the signer's qualified name
	a := &attested{extraData: r.sized()}
	r.u64() // clock
	a.resetCount, a.restarts = r.u32(), r.u32()
	safe := r.u8()
	a.firmware = r.take(8)
	if n := r.u32(); r.err == nil && n != 1 {
		return nil, fmt.Errorf("covers %d banks, not one", n)
	}
	if alg := r.u16(); r.err == nil && alg != algSHA256 {
		return nil, fmt.Errorf("covers the bank %#04x, not SHA-256", alg)
	}
	for i, b := range r.take(int(r.u8())) {
		for bit := range 8 {
			if n := 8*i + bit; b&(1<<bit) != 0 {
				if n >= maxRegisters {
					return nil, fmt.Errorf("covers register %d", n)
				}
				a.selected[n] = true
			}
		}
	}
	a.digest = r.sized()
	if err := r.end(); err != nil {
		return nil, err
	}
	if safe > 1 {
		return nil, fmt.Errorf("clock safe is %d", safe)
	}
	if len(a.extraData) > maxQualifying {
		return nil, fmt.Errorf("qualifying data of %d bytes, at most %d", len(a.extraData), maxQualifying)
	}
	a.safe = safe == 1
	return a, nil
}

// signature is a TPMT_SIGNATURE (part 2, section 11.3.4).
type signature struct {
	scheme uint16
	hash   crypto.Hash
	rsa    []byte
	r, s   *big.Int
}

func parseSignature(raw []byte) (*signature, error) {
	r := &reader{b: raw}
	s := &signature{scheme: r.u16()}
	alg := r.u16()
	switch s.scheme {
	case algRSASSA, algRSAPSS:
		s.rsa = r.sized()
	case algECDSA:
		s.r, s.s = new(big.Int).SetBytes(r.sized()), new(big.Int).SetBytes(r.sized())
	default:
		return nil, fmt.Errorf("scheme %#04x is %w", s.scheme, errVersion)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	if s.hash = hashOf(alg); s.hash == 0 {
		return nil, fmt.Errorf("hash %#04x is %w", alg, errVersion)
	}
	return s, nil
}

func hashOf(alg uint16) crypto.Hash {
	switch alg {
	case algSHA256:
		return crypto.SHA256
	case algSHA384:
		return crypto.SHA384
	case algSHA512:
		return crypto.SHA512
	}
	return 0
}

// verify checks the signature over a message.
func (s *signature) verify(key crypto.PublicKey, message []byte) error {
	h := s.hash.New()
	h.Write(message)
	sum := h.Sum(nil)
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch s.scheme {
		case algRSASSA:
			return rsa.VerifyPKCS1v15(key, s.hash, sum, s.rsa)
		case algRSAPSS:
			return rsa.VerifyPSS(key, s.hash, sum, s.rsa, nil)
		}
	case *ecdsa.PublicKey:
		if s.scheme == algECDSA && ecdsa.Verify(key, sum, s.r, s.s) {
			return nil
		}
	}
	return errors.New("does not hold")
}

// public is a TPMT_PUBLIC (part 2, section 12.2.4) of an asymmetric key.
type public struct {
	attributes uint32
	scheme     uint16
	hash       crypto.Hash
	key        crypto.PublicKey
}

func parsePublic(raw []byte) (*public, error) {
	r := &reader{b: raw}
	kind := r.u16()
	r.u16() // algorithm of the name
	p := &public{attributes: r.u32()}
	r.sized() // policy
	if alg := r.u16(); r.err == nil && alg != algNull {
		return nil, errors.New("has a symmetric algorithm: it is a storage key")
	}
	if p.scheme = r.u16(); p.scheme != algNull {
		p.hash = hashOf(r.u16())
	}
	var err error
	switch kind {
	case algRSA:
		p.key, err = r.rsaKey()
	case algECC:
		p.key, err = r.eccKey()
	default:
		err = fmt.Errorf("key type %#04x is %w", kind, errVersion)
	}
	if err != nil {
		return nil, err
	}
	return p, r.end()
}

func (r *reader) rsaKey() (crypto.PublicKey, error) {
	bits, exponent := int(r.u16()), r.u32()
	n := new(big.Int).SetBytes(r.sized())
	if r.err != nil {
		return nil, r.err
	}
	if exponent == 0 {
		exponent = usualExponent
	}
	return RSAKey(n, bits, uint64(exponent))
}

// RSAKey returns the key with a modulus of exactly bits, 2048 to 4096, and the
// exponent 65537.
func RSAKey(n *big.Int, bits int, exponent uint64) (*rsa.PublicKey, error) {
	if bits < minRSABits || bits > maxRSABits || n.BitLen() != bits || n.Bit(0) == 0 || exponent != usualExponent {
		return nil, fmt.Errorf("an RSA key of %d bits with exponent %d: %d to %d and %d are accepted", n.BitLen(), exponent, minRSABits, maxRSABits, usualExponent)
	}
	return &rsa.PublicKey{N: n, E: usualExponent}, nil
}

func (r *reader) eccKey() (crypto.PublicKey, error) {
	curve := r.u16()
	if kdf := r.u16(); kdf != algNull {
		r.u16() // its hash
	}
	x, y := r.sized(), r.sized()
	if r.err != nil {
		return nil, r.err
	}
	var c elliptic.Curve
	switch curve {
	case curveP256:
		c = elliptic.P256()
	case curveP384:
		c = elliptic.P384()
	default:
		return nil, fmt.Errorf("curve %#04x is %w", curve, errVersion)
	}
	size := (c.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		return nil, errors.New("a coordinate is larger than the curve")
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(c, point)
	if err != nil {
		return nil, err
	}
	return key, nil
}
