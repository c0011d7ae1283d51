package apiv1

import (
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
)

// LeafOID names the non-critical extension of a leaf that says what the
// identity rests on. The arc 2.999 belongs to nobody (ITU-T X.660 keeps it for
// examples) and the arcs below it are random, so that no other use meets it. An
// arc under 2.25 would hold a UUID, but a component of 128 bits makes the whole
// certificate unreadable for Go's and other parsers.
var LeafOID = asn1.ObjectIdentifier{2, 999, 187232511, 98123077, 1}

// LeafFacts is the value of the extension LeafOID: what an auditor needs to
// find the decision that a leaf was issued on. As DER:
//
//	LeafFacts ::= SEQUENCE {
//	  version   INTEGER (1),
//	  evidence  OCTET STRING (SIZE(32)),  -- attest.Evidence.Digest
//	  verdict   OCTET STRING (SIZE(32)),  -- SHA-256 of the verdict's JSON
//	  tee       UTF8String (SIZE(1..32)),
//	  manifest  OCTET STRING (SIZE(32)),  -- digest of the manifest in force
//	  record    INTEGER (0..MAX) }        -- sequence of the audit record
type LeafFacts struct {
	Evidence [32]byte
	Verdict  [32]byte
	TEE      attest.TEE
	Manifest [32]byte
	Record   uint64
}

const maxTEE = 32

type leafFactsDER struct {
	Version  int
	Evidence []byte
	Verdict  []byte
	TEE      string `asn1:"utf8"`
	Manifest []byte
	Record   int64
}

// Encode returns the DER form.
func (f LeafFacts) Encode() ([]byte, error) {
	if len(f.TEE) == 0 || len(f.TEE) > maxTEE || f.Record > 1<<62 {
		return nil, fmt.Errorf("encoding leaf facts: TEE %q or record %d out of range", f.TEE, f.Record)
	}
	return asn1.Marshal(leafFactsDER{1, f.Evidence[:], f.Verdict[:], string(f.TEE), f.Manifest[:], int64(f.Record)})
}

// ParseLeafFacts reads the DER form, strictly: version 1 and nothing after it.
func ParseLeafFacts(der []byte) (LeafFacts, error) {
	var d leafFactsDER
	rest, err := asn1.Unmarshal(der, &d)
	if err != nil {
		return LeafFacts{}, fmt.Errorf("reading leaf facts: %w", err)
	}
	if len(rest) != 0 {
		return LeafFacts{}, errors.New("reading leaf facts: bytes after the sequence")
	}
	if d.Version != 1 {
		return LeafFacts{}, fmt.Errorf("reading leaf facts: version %d, want 1", d.Version)
	}
	if len(d.Evidence) != 32 || len(d.Verdict) != 32 || len(d.Manifest) != 32 {
		return LeafFacts{}, errors.New("reading leaf facts: a digest is not of 32 bytes")
	}
	if len(d.TEE) == 0 || len(d.TEE) > maxTEE || d.Record < 0 {
		return LeafFacts{}, errors.New("reading leaf facts: TEE or record out of range")
	}
	f := LeafFacts{TEE: attest.TEE(d.TEE), Record: uint64(d.Record)}
	copy(f.Evidence[:], d.Evidence)
	copy(f.Verdict[:], d.Verdict)
	copy(f.Manifest[:], d.Manifest)
	return f, nil
}
