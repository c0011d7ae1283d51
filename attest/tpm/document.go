package tpm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/canonical"
)

// Version of the documents that Encode writes and the verifier reads.
const Version = 1

// MaxCertificates in the chain of an attestation key.
const MaxCertificates = 4

// Document is evidence of the kind "tpm": a quote, the public key that signed
// it, and who stands for that key. As JSON (docs/wire.md) it is at most
// attest.MaxEvidence bytes.
type Document struct {
	Version int   `json:"version"` // 1
	Quote   Quote `json:"quote"`
	// Key is the attestation key, TPMT_PUBLIC.
	Key []byte `json:"key"`
	// Certificates are DER: that of Key first, each issued by the next. The root
	// may be left out; without a chain nobody stands for the key.
	Certificates [][]byte `json:"certificates,omitempty"`
}

// Quote is what TPM2_Quote returned, with the registers that it covers (TPM 2.0
// Library, part 3, section 18.4).
type Quote struct {
	Attested  []byte                `json:"attested"`  // TPMS_ATTEST, without the size in front
	Signature []byte                `json:"signature"` // TPMT_SIGNATURE
	PCRs      map[string]attest.Hex `json:"pcrs"`      // "0" to "23" of the SHA-256 bank, 32 bytes each: exactly those that were quoted
}

// Encode returns the canonical form of a document, the only one that is read.
// Version is set by it.
func Encode(d Document) ([]byte, error) {
	d.Version = Version
	b, err := json.Marshal(d)
	if err == nil && len(b) > attest.MaxEvidence {
		err = fmt.Errorf("%d bytes, evidence has at most %d", len(b), attest.MaxEvidence)
	}
	return b, err
}

func decode(raw []byte) (Document, error) {
	var d Document
	if len(raw) > attest.MaxEvidence {
		return d, fmt.Errorf("larger than %d bytes", attest.MaxEvidence)
	}
	err := canonical.Unmarshal(raw, &d)
	if (err == nil || errors.Is(err, canonical.ErrForm)) && d.Version != Version {
		return d, fmt.Errorf("version %d is %w", d.Version, errVersion)
	}
	if err != nil {
		return d, err
	}
	if len(d.Certificates) > MaxCertificates {
		return d, fmt.Errorf("%d certificates, at most %d", len(d.Certificates), MaxCertificates)
	}
	return d, nil
}

var errVersion = errors.New("not supported")

// registers orders the values by number. Anything but "0" to "23" with 32 bytes
// is refused.
func (q Quote) registers() ([maxRegisters]attest.Hex, error) {
	var ordered [maxRegisters]attest.Hex
	for name, value := range q.PCRs {
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil || n >= maxRegisters || name != strconv.FormatUint(n, 10) {
			return ordered, fmt.Errorf("%q is no register from 0 to %d", name, maxRegisters-1)
		}
		if len(value) != digestSize {
			return ordered, fmt.Errorf("register %s has %d bytes, the SHA-256 bank has %d", name, len(value), digestSize)
		}
		ordered[n] = value
	}
	return ordered, nil
}

// Detect reports whether raw is a document that Encode wrote. Nothing is
// verified.
func Detect(raw []byte) bool {
	_, err := decode(raw)
	return err == nil
}
