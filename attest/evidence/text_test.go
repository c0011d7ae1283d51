package evidence_test

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"testing"
	"testing/fstest"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
)

// TestLoadText checks that evidence and endorsements as text are what they are
// in binary.
func TestLoadText(t *testing.T) {
	digits := func(b []byte) []byte { return append([]byte(hex.EncodeToString(b)), '\n') }
	upper := func(b []byte) []byte { return bytes.ToUpper(digits(b)) }
	block := func(kind string) func([]byte) []byte {
		return func(b []byte) []byte {
			return bytes.ReplaceAll(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), []byte("\n"), []byte("\r\n"))
		}
	}
	const intel, milan, vlek = "tdx/phala-v4-b0c0", "snp/msft-milan-v3-vcek", "snp/trustee-vlek"
	for _, c := range []struct {
		set, file string
		as        string // "" for the same name
		spell     func([]byte) []byte
	}{
		{intel, "quote.bin", "", digits}, {intel, "quote.bin", "", upper}, {intel, "pck_crl.der", "", block("X509 CRL")}, {intel, "root_ca_crl.der", "", digits},
		{milan, "report.bin", "", digits}, {milan, "vcek.der", "", block("CERTIFICATE")}, {milan, "vcek.der", "vcek.pem", block("CERTIFICATE")},
		{vlek, "vlek.der", "vlek.pem", block("CERTIFICATE")},
	} {
		t.Run(c.set+" "+c.file, func(t *testing.T) {
			dir := folder(t, c.set)
			want := load(t, dir)
			spelled := c.spell(dir[c.file].Data)
			delete(dir, c.file)
			if c.as == "" {
				c.as = c.file
			}
			dir[c.as] = &fstest.MapFile{Data: spelled}
			got := load(t, dir)
			if !bytes.Equal(got.Evidence.Raw, want.Evidence.Raw) || got.Evidence.TEE != want.Evidence.TEE || got.Endorsements.Digest() != want.Endorsements.Digest() {
				t.Errorf("got %s of %d bytes, want %s of %d, with equal endorsements", got.Evidence.TEE, len(got.Evidence.Raw), want.Evidence.TEE, len(want.Evidence.Raw))
			}
		})
	}
}

// TestLoadFileText checks that a file alone is told by what its text holds.
func TestLoadFileText(t *testing.T) {
	for set, tee := range map[string]attest.TEE{"tdx/phala-v4-b0c0": attest.TDX, "snp/msft-milan-v3-vcek": attest.SNP} {
		dir := folder(t, set)
		raw := dir[map[attest.TEE]string{attest.TDX: "quote.bin", attest.SNP: "report.bin"}[tee]].Data
		s, err := evidence.LoadFile(fstest.MapFS{"a.hex": &fstest.MapFile{Data: []byte(hex.EncodeToString(raw))}}, "a.hex")
		if err != nil || s.Evidence.TEE != tee || !bytes.Equal(s.Evidence.Raw, raw) {
			t.Errorf("%s: got %s of %d bytes, %v", set, s.Evidence.TEE, len(s.Evidence.Raw), err)
		}
	}
}

func load(t *testing.T, dir fstest.MapFS) evidence.Set {
	t.Helper()
	s, err := evidence.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
