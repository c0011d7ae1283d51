package dcap

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

const golden = "../attesttest/testdata/evidence"

// seeds returns the golden files of a name.
func seeds(tb testing.TB, name string) [][]byte {
	tb.Helper()
	var out [][]byte
	for _, pattern := range []string{golden + "/*/*/" + name, golden + "/*/*/*/" + name} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			tb.Fatal(err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				tb.Fatal(err)
			}
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		tb.Fatalf("no golden %s", name)
	}
	return out
}

func add(f *testing.F, name string) {
	for _, b := range seeds(f, name) {
		f.Add(b)
	}
}

// FuzzQuote parses quotes: no panic, and what parses is complete.
func FuzzQuote(f *testing.F) {
	add(f, "quote.bin")
	f.Fuzz(func(t *testing.T, raw []byte) {
		tee := Detect(raw)
		q, err := parse(raw)
		if err != nil {
			return
		}
		if tee != q.tee {
			t.Errorf("detected %q, parsed %q", tee, q.tee)
		}
		if len(q.sig) != signatureSize || len(q.key) != keySize || len(q.qeReport) != sgxBodySize || len(q.qeSig) != signatureSize {
			t.Error("a quote with parts of a wrong size was accepted")
		}
		if len(q.signed) < headerSize+len(q.body) {
			t.Errorf("signed region of %d bytes with a body of %d", len(q.signed), len(q.body))
		}
		if c := q.claims(q.tee); len(c.ReportData) != len(attest.Binding{}) {
			t.Errorf("report data of %d bytes", len(c.ReportData))
		}
	})
}

// FuzzTCBInfo parses TCB infos and looks a platform up in them.
func FuzzTCBInfo(f *testing.F) {
	add(f, attest.KindTCBInfo)
	f.Fuzz(func(_ *testing.T, body []byte) {
		data := member(body, "tcbInfo")
		for _, shape := range []attest.TEE{attest.SGX, attest.TDX} {
			t, err := parseTCBInfo(data, shape)
			if err != nil {
				continue
			}
			for _, svn := range [][]byte{make([]byte, 16), {5, 1, 15: 0}} {
				if shape == attest.SGX {
					t.platformLevel(&platform{}, nil)
					continue
				}
				t.platformLevel(&platform{}, svn)
				p := part{name: "platform", levels: t.Levels, below: func(l *level) []attest.TCBComponent { return (&platform{}).below(l, svn) }}
				if g, ok := p.gap(); ok && len(g.Below) == 0 {
					panic("a gap without a component")
				}
				if m := t.module(svn); m != nil {
					enclaveLevel(m.Levels, uint16(svn[0]))
				}
			}
		}
	})
}

// FuzzQEIdentity parses QE identities and compares a report with them.
func FuzzQEIdentity(f *testing.F) {
	add(f, attest.KindQEIdentity)
	f.Fuzz(func(_ *testing.T, body []byte) {
		data := member(body, "enclaveIdentity")
		for _, shape := range []attest.TEE{attest.SGX, attest.TDX} {
			if q, err := parseQEIdentity(data, shape); err == nil {
				q.mismatch(make([]byte, sgxBodySize))
				enclaveLevel(q.Levels, 7)
			}
		}
	})
}

// FuzzPCKExtension parses Intel's extension of PCK certificates.
func FuzzPCKExtension(f *testing.F) {
	for _, raw := range seeds(f, "quote.bin") {
		q, err := parse(raw)
		if err != nil {
			continue
		}
		certs, err := parseCertificates(q.certs)
		if err != nil {
			continue
		}
		for _, e := range certs[0].Extensions {
			if e.Id.Equal(oidSGX) {
				f.Add(e.Value)
			}
		}
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		if p, err := parseSGXExtension(der); err == nil && (len(p.fmspc) != 6 || len(p.pceID) != 2) {
			t.Errorf("FMSPC %x, PCEID %x", p.fmspc, p.pceID)
		}
	})
}

// FuzzCertificates parses PEM chains.
func FuzzCertificates(f *testing.F) {
	add(f, "tcb_info_issuer_chain.pem")
	f.Fuzz(func(t *testing.T, data []byte) {
		if certs, err := parseCertificates(data); err == nil && (len(certs) == 0 || len(certs) > pki.MaxCertificates) {
			t.Errorf("%d certificates", len(certs))
		}
	})
}

// FuzzCRL parses CRLs, with the signature left to fail.
func FuzzCRL(f *testing.F) {
	add(f, attest.KindPCKCRL)
	root := IntelRoot()
	f.Fuzz(func(_ *testing.T, der []byte) {
		_, _ = pki.ParseCRL(der, root)
		if list, err := x509.ParseRevocationList(der); err == nil {
			_, _ = pki.ParseCRL(der, &x509.Certificate{RawSubject: list.RawIssuer})
		}
	})
}
