package secrets

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // SHA-384 and SHA-512, of signatures
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Operations besides those of a manifest: every reader of a key pair may ask for
// its public key, every reader of a counter may read and raise it.
const (
	Public  manifest.Operation = "public"
	Counted manifest.Operation = "read"
	Raise   manifest.Operation = "increment"
)

// MaxAssociated is the size limit of what is authenticated with a ciphertext.
const MaxAssociated = 4 << 10

// maxKeys bounds the parsed keys in memory.
const maxKeys = 256

// Usage asks for something to be done with a key.
type Usage struct {
	Name       string
	Operation  manifest.Operation
	Input      []byte // at most MaxValue
	Associated []byte // at most MaxAssociated: encrypt, decrypt
	Version    uint64 // 0 is the newest; decrypt: what the ciphertext says
	Hash       string // sign with RSA, ECDSA: "sha256" (also for ""), "sha384", "sha512"
}

// Format prints the secret's name and the operation alone.
func (u Usage) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%s with %s", u.Operation, u.Name) } //nolint:errcheck // as fmt itself does

// Grasp is a key that an asker may use, for one usage. It prints nothing.
type Grasp struct {
	usage    Usage
	versions []*version // to be tried in this order
}

// Format hides the key from every verb.
func (Grasp) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// Grip finds the key for a usage and judges whether the asker may: SEC-001,
// SEC-002; SEC-005: not an operation of the secret; SEC-007: the version does
// not count; SEC-008: input too large. What is not nil has to be made first.
func Grip(tx *store.Tx, req Request, u Usage) (Grasp, *Missing, error) {
	s, err := permitted(req.Manifest, req.Asker.Marble, u.Name, reader)
	if err != nil {
		return Grasp{}, nil, err
	}
	if err := u.check(s); err != nil {
		return Grasp{}, nil, err
	}
	r, miss, err := find(tx, s, req, u.Name)
	if err != nil || miss != nil {
		return Grasp{}, miss, err
	}
	g := Grasp{usage: u}
	if u.Version == 0 && u.Operation == manifest.Decrypt && s.Type == manifest.Symmetric {
		u.Version, _ = sealedVersion(u.Input)
	}
	v := r.numbered(u.Version, req.At)
	if v == nil {
		return Grasp{}, nil, problem.New("SEC-007", "version %d of secret %s; the newest is %d", u.Version, u.Name, r.Latest)
	}
	g.versions = []*version{v}
	if u.Version == 0 && u.Operation == manifest.Decrypt && r.overlaps(req.At) {
		g.versions = append(g.versions, r.Before) // RSA ciphertexts do not say of which key they are
	}
	return g, nil, nil
}

// check judges a usage by what the secret is for.
func (u Usage) check(s manifest.Secret) error {
	pair := s.Type != manifest.Symmetric && !supplied(s.Type)
	switch {
	case u.Operation == Public && pair:
	case !slices.Contains(s.Operations, u.Operation):
		return problem.New("SEC-005", "%.40q is no operation of secret %s (%s)", u.Operation, u.Name, s.Type)
	}
	if len(u.Input) > MaxValue || len(u.Associated) > MaxAssociated {
		return problem.New("SEC-008", "input of %d bytes and associated data of %d, at most %d and %d", len(u.Input), len(u.Associated), MaxValue, MaxAssociated)
	}
	return nil
}

// Keys does things with keys. It keeps those that it has parsed, so that a
// signature costs no more than the signature. It is safe for concurrent use.
type Keys struct {
	random  io.Reader
	private chan struct{} // one token for each operation with a private key: they leave half of the cores to others

	mu     sync.Mutex // guards parsed
	parsed map[*version]any
}

// NewKeys returns one that reads randomness from random.
func NewKeys(random io.Reader) *Keys {
	return &Keys{random: random, private: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), parsed: map[*version]any{}}
}

// Forget drops all parsed keys: call it when some were destroyed.
func (k *Keys) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.parsed)
}

// Do does what was asked for, and says with which version. It waits for a core
// until ctx ends: SEC-009. SEC-006: the input is not what the operation takes.
//
// Signatures: ECDSA in ASN.1 over the hash of the input (FIPS 186-5; SEC 1, C.5),
// RSASSA-PSS with a salt as long as the hash (RFC 8017), Ed25519 over the input
// (RFC 8032). HMAC: HMAC-SHA-256 under HKDF-SHA-256 of the key, 32 bytes.
// Ciphertexts under a symmetric key are in the form of seal; RSA decrypts OAEP
// with SHA-256 and the associated data as label.
func (k *Keys) Do(ctx context.Context, g Grasp) (output []byte, version uint64, err error) {
	if g.usage.Operation != Public && g.versions[0].PrivateKey != nil {
		select {
		case k.private <- struct{}{}:
			defer func() { <-k.private }()
		case <-ctx.Done():
			return nil, 0, problem.Because(ctx.Err(), "SEC-009", "waiting for %d others who sign or decrypt", cap(k.private))
		}
	}
	for _, v := range g.versions {
		if output, err = k.do(g.usage, v); err == nil {
			return output, v.Number, nil
		}
	}
	return nil, 0, problem.New("SEC-006", "%s with %s: %s", g.usage.Operation, g.usage.Name, err)
}

