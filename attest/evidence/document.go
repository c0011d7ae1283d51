package evidence

import (
	"bytes"
	"encoding/pem"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/azure"
	"github.com/ashlar-mesh/ashlar/attest/pki"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// document reads evidence.json, of an Azure confidential VM or of a TPM, and
// adds the chip's certificate that may stand in it to the endorsements; those
// count first.
func (f *folder) document(items []attest.Endorsement) (attest.Evidence, []attest.Endorsement) {
	raw := f.read(DocumentFile)
	if tpm.Detect(raw) {
		return attest.Evidence{TEE: attest.TPM, Raw: raw}, items
	}
	c, ok := azure.Collect(raw)
	if !ok {
		return attest.Evidence{}, items
	}
	encoded, err := azure.Encode(c.Document)
	f.note(DocumentFile, err)
	if c.VCEK != nil {
		items = append([]attest.Endorsement{{Kind: attest.KindVCEK, Body: c.VCEK}}, items...)
	}
	return attest.Evidence{TEE: c.TEE, Raw: encoded}, items
}

// key reads the certificate of a key in PEM, and its chain if that is there too.
func (f *folder) key(name, kind string) []attest.Endorsement {
	b := f.read(name)
	if b == nil {
		return nil
	}
	certs, err := pki.ParseCertificates(b)
	if err != nil {
		f.note(name, err)
		return nil
	}
	items := []attest.Endorsement{{Kind: kind, Body: certs[0].Raw}}
	if len(certs) > 1 {
		var chain bytes.Buffer
		for _, c := range certs[1:] {
			chain.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
		}
		items = append(items, attest.Endorsement{Kind: attest.KindAMDChain, Body: chain.Bytes()})
	}
	return items
}
