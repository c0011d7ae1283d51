package eventlog

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"unicode/utf16"
)

// builder writes crypto agile logs with the banks SHA-256 and SHA-384.
type builder struct{ b []byte }

var le = binary.LittleEndian

func newLog() *builder {
	id := append([]byte("Spec ID Event03\x00"), make([]byte, 4)...)
	id = append(id, 0, 2, 0, 2) // version 2.0, errata 0, 64-bit
	id = le.AppendUint32(id, 2)
	id = le.AppendUint16(le.AppendUint16(id, algSHA256), 32)
	id = le.AppendUint16(le.AppendUint16(id, algSHA384), 48)
	id = append(id, 0)
	l := &builder{}
	l.b = le.AppendUint32(le.AppendUint32(l.b, 0), evNoAction)
	l.b = append(l.b, make([]byte, sha1Size)...)
	l.b = append(le.AppendUint32(l.b, uint32(len(id))), id...)
	return l
}

// event adds an event whose digests are those of measured.
func (l *builder) event(index, kind uint32, measured, data []byte) *builder {
	l.b = le.AppendUint32(le.AppendUint32(l.b, index), kind)
	l.b = le.AppendUint32(l.b, 2)
	short, long := sha256.Sum256(measured), sha512.Sum384(measured)
	l.b = append(le.AppendUint16(l.b, algSHA256), short[:]...)
	l.b = append(le.AppendUint16(l.b, algSHA384), long[:]...)
	l.b = append(le.AppendUint32(l.b, uint32(len(data))), data...)
	return l
}

// same adds an event that measured its own data.
func (l *builder) same(index, kind uint32, data []byte) *builder {
	return l.event(index, kind, data, data)
}

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = le.AppendUint16(b, u)
	}
	return b
}

func variableData(name string, content []byte) []byte {
	b := make([]byte, 16)
	b = le.AppendUint64(b, uint64(len(name)))
	b = le.AppendUint64(b, uint64(len(content)))
	return append(append(b, utf16le(name)...), content...)
}

func loadEvent(path []byte) []byte {
	b := make([]byte, 24)
	return append(le.AppendUint64(b, uint64(len(path))), path...)
}

func pathNode(kind, sub byte, body []byte) []byte {
	return append(le.AppendUint16([]byte{kind, sub}, uint16(4+len(body))), body...)
}

// extend replays measurements into one register by hand.
func extend(start []byte, measured ...[]byte) []byte {
	v := start
	for _, m := range measured {
		if len(start) == 32 {
			d := sha256.Sum256(m)
			s := sha256.Sum256(append(append([]byte{}, v...), d[:]...))
			v = s[:]
			continue
		}
		d := sha512.Sum384(m)
		s := sha512.Sum384(append(append([]byte{}, v...), d[:]...))
		v = s[:]
	}
	return v
}