func (k *Keys) do(u Usage, v *version) ([]byte, error) {
	switch u.Operation {
	case Public:
		return v.PublicKey, nil
	case manifest.HMAC:
		key, err := hkdf.Key(sha256.New, v.Bytes, nil, "ashlar secret hmac v1", sha256.Size)
		if err != nil {
			return nil, err
		}
		mac := hmac.New(sha256.New, key)
		mac.Write(u.Input)
		return mac.Sum(nil), nil
	case manifest.Encrypt:
		return seal(k.random, v, u)
	case manifest.Sign:
		return k.sign(u, v)
	}
	if v.Bytes != nil {
		return unseal(v, u)
	}
	key, err := k.parse(v)
	if err != nil {
		return nil, err
	}
	pair, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T does not decrypt", key)
	}
	out, err := rsa.DecryptOAEP(sha256.New(), nil, pair, u.Input, u.Associated)
	if err != nil {
		return nil, errCiphertext
	}
	return out, nil
}

var hashes = map[string]crypto.Hash{"": crypto.SHA256, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}

func (k *Keys) sign(u Usage, v *version) ([]byte, error) {
	key, err := k.parse(v)
	if err != nil {
		return nil, err
	}
	if pair, ok := key.(ed25519.PrivateKey); ok {
		if u.Hash != "" {
			return nil, fmt.Errorf("Ed25519 takes no hash, got %.20q", u.Hash)
		}
		return ed25519.Sign(pair, u.Input), nil
	}
	hash, ok := hashes[u.Hash]
	if !ok {
		return nil, fmt.Errorf("hash %.20q, wanted sha256, sha384 or sha512", u.Hash)
	}
	h := hash.New()
	h.Write(u.Input)
	switch pair := key.(type) {
	case *ecdsa.PrivateKey:
		return ecdsa.SignASN1(k.random, pair, h.Sum(nil))
	case *rsa.PrivateKey:
		return rsa.SignPSS(k.random, pair, hash, h.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash})
	}
	return nil, fmt.Errorf("a key of type %T does not sign", key)
}

// parse returns a version's parsed private key. Versions are immutable, and
// the store gives the same one as long as the record is the same.
func (k *Keys) parse(v *version) (any, error) {
	k.mu.Lock()
	key := k.parsed[v]
	k.mu.Unlock()
	if key != nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(v.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("the key does not parse")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.parsed) >= maxKeys {
		clear(k.parsed)
	}
	k.parsed[v] = key
	return key, nil
}

// The form of a ciphertext: a byte 1, the key's version (8 bytes, big endian), a
// random salt, and AES-256-GCM of the plaintext. Key (32 bytes) and nonce (12)
// are HKDF-SHA-256 of the secret with the salt; the header and the associated
// data are authenticated. A message has a key of its own, so that the number of
// messages has no limit that anybody would have to count.
const (
	sealFormat = 1
	sealSalt   = 24
	sealHeader = 1 + 8 + sealSalt
	sealTag    = 16
)

var errCiphertext = fmt.Errorf("the ciphertext is not of this key, or was changed")

func sealedVersion(ciphertext []byte) (uint64, bool) {
	if len(ciphertext) < sealHeader+sealTag || ciphertext[0] != sealFormat {
		return 0, false
	}
	return binary.BigEndian.Uint64(ciphertext[1:]), true
}

func seal(random io.Reader, v *version, u Usage) ([]byte, error) {
	header := binary.BigEndian.AppendUint64([]byte{sealFormat}, v.Number)
	header = append(header, make([]byte, sealSalt)...)
	if _, err := io.ReadFull(random, header[9:]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	aead, nonce, err := messageKey(v, header)
	if err != nil {
		return nil, err
	}
	return aead.Seal(header, nonce, u.Input, append(slices.Clip(header), u.Associated...)), nil
}

func unseal(v *version, u Usage) ([]byte, error) {
	if n, ok := sealedVersion(u.Input); !ok || n != v.Number {
		return nil, errCiphertext
	}
	header := u.Input[:sealHeader]
	aead, nonce, err := messageKey(v, header)
	if err != nil {
		return nil, err
	}
	out, err := aead.Open(nil, nonce, u.Input[sealHeader:], append(slices.Clip(header), u.Associated...))
	if err != nil {
		return nil, errCiphertext
	}
	return out, nil
}

func messageKey(v *version, header []byte) (cipher.AEAD, []byte, error) {
	derived, err := hkdf.Key(sha256.New, v.Bytes, header[9:], "ashlar secret encrypt v1", 32+12)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(derived[:32])
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, derived[32:], err
}
