package enclave

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// MaxFile bounds an enclave's file, in bytes.
const MaxFile = 4 << 30

// Kind tells what a file was built for.
type Kind string

// The kinds.
const (
	EGo         Kind = "EGo binary"
	OpenEnclave Kind = "Open Enclave binary"
	IntelSDK    Kind = "Intel SGX SDK enclave"
)

// Binary is an ELF file that is an enclave.
type Binary struct {
	Kind Kind
	// Signed are the SIGSTRUCTs inside, each with its own UniqueID and all else
	// alike; none if the file is not signed. The Intel SDK signs for several
	// generations of loaders.
	Signed []SigStruct
	// Config is the configuration that "ego sign" embeds (enclave.json), nil if
	// there is none. It is part of what is measured.
	Config json.RawMessage
}

// ErrNoEnclave says that a file is no enclave.
var ErrNoEnclave = errors.New("no enclave")

const (
	sectionOE    = ".oeinfo"       // Open Enclave, and what is built on it
	sectionSign  = ".oesign"       // Open Enclave where .oeinfo itself is measured
	sectionIntel = ".note.sgxmeta" // Intel SGX SDK
	maxSection   = 1 << 20
	// Where .oeinfo has offset and size of the configuration that EGo appends to
	// the file, 8 bytes each.
	oePayload  = 2048
	maxPayload = 1 << 20
)

// IsELF reports whether a file that begins with head is an ELF file.
func IsELF(head []byte) bool { return bytes.HasPrefix(head, []byte(elf.ELFMAG)) }

// ReadBinary reads an ELF file of size bytes. ErrNoEnclave says that it is none,
// or has none of the sections that mark an enclave. A SIGSTRUCT that hardware
// would refuse is an error; one that is all zeros means that the file is not
// signed.
func ReadBinary(r io.ReaderAt, size int64) (b Binary, err error) {
	if size > MaxFile {
		return b, fmt.Errorf("the file has %d bytes, limit %d", size, int64(MaxFile))
	}
	f, err := elf.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil {
		return b, fmt.Errorf("%w: reading the ELF file: %w", ErrNoEnclave, err)
	}
	section := f.Section(sectionOE)
	if b.Kind = OpenEnclave; section == nil {
		section, b.Kind = f.Section(sectionIntel), IntelSDK
	}
	if section == nil {
		return b, ErrNoEnclave
	}
	data, err := sectionData(section)
	if err != nil {
		return b, err
	}
	if b.Kind == OpenEnclave {
		if b.Config, err = payload(r, size, data); err != nil {
			return b, err
		}
		if b.Config != nil || isEGo(f) {
			b.Kind = EGo
		}
	}
	if b.Signed, err = findSigStructs(data); err != nil || b.Kind == IntelSDK || len(b.Signed) > 0 {
		return b, err
	}
	if section = f.Section(sectionSign); section != nil {
		if data, err = sectionData(section); err == nil {
			b.Signed, err = findSigStructs(data)
		}
	}
	return b, err
}

// sectionData returns the bytes of a section of bounded size.
func sectionData(s *elf.Section) ([]byte, error) {
	if s.FileSize > maxSection || s.Size > maxSection || s.Type == elf.SHT_NOBITS {
		return nil, fmt.Errorf("section %s has %d bytes, limit %d", s.Name, s.Size, maxSection)
	}
	data, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("reading section %s: %w", s.Name, err)
	}
	return data, nil
}

// findSigStructs looks for SIGSTRUCTs in a section. One that does not verify is
// an error, and so are two that differ in more than what they measure.
func findSigStructs(data []byte) ([]SigStruct, error) {
	var found []SigStruct
	for at := 0; len(data)-at >= SigStructSize; at++ {
		next := bytes.Index(data[at:], sigHeader)
		if next < 0 || len(data)-at-next < SigStructSize {
			break
		}
		at += next
		if !IsSigStruct(data[at:]) {
			continue
		}
		s, err := ParseSigStruct(data[at : at+SigStructSize])
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			same := s
			same.UniqueID, same.Date = found[0].UniqueID, found[0].Date
			if same != found[0] {
				return nil, errors.New("two SIGSTRUCTs of different signers or products")
			}
		}
		if !slices.ContainsFunc(found, func(o SigStruct) bool { return o.UniqueID == s.UniqueID }) {
			found = append(found, s)
		}
		at += SigStructSize - 1
	}
	return found, nil
}

// isEGo looks for the Go program that EGo loads: a section of the Go linker.
func isEGo(f *elf.File) bool {
	for _, s := range f.Sections {
		if s.Name == ".go.buildinfo" || strings.HasPrefix(s.Name, ".note.go.") {
			return true
		}
	}
	return false
}

// payload returns the configuration behind the ELF file, if the section names
// one.
func payload(r io.ReaderAt, size int64, section []byte) (json.RawMessage, error) {
	if len(section) < oePayload+16 {
		return nil, nil
	}
	offset, length := binary.LittleEndian.Uint64(section[oePayload:]), binary.LittleEndian.Uint64(section[oePayload+8:])
	if offset == 0 && length == 0 {
		return nil, nil
	}
	if length > maxPayload || offset > uint64(size) || length > uint64(size)-offset {
		return nil, fmt.Errorf("the embedded configuration of %d bytes at %d leaves the file or is too large", length, offset)
	}
	b := make([]byte, length)
	if _, err := r.ReadAt(b, int64(offset)); err != nil {
		return nil, fmt.Errorf("reading the embedded configuration: %w", err)
	}
	if !json.Valid(b) {
		return nil, errors.New("the embedded configuration is no JSON")
	}
	return b, nil
}
