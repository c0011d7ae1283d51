// Package binding owns the claims buffer: the one message that ties evidence
// to what it was made for. Its SHA-256 is the report data that the hardware
// signs (attest.Bind), so nothing in it can be changed, and evidence made for
// one purpose, key, nonce or TLS session is worthless for another.
//
// The buffer is a CBOR map in core deterministic encoding (RFC 8949, 4.2.1).
// It uses the keys of the CCC interoperable RA-TLS format, "pubkey-hash" and
// "nonce", where they exist. docs/wire.md gives the format with test vectors.
//
// Parse accepts nothing but what Encode writes. The package judges no
// evidence, knows no TLS and keeps no nonces.
package binding

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/ashlar-mesh/ashlar/attest"
)

const (
	// MaxSize is the size limit of a claims buffer, in bytes.
	MaxSize = 4 << 10
	// NonceSize is the length of a nonce, in bytes.
	NonceSize = 32
	// ExporterSize is the length of the TLS exporter value, in bytes.
	ExporterSize = 32
	// ExporterLabel is the label under which both ends of a TLS 1.3 session
	// export the value that binds evidence to it (RFC 8446, 7.5), with an empty
	// context.
	ExporterLabel = "EXPORTER-ashlar-attestation"
)

// Purpose says what evidence was made for.
type Purpose string

// The purposes. Closed: Parse refuses any other.
const (
	Activate    Purpose = "activate"    // a marble asks for its first lease
	Renew       Purpose = "renew"       // a marble asks for its next leaf
	Coordinator Purpose = "coordinator" // the coordinator's statement
	Peer        Purpose = "peer"        // an RA-TLS certificate between programs
	Recovery    Purpose = "recovery"    // a session to which holders send shares
	Replica     Purpose = "replica"     // a coordinator asks another one for the key of the state
)

// Claims is the content of a claims buffer. An empty field is absent. Which
// fields a purpose must and may have:
//
//	activate, renew   PublicKey, Nonce, Exporter; optional Devices
//	replica           PublicKey, Nonce, Exporter; optional Devices
//	coordinator       PublicKey, Nonce, Root, Checkpoint, Log; optional Exporter, Manifest, Floors, Epoch, Upload, BreakGlass
//	peer              PublicKey; optional Nonce, Exporter
//	recovery          PublicKey, Nonce, Session
type Claims struct {
	Purpose    Purpose
	PublicKey  [32]byte // KeyHash of the key that the evidence vouches for
	Nonce      []byte   // 32 bytes, the verifier's
	Exporter   []byte   // 32 bytes, of the TLS session (ExporterLabel)
	Root       []byte   // SHA-256 of the root CA certificate, DER
	Manifest   []byte   // digest of the manifest in force, 32 bytes
	Checkpoint []byte   // SHA-256 of the log's newest checkpoint, a signed note
	Log        []byte   // SHA-256 of the log's verifier key, as its text
	Devices    []byte   // attest.DevicesDigest of the devices that belong to the evidence, 32 bytes
	Floors     []byte   // SHA-256 of the floors in force as the statement has them, 32 bytes
	Epoch      []byte   // SHA-256 of the epoch as the statement has it, 32 bytes; absent in the first
	Session    []byte   // SHA-256 of the recovery session, 32 bytes
	Upload     []byte   // SHA-256 of the key that secrets are sealed to, X25519
	BreakGlass []byte   // SHA-256 of the statement's list of rules that are lifted for a while, 32 bytes; absent where none is
}

// KeyHash is the hash by which a claims buffer names a public key: SHA-256 of
// its SubjectPublicKeyInfo, PKIX DER.
func KeyHash(spki []byte) [32]byte { return sha256.Sum256(spki) }

// x25519 is what the SubjectPublicKeyInfo of an X25519 key begins with (RFC 8410);
// the 32 bytes of the key follow.
const x25519 = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00"

// KeyHashX25519 is the KeyHash of a raw X25519 key: that of its
// SubjectPublicKeyInfo, as of every other key.
func KeyHashX25519(key []byte) [32]byte { return KeyHash(append([]byte(x25519), key...)) }

// SHA256ID names SHA-256 in "pubkey-hash" (IANA Named Information Hash
// Algorithm Registry).
const SHA256ID = 1

// wire is the map as it is encoded.
type wire struct {
	Purpose    string `cbor:"purpose,omitempty"`
	KeyHash    []byte `cbor:"pubkey-hash,omitempty"` // the encoding of a keyHash
	Nonce      []byte `cbor:"nonce,omitempty"`
	Exporter   []byte `cbor:"exporter,omitempty"`
	Root       []byte `cbor:"root,omitempty"`
	Manifest   []byte `cbor:"manifest,omitempty"`
	Checkpoint []byte `cbor:"checkpoint,omitempty"`
	Log        []byte `cbor:"log,omitempty"`
	Devices    []byte `cbor:"devices,omitempty"`
	Floors     []byte `cbor:"floors,omitempty"`
	Epoch      []byte `cbor:"epoch,omitempty"`
	Session    []byte `cbor:"session,omitempty"`
	Upload     []byte `cbor:"upload,omitempty"`
	BreakGlass []byte `cbor:"break-glass,omitempty"`
}

type keyHash struct {
	_         struct{} `cbor:",toarray"`
	Algorithm uint64
	Hash      []byte
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       16,
	}.DecMode())
)

