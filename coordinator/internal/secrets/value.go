// Package secrets generates, versions, uses and releases the secrets that a
// manifest declares. It hands a value only to a marble that the manifest names
// as a reader (one function, permitted, judges that), makes only what a marble
// asks for, and never prints a value.
//
// A shared secret has one value for the deployment; an instance secret has one
// for each marble instance, kept so that the instance finds it again after a
// restart, and dropped with the instance. Each value has a version, from 1.
// A rotation makes the next version and keeps the one before until the overlap
// of the two ends; then it is destroyed. Numbers are never used again, not even
// after a value was destroyed: lineage, which says who got which version, counts
// on that.
//
// Keys are generated outside of every transaction and lock: Find says what is
// missing, Maker.Make makes it, and Settle puts it in unless somebody was
// faster. It decides no right of a user: package coordinator does.
package secrets

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"
)

const redacted = "[redacted]"

// MaxValue is the size limit of a supplied value and of the input of an
// operation, in bytes.
const MaxValue = 64 << 10

// Value is one secret. A symmetric or supplied secret has Bytes; a key pair has
// PrivateKey and PublicKey; a certificate secret has Certificates besides. A
// use-only key pair has its PublicKey alone. It prints nothing of itself in any
// format. The slices must not be changed.
type Value struct {
	Bytes        []byte
	PrivateKey   []byte    // PKCS #8 DER
	PublicKey    []byte    // PKIX DER
	Certificates [][]byte  // DER, leaf first
	Serial       string    // of the certificate
	NotAfter     time.Time // of the certificate
	Version      uint64    // from 1
	Previous     *Value    // the version before, while the two overlap; it has none itself
}

// String hides the value.
func (Value) String() string { return redacted }

// GoString hides the value from %#v.
func (Value) GoString() string { return redacted }

// Format hides the value from every other verb.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the value from log/slog.
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the value from encoding/json.
func (Value) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// Size is about how many bytes the value takes in a message.
func (v Value) Size() int {
	n := len(v.Bytes) + len(v.PrivateKey) + len(v.PublicKey)
	for _, c := range v.Certificates {
		n += len(c)
	}
	if v.Previous != nil {
		n += v.Previous.Size()
	}
	return n
}
