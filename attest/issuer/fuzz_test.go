package issuer

import (
	"bytes"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func FuzzQuoteResponse(f *testing.F) {
	f.Add([]byte{1, 0, 1, 0, 1, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 'q', 'u'})
	f.Add([]byte{1, 0, 1, 0, 1, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 'i', 'q'})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, m []byte) {
		quote, err := parseQuoteResponse(m)
		if err == nil && (len(quote) == 0 || !bytes.HasSuffix(m, quote)) {
			t.Errorf("a quote of %d bytes from %d", len(quote), len(m))
		}
	})
}

func FuzzKeyInfo(f *testing.F) {
	request := newSGXKeyRequest(SealProduct, make([]byte, 384))
	f.Add(request[:], uint32(0))
	f.Add(newSNPKeyInfo(2, 77), uint32(2))
	f.Fuzz(func(t *testing.T, info []byte, vmpl uint32) {
		vmpl &= 3
		if tcb, err := parseSNPKeyInfo(info, vmpl); err == nil && !bytes.Equal(newSNPKeyInfo(vmpl, tcb), info) {
			t.Errorf("accepted %x", info)
		} else if err != nil && problem.CodeOf(err) != "ATT-099" {
			t.Errorf("got %v, want ATT-099", err)
		}
		product, err := parseSGXKeyRequest(SealProduct, info)
		if err == nil && !bytes.Equal(product[:], info) {
			t.Error("the request changed")
		}
		if _, other := parseSGXKeyRequest(SealUnique, info); err == nil && other == nil {
			t.Error("one request is of both policies")
		}
	})
}

func FuzzParavisor(f *testing.F) {
	report := append([]byte("HCLA"), make([]byte, paravisorMinimum)...)
	report[paravisorKind] = 4
	f.Add(report, []byte(`{"quote":"AAAA"}`))
	f.Add([]byte("HCLA"), []byte(`{"quote":"AA=="}`))
	f.Fuzz(func(t *testing.T, report, answer []byte) {
		if tee, err := paravisorTEE(report); (err == nil) != (tee != "") || err == nil && len(report) < paravisorHardware+tdReportSize {
			t.Errorf("%q from %d bytes, %v", tee, len(report), err)
		}
		if quote, err := parseTDQuote(answer); (err == nil) != (len(quote) > 0) {
			t.Errorf("a quote of %d bytes, %v", len(quote), err)
		}
	})
}
