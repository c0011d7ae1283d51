package evidence_test

import (
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestLoadFile reads single files, under any name, beside other evidence.
func TestLoadFile(t *testing.T) {
	read := func(set, name string) *fstest.MapFile {
		b, err := fs.ReadFile(attesttest.Dir(t, set), name)
		if err != nil {
			t.Fatal(err)
		}
		return &fstest.MapFile{Data: b}
	}
	dir := fstest.MapFS{
		"quote.bin": read("sgx/automata-v3-606a-2025-08", "quote.bin"), "guest": read("tdx/phala-v4-b0c0", "quote.bin"), "milan": read("snp/msft-milan-v3-vcek", "report.bin"),
		"ratls": read("ratls/ego-sample", "cert.pem"), "tcb_info.json": read("tdx/phala-v4-b0c0", "tcb_info.json"), "vcek.der": read("snp/msft-milan-v3-vcek", "vcek.der"),
		"text": {Data: []byte("hello")}, "some.json": {Data: []byte("{}")}, "sub/x": {},
	}
	for _, c := range []struct {
		name string
		tee  attest.TEE
		cert bool
		code problem.Code
	}{
		{"quote.bin", attest.SGX, false, ""}, {"guest", attest.TDX, false, ""}, {"milan", attest.SNP, false, ""}, {"ratls", "", true, ""},
		{"text", "", false, "ATT-041"}, {"some.json", "", false, "ATT-041"}, {"missing", "", false, "ATT-040"}, {"sub", "", false, "ATT-040"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := evidence.LoadFile(dir, c.name)
			if problem.CodeOf(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			if s.Evidence.TEE != c.tee || (s.Certificate != nil) != c.cert {
				t.Errorf("got TEE %q, certificate %t, want %q, %t", s.Evidence.TEE, s.Certificate != nil, c.tee, c.cert)
			}
			if _, ok := s.Endorsements.Get(attest.KindTCBInfo); c.code == "" && !ok {
				t.Error("the endorsements beside the file are missing")
			}
		})
	}
}
