package dcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Sizes in bytes of the fixed parts of a quote.
const (
	headerSize     = 48
	descriptorSize = 6 // version 5: body type, body size
	sgxBodySize    = 384
	td10BodySize   = 584
	td15BodySize   = 648
	td15ExBodySize = 885 // TD 1.5, then where the guest was first started
	signatureSize  = 64  // r and s, big endian
	keySize        = 64  // x and y, big endian
)

const (
	keyTypeP256 = 2
	teeTypeSGX  = 0x00
	teeTypeTDX  = 0x81
	bodySGX     = 1
	bodyTD10    = 2
	bodyTD15    = 3
	bodyTD15Ex  = 4

	certDataPCKChain = 5 // PEM: leaf, CA, root
	certDataQEReport = 6 // versions 4 and 5: QE report and, nested, the chain
)

var (
	errTruncated = errors.New("ends before its length fields say")
	errVersion   = errors.New("not supported")
	errCertData  = errors.New("no PCK certificate chain")
)

// quote is a parsed quote. Slices point into the evidence.
type quote struct {
	version  uint16
	tee      attest.TEE // shape
	signed   []byte     // header to end of body
	body     []byte
	sig      []byte
	key      []byte // attestation key
	qeReport []byte // SGX report body
	qeSig    []byte
	qeAuth   []byte
	certType uint16
	certs    []byte // PEM
}

// reader walks bytes and remembers that it ran out of them.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.err = errTruncated
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// u32 returns a length or a type; one above 2^31-1 reads as -1 and so is
// refused by take on every platform.
func (r *reader) u32() int {
	if b := r.take(4); b != nil {
		if n := binary.LittleEndian.Uint32(b); n < 1<<31 {
			return int(n)
		}
	}
	return -1
}

// oeHeader starts the header of Open Enclave and EGo: format 1, remote report.
// The quote's length follows, 8 bytes, little endian.
var oeHeader = []byte{1, 0, 0, 0, 2, 0, 0, 0}

const oeHeaderSize = 16

// stripOE removes the header that Open Enclave and EGo put before a quote. One
// that promises more than there is leaves nothing.
func stripOE(raw []byte) []byte {
	if len(raw) < oeHeaderSize || !bytes.HasPrefix(raw, oeHeader) {
		return raw
	}
	raw, n := raw[oeHeaderSize:], binary.LittleEndian.Uint64(raw[len(oeHeader):])
	if n > uint64(len(raw)) {
		return nil
	}
	return raw[:n]
}

// Detect returns the hardware TEE that raw evidence claims to be of, by its
// header alone: attest.SGX, attest.TDX, or "" if it is no quote.
func Detect(raw []byte) attest.TEE {
	if len(raw) >= oeHeaderSize && bytes.HasPrefix(raw, oeHeader) {
		raw = raw[oeHeaderSize:]
	}
	var q quote
	_ = q.header(&reader{b: raw}) // an unsupported key type still tells the TEE
	return q.tee
}

// header reads the first 48 bytes and leaves r behind them.
func (q *quote) header(r *reader) error {
	q.version = r.u16()
	keyType := r.u16()
	teeType := r.u32()
	r.take(headerSize - 8)
	if r.err != nil {
		return r.err
	}
	switch {
	case q.version >= 3 && q.version <= 5 && teeType == teeTypeSGX:
		q.tee = attest.SGX
	case (q.version == 4 || q.version == 5) && teeType == teeTypeTDX:
		q.tee = attest.TDX
	default:
		return fmt.Errorf("quote version %d with TEE type %#x is %w", q.version, uint32(teeType), errVersion)
	}
	if keyType != keyTypeP256 {
		return fmt.Errorf("attestation key type %d is %w", keyType, errVersion)
	}
	return nil
}

// parse reads a quote, strictly within its length fields. What follows the
// signature data is padding that real hardware adds, and is ignored.
func parse(raw []byte) (*quote, error) {
	raw = stripOE(raw)
	q := &quote{}
	r := &reader{b: raw}
	if err := q.header(r); err != nil {
		return q, err
	}
	size, err := q.bodySize(r)
	if err != nil {
		return q, err
	}
	q.body = r.take(size)
	if r.err != nil {
		return q, r.err
	}
	q.signed = raw[:len(raw)-len(r.b)]
	s := &reader{b: r.take(r.u32())}
	if r.err != nil {
		return q, r.err
	}
	return q, q.signature(s)
}

func (q *quote) bodySize(r *reader) (int, error) {
	if q.version < 5 {
		return map[attest.TEE]int{attest.SGX: sgxBodySize, attest.TDX: td10BodySize}[q.tee], nil
	}
	kind, size := r.u16(), r.u32()
	switch {
	case r.err != nil:
		return 0, r.err
	case q.tee == attest.SGX && kind == bodySGX && size == sgxBodySize,
		q.tee == attest.TDX && (kind == bodyTD10 && size == td10BodySize || kind == bodyTD15 && size == td15BodySize || kind == bodyTD15Ex && size == td15ExBodySize):
		return size, nil
	}
	return 0, fmt.Errorf("body of type %d and %d bytes is %w", kind, size, errVersion)
}

// signature reads the signature data, which must be used up exactly.
func (q *quote) signature(r *reader) error {
	q.sig, q.key = r.take(signatureSize), r.take(keySize)
	if q.version >= 4 {
		kind, n := r.u16(), r.u32()
		if r.err == nil && kind != certDataQEReport {
			return fmt.Errorf("certification data type %d: %w", kind, errCertData)
		}
		inner := &reader{b: r.take(n), err: r.err}
		if r.err == nil && len(r.b) > 0 {
			return fmt.Errorf("%d bytes after the certification data", len(r.b))
		}
		r = inner
	}
	q.qeReport, q.qeSig = r.take(sgxBodySize), r.take(signatureSize)
	q.qeAuth = r.take(int(r.u16()))
	q.certType = r.u16()
	q.certs = r.take(r.u32())
	switch {
	case r.err != nil:
		return r.err
	case len(r.b) > 0:
		return fmt.Errorf("%d bytes after the certificates", len(r.b))
	case q.certType != certDataPCKChain:
		return fmt.Errorf("certification data type %d: %w", q.certType, errCertData)
	}
	return nil
}
