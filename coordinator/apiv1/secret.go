package apiv1

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Secrets is GET /v1/secrets?after=NAME&limit=N.
type Secrets struct {
	Secrets []Secret `json:"secrets"`        // ordered by name
	Next    string   `json:"next,omitempty"` // pass as after; absent at the end
}

// Secret says about a secret what is not secret: GET /v1/secrets/{name}. Its
// newest version is also the ETag.
type Secret struct {
	Name        string    `json:"name"`
	Type        string    `json:"type"`
	Bits        int       `json:"bits,omitempty"`
	Scope       string    `json:"scope"`
	Readers     []string  `json:"readers"`
	Depositors  []string  `json:"depositors,omitempty"`
	Operations  []string  `json:"operations,omitempty"` // of a use-only key
	Version     uint64    `json:"version"`              // newest that ever was; 0 before the first
	Present     bool      `json:"present"`              // it has a value
	Values      int       `json:"values"`               // how many, of one that each instance has
	MadeAt      time.Time `json:"madeAt,omitzero"`      // the newest version
	SuppliedBy  string    `json:"suppliedBy,omitempty"` // "user alice", "marble web/INSTANCE"
	NotAfter    time.Time `json:"notAfter,omitzero"`    // of its certificate
	Previous    uint64    `json:"previous,omitempty"`   // version before, while the two overlap
	OverlapEnds time.Time `json:"overlapEnds,omitzero"`
	RotatesAt   time.Time `json:"rotatesAt,omitzero"` // by schedule
}

// SecretUpload is PUT /v1/secrets/{name}, with the version that it follows as
// If-Match ("0" for the first).
type SecretUpload struct {
	Sealed []byte `json:"sealed"` // SealSecret of the value; at most 64 KiB and 48 bytes
}

// SecretVersion answers it.
type SecretVersion struct {
	Name        string    `json:"name"`
	Version     uint64    `json:"version"`
	OverlapEnds time.Time `json:"overlapEnds,omitzero"` // of the version before
}

// SecretValue is POST /v1/secrets/{name}/reveal.
type SecretValue struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	Sealed  []byte `json:"sealed"` // SealSecret of RevealedSecret as JSON, to the key of the request
}

// RevealRequest asks for a value.
type RevealRequest struct {
	Key      []byte `json:"key"`                // X25519, 32 bytes: of a key pair made for this answer
	Instance string `json:"instance,omitempty"` // marble/id, of a secret that each instance has
}

// RevealedSecret is a value as a user reads it.
type RevealedSecret struct {
	Value        []byte   `json:"value,omitempty"`
	PrivateKey   []byte   `json:"privateKey,omitempty"`   // PKCS #8 DER
	Certificates [][]byte `json:"certificates,omitempty"` // DER, leaf first
}

// Format hides the value from every verb.
func (RevealedSecret) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[redacted]") } //nolint:errcheck // as fmt itself does

// RotateSecretRequest is POST /v1/secrets/{name}/rotate.
type RotateSecretRequest struct {
	Instance string `json:"instance,omitempty"` // marble/id; all instances' values if empty
}

// RotatedSecret answers it.
type RotatedSecret struct {
	Name    string    `json:"name"`
	Version uint64    `json:"version"`        // newest; of several values, the highest
	Values  int       `json:"values"`         // that were rotated
	Until   time.Time `json:"until,omitzero"` // when the version before is destroyed
}

// Purposes of a sealed secret, and what it is bound to.
const (
	SealUpload = "ashlar secret upload v1"
	SealReveal = "ashlar secret reveal v1"
)

// SealBinding is what a sealed secret is bound to: opened with any other, it
// gives nothing.
type SealBinding struct {
	Purpose string // SealUpload, SealReveal
	Root    []byte // root CA certificate of the deployment, DER
	Name    string // of the secret
	Version uint64 // upload: the version that the value follows; reveal: the version shown
}

// info is the HPKE info: the purpose, a zero byte, SHA-256 of the root (32),
// the version (8, big endian), and the name.
func (b SealBinding) info() []byte {
	root := sha256.Sum256(b.Root)
	out := append([]byte(b.Purpose), 0)
	out = append(out, root[:]...)
	out = binary.BigEndian.AppendUint64(out, b.Version)
	return append(out, b.Name...)
}

// UploadKeySize is the length of the public keys that secrets are sealed to.
const UploadKeySize = 32

// NewUploadKey makes a key pair that secrets can be sealed to.
func NewUploadKey() (hpke.PrivateKey, error) { return hpke.DHKEM(ecdh.X25519()).GenerateKey() }

// SealSecret encrypts a value to a public key (X25519, 32 bytes) with HPKE in
// base mode (RFC 9180; DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM):
// the encapsulated key (32 bytes), and the ciphertext with its tag (16).
func SealSecret(public []byte, b SealBinding, value []byte) ([]byte, error) {
	return sealTo(public, b.info(), value)
}

func sealTo(public, info, plain []byte) ([]byte, error) {
	key, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(public)
	if err != nil {
		return nil, errors.New("no X25519 key of 32 bytes to encrypt to")
	}
	return hpke.Seal(key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plain)
}

// OpenSecret is the inverse. The error says nothing about the value.
func OpenSecret(key hpke.PrivateKey, b SealBinding, sealed []byte) ([]byte, error) {
	value, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), b.info(), sealed)
	if err != nil {
		return nil, errors.New("it is sealed to another key, or for another secret, version or deployment, or was changed")
	}
	return value, nil
}
