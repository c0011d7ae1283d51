package evidence_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"math/big"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// folder copies a golden set, so that a test can change it.
func folder(t *testing.T, name string) fstest.MapFS {
	t.Helper()
	dir, out := attesttest.Dir(t, name), fstest.MapFS{}
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := fs.ReadFile(dir, e.Name())
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = &fstest.MapFile{Data: data}
	}
	return out
}

func TestLoad(t *testing.T) {
	s, err := evidence.Load(folder(t, "synthetic/tdx/synthetic-ok"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Evidence.TEE != attest.TDX || len(s.Evidence.Raw) == 0 || s.Root == nil || !s.HasCRL || s.Certificate != nil {
		t.Errorf("got %+v", s)
	}
	if want := time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC); !s.VerifyAt.Equal(want) {
		t.Errorf("verify at: got %v, want %v", s.VerifyAt, want)
	}
	if got := len(s.Endorsements.Items()); got != 4 {
		t.Errorf("got %d endorsements, want 4", got)
	}
	for _, kind := range []string{attest.KindTCBInfo, attest.KindQEIdentity, attest.KindPCKCRL} {
		if it, ok := s.Endorsements.Get(kind); !ok || len(it.Chain) == 0 {
			t.Errorf("%s: found %t with a chain of %d bytes", kind, ok, len(it.Chain))
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, c := range []struct {
		name string
		dir  fstest.MapFS
		code problem.Code
		text string
	}{
		{"empty folder", fstest.MapFS{"readme": file("")}, "ATT-040", "neither quote.bin, report.bin nor cert.pem"},
		{"unknown evidence", fstest.MapFS{"evidence.json": file("{}")}, "ATT-041", "evidence.json"},
		{"GPU report that is not hexadecimal", fstest.MapFS{"report.hex": file("xx")}, "ATT-040", "report.hex"},
		{"meta.json damaged", fstest.MapFS{"quote.bin": file("x"), "meta.json": file("{")}, "ATT-040", "meta.json"},
		{"verify_at damaged", fstest.MapFS{"quote.bin": file("x"), "meta.json": file(`{"verify_at":"tomorrow"}`)}, "ATT-040", "meta.json"},
		{"root damaged", fstest.MapFS{"quote.bin": file("x"), "root_ca.pem": file("root")}, "ATT-040", "root_ca.pem"},
		{"TCB info too large", fstest.MapFS{"quote.bin": file("x"), "tcb_info.json": file(strings.Repeat(" ", 1<<20+1))}, "ATT-040", "tcb_info.json"},
		{"quote is a folder", fstest.MapFS{"quote.bin/x": file("")}, "ATT-040", "quote.bin"},
		{"quote is a pipe", fstest.MapFS{"quote.bin": &fstest.MapFile{Mode: fs.ModeNamedPipe}}, "ATT-040", "quote.bin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := evidence.Load(c.dir)
			if problem.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.text)
			}
		})
	}
}

func TestLoadIsTolerant(t *testing.T) {
	quote := folder(t, "tdx/phala-v4-b0c0")["quote.bin"]
	for _, c := range []struct {
		name string
		dir  fstest.MapFS
		code string // of the first step that fails
	}{
		{"a quote alone", fstest.MapFS{"quote.bin": quote}, attest.CodeNoEndorsement},
		{"an empty quote", fstest.MapFS{"quote.bin": &fstest.MapFile{}}, attest.CodeNoVerifier},
		{"a quote of 100 KB", fstest.MapFS{"quote.bin": &fstest.MapFile{Data: append(append([]byte(nil), quote.Data...), make([]byte, 100<<10)...)}}, attest.CodeSize},
		{"no quote, but meta.json names the TEE", fstest.MapFS{"quote.bin": &fstest.MapFile{Data: make([]byte, 5000)}, "meta.json": &fstest.MapFile{Data: []byte(`{"tee":"tdx"}`)}}, attest.CodeVersion},
		{"an SNP report of zeros", fstest.MapFS{"report.bin": &fstest.MapFile{Data: make([]byte, 1184)}}, attest.CodeVersion},
		{"an SNP report alone", fstest.MapFS{"report.bin": folder(t, "snp/msft-turin-v5-vcek")["report.bin"]}, attest.CodeNoEndorsement},
		{"an SNP report cut short", fstest.MapFS{"report.bin": &fstest.MapFile{Data: make([]byte, 1183)}}, attest.CodeFormat},
		{"endorsements of garbage", fstest.MapFS{"quote.bin": quote, "tcb_info.json": quote, "pck_crl.der": quote}, attest.CodeNoEndorsement},
		{"a GPU report of one byte", fstest.MapFS{"report.hex": &fstest.MapFile{Data: []byte("00\n")}}, attest.CodeFormat},
		{"a certificate alone", fstest.MapFS{"cert.pem": &fstest.MapFile{Data: []byte("PEM")}}, attest.CodeNoVerifier},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := evidence.Load(c.dir)
			if err != nil {
				t.Fatal(err)
			}
			v, err := evidence.Explain(s, evidence.Options{At: time.Date(2025, 7, 4, 0, 0, 0, 0, time.UTC)})
			if err != nil {
				t.Fatal(err)
			}
			if code, text := v.Reason(); v.OK() || v.Genuine || code != c.code {
				t.Errorf("got accepted=%t, %s (%s), want %s", v.OK(), code, text, c.code)
			}
		})
	}
}

