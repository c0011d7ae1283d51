package azure

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
	"github.com/ashlar-mesh/ashlar/internal/canonical"
)

// Version of the documents that Encode writes and the verifiers read.
const Version = 1

// NV indices and the handle of Azure's vTPM from which a guest collects its
// evidence.
const (
	// ReportIndex holds the paravisor's report, about 2600 bytes. It is made at
	// boot, and again when something was written to DataIndex.
	ReportIndex = 0x01400001
	// DataIndex takes 64 bytes that the next report's runtime data carry as
	// "user-data".
	DataIndex = 0x01400002
	// KeyHandle is the attestation key HCLAkPub: restricted, RSA 2048, RSASSA
	// with SHA-256.
	KeyHandle = 0x81000003
)

// Document is evidence of the kinds "snp:azure" and "tdx:azure". As JSON
// (docs/wire.md) it is at most attest.MaxEvidence bytes.
type Document struct {
	Version int       `json:"version"` // 1
	Report  []byte    `json:"report"`  // the paravisor's report, from ReportIndex
	Quote   tpm.Quote `json:"quote"`   // by the key at KeyHandle; what it binds is its qualifying data
	// TDQuote is the quote of the TD report in Report, which Azure's metadata
	// service has made; absent for SEV-SNP.
	TDQuote []byte `json:"tdQuote,omitempty"`
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

var errVersion = errors.New("not supported")

func decode(raw []byte) (Document, error) {
	var d Document
	if len(raw) > attest.MaxEvidence {
		return d, fmt.Errorf("larger than %d bytes", attest.MaxEvidence)
	}
	err := canonical.Unmarshal(raw, &d)
	if (err == nil || errors.Is(err, canonical.ErrForm)) && d.Version != Version {
		return d, fmt.Errorf("version %d is %w", d.Version, errVersion)
	}
	return d, err
}
