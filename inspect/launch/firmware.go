package launch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// guid is a GUID as it stands in memory: the first three parts little endian.
type guid [16]byte

// parseGUID reads a GUID constant. It panics on anything else.
func parseGUID(text string) guid {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 {
		panic("launch: bad GUID constant " + text)
	}
	var g guid
	for i, from := range [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		g[i] = b[from]
	}
	return g
}

// GUIDs of the table at the end of the firmware (OvmfPkg/ResetVector).
var (
	guidFooter     = parseGUID("96b582de-1fb2-45f7-baea-a366c55a082d")
	guidResetBlock = parseGUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
	guidHashTable  = parseGUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
	guidSEV        = parseGUID("dc886566-984a-4798-a75e-5585a7bf67cc")
	guidTDX        = parseGUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
)

const (
	footerEnd   = 32     // bytes after the table: the reset vector
	entryHeader = 2 + 16 // of an entry, after its data: length of all, and GUID
)

// Firmware is an image of EDK II's OVMF or of a firmware with the same tables.
type Firmware struct {
	data  []byte
	table map[guid][]byte
}

// IsFirmware reports whether an image, of which the last 64 bytes are given, ends
// with the table of GUIDs.
func IsFirmware(tail []byte) bool {
	end := len(tail) - footerEnd
	return end >= len(guidFooter) && bytes.Equal(tail[end-len(guidFooter):end], guidFooter[:])
}

// ReadFirmware reads the table at the end of an image of at most MaxImage bytes.
func ReadFirmware(data []byte) (*Firmware, error) {
	switch {
	case len(data) > MaxImage:
		return nil, fmt.Errorf("firmware has %d bytes, limit %d", len(data), MaxImage)
	case len(data)%pageSize != 0 || !IsFirmware(data):
		return nil, errors.New("no firmware with a table of GUIDs at its end, in whole pages")
	}
	f := &Firmware{data: data, table: map[guid][]byte{}}
	footer := len(data) - footerEnd
	length := int(le16(data[footer-entryHeader:]))
	if length < entryHeader || length > footer {
		return nil, fmt.Errorf("the table of GUIDs has a length of %d", length)
	}
	rest := data[footer-length : footer-entryHeader]
	for len(rest) > 0 {
		if len(rest) < entryHeader {
			return nil, fmt.Errorf("the table of GUIDs has %d bytes too many", len(rest))
		}
		n := int(le16(rest[len(rest)-entryHeader:]))
		if n < entryHeader || n > len(rest) {
			return nil, fmt.Errorf("an entry in the table of GUIDs has a length of %d", n)
		}
		id := guid(rest[len(rest)-16:])
		if _, twice := f.table[id]; twice {
			return nil, fmt.Errorf("the table of GUIDs has %x twice", id)
		}
		f.table[id] = rest[len(rest)-n : len(rest)-entryHeader]
		rest = rest[:len(rest)-n]
	}
	return f, nil
}

// HasSNP and HasTDX report whether the firmware says how it is launched.
func (f *Firmware) HasSNP() bool { return f.table[guidSEV] != nil }

// HasTDX reports whether the firmware has a TDVF descriptor.
func (f *Firmware) HasTDX() bool { return f.table[guidTDX] != nil }

// word returns the 32-bit value of an entry.
func (f *Firmware) word(id guid) (uint32, bool) {
	entry := f.table[id]
	if len(entry) < 4 {
		return 0, false
	}
	return le32(entry), true
}

// descriptor returns the bytes that an entry points to, counted from the end of
// the image.
func (f *Firmware) descriptor(id guid, what string) ([]byte, error) {
	offset, ok := f.word(id)
	if !ok {
		return nil, fmt.Errorf("%s: %w", what, ErrAbsent)
	}
	if uint64(offset) > uint64(len(f.data)) {
		return nil, fmt.Errorf("%s lies %d bytes before the end of an image of %d", what, offset, len(f.data))
	}
	return f.data[len(f.data)-int(offset):], nil
}

// gpa is where the image is mapped: it ends at 4 GiB.
func (f *Firmware) gpa() uint64 { return fourGiB - uint64(len(f.data)) }

// Types of sections in SEV metadata.
const (
	sevMemory       = 1
	sevSecrets      = 2
	sevCPUID        = 3
	sevCallingArea  = 4
	sevKernelHashes = 0x10
)

// sevSections reads the SEV metadata: "ASEV", length, version 1, count, then
// {address, size, type}, 32 bits each.
func (f *Firmware) sevSections() ([]region, error) {
	const header, section = 16, 12
	b, err := f.descriptor(guidSEV, "SEV metadata")
	if err != nil {
		return nil, err
	}
	if len(b) < header || string(b[:4]) != "ASEV" || le32(b[8:]) != 1 {
		return nil, errors.New("SEV metadata: want the signature ASEV and version 1")
	}
	count := le32(b[12:])
	if count > maxSections || uint64(le32(b[4:])) != header+uint64(count)*section {
		return nil, fmt.Errorf("SEV metadata: %d sections in %d bytes", count, le32(b[4:]))
	}
	if b, err = cut(b, header, uint64(count)*section, "SEV metadata"); err != nil {
		return nil, err
	}
	sections := make([]region, count)
	for i := range sections {
		s := b[i*section:]
		sections[i] = region{gpa: uint64(le32(s)), size: uint64(le32(s[4:])), kind: le32(s[8:])}
		if err := sections[i].check(); err != nil {
			return nil, fmt.Errorf("SEV metadata: %w", err)
		}
	}
	return sections, nil
}
