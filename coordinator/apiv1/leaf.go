package apiv1

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// LeafOID names the non-critical extension of a leaf that says what the
// identity rests on. The arc 2.999 belongs to nobody (ITU-T X.660 keeps it for
// examples) and the arcs below it are random, so that no other use meets it. An
// arc under 2.25 would hold a UUID, but a component of 128 bits makes the whole
// certificate unreadable for Go's and other parsers.
var LeafOID = asn1.ObjectIdentifier{2, 999, 187232511, 98123077, 1}

// LeafFacts is the value of the extension LeafOID: what an auditor needs to
// find the decision that a leaf was issued on, and the log's promise that it
// stands there. As DER:
//
//	LeafFacts ::= SEQUENCE {
//	  version   INTEGER (1),
//	  evidence  OCTET STRING (SIZE(32)),  -- attest.Evidence.Digest
//	  verdict   OCTET STRING (SIZE(32)),  -- SHA-256 of the verdict's JSON
//	  tee       UTF8String (SIZE(1..32)),
//	  manifest  OCTET STRING (SIZE(32)),  -- digest of the manifest in force
//	  index     INTEGER (0..MAX),         -- of the entry in the log
//	  leaf      OCTET STRING (SIZE(32)),  -- its leaf hash (RFC 6962)
//	  promise   OCTET STRING (SIZE(64)) } -- transparency.Promise, the signature
type LeafFacts struct {
	Evidence [32]byte
	Verdict  [32]byte
	TEE      attest.TEE
	Manifest [32]byte
	Log      transparency.Promise
}

const maxTEE = 32

type leafFactsDER struct {
	Version  int
	Evidence []byte
	Verdict  []byte
	TEE      string `asn1:"utf8"`
	Manifest []byte
	Index    int64
	Leaf     []byte
	Promise  []byte
}

// Encode returns the DER form.
func (f LeafFacts) Encode() ([]byte, error) {
	if len(f.TEE) == 0 || len(f.TEE) > maxTEE || f.Log.Index > 1<<62 {
		return nil, fmt.Errorf("encoding leaf facts: TEE %q or index %d out of range", f.TEE, f.Log.Index)
	}
	return asn1.Marshal(leafFactsDER{
		1, f.Evidence[:], f.Verdict[:], string(f.TEE), f.Manifest[:], int64(f.Log.Index), f.Log.Leaf[:], f.Log.Signature[:],
	})
}

// ParseLeafFacts reads the DER form, strictly: what Encode writes.
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
	if len(d.Evidence) != 32 || len(d.Verdict) != 32 || len(d.Manifest) != 32 || len(d.Leaf) != 32 || len(d.Promise) != 64 {
		return LeafFacts{}, errors.New("reading leaf facts: a digest is not of 32 bytes, or the promise not of 64")
	}
	if d.Index < 0 {
		return LeafFacts{}, fmt.Errorf("reading leaf facts: index %d", d.Index)
	}
	f := LeafFacts{
		Evidence: [32]byte(d.Evidence), Verdict: [32]byte(d.Verdict), TEE: attest.TEE(d.TEE), Manifest: [32]byte(d.Manifest),
		Log: transparency.Promise{Index: uint64(d.Index), Leaf: [32]byte(d.Leaf), Signature: [64]byte(d.Promise)},
	}
	if again, err := f.Encode(); err != nil || !bytes.Equal(again, der) {
		return LeafFacts{}, errors.New("reading leaf facts: not written in their only form")
	}
	return f, nil
}
