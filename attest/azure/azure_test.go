package azure_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/azure"
	"github.com/ashlar-mesh/ashlar/attest/snp"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

func newVerifier(t testing.TB, hardware attest.Verifier) attest.Verifier {
	t.Helper()
	v, err := azure.New(hardware)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// collected returns the document of a real set.
func collected(t testing.TB, set string) azure.Document {
	t.Helper()
	raw, err := fs.ReadFile(attesttest.Dir(t, set), "evidence.json")
	if err != nil {
		t.Fatal(err)
	}
	c, ok := azure.Collect(raw)
	if !ok {
		t.Fatalf("%s is not read", set)
	}
	return c.Document
}

func encode(t testing.TB, d azure.Document) []byte {
	t.Helper()
	raw, err := azure.Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func failed(steps []attest.Step) string {
	var names []string
	for _, s := range steps {
		if !s.OK {
			names = append(names, s.Code+" "+s.Field)
		}
	}
	return strings.Join(names, ", ")
}

const (
	snpSet = "azure-vtpm/genoa-full"
	tdxSet = "azure-vtpm/tdx-full"
)

func TestConformance(t *testing.T) {
	for name, hardware := range map[string]func() attest.Verifier{snpSet: snp.NewVerifier, tdxSet: tdx.NewVerifier} {
		t.Run(name, func(t *testing.T) {
			s := attesttest.Load(t, name)
			attesttest.Verifier(t, func() attest.Verifier { return newVerifier(t, hardware()) },
				attesttest.Sample{Evidence: s.Evidence, Endorsements: s.Endorsements, At: s.At()})
		})
	}
}

// TestClaims checks that hardware and guest stand side by side, and that the
// report data are the TPM quote's.
func TestClaims(t *testing.T) {
	for name, c := range map[string]struct {
		hardware attest.Verifier
		data     []byte
		vouched  string
	}{
		snpSet: {snp.NewVerifier(), collected(t, snpSet).Quote.Attested[44 : 44+48], "snp"},
		tdxSet: {tdx.NewVerifier(), []byte("challenge"), "tdx"},
	} {
		s := attesttest.Load(t, name)
		got, _ := newVerifier(t, c.hardware).Verify(s.Evidence, s.Endorsements, s.At())
		want := append(bytes.Clone(c.data), make([]byte, 64-len(c.data))...)
		switch {
		case !bytes.Equal(got.ReportData, want):
			t.Errorf("%s: report data: got %s, want %x", name, got.ReportData, want)
		case got.TPM == nil || got.TPM.Vouched != c.vouched || len(got.TPM.PCRs) != 24:
			t.Errorf("%s: got %+v", name, got.TPM)
		case (got.SNP != nil) == (got.TDX != nil):
			t.Errorf("%s: got SNP %v and TDX %v", name, got.SNP, got.TDX)
		}
	}
}

// ownKey makes the paravisor's runtime data name another key, and that key sign.
func ownKey(t testing.TB, d *azure.Document) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	setRuntime(d, fmt.Sprintf(`{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":%q}]}`, base64.RawURLEncoding.EncodeToString(key.N.Bytes())))
	d.Quote = attesttest.TPMQuote(t, key, []byte("nonce"), d.Quote.PCRs)
}

// setRuntime replaces the runtime data.
func setRuntime(d *azure.Document, runtime string) {
	d.Report = append(append([]byte{}, d.Report[:1236]...), runtime...)
	binary.LittleEndian.PutUint32(d.Report[1232:], uint32(len(runtime)))
}

// TestEachLink breaks one link of the chain at a time.
func TestEachLink(t *testing.T) {
	for name, c := range map[string]struct {
		set    string
		change func(d *azure.Document)
		want   string
	}{
		"nothing, SNP":           {snpSet, func(*azure.Document) {}, ""},
		"nothing, TDX":           {tdxSet, func(*azure.Document) {}, ""},
		"hardware's measurement": {snpSet, func(d *azure.Document) { d.Report[32+0x90] ^= 1 }, "ATT-010 report.signature"},
		"hardware's report data": {snpSet, func(d *azure.Document) { d.Report[32+0x50] ^= 1 }, "ATT-010 report.signature, ATT-046 hcl.runtimeData"},
		"rest of report data":    {snpSet, func(d *azure.Document) { d.Report[32+0x50+40] ^= 1 }, "ATT-010 report.signature, ATT-046 hcl.runtimeData"},
		"asked for by the guest": {snpSet, func(d *azure.Document) { d.Report[32+0x30] = 2 }, "ATT-010 report.signature, ATT-046 hcl.vmpl"},
		"runtime data": {snpSet, func(d *azure.Document) {
			d.Report = bytes.Replace(d.Report, []byte(`secure-boot":true`), []byte(`secure-boot":null`), 1)
		}, "ATT-046 hcl.runtimeData"},
		"another key":             {snpSet, func(d *azure.Document) { ownKey(t, d) }, "ATT-046 hcl.runtimeData"},
		"another key, TDX":        {tdxSet, func(d *azure.Document) { ownKey(t, d) }, "ATT-046 hcl.runtimeData"},
		"another hash":            {snpSet, func(d *azure.Document) { d.Report[1228] = 2 }, "ATT-046 hcl.runtimeData"},
		"no such hash":            {snpSet, func(d *azure.Document) { d.Report[1228] = 4 }, "ATT-004 hcl.format"},
		"no key":                  {snpSet, func(d *azure.Document) { setRuntime(d, `{"keys":[]}`) }, "ATT-046 hcl.runtimeData, ATT-047 hcl.key"},
		"no JSON":                 {snpSet, func(d *azure.Document) { setRuntime(d, `keys`) }, "ATT-046 hcl.runtimeData, ATT-047 hcl.key"},
		"qualifying data":         {snpSet, func(d *azure.Document) { d.Quote.Attested[50] ^= 1 }, "ATT-010 tpm.signature"},
		"signature":               {tdxSet, func(d *azure.Document) { d.Quote.Signature[100] ^= 1 }, "ATT-010 tpm.signature"},
		"a PCR":                   {snpSet, func(d *azure.Document) { d.Quote.PCRs["11"] = bytes.Repeat([]byte{1}, 32) }, "ATT-045 tpm.pcrs"},
		"no quote":                {snpSet, func(d *azure.Document) { d.Quote.Attested = nil }, "ATT-043 tpm.quote"},
		"quote of another guest":  {tdxSet, func(d *azure.Document) { d.TDQuote = tdxQuote(t, "tdx/gcp-v4-8065-2025-02") }, "ATT-048 hcl.tdReport, ATT-046 hcl.runtimeData"},
		"TD report of another":    {tdxSet, func(d *azure.Document) { d.Report[32+528] ^= 1 }, "ATT-048 hcl.tdReport"},
		"TD report's data":        {tdxSet, func(d *azure.Document) { d.Report[32+128] ^= 1 }, "ATT-048 hcl.tdReport"},
		"TD report's last RTMR":   {tdxSet, func(d *azure.Document) { d.Report[32+911] ^= 1 }, "ATT-048 hcl.tdReport"},
		"no TDX quote":            {tdxSet, func(d *azure.Document) { d.TDQuote = nil }, "ATT-003 hcl.format"},
		"a TDX quote beside SNP":  {snpSet, func(d *azure.Document) { d.TDQuote = tdxQuote(t, tdxSet) }, "ATT-003 hcl.format"},
		"a report of TDX for SNP": {snpSet, func(d *azure.Document) { d.Report = collected(t, tdxSet).Report }, "ATT-004 hcl.format"},
		"not from a paravisor":    {snpSet, func(d *azure.Document) { d.Report[0] = 'X' }, "ATT-003 hcl.format"},
		"version 3":               {snpSet, func(d *azure.Document) { d.Report[4] = 3 }, "ATT-004 hcl.format"},
		"version of runtime data": {snpSet, func(d *azure.Document) { d.Report[1220] = 2 }, "ATT-004 hcl.format"},
		"too long runtime data":   {snpSet, func(d *azure.Document) { d.Report[1235] = 0xff }, "ATT-003 hcl.format"},
		"no runtime data":         {snpSet, func(d *azure.Document) { setRuntime(d, "") }, "ATT-003 hcl.format"},
		"a short report":          {snpSet, func(d *azure.Document) { d.Report = d.Report[:1200] }, "ATT-003 hcl.format"},
	} {
		t.Run(name, func(t *testing.T) {
			s, hardware := attesttest.Load(t, c.set), snp.NewVerifier()
			if c.set == tdxSet {
				hardware = tdx.NewVerifier()
			}
			d := collected(t, c.set)
			c.change(&d)
			v := newVerifier(t, hardware)
			claims, steps := v.Verify(attest.Evidence{TEE: v.TEE(), Raw: encode(t, d)}, s.Endorsements, s.At())
			got := failed(steps)
			if c.set == tdxSet { // the endorsements of the machine below are another machine's
				got = strings.Replace(got, foreignMachine(got), "", 1)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if vouched := claims.TPM != nil && claims.TPM.Vouched != ""; vouched && strings.Contains(got, "hcl.") {
				t.Error("hardware vouches for the key in spite of that")
			}
		})
	}
}

// foreignMachine returns the failures that come before those of the chain.
func foreignMachine(failed string) string {
	if at := strings.Index(failed, "ATT-048"); at > 0 && strings.Contains(failed, "ATT-025") {
		return failed[:at]
	}
	return ""
}

func tdxQuote(t testing.TB, set string) []byte {
	t.Helper()
	if set == tdxSet {
		return collected(t, set).TDQuote
	}
	return attesttest.Load(t, set).Evidence.Raw
}

// TestKeys reads runtime data that the hardware vouches for only in part: what
// the key's form must be.
func TestKeys(t *testing.T) {
	good := base64.RawURLEncoding.EncodeToString(append([]byte{0x80}, bytes.Repeat([]byte{1}, 255)...))
	short := base64.RawURLEncoding.EncodeToString(append([]byte{0x80}, bytes.Repeat([]byte{1}, 127)...))
	key := func(kid, kty, e, n string) string {
		return fmt.Sprintf(`{"kid":%q,"kty":%q,"e":%q,"n":%q}`, kid, kty, e, n)
	}
	s := attesttest.Load(t, snpSet)
	for name, c := range map[string]struct {
		keys []string
		ok   bool
	}{
		"one":              {[]string{key("HCLEkPub", "RSA", "AQAB", good), key("HCLAkPub", "RSA", "AQAB", good)}, true},
		"another name":     {[]string{key("HCLEkPub", "RSA", "AQAB", good)}, false},
		"twice":            {[]string{key("HCLAkPub", "RSA", "AQAB", good), key("HCLAkPub", "RSA", "AQAB", good)}, false},
		"of another type":  {[]string{key("HCLAkPub", "EC", "AQAB", good)}, false},
		"1024 bits":        {[]string{key("HCLAkPub", "RSA", "AQAB", short)}, false},
		"exponent 3":       {[]string{key("HCLAkPub", "RSA", "Aw", good)}, false},
		"huge exponent":    {[]string{key("HCLAkPub", "RSA", good, good)}, false},
		"padded":           {[]string{key("HCLAkPub", "RSA", "AQAB", good+"==")}, false},
		"not base64":       {[]string{key("HCLAkPub", "RSA", "AQAB", "!")}, false},
		"without its name": {[]string{`{}`}, false},
	} {
		d := collected(t, snpSet)
		setRuntime(&d, `{"keys":[`+strings.Join(c.keys, ",")+`]}`)
		_, steps := newVerifier(t, snp.NewVerifier()).Verify(attest.Evidence{TEE: attest.SNPAzure, Raw: encode(t, d)}, s.Endorsements, s.At())
		for _, step := range steps {
			if step.Field == "hcl.key" && step.OK != c.ok {
				t.Errorf("%s: got %+v, want ok=%t", name, step, c.ok)
			}
		}
	}
}

// TestDocument shows that only the canonical form is read.
func TestDocument(t *testing.T) {
	raw := string(encode(t, collected(t, snpSet)))
	for name, c := range map[string]struct{ raw, want string }{
		"version 2":      {strings.Replace(raw, `"version":1`, `"version":2`, 1), attest.CodeVersion},
		"unknown member": {strings.Replace(raw, `"version":1,`, `"version":1,"more":1,`, 1), attest.CodeFormat},
		"white space":    {raw + "\n", attest.CodeFormat},
		"no JSON":        {"", attest.CodeFormat},
	} {
		_, steps := newVerifier(t, snp.NewVerifier()).Verify(attest.Evidence{TEE: attest.SNPAzure, Raw: []byte(c.raw)}, attest.Endorsements{}, attesttest.Set{}.At())
		if len(steps) != 1 || steps[0].OK || steps[0].Code != c.want {
			t.Errorf("%s: got %+v, want %s", name, steps, c.want)
		}
	}
	if _, err := azure.Encode(azure.Document{Report: make([]byte, attest.MaxEvidence)}); err == nil {
		t.Error("a document above the limit: got no error")
	}
	if _, err := azure.New(tpm.NewVerifier()); err == nil {
		t.Error("a TPM as hardware: got no error")
	}
}

// TestWire compares the digest in docs/wire.md.
func TestWire(t *testing.T) {
	text, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("```vector azure-document\nsha256: %x\n```", sha256.Sum256(encode(t, collected(t, snpSet))))
	if !strings.Contains(string(text), want) {
		t.Errorf("docs/wire.md lacks\n%s", want)
	}
}

// TestCollect reads each spelling of foreign evidence.
func TestCollect(t *testing.T) {
	d := collected(t, tdxSet)
	sum := sha256.Sum256(encode(t, d))
	hexed := fmt.Sprintf(`{"signature":"%x","message":"%x","pcrs":[]}`, d.Quote.Signature[6:], d.Quote.Attested)
	std, url := base64.StdEncoding.EncodeToString(d.Report), base64.RawURLEncoding.EncodeToString(d.Report)
	numbers := strings.ReplaceAll(strings.Trim(fmt.Sprint(d.Report), "[]"), " ", ",")
	for name, c := range map[string]struct {
		raw string
		tee attest.TEE
	}{
		"hexadecimal, base64":         {`{"version":1,"tpm_quote":` + hexed + `,"hcl_report":"` + std + `","td_quote":"AQID"}`, attest.TDXAzure},
		"base64 for URLs, no padding": {`{"tpm_quote":` + hexed + `,"hcl_report":"` + url + `","vcek":"AQID"}`, attest.SNPAzure},
		"numbers":                     {`{"quote":` + hexed + `,"report":[` + numbers + `]}`, attest.SNPAzure},
		"a document":                  {string(encode(t, d)), attest.TDXAzure},
		"no report":                   {`{"quote":` + hexed + `}`, ""},
		"no quote":                    {`{"report":"` + std + `"}`, ""},
		"no signature":                {`{"quote":{"message":"00"},"report":"` + std + `"}`, ""},
		"too many registers":          {`{"quote":{"signature":"00","message":"00","pcrs":[` + strings.Repeat(`"00",`, 24) + `"00"]},"report":"` + std + `"}`, ""},
		"a number that is no byte":    {`{"quote":` + hexed + `,"report":[256]}`, ""},
		"no base64":                   {`{"quote":` + hexed + `,"report":"*"}`, ""},
		"too large":                   {`{"quote":` + hexed + `,"report":"` + strings.Repeat("00", 1<<19) + `"}`, ""},
		"an array":                    {`[]`, ""},
	} {
		got, ok := azure.Collect([]byte(c.raw))
		if ok != (c.tee != "") || got.TEE != c.tee {
			t.Errorf("%s: got %q, %t, want %q", name, got.TEE, ok, c.tee)
			continue
		}
		if ok && !bytes.Equal(got.Document.Report, d.Report) {
			t.Errorf("%s: another report", name)
		}
	}
	if again := sha256.Sum256(encode(t, collected(t, tdxSet))); again != sum {
		t.Error("a second reading gave another document")
	}
}

func FuzzVerify(f *testing.F) {
	for _, set := range []string{snpSet, tdxSet} {
		d := collected(f, set)
		f.Add(d.Report, d.TDQuote, d.Quote.Attested, d.Quote.Signature)
	}
	vs := []attest.Verifier{newVerifier(f, snp.NewVerifier()), newVerifier(f, tdx.NewVerifier())}
	s := attesttest.Load(f, snpSet)
	f.Fuzz(func(t *testing.T, report, quote, attested, signature []byte) {
		azure.Collect(report)
		raw, err := azure.Encode(azure.Document{Report: report, TDQuote: quote, Quote: tpm.Quote{Attested: attested, Signature: signature}})
		if err != nil {
			return
		}
		for _, v := range vs {
			c, steps := v.Verify(attest.Evidence{TEE: v.TEE(), Raw: raw}, s.Endorsements, s.At())
			if failed(steps) == "" && c.TPM == nil {
				t.Error("genuine without claims")
			}
		}
	})
}
