package nvidia

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// document is one GPU's evidence as NVIDIA's attestation SDK writes it. Further
// members are ignored: what counts is signed.
type document struct {
	Arch        string `json:"arch"`        // "HOPPER", "BLACKWELL"; may be absent
	Nonce       string `json:"nonce"`       // 64 hex digits; may be absent
	Evidence    []byte `json:"evidence"`    // base64: request and response
	Certificate []byte `json:"certificate"` // base64 of a PEM chain, leaf first
}

// Encode returns the evidence of one GPU as attest.Device.Raw holds it: report
// is the request and the response, chain PEM with the leaf first.
func Encode(report, chain []byte) []byte {
	out, err := json.Marshal([]document{{Evidence: report, Certificate: chain}})
	if err != nil {
		panic("nvidia: " + err.Error()) // strings and bytes always encode
	}
	return out
}

// MarshalJSON leaves out what is empty.
func (d document) MarshalJSON() ([]byte, error) {
	m := map[string]any{"evidence": d.Evidence, "certificate": d.Certificate}
	if d.Arch != "" {
		m["arch"] = d.Arch
	}
	if d.Nonce != "" {
		m["nonce"] = d.Nonce
	}
	return json.Marshal(m)
}

// Detect reports whether raw looks like a GPU's evidence.
func Detect(raw []byte) bool {
	d, err := decode(raw)
	return err == nil && len(d.Evidence) > requestSize && d.Evidence[1] == 0xe0
}

// decode reads a document, alone or as the only element of an array.
func decode(raw []byte) (document, error) {
	var list []document
	if strings.HasPrefix(strings.TrimLeft(string(raw[:min(len(raw), 64)]), " \t\r\n"), "{") {
		list = make([]document, 1)
		if err := json.Unmarshal(raw, &list[0]); err != nil {
			return document{}, err
		}
	} else if err := json.Unmarshal(raw, &list); err != nil {
		return document{}, err
	}
	if len(list) != 1 {
		return document{}, fmt.Errorf("evidence of %d GPUs, want one", len(list))
	}
	if len(list[0].Evidence) == 0 || len(list[0].Certificate) == 0 {
		return document{}, errors.New("no evidence or no certificate")
	}
	return list[0], nil
}

// agrees checks what the document says beside the report against it.
func (d document) agrees(r *report, architecture string) error {
	if nonce, err := hex.DecodeString(d.Nonce); d.Nonce != "" && (err != nil || string(nonce) != string(r.nonce)) {
		return errors.New("the nonce beside the report is not the report's")
	}
	if d.Arch != "" && !strings.EqualFold(d.Arch, architecture) {
		return fmt.Errorf("called %.32q, and the certificate is of %s", d.Arch, orUnknown(architecture))
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "an unknown architecture"
	}
	return s
}
