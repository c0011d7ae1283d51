// Package secrets generates, versions and releases the secrets that a manifest
// declares. It hands a value only to a marble that the manifest names as a
// reader (one function, permitted, judges that), makes only what a marble asks
// for, and never prints a value.
//
// A shared secret has one value for the deployment; an instance secret has one
// for each marble instance, kept so that the instance finds it again after a
// restart, and dropped with the instance. Keys are generated outside of every
// transaction and lock: Find says what is missing, Maker.Make makes it, and
// Settle puts it in unless somebody was faster.
package secrets

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Value is one secret. A symmetric secret has Bytes; a certificate secret has
// PrivateKey and Certificates. It prints nothing of itself in any format. The
// slices must not be changed.
type Value struct {
	Bytes        []byte
	PrivateKey   []byte   // PKCS #8 DER
	Certificates [][]byte // DER, leaf first
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
