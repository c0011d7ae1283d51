package ratls

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Of a quote, this package reads no more than the header, to tell the TEE, and
// the report data. Offsets: Intel SGX DCAP and TDX DCAP quote formats, versions
// 3, 4 and 5.
const (
	headerSize      = 48
	teeTypeTDX      = 0x81
	sgxReportData   = 320
	tdxReportData   = 520
	bodyDescription = 6 // version 5: type, 2 bytes, and size, 4 bytes
	bodySGX         = 1
	bodyTDX10       = 2
	bodyTDX15       = 3
)

// quoteHeader is what the first bytes of a quote say.
type quoteHeader struct {
	version uint16
	shape   attest.TEE // sgx or tdx
}

func readHeader(q []byte) (quoteHeader, error) {
	if len(q) < headerSize {
		return quoteHeader{}, fmt.Errorf("quote has %d bytes, its header alone %d", len(q), headerSize)
	}
	h := quoteHeader{version: binary.LittleEndian.Uint16(q), shape: attest.SGX}
	switch tee := binary.LittleEndian.Uint32(q[4:]); {
	case h.version == 3:
	case h.version != 4 && h.version != 5:
		return quoteHeader{}, fmt.Errorf("quote of version %d, want 3, 4 or 5", h.version)
	case tee == teeTypeTDX:
		h.shape = attest.TDX
	case tee != 0:
		return quoteHeader{}, fmt.Errorf("quote of TEE type %#x, want 0 (SGX) or %#x (TDX)", tee, teeTypeTDX)
	}
	return h, nil
}

// reportData returns the 64 bytes that the quote binds.
func reportData(q []byte) (attest.Binding, error) {
	h, err := readHeader(q)
	if err != nil {
		return attest.Binding{}, err
	}
	at := headerSize + sgxReportData
	if h.shape == attest.TDX {
		at = headerSize + tdxReportData
	}
	if h.version == 5 {
		if len(q) < headerSize+bodyDescription {
			return attest.Binding{}, errors.New("quote ends before its body")
		}
		switch body := binary.LittleEndian.Uint16(q[headerSize:]); body {
		case bodySGX:
			at = headerSize + bodyDescription + sgxReportData
		case bodyTDX10, bodyTDX15:
			at = headerSize + bodyDescription + tdxReportData
		default:
			return attest.Binding{}, fmt.Errorf("quote with body type %d", body)
		}
	}
	if len(q) < at+len(attest.Binding{}) {
		return attest.Binding{}, errors.New("quote ends before its report data")
	}
	return attest.Binding(q[at : at+len(attest.Binding{})]), nil
}