// must panics on an error in the constant options above.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Encode returns the claims buffer. It judges nothing: a buffer that lacks what
// its purpose needs is refused by Parse.
func (c Claims) Encode() []byte {
	hash := must(encMode.Marshal(keyHash{Algorithm: SHA256ID, Hash: c.PublicKey[:]}))
	return must(encMode.Marshal(wire{
		Purpose: string(c.Purpose), KeyHash: hash, Nonce: c.Nonce, Exporter: c.Exporter,
		Root: c.Root, Manifest: c.Manifest, Checkpoint: c.Checkpoint, Log: c.Log, Devices: c.Devices, Floors: c.Floors, Epoch: c.Epoch, Session: c.Session, Upload: c.Upload, BreakGlass: c.BreakGlass,
	}))
}

// Binding returns the report data that evidence for these claims must carry.
func (c Claims) Binding() attest.Binding { return attest.Bind(c.Encode()) }

// Parse reads a claims buffer of at most MaxSize bytes. It refuses every
// encoding but the canonical one, unknown and repeated keys, a field of the
// wrong length, and a field that the purpose lacks or does not have.
func Parse(b []byte) (Claims, error) {
	if len(b) > MaxSize {
		return Claims{}, fmt.Errorf("claims buffer has %d bytes, limit %d", len(b), MaxSize)
	}
	var w wire
	if err := decMode.Unmarshal(b, &w); err != nil {
		return Claims{}, fmt.Errorf("reading claims buffer: %w", err)
	}
	var k keyHash
	if err := decMode.Unmarshal(w.KeyHash, &k); err != nil {
		return Claims{}, fmt.Errorf("reading pubkey-hash: %w", err)
	}
	if k.Algorithm != SHA256ID || len(k.Hash) != sha256.Size {
		return Claims{}, fmt.Errorf("pubkey-hash has algorithm %d and %d bytes, want %d (SHA-256) and %d",
			k.Algorithm, len(k.Hash), SHA256ID, sha256.Size)
	}
	c := Claims{
		Purpose: Purpose(w.Purpose), PublicKey: [32]byte(k.Hash), Nonce: w.Nonce, Exporter: w.Exporter,
		Root: w.Root, Manifest: w.Manifest, Checkpoint: w.Checkpoint, Log: w.Log, Devices: w.Devices, Floors: w.Floors, Epoch: w.Epoch, Session: w.Session, Upload: w.Upload, BreakGlass: w.BreakGlass,
	}
	if err := c.validate(); err != nil {
		return Claims{}, err
	}
	if !bytes.Equal(c.Encode(), b) {
		return Claims{}, errors.New("claims buffer is not in deterministic encoding")
	}
	return c, nil
}

type presence int

const (
	forbidden presence = iota
	optional
	required
)

// rules holds what a purpose demands of each field in the order of fields.
var rules = map[Purpose][12]presence{
	Activate:    {required, required, forbidden, forbidden, forbidden, forbidden, optional, forbidden, forbidden, forbidden, forbidden, forbidden},
	Renew:       {required, required, forbidden, forbidden, forbidden, forbidden, optional, forbidden, forbidden, forbidden, forbidden, forbidden},
	Replica:     {required, required, forbidden, forbidden, forbidden, forbidden, optional, forbidden, forbidden, forbidden, forbidden, forbidden},
	Coordinator: {required, optional, required, optional, required, required, forbidden, optional, optional, forbidden, optional, optional},
	Peer:        {optional, optional, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden},
	Recovery:    {required, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden, required, forbidden, forbidden},
}

type field struct {
	name, code, what string
	value            []byte
}

// fields lists the optional fields in the order of rules; each has 32 bytes.
func (c Claims) fields() [12]field {
	return [12]field{
		{"nonce", "ATT-072", "the nonce of this challenge", c.Nonce},
		{"exporter", "ATT-073", "the exporter of this TLS session", c.Exporter},
		{"root", "ATT-075", "the root CA certificate", c.Root},
		{"manifest", "ATT-076", "the manifest in force", c.Manifest},
		{"checkpoint", "ATT-077", "the log checkpoint", c.Checkpoint},
		{"log", "LOG-013", "the key of the log", c.Log},
		{"devices", "ATT-050", "the devices of the evidence", c.Devices},
		{"floors", "ATT-078", "the floors in force", c.Floors},
		{"epoch", "REC-006", "the epoch of the state", c.Epoch},
		{"session", "REC-007", "the recovery session", c.Session},
		{"upload", "SEC-015", "the key for secrets", c.Upload},
		{"break-glass", "INC-023", "the rules that are lifted", c.BreakGlass},
	}
}

func (c Claims) validate() error {
	rule, ok := rules[c.Purpose]
	if !ok {
		return fmt.Errorf("unknown purpose %.32q", c.Purpose)
	}
	for i, f := range c.fields() {
		switch {
		case len(f.value) == 0 && rule[i] == required:
			return fmt.Errorf("purpose %q without %s", c.Purpose, f.name)
		case len(f.value) != 0 && rule[i] == forbidden:
			return fmt.Errorf("purpose %q with %s", c.Purpose, f.name)
		case len(f.value) != 0 && len(f.value) != 32:
			return fmt.Errorf("%s has %d bytes, want 32", f.name, len(f.value))
		}
	}
	return nil
}
