// Package secrets generates, versions and releases the secrets that a manifest
// declares. It hands a value only to a marble that the manifest names as a
// reader, and it never prints one.
package secrets

import "log/slog"

// Value is one secret. A symmetric secret has Bytes; a certificate secret has
// PrivateKey and Certificates.
type Value struct {
	Bytes        []byte   `json:"bytes,omitempty"`
	PrivateKey   []byte   `json:"privateKey,omitempty"`   // PKCS #8 DER
	Certificates [][]byte `json:"certificates,omitempty"` // DER, leaf first
}

// String hides the value.
func (Value) String() string { return "[redacted]" }

// GoString hides the value.
func (Value) GoString() string { return "[redacted]" }

// LogValue hides the value.
func (Value) LogValue() slog.Value { return slog.StringValue("[redacted]") }
