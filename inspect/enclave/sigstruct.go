// Package enclave reads what an SGX enclave measures from the files that it is
// shipped in: a SIGSTRUCT alone (Gramine's .sig), a signed enclave of Open
// Enclave, EGo or the Intel SGX SDK, and a manifest of Gramine.
//
// It owns those formats. MRENCLAVE is what the signer put into the SIGSTRUCT
// under the enclave's signature; hardware starts an enclave only if the pages
// measure that. It refuses a SIGSTRUCT that hardware would refuse, and to
// measure the pages by itself. It never panics on hostile bytes and imports only
// the standard library.
//
// Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume
// 3D, "Enclave Signature Structure (SIGSTRUCT)" and EINIT; Open Enclave's
// oe_sgx_enclave_properties_t; Gramine's manifest syntax.
package enclave

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// SigStructSize is the size of a SIGSTRUCT, in bytes.
const SigStructSize = 1808

// The constants with which the two headers of a SIGSTRUCT begin.
var (
	sigHeader  = []byte{0x06, 0, 0, 0, 0xe1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0}
	sigHeader2 = []byte{0x01, 0x01, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 0x01, 0, 0, 0}
)

// Attributes of enclaves, the first byte of ATTRIBUTES.
const (
	attributeDebug     = 1 << 1
	attributeProvision = 1 << 4
	attributeKSS       = 1 << 7
)

// SigStruct is a SIGSTRUCT whose signature holds.
type SigStruct struct {
	UniqueID        [32]byte // ENCLAVEHASH, which becomes MRENCLAVE
	SignerID        [32]byte // SHA-256 of the modulus, which becomes MRSIGNER
	ProductID       uint16
	SecurityVersion uint16
	FamilyID        [16]byte // (KSS)
	ExtendedProdID  [16]byte // (KSS)
	Attributes      [16]byte // flags, XFRM
	AttributeMask   [16]byte // which attributes an enclave must have as they are here
	MiscSelect      uint32
	MiscMask        uint32
	Vendor          uint32
	Date            time.Time // when it was signed; zero if the field is no date
}

// Debug says in which mode the enclave can run.
type Debug string

// The modes.
const (
	NoDebug   Debug = "no"      // hardware refuses debug mode
	MayDebug  Debug = "allowed" // whoever starts the enclave chooses; a quote tells
	OnlyDebug Debug = "only"    // hardware refuses production mode
)

// Debug returns the mode that attributes and mask leave open.
func (s SigStruct) Debug() Debug {
	switch {
	case s.AttributeMask[0]&attributeDebug == 0:
		return MayDebug
	case s.Attributes[0]&attributeDebug != 0:
		return OnlyDebug
	}
	return NoDebug
}

// KSS reports whether the enclave uses key separation and sharing, with which
// FamilyID and ExtendedProdID come into its report.
func (s SigStruct) KSS() bool { return s.Attributes[0]&attributeKSS != 0 }

// Provision reports whether the enclave may ask for the provisioning key.
func (s SigStruct) Provision() bool { return s.Attributes[0]&attributeProvision != 0 }

// IsSigStruct reports whether b begins as a SIGSTRUCT.
func IsSigStruct(b []byte) bool {
	return len(b) >= 40 && bytes.Equal(b[:16], sigHeader) && bytes.Equal(b[24:40], sigHeader2)
}

// ParseSigStruct reads a SIGSTRUCT, exactly SigStructSize bytes, and checks what
// EINIT checks of it: constants, reserved bytes, and the RSA signature with Q1
// and Q2.
func ParseSigStruct(b []byte) (SigStruct, error) {
	if len(b) != SigStructSize {
		return SigStruct{}, fmt.Errorf("SIGSTRUCT has %d bytes, want %d", len(b), SigStructSize)
	}
	vendor := binary.LittleEndian.Uint32(b[16:])
	switch {
	case !IsSigStruct(b):
		return SigStruct{}, errors.New("SIGSTRUCT: the headers' constants are not there")
	case vendor != 0 && vendor != 0x8086:
		return SigStruct{}, fmt.Errorf("SIGSTRUCT: vendor %#x, want 0 or 0x8086", vendor)
	case !zero(b[44:128]) || !zero(b[910:912]) || !zero(b[992:1008]) || !zero(b[1028:1040]):
		return SigStruct{}, errors.New("SIGSTRUCT: reserved bytes are not zero")
	case binary.LittleEndian.Uint32(b[512:]) != 3:
		return SigStruct{}, fmt.Errorf("SIGSTRUCT: exponent %d, want 3", binary.LittleEndian.Uint32(b[512:]))
	}
	if err := checkSignature(b); err != nil {
		return SigStruct{}, fmt.Errorf("SIGSTRUCT: %w", err)
	}
	s := SigStruct{UniqueID: [32]byte(b[960:]), SignerID: sha256.Sum256(b[128:512]), Vendor: vendor,
		ProductID: binary.LittleEndian.Uint16(b[1024:]), SecurityVersion: binary.LittleEndian.Uint16(b[1026:]),
		FamilyID: [16]byte(b[912:]), ExtendedProdID: [16]byte(b[1008:]), Attributes: [16]byte(b[928:]), AttributeMask: [16]byte(b[944:]),
		MiscSelect: binary.LittleEndian.Uint32(b[900:]), MiscMask: binary.LittleEndian.Uint32(b[904:])}
	// Binary-coded decimal: yyyymmdd.
	if at, err := time.Parse("20060102", fmt.Sprintf("%08x", binary.LittleEndian.Uint32(b[20:]))); err == nil {
		s.Date = at
	}
	return s, nil
}

// number reads a little-endian number.
func number(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

// checkSignature checks RSA-3072 with PKCS #1 1.5 and SHA-256 over the header and
// the body, and that Q1 and Q2 are what hardware computes with.
func checkSignature(b []byte) error {
	n, s := number(b[128:512]), number(b[516:900])
	if n.BitLen() != 3072 {
		return fmt.Errorf("the modulus has %d bits, want 3072", n.BitLen())
	}
	sum := sha256.Sum256(append(slices.Clone(b[:128]), b[900:1028]...))
	if err := rsa.VerifyPKCS1v15(&rsa.PublicKey{N: n, E: 3}, crypto.SHA256, sum[:], s.FillBytes(make([]byte, 384))); err != nil {
		return fmt.Errorf("its signature does not hold: %w", err)
	}
	q1, r := new(big.Int).QuoRem(new(big.Int).Mul(s, s), n, new(big.Int)) // s² = q1·n + r
	q2 := r.Quo(r.Mul(r, s), n)                                           // r·s = q2·n + …
	if number(b[1040:1424]).Cmp(q1) != 0 || number(b[1424:1808]).Cmp(q2) != 0 {
		return errors.New("Q1 or Q2 does not belong to its signature")
	}
	return nil
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