// TestExplainKeys checks the names that scripts rely on.
func TestExplainKeys(t *testing.T) {
	s := attesttest.Load(t, "tdx/phala-v4-b0c0")
	v, err := evidence.Explain(s.Set, evidence.Options{At: s.At()})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"tee": "tdx", "genuine": true, "tcbStatus": "UpToDate", "debug": false, "verdict": "accepted"} {
		if got[key] != want {
			t.Errorf("%s: got %v, want %v", key, got[key], want)
		}
	}
	if list, ok := got["advisories"].([]any); !ok || len(list) != 0 {
		t.Errorf("advisories: got %v, want []", got["advisories"])
	}
	step, ok := got["steps"].([]any)[0].(map[string]any)
	for _, key := range []string{"code", "field", "ok", "want", "got", "source", "fix"} {
		if _, has := step[key]; !ok || !has {
			t.Errorf("a step has no %q: %v", key, step)
		}
	}
}

func TestExplainBinding(t *testing.T) {
	s := attesttest.Load(t, "tdx/phala-v4-b0c0")
	for name, want := range map[string]bool{"own": true, "zero": false} {
		t.Run(name, func(t *testing.T) {
			var b attest.Binding
			if want {
				v, err := evidence.Explain(s.Set, evidence.Options{At: s.At()})
				if err != nil {
					t.Fatal(err)
				}
				b = attest.Binding(v.Claims.ReportData)
			}
			v, err := evidence.Explain(s.Set, evidence.Options{At: s.At(), Binding: &b})
			if err != nil || v.OK() != want {
				t.Errorf("got accepted=%t, %v, want %t", v.OK(), err, want)
			}
		})
	}
}

func TestRoot(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	root, err := evidence.ParseRoot(one)
	if err != nil {
		t.Fatal(err)
	}
	s := attesttest.Load(t, "tdx/phala-v4-b0c0")
	if _, err := evidence.Explain(s.Set, evidence.Options{Root: root}); problem.CodeOf(err) != "ATT-042" {
		t.Errorf("P-384 root: got %v, want ATT-042", err)
	}
	for name, data := range map[string][]byte{"two": append(append([]byte(nil), one...), one...), "none": nil, "a key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if _, err := evidence.ParseRoot(data); err == nil {
			t.Errorf("%s: got a root, want an error", name)
		}
	}
}

// TestRootSNP judges an SEV-SNP report under a named root: AMD's own of the right
// product, of another one, and a certificate that is none.
func TestRootSNP(t *testing.T) {
	s := attesttest.Load(t, "snp/virtee-milan-v2-vcek")
	root := func(set string, n int) *x509.Certificate {
		t.Helper()
		rest := folder(t, set)["cert_chain.pem"].Data
		var block *pem.Block
		for range n + 1 {
			block, rest = pem.Decode(rest)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	for _, c := range []struct {
		name     string
		root     *x509.Certificate
		accepted bool
		code     problem.Code
	}{
		{"Milan's", root("snp/virtee-milan-v2-vcek", 1), true, ""},
		{"Genoa's", root("snp/azure-genoa-hcl", 1), false, ""},
		{"an ASK", root("snp/virtee-milan-v2-vcek", 0), false, "ATT-042"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := evidence.Explain(s.Set, evidence.Options{At: s.At(), Root: c.root})
			if problem.CodeOf(err) != c.code || v.OK() != c.accepted {
				t.Errorf("got accepted=%t, %v; want %t, %q", v.OK(), err, c.accepted, c.code)
			}
		})
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"2026-01-15": "2026-01-15T00:00:00Z", "2026-01-15T10:00:00+02:00": "2026-01-15T08:00:00Z", "2025-08-30T05:09:06+00:00": "2025-08-30T05:09:06Z",
		"15.1.2026": "", "": "", "now": "",
	} {
		at, err := evidence.ParseTime(text)
		if got := at.UTC().Format(time.RFC3339); err == nil && got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %s, %v, want %q", text, got, err, want)
		}
	}
}
