package evidence_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// TestDocuments loads what collects several parts in one file.
func TestDocuments(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := tpm.Encode(tpm.Document{Key: attesttest.TPMPublic(t, &key.PublicKey), Quote: attesttest.TPMQuote(t, key, nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	genoa, milan := folder(t, "azure-vtpm/genoa-full"), folder(t, "snp/msft-milan-v3-vcek")
	vcek := &fstest.MapFile{Data: append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: milan["vcek.der"].Data}), milan["cert_chain.pem"].Data...)}
	for name, c := range map[string]struct {
		files fstest.MapFS
		tee   attest.TEE
		kinds []string // of endorsements
	}{
		"a TPM's":                  {fstest.MapFS{"evidence.json": {Data: raw}}, attest.TPM, nil},
		"Azure's, key inside":      {fstest.MapFS{"evidence.json": genoa["evidence.json"]}, attest.SNPAzure, []string{attest.KindVCEK}},
		"Azure's, key beside":      {fstest.MapFS{"evidence.json": genoa["evidence.json"], "vcek.pem": genoa["vcek.pem"]}, attest.SNPAzure, []string{attest.KindVCEK}},
		"Azure's with TDX":         {folder(t, "azure-vtpm/tdx-full"), attest.TDXAzure, []string{attest.KindPCKCRL, attest.KindQEIdentity, attest.KindRootCRL, attest.KindTCBInfo}},
		"a report, key and chain":  {fstest.MapFS{"report.bin": milan["report.bin"], "vcek.pem": vcek}, attest.SNP, []string{attest.KindAMDChain, attest.KindVCEK}},
		"a report, certain vcek":   {fstest.MapFS{"report.bin": milan["report.bin"], "vcek.der": milan["vcek.der"], "vcek.pem": genoa["vcek.pem"]}, attest.SNP, []string{attest.KindVCEK}},
		"a report with an old log": {fstest.MapFS{"report.bin": milan["report.bin"], "event_log.bin": {Data: []byte("log")}}, attest.SNP, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := evidence.Load(c.files)
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, it := range s.Endorsements.Items() {
				kinds = append(kinds, it.Kind)
			}
			if s.Evidence.TEE != c.tee || !slices.Equal(kinds, c.kinds) {
				t.Errorf("got %s with %v, want %s with %v", s.Evidence.TEE, kinds, c.tee, c.kinds)
			}
			if log := c.files["event_log.bin"]; log != nil && string(s.Evidence.EventLog) != "log" {
				t.Errorf("event log: got %q", s.Evidence.EventLog)
			}
			if der := c.files["vcek.der"]; der != nil {
				if it, _ := s.Endorsements.Get(attest.KindVCEK); string(it.Body) != string(der.Data) {
					t.Error("vcek.pem counts before vcek.der")
				}
			}
		})
	}
	if _, err := evidence.Load(fstest.MapFS{"report.bin": milan["report.bin"], "vcek.pem": {Data: []byte("x")}}); err == nil {
		t.Error("a damaged vcek.pem: got no error")
	}
}
