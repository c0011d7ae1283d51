package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// KeySize is the size of every key here, in bytes.
const KeySize = 32

const redacted = "[redacted]"

// Key is a 256-bit secret. It prints nothing of itself in any format, and it
// cannot be compared with ==. The zero Key is invalid.
type Key struct {
	b func() [KeySize]byte // fmt reaches through an unexported field for arrays and pointers, and shows a function's address
}

// NewKey copies 32 bytes. All-zero bytes are refused: they are what a platform
// without a real sealing key hands out.
func NewKey(b []byte) (Key, error) {
	if len(b) != KeySize {
		return Key{}, fmt.Errorf("a key has %d bytes, got %d", KeySize, len(b))
	}
	if allZero(b) {
		return Key{}, errors.New("the key is all zero")
	}
	own := [KeySize]byte(b)
	return Key{b: func() [KeySize]byte { return own }}, nil
}

// RandomKey reads a key from r.
func RandomKey(r io.Reader) (Key, error) {
	var b [KeySize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Key{}, fmt.Errorf("reading random bytes: %w", err)
	}
	return NewKey(b[:])
}

// Reveal returns a copy of the secret bytes, or nil for the zero Key. It is the
// only way to them.
func (k Key) Reveal() []byte {
	if k.b == nil {
		return nil
	}
	b := k.b()
	return b[:]
}

// Valid reports whether k holds a key.
func (k Key) Valid() bool { return k.b != nil }

// ID returns a public name for the key: 16 hex digits that tell nothing about
// it and that only this key has.
func (k Key) ID() string {
	m := hmac.New(sha256.New, k.Reveal())
	m.Write([]byte("ashlar key id v1"))
	return hex.EncodeToString(m.Sum(nil)[:8])
}

// String hides the key.
func (Key) String() string { return redacted }

// GoString hides the key from %#v.
func (Key) GoString() string { return redacted }

// Format hides the key from every other verb.
func (Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue hides the key from log/slog.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the key from encoding/json.
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

func allZero(b []byte) bool {
	var or byte
	for _, c := range b {
		or |= c
	}
	return or == 0
}
