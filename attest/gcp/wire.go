package gcp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Wire types of Protocol Buffers.
const (
	wireVarint = 0
	wireFixed8 = 1
	wireBytes  = 2
	wireFixed4 = 5
)

var errTruncated = errors.New("ends within a field")

// field is one field of a message: a number, or bytes.
type field struct {
	number uint64
	kind   uint64 // wire type
	value  uint64
	bytes  []byte
}

// fields calls visit for each field of a message, in order. Groups are refused.
func fields(b []byte, visit func(field) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 {
			return errTruncated
		}
		b = b[n:]
		f, size := field{number: tag >> 3, kind: tag & 7}, 0
		switch f.kind {
		case wireVarint:
			f.value, size = binary.Uvarint(b)
		case wireFixed8:
			size = 8
		case wireFixed4:
			size = 4
		case wireBytes:
			length, n := binary.Uvarint(b)
			if n <= 0 || length > uint64(len(b)-n) {
				return errTruncated
			}
			f.bytes, size = b[n:n+int(length)], n+int(length)
		default:
			return fmt.Errorf("wire type %d of field %d is not supported", f.kind, f.number)
		}
		if size <= 0 || size > len(b) {
			return errTruncated
		}
		b = b[size:]
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

// message collects the fields of a message that stand for themselves. A field
// that comes twice, or with another wire type, is refused; unknown ones are
// left out.
type message struct {
	numbers map[uint64]*uint64
	byteses map[uint64]*[]byte
	repeats map[uint64]func([]byte) error // sub-messages that may come again
}

func (m message) read(b []byte) error {
	seen := map[uint64]bool{}
	return fields(b, func(f field) error {
		number, bytes, again := m.numbers[f.number], m.byteses[f.number], m.repeats[f.number]
		if number == nil && bytes == nil && again == nil {
			return nil
		}
		if want := map[bool]uint64{true: wireVarint, false: wireBytes}[number != nil]; f.kind != want {
			return fmt.Errorf("field %d has wire type %d, not %d", f.number, f.kind, want)
		}
		if again != nil {
			return again(f.bytes)
		}
		if seen[f.number] {
			return fmt.Errorf("field %d comes twice", f.number)
		}
		seen[f.number] = true
		if number != nil {
			*number = f.value
		} else {
			*bytes = f.bytes
		}
		return nil
	})
}
