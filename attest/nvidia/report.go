package nvidia

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Sizes in bytes (DSP0274 1.1, GET_MEASUREMENTS and MEASUREMENTS; ECDSA P-384
// with SHA-384).
const (
	requestSize   = 37 // header 4, nonce 32, slot 1
	headerSize    = 8  // of the response: header 4, number of blocks 1, length 3
	nonceSize     = 32
	digestSize    = 48
	signatureSize = 96 // r, s, big endian
	blockHeader   = 4  // index 1, specification 1, size 2
	dmtfHeader    = 3  // type 1, size 2
)

// report is a request and its response.
type report struct {
	signed       []byte // everything before the signature
	signature    []byte
	nonce        []byte // of the request
	measurements map[string]attest.Hex
	driver       string
	vbios        string
	fwid         []byte // SHA-384 of the firmware, nil if the report has none
}

// Fields of NVIDIA's opaque data: type and size, 2 bytes each, little endian,
// then the value.
const (
	fieldDriver = 3
	fieldVBIOS  = 6
	fieldFWID   = 20
)

var errVersion = errors.New("not supported")

// parse reads a report strictly: every byte belongs to a field.
func parse(raw []byte) (*report, error) {
	if len(raw) < requestSize+headerSize+nonceSize+2+signatureSize {
		return nil, fmt.Errorf("%d bytes are too few", len(raw))
	}
	response := raw[requestSize:]
	switch {
	case raw[0] != 0x11 || response[0] != 0x11:
		return nil, fmt.Errorf("SPDM version %#x and %#x: %w", raw[0], response[0], errVersion)
	case raw[1] != 0xe0 || response[1] != 0x60:
		return nil, errors.New("no GET_MEASUREMENTS and MEASUREMENTS")
	case raw[2]&1 == 0 || raw[3] != 0xff:
		return nil, errors.New("the request was not for all measurements with a signature")
	}
	r := &report{nonce: raw[4 : 4+nonceSize], measurements: map[string]attest.Hex{}}
	blocks := int(response[4])
	length := int(response[5]) | int(response[6])<<8 | int(response[7])<<16
	rest := response[headerSize:]
	if length > len(rest)-nonceSize-2-signatureSize {
		return nil, fmt.Errorf("a measurement record of %d bytes does not fit", length)
	}
	if err := r.blocks(rest[:length], blocks); err != nil {
		return nil, err
	}
	rest = rest[length+nonceSize:]
	opaque := int(binary.LittleEndian.Uint16(rest))
	if rest = rest[2:]; len(rest) != opaque+signatureSize {
		return nil, fmt.Errorf("%d bytes after the measurements, want %d", len(rest), opaque+signatureSize)
	}
	if err := r.opaque(rest[:opaque]); err != nil {
		return nil, err
	}
	r.signed, r.signature = raw[:len(raw)-signatureSize], rest[opaque:]
	return r, nil
}

// blocks reads the measurement record: SHA-384 digests by DMTF's specification.
func (r *report) blocks(record []byte, n int) error {
	for range n {
		if len(record) < blockHeader+dmtfHeader {
			return errors.New("the measurement record ends early")
		}
		size := int(binary.LittleEndian.Uint16(record[2:]))
		value := int(binary.LittleEndian.Uint16(record[blockHeader+1:]))
		if record[1] != 1 || size != dmtfHeader+value || value != digestSize || len(record) < blockHeader+size {
			return fmt.Errorf("measurement %d is not a SHA-384 digest in DMTF's form", record[0])
		}
		index := strconv.Itoa(int(record[0]))
		if _, twice := r.measurements[index]; twice {
			return fmt.Errorf("measurement %s appears twice", index)
		}
		r.measurements[index] = bytes.Clone(record[blockHeader+dmtfHeader : blockHeader+size])
		record = record[blockHeader+size:]
	}
	if len(record) > 0 {
		return fmt.Errorf("%d bytes after the last measurement", len(record))
	}
	return nil
}

// opaque reads NVIDIA's fields; those without a meaning here are skipped.
func (r *report) opaque(data []byte) error {
	seen := map[uint16]bool{}
	for len(data) > 0 {
		if len(data) < 4 || len(data)-4 < int(binary.LittleEndian.Uint16(data[2:])) {
			return errors.New("the opaque data end early")
		}
		kind, size := binary.LittleEndian.Uint16(data), int(binary.LittleEndian.Uint16(data[2:]))
		value := data[4 : 4+size]
		data = data[4+size:]
		if seen[kind] {
			return fmt.Errorf("opaque field %d appears twice", kind)
		}
		seen[kind] = true
		switch {
		case kind == fieldDriver:
			r.driver = printable(value)
		case kind == fieldVBIOS && size >= 5:
			r.vbios = fmt.Sprintf("%02X.%02X.%02X.%02X.%02X", value[3], value[2], value[1], value[0], value[4])
		case kind == fieldFWID && size == digestSize:
			r.fwid = value
		case kind == fieldVBIOS, kind == fieldFWID:
			return fmt.Errorf("opaque field %d has %d bytes", kind, size)
		}
	}
	return nil
}

// printable returns text up to its first zero byte, "" if it is no plain ASCII.
func printable(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	for _, c := range b {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return string(b)
}
