package azure

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// Collected is evidence as a guest collected it.
type Collected struct {
	TEE      attest.TEE // SNPAzure or TDXAzure
	Document Document
	VCEK     []byte // DER; nil if it is not there
}

// Collect reads a document of this package or evidence of an Azure vTPM as the
// attestation agents of Confidential Containers write it, versions 0 to 2: JSON
// with the members quote or tpm_quote (signature, message, pcrs), report or
// hcl_report, td_quote and vcek, each byte string an array of numbers,
// hexadecimal, base64 or PEM. It reports whether raw is one of them. Nothing is
// verified.
func Collect(raw []byte) (Collected, bool) {
	if d, err := decode(raw); err == nil {
		return Collected{TEE: kindOf(d), Document: d}, true
	}
	var c struct {
		Quote, TPMQuote   *quoted
		Report, HCLReport octets
		TDQuote, VCEK     octets
	}
	members := map[string]any{"quote": &c.Quote, "tpm_quote": &c.TPMQuote, "report": &c.Report, "hcl_report": &c.HCLReport, "td_quote": &c.TDQuote, "vcek": &c.VCEK}
	var all map[string]json.RawMessage
	if len(raw) > maxCollected || json.Unmarshal(raw, &all) != nil {
		return Collected{}, false
	}
	for name, value := range all {
		if target := members[name]; target != nil && json.Unmarshal(value, target) != nil {
			return Collected{}, false
		}
	}
	if c.Quote == nil {
		c.Quote = c.TPMQuote
	}
	if c.Report == nil {
		c.Report = c.HCLReport
	}
	if c.Quote == nil || len(c.Report) == 0 {
		return Collected{}, false
	}
	q, err := c.Quote.quote()
	if err != nil {
		return Collected{}, false
	}
	d := Document{Version: Version, Report: c.Report, Quote: q, TDQuote: c.TDQuote}
	return Collected{TEE: kindOf(d), Document: d, VCEK: c.VCEK}, true
}

// maxCollected bounds foreign evidence, in bytes: arrays of numbers take six
// times the space of what they hold.
const maxCollected = 8 * attest.MaxEvidence

func kindOf(d Document) attest.TEE {
	if len(d.TDQuote) > 0 {
		return attest.TDXAzure
	}
	return attest.SNPAzure
}

// quoted is a quote with a bare RSA signature and a list of all registers.
type quoted struct {
	Signature octets   `json:"signature"`
	Message   octets   `json:"message"`
	PCRs      []octets `json:"pcrs"`
}

func (q quoted) quote() (tpm.Quote, error) {
	if len(q.PCRs) > 24 || len(q.Signature) == 0 || len(q.Signature) > 1024 {
		return tpm.Quote{}, errors.New("too many registers, or no signature")
	}
	pcrs := make(map[string]attest.Hex, len(q.PCRs))
	for i, value := range q.PCRs {
		pcrs[strconv.Itoa(i)] = attest.Hex(value)
	}
	signature := binary.BigEndian.AppendUint16([]byte{0x00, 0x14, 0x00, 0x0b}, uint16(len(q.Signature))) // RSASSA, SHA-256
	return tpm.Quote{Attested: q.Message, Signature: append(signature, q.Signature...), PCRs: pcrs}, nil
}

// octets are bytes in any of the spellings that Collect names.
type octets []byte

// UnmarshalJSON implements json.Unmarshaler.
func (o *octets) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '[' {
		var b []uint8
		err := json.Unmarshal(raw, &b)
		*o = b
		return err
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	if block, _ := pem.Decode([]byte(text)); block != nil {
		*o = block.Bytes
		return nil
	}
	if b, err := hex.DecodeString(text); err == nil {
		*o = b
		return nil
	}
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("neither hexadecimal nor base64: %w", err)
	}
	*o = b
	return nil
}
