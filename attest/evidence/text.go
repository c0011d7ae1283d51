package evidence

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
)

// binary returns the bytes that a file of binary data holds as text: one PEM
// block (RFC 7468), or hexadecimal digits as provisioning services write CRLs.
// Anything else it returns as it is: no quote, report, certificate or CRL in
// binary reads as either.
func binary(b []byte) []byte {
	text := bytes.TrimSpace(b)
	if bytes.HasPrefix(text, []byte("-----BEGIN ")) {
		if block, rest := pem.Decode(text); block != nil && len(block.Headers) == 0 && len(rest) == 0 {
			return block.Bytes
		}
		return b
	}
	if decoded, err := hex.DecodeString(string(text)); err == nil && len(decoded) > 0 {
		return decoded
	}
	return b
}
