package ratls

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
)

const (
	codeKey     = "ATT-084" // evidence does not vouch for the certificate's key
	codeClaims  = "ATT-070" // claims buffer damaged
	codePurpose = "ATT-071" // claims buffer of another purpose
)

// Binding returns the report data that the evidence must carry to vouch for
// the certificate's key: the hash of the claims buffer, or in the forms
// without one the hash of the key. Open Enclave hashes the key in one of two
// ways; the one that the quote carries is returned, else the first.
func (f Found) Binding(cert *x509.Certificate) attest.Binding {
	if f.ClaimsBuffer != nil {
		return attest.Bind(f.ClaimsBuffer)
	}
	want := attest.Bind(cert.RawSubjectPublicKeyInfo)
	if f.Form == FormOpenEnclave {
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: cert.RawSubjectPublicKeyInfo})
		other := attest.Bind(append(text, 0))
		if got, err := reportData(f.Evidence.Raw); err == nil && got == other {
			return other
		}
	}
	return want
}

// CheckBinding checks that the evidence vouches for the certificate's key: that
// the report data is what Binding demands, and that the claims buffer, where
// there is one, names the key and is of purpose "peer" or of none. A verdict on
// the evidence itself is attest.Judge's.
func (f Found) CheckBinding(cert *x509.Certificate) []attest.Step {
	want := f.Binding(cert)
	got, err := reportData(f.Evidence.Raw)
	s := attest.Step{
		Code: codeKey, Field: "ratls.reportData", OK: err == nil && got == want,
		Want: hex.EncodeToString(want[:]), Got: hex.EncodeToString(got[:]), Source: string(f.Form),
	}
	if err != nil {
		s.Got = err.Error()
	}
	steps := []attest.Step{s}
	if f.ClaimsBuffer != nil {
		steps = append(steps, f.checkClaims(cert)...)
	}
	for i := range steps {
		if !steps[i].OK {
			steps[i].Fix = attest.Fix{Who: attest.ServiceOwner, How: "make the RA-TLS certificate again, with evidence for its own key"}
		}
	}
	return steps
}

// hashes are the algorithms of "pubkey-hash" by their number in IANA's Named
// Information Hash Algorithm Registry.
var hashes = map[uint64]func([]byte) []byte{
	binding.SHA256ID: func(b []byte) []byte { s := sha256.Sum256(b); return s[:] },
	7:                func(b []byte) []byte { s := sha512.Sum384(b); return s[:] },
	8:                func(b []byte) []byte { s := sha512.Sum512(b); return s[:] },
}

func (f Found) checkClaims(cert *x509.Certificate) []attest.Step {
	id, hash, purpose, err := readClaims(f.ClaimsBuffer)
	if err != nil {
		return []attest.Step{{
			Code: codeClaims, Field: "ratls.claims", Want: "a claims buffer with pubkey-hash", Got: err.Error(), Source: string(f.Form),
		}}
	}
	sum := hashes[id](cert.RawSubjectPublicKeyInfo)
	steps := []attest.Step{{
		Code: codeKey, Field: "ratls.key", OK: bytes.Equal(hash, sum),
		Want: hex.EncodeToString(sum), Got: hex.EncodeToString(hash), Source: string(f.Form),
	}}
	if purpose != "" {
		steps = append(steps, attest.Step{
			Code: codePurpose, Field: "ratls.purpose", OK: purpose == binding.Peer,
			Want: string(binding.Peer), Got: string(purpose), Source: string(f.Form),
		})
	}
	return steps
}

// readClaims reads the key's hash. A buffer with a purpose is ours and must be
// canonical; others may have keys of their own, which mean nothing here.
func readClaims(b []byte) (id uint64, hash []byte, purpose binding.Purpose, err error) {
	var m map[string]cbor.RawMessage
	if err := decMode.Unmarshal(b, &m); err != nil {
		return 0, nil, "", fmt.Errorf("reading the claims buffer: %w", err)
	}
	if _, ours := m["purpose"]; ours {
		c, err := binding.Parse(b)
		return binding.SHA256ID, c.PublicKey[:], c.Purpose, err
	}
	var inner []byte
	if err := decMode.Unmarshal(m["pubkey-hash"], &inner); err != nil {
		return 0, nil, "", fmt.Errorf("reading pubkey-hash: %w", err)
	}
	var k struct {
		_         struct{} `cbor:",toarray"`
		Algorithm uint64
		Hash      []byte
	}
	if err := decMode.Unmarshal(inner, &k); err != nil {
		return 0, nil, "", fmt.Errorf("reading pubkey-hash: %w", err)
	}
	if hashes[k.Algorithm] == nil {
		return 0, nil, "", fmt.Errorf("pubkey-hash with algorithm %d, want 1, 7 or 8", k.Algorithm)
	}
	return k.Algorithm, k.Hash, "", nil
}

// Nonce returns the nonce in a claims buffer, nil if it has none.
func (f Found) Nonce() []byte {
	var m map[string]cbor.RawMessage
	var nonce []byte
	if decMode.Unmarshal(f.ClaimsBuffer, &m) != nil || decMode.Unmarshal(m["nonce"], &nonce) != nil {
		return nil
	}
	return nonce
}
