package shares

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"filippo.io/age"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Bounds of RSA keys, in bits.
const (
	minRSA = 2048
	maxRSA = 4096
)

// maxSealed bounds an encrypted share, in bytes: RSA-4096 has 512, age about 300.
const maxSealed = 2 << 10

var oaepLabel = []byte("ashlar recovery share v1")

// Recipient is a public key that shares are encrypted to.
type Recipient struct {
	rsa *rsa.PublicKey
	age *age.X25519Recipient
}

// ParseRecipient reads a public key as a manifest has it: RSA of 2048 to 4096
// bits (PEM, PKIX), or an age recipient (age1…). The error is REC-010.
func ParseRecipient(text string) (Recipient, error) {
	if strings.HasPrefix(text, "age1") {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return Recipient{}, problem.Because(err, "REC-010", "reading an age recipient")
		}
		return Recipient{age: r}, nil
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return Recipient{}, problem.New("REC-010", "wanted one PEM block PUBLIC KEY with an RSA key, or age1…")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Recipient{}, problem.Because(err, "REC-010", "reading a public key")
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < minRSA || public.N.BitLen() > maxRSA {
		return Recipient{}, problem.New("REC-010", "wanted RSA of %d to %d bits, got a key of type %T", minRSA, maxRSA, key)
	}
	return Recipient{rsa: public}, nil
}

// seal encrypts the bytes of a share.
func (r Recipient) seal(random io.Reader, plain []byte) ([]byte, error) {
	if r.rsa != nil {
		b, err := rsa.EncryptOAEP(sha256.New(), random, r.rsa, plain, oaepLabel)
		if err != nil {
			return nil, fmt.Errorf("encrypting a share: %w", err)
		}
		return b, nil
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r.age)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encrypting a share: %w", err)
	}
	return out.Bytes(), nil
}

// Seal encrypts a share to its holder.
func (s Share) Seal(random io.Reader, to Recipient) ([]byte, error) {
	plain, err := s.encode()
	if err != nil {
		return nil, err
	}
	return to.seal(random, plain)
}

// PrivateKey opens what was encrypted to a Recipient. It prints nothing of
// itself.
type PrivateKey struct {
	_   [0]func()
	rsa *rsa.PrivateKey
	age *age.X25519Identity
}

// Format hides the key from every verb.
func (PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides it from log/slog.
func (PrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// NewPrivateKey makes an X25519 key for age.
func NewPrivateKey() (PrivateKey, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return PrivateKey{}, fmt.Errorf("making an age key: %w", err)
	}
	return PrivateKey{age: id}, nil
}

// NewRSAKey makes an RSA key of 2048 to 4096 bits.
func NewRSAKey(random io.Reader, bits int) (PrivateKey, error) {
	if bits < minRSA || bits > maxRSA {
		return PrivateKey{}, problem.New("REC-010", "wanted RSA of %d to %d bits, got %d", minRSA, maxRSA, bits)
	}
	k, err := rsa.GenerateKey(random, bits)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("making an RSA key: %w", err)
	}
	return PrivateKey{rsa: k}, nil
}

// ParsePrivateKey reads a file with one private key: what age-keygen writes
// (lines that begin with # do not count), or RSA in PEM (PKCS #8 or PKCS #1).
// The error is REC-010.
func ParsePrivateKey(file []byte) (PrivateKey, error) {
	if block, _ := pem.Decode(file); block != nil {
		return parseRSA(block)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(file))
	if err != nil {
		// The library's error may hold a part of the line.
		return PrivateKey{}, problem.New("REC-010", "wanted one line AGE-SECRET-KEY-1…, or an RSA key in PEM")
	}
	id, ok := ids[0].(*age.X25519Identity)
	if !ok || len(ids) != 1 {
		return PrivateKey{}, problem.New("REC-010", "wanted one X25519 key, got %d keys", len(ids))
	}
	return PrivateKey{age: id}, nil
}

func parseRSA(block *pem.Block) (PrivateKey, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return PrivateKey{}, problem.New("REC-010", "a PEM block %.40q is no private key", block.Type)
	}
	private, ok := key.(*rsa.PrivateKey)
	if err != nil || !ok {
		return PrivateKey{}, problem.New("REC-010", "the PEM block holds no RSA key")
	}
	return PrivateKey{rsa: private}, nil
}

// Public returns the public key as a manifest takes it.
func (k PrivateKey) Public() (string, error) {
	if k.age != nil {
		return k.age.Recipient().String(), nil
	}
	der, err := x509.MarshalPKIXPublicKey(&k.rsa.PublicKey)
	if err != nil {
		return "", fmt.Errorf("encoding the public key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// Reveal returns the file that ParsePrivateKey reads.
func (k PrivateKey) Reveal() ([]byte, error) {
	if k.age != nil {
		return []byte(k.age.String() + "\n"), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.rsa)
	if err != nil {
		return nil, fmt.Errorf("encoding the private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Open decrypts a share. One that was encrypted to another key is REC-011, one
// that is none REC-016.
func (k PrivateKey) Open(sealed []byte) (Share, error) {
	if len(sealed) > maxSealed {
		return Share{}, problem.New("REC-016", "an encrypted share has at most %d bytes, got %d", maxSealed, len(sealed))
	}
	var plain []byte
	var err error
	if k.rsa != nil {
		plain, err = rsa.DecryptOAEP(sha256.New(), nil, k.rsa, sealed, oaepLabel)
	} else {
		var r io.Reader
		if r, err = age.Decrypt(bytes.NewReader(sealed), k.age); err == nil {
			plain, err = io.ReadAll(io.LimitReader(r, int64(shareSize)+1))
		}
	}
	if err != nil {
		return Share{}, problem.Because(err, "REC-011", "decrypting the share")
	}
	return parseShare(plain)
}
