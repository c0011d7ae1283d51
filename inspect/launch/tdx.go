package launch

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// Order is the order in which a VMM adds and measures the pages of a TDX guest.
type Order string

// The orders.
const (
	// PerPage measures each page right after it is added: Linux 6.16 and later,
	// Azure, Google.
	PerPage Order = "per-page"
	// PerSection adds all pages of a section, and measures their contents
	// afterwards: the kernels of vendors before that.
	PerSection Order = "per-section"
)

// Attributes of sections in a TDVF descriptor.
const (
	tdvfExtend = 1 << 0 // MR.EXTEND: contents are measured
	tdvfAug    = 1 << 1 // PAGE.AUG: the page is added later, and not measured
)

// TDX returns MRTD of a guest with this firmware.
func (f *Firmware) TDX(order Order) (Digest, error) {
	sections, err := f.tdxSections()
	if err != nil {
		return Digest{}, err
	}
	left, m := budget(maxPages), newMRTD()
	for _, r := range sections {
		if err := left.take(r.size / pageSize); err != nil {
			return Digest{}, err
		}
		m.region(r, order)
	}
	return m.sum(), nil
}

// tdxSections reads the TDVF descriptor: "TDVF", length, version 1, count, then
// sections {offset and size in the file, 32 bits each; address and size in
// memory, 64 bits each; type and attributes, 32 bits each}. Sections that are
// added later are left out.
func (f *Firmware) tdxSections() ([]region, error) {
	const header, section = 16, 32
	b, err := f.descriptor(guidTDX, "TDVF descriptor")
	if err != nil {
		return nil, err
	}
	if len(b) < header || string(b[:4]) != "TDVF" || le32(b[8:]) != 1 {
		return nil, errors.New("TDVF descriptor: want the signature TDVF and version 1")
	}
	count := le32(b[12:])
	if count > maxSections || uint64(le32(b[4:])) != header+uint64(count)*section {
		return nil, fmt.Errorf("TDVF descriptor: %d sections in %d bytes", count, le32(b[4:]))
	}
	if b, err = cut(b, header, uint64(count)*section, "TDVF descriptor"); err != nil {
		return nil, err
	}
	var sections []region
	for ; len(b) > 0; b = b[section:] {
		attributes := le32(b[28:])
		r := region{gpa: le64(b[8:]), size: le64(b[16:]), kind: le32(b[24:]), extend: attributes&tdvfExtend != 0}
		if attributes&tdvfAug != 0 {
			continue
		}
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("TDVF descriptor: %w", err)
		}
		if r.data, err = cut(f.data, uint64(le32(b)), uint64(le32(b[4:])), "TDVF section"); err != nil {
			return nil, err
		}
		if uint64(len(r.data)) > r.size {
			return nil, fmt.Errorf("TDVF section at %#x: %#x bytes of data for %#x of memory", r.gpa, len(r.data), r.size)
		}
		sections = append(sections, r)
	}
	return sections, nil
}

// mrtd is the running measurement of a trust domain (TDH.MEM.PAGE.ADD and
// TDH.MR.EXTEND in the Intel TDX module specification).
type mrtd struct{ h hash.Hash }

func newMRTD() mrtd { return mrtd{sha512.New384()} }

func (m mrtd) sum() Digest { return Digest(m.h.Sum(nil)) }

// operation writes the 128 bytes that name an operation and its address.
func (m mrtd) operation(name string, gpa uint64) {
	var b [128]byte
	copy(b[:16], name)
	binary.LittleEndian.PutUint64(b[16:], gpa)
	m.h.Write(b[:])
}

func (m mrtd) add(gpa uint64) { m.operation("MEM.PAGE.ADD", gpa) }

// extend measures the contents of a page, 256 bytes at a time.
func (m mrtd) extend(gpa uint64, page [pageSize]byte) {
	const chunk = 256
	for at := uint64(0); at < pageSize; at += chunk {
		m.operation("MR.EXTEND", gpa+at)
		m.h.Write(page[at : at+chunk])
	}
}

func (m mrtd) region(r region, order Order) {
	pages := r.size / pageSize
	for n := range pages {
		m.add(r.gpa + n*pageSize)
		if r.extend && order == PerPage {
			m.extend(r.gpa+n*pageSize, r.page(n))
		}
	}
	if r.extend && order == PerSection {
		for n := range pages {
			m.extend(r.gpa+n*pageSize, r.page(n))
		}
	}
}
