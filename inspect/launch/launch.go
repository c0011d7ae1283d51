// Package launch calculates what the hardware measures when a confidential
// guest is launched: the launch digest of AMD SEV-SNP and MRTD of Intel TDX,
// from the firmware image, the kernel that is booted directly, or an IGVM file.
//
// It owns those formats and the order in which pages are measured. It refuses
// to read files by itself, to guess what an image does not say, and to predict
// run-time registers (RTMRs): firmware and kernel write those, each version in
// its own way. It never panics on hostile bytes and imports only the standard
// library.
//
// Sources: AMD 56860, SEV Secure Nested Paging Firmware ABI, 8.17.2 (PAGE_INFO);
// AMD 24593, APM volume 2, table B-4 (VMSA); Intel TDX Module Base
// Specification, "Measurement and Attestation"; Intel TDX Virtual Firmware
// Design Guide, 11 (TDVF descriptor); the tables of EDK II's OvmfPkg; the
// Independent Guest Virtual Machine (IGVM) file format.
package launch

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	pageSize = 4096
	fourGiB  = 1 << 32
	// MaxImage bounds an image, in bytes.
	MaxImage = 64 << 20
	// maxPages bounds what one image may have measured: 1 GiB.
	maxPages = 1 << 18
	// maxSections bounds the descriptors of an image.
	maxSections = 64
)

// Digest is a launch digest or MRTD: SHA-384.
type Digest [sha512.Size384]byte

// ErrAbsent says that an image has nothing of the kind that was asked for.
var ErrAbsent = errors.New("the image has no such part")

// region is a part of the guest's memory at launch.
type region struct {
	gpa, size uint64
	kind      uint32
	data      []byte // shorter than size: zeros follow
	extend    bool   // TDX: the contents are measured too
}

// check refuses regions that no hardware takes.
func (r region) check() error {
	switch {
	case r.gpa%pageSize != 0 || r.size%pageSize != 0:
		return fmt.Errorf("section at %#x of %#x bytes is not made of pages", r.gpa, r.size)
	case r.size > maxPages*pageSize:
		return fmt.Errorf("section at %#x has %#x bytes, limit %#x", r.gpa, r.size, maxPages*pageSize)
	case r.gpa > 1<<52-r.size:
		return fmt.Errorf("section at %#x of %#x bytes leaves the address space", r.gpa, r.size)
	}
	return nil
}

// page returns the nth page of the region's contents.
func (r region) page(n uint64) [pageSize]byte {
	var p [pageSize]byte
	if at := n * pageSize; at < uint64(len(r.data)) {
		copy(p[:], r.data[at:])
	}
	return p
}

// budget counts pages down.
type budget int

func (b *budget) take(pages uint64) error {
	if pages > uint64(*b) {
		return fmt.Errorf("the image has more than %d pages measured", maxPages)
	}
	*b -= budget(pages)
	return nil
}

// cut returns n bytes of b at off, or an error that says what was cut off.
func cut(b []byte, off, n uint64, what string) ([]byte, error) {
	if off > uint64(len(b)) || n > uint64(len(b))-off {
		return nil, fmt.Errorf("%s: %d bytes at %d leave the image of %d", what, n, off, len(b))
	}
	return b[off : off+n], nil
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
