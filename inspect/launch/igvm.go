package launch

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"hash/crc32"
)

// HyperV launches IGVM files; pages of zeros are measured as pages of data.
const HyperV VMM = "hyperv"

// Types of variable headers that matter for the measurement.
const (
	igvmPlatform        = 0x001
	igvmPolicy          = 0x101
	igvmParameterArea   = 0x301
	igvmPageData        = 0x302
	igvmParameterInsert = 0x303
	igvmVPContext       = 0x304
	igvmIDBlock         = 0x30b
	igvmOptional        = 1 << 31 // a loader may ignore the structure
)

// igvmSizes are the sizes of these structures, in bytes.
var igvmSizes = map[uint32]int{igvmPlatform: 16, igvmPolicy: 16, igvmParameterArea: 16, igvmPageData: 24,
	igvmParameterInsert: 16, igvmVPContext: 20, igvmIDBlock: 696}

// Types of platforms, flags and types of page data.
const (
	igvmSNP = 2
	igvmTDX = 3

	igvm2MiB       = 1 << 0
	igvmUnmeasured = 1 << 1
	igvmShared     = 1 << 2

	igvmNormal  = 0
	igvmSecrets = 1
	igvmCPUID   = 2
	igvmCPUIDXF = 3
)

// IGVM is an IGVM file.
type IGVM struct {
	data       []byte
	directives []directive
	masks      map[uint8]uint32  // compatibility mask by type of platform
	areas      map[uint32]uint64 // sizes of parameter areas
	policies   map[uint32]uint64 // guest policies by mask
}

// directive is a variable header of the directive section.
type directive struct {
	kind uint32
	body []byte
	mask uint32
}

// IsIGVM reports whether a file that begins with head is an IGVM file.
func IsIGVM(head []byte) bool { return len(head) >= 4 && string(head[:4]) == "IGVM" }

// ReadIGVM reads the headers of an IGVM file, versions 1 and 2 with pages of 4
// KiB, of at most MaxImage bytes.
func ReadIGVM(data []byte) (*IGVM, error) {
	if len(data) > MaxImage {
		return nil, fmt.Errorf("IGVM file has %d bytes, limit %d", len(data), MaxImage)
	}
	headers, err := igvmHeaders(data)
	if err != nil {
		return nil, err
	}
	g := &IGVM{data: data, masks: map[uint8]uint32{}, areas: map[uint32]uint64{}, policies: map[uint32]uint64{}}
	for len(headers) > 0 {
		if len(headers) < 8 {
			return nil, errors.New("IGVM: the variable header ends within a structure")
		}
		kind, length := le32(headers)&^uint32(igvmOptional), uint64(le32(headers[4:]))
		body, err := cut(headers, 8, length, "IGVM structure")
		if err != nil {
			return nil, err
		}
		if want, ok := igvmSizes[kind]; ok && len(body) != want {
			return nil, fmt.Errorf("IGVM structure %#x has %d bytes, want %d", kind, len(body), want)
		}
		if err := g.take(kind, body); err != nil {
			return nil, err
		}
		headers = headers[min(uint64(len(headers)), 8+(length+7)&^7):]
	}
	return g, nil
}

// igvmHeaders checks the fixed header and returns the variable one.
func igvmHeaders(data []byte) ([]byte, error) {
	if len(data) < 24 || !IsIGVM(data) {
		return nil, errors.New("IGVM: no fixed header")
	}
	version, fixed := le32(data[4:]), uint64(24)
	if version == 2 {
		fixed = 32
	}
	if version != 1 && version != 2 || uint64(len(data)) < fixed {
		return nil, fmt.Errorf("IGVM: version %d, want 1 or 2", version)
	}
	if version == 2 && (le32(data[24:]) != 0 || le32(data[28:]) != pageSize) {
		return nil, fmt.Errorf("IGVM: architecture %d with pages of %d bytes, want x86-64 and %d", le32(data[24:]), le32(data[28:]), pageSize)
	}
	offset, size := uint64(le32(data[8:])), uint64(le32(data[12:]))
	if offset < fixed || uint64(le32(data[16:])) != uint64(len(data)) {
		return nil, fmt.Errorf("IGVM: the header says %d bytes, the file has %d", le32(data[16:]), len(data))
	}
	headers, err := cut(data, offset, size, "IGVM variable header")
	if err != nil {
		return nil, err
	}
	head := append([]byte(nil), data[:fixed]...)
	clear(head[20:24])
	if sum := crc32.Update(crc32.ChecksumIEEE(head), crc32.IEEETable, headers); sum != le32(data[20:]) {
		return nil, fmt.Errorf("IGVM: the headers' checksum is %08x, the header says %08x", sum, le32(data[20:]))
	}
	return headers, nil
}

// take keeps what matters of a structure.
func (g *IGVM) take(kind uint32, b []byte) error {
	switch kind {
	case igvmPlatform:
		if g.masks[b[5]] != 0 {
			return fmt.Errorf("IGVM: platform %d is there twice", b[5])
		}
		g.masks[b[5]] = le32(b)
	case igvmPolicy:
		g.policies[le32(b[8:])] = le64(b)
	case igvmParameterArea:
		size := le64(b)
		if size == 0 || size%pageSize != 0 || size > maxPages*pageSize {
			return fmt.Errorf("IGVM: a parameter area of %d bytes", size)
		}
		g.areas[le32(b[8:])] = size
	case igvmPageData, igvmParameterInsert, igvmVPContext:
		g.directives = append(g.directives, directive{kind, b, le32(b[8:])})
	case igvmIDBlock:
		g.directives = append(g.directives, directive{kind, b, le32(b)})
	}
	return nil
}

// HasSNP reports whether the file can be launched as an SEV-SNP guest.
func (g *IGVM) HasSNP() bool { return g.masks[igvmSNP] != 0 }

// HasTDX reports whether the file can be launched as a TDX guest.
func (g *IGVM) HasTDX() bool { return g.masks[igvmTDX] != 0 }

// SNPPolicy returns the guest policy that the file asks for.
func (g *IGVM) SNPPolicy() (uint64, bool) {
	for mask, policy := range g.policies {
		if mask&g.masks[igvmSNP] != 0 {
			return policy, true
		}
	}
	return 0, false
}

// IDBlock is what the ID block in a file says.
type IDBlock struct {
	Digest            Digest
	FamilyID, ImageID [16]byte
	GuestSVN          uint32
}

// SNPIDBlock returns the ID block, if there is one. Its signature is for the
// hardware to check.
func (g *IGVM) SNPIDBlock() (IDBlock, bool) {
	for _, d := range g.directives {
		if d.kind == igvmIDBlock && d.mask&g.masks[igvmSNP] != 0 {
			return IDBlock{Digest: Digest(d.body[8:56]), FamilyID: [16]byte(d.body[56:]), ImageID: [16]byte(d.body[72:]), GuestSVN: le32(d.body[92:])}, true
		}
	}
	return IDBlock{}, false
}

// each calls f for each measured directive of a platform, with the pages that it
// stands for. Shared pages are left out.
func (g *IGVM) each(platform uint8, f func(directive, region) error) error {
	mask, left := g.masks[platform], budget(maxPages)
	if mask == 0 {
		return fmt.Errorf("IGVM platform %d: %w", platform, ErrAbsent)
	}
	for _, d := range g.directives {
		if d.mask&mask == 0 || d.kind == igvmIDBlock || d.kind == igvmPageData && le32(d.body[16:])&igvmShared != 0 {
			continue
		}
		r, err := g.region(d)
		if err == nil {
			err = r.check()
		}
		if err == nil {
			err = left.take(r.size / pageSize)
		}
		if err == nil {
			err = f(d, r)
		}
		if err != nil {
			return fmt.Errorf("IGVM: %w", err)
		}
	}
	return nil
}

// region returns the pages of a directive.
func (g *IGVM) region(d directive) (region, error) {
	r := region{gpa: le64(d.body), size: pageSize}
	var offset uint32
	switch d.kind {
	case igvmParameterInsert:
		size, ok := g.areas[le32(d.body[12:])]
		if !ok {
			return r, fmt.Errorf("parameter area %d is not declared", le32(d.body[12:]))
		}
		r.size = size
		return r, nil
	case igvmPageData:
		flags := le32(d.body[16:])
		if flags&igvm2MiB != 0 {
			return r, errors.New("pages of 2 MiB: loaders do not agree on how they are measured")
		}
		r.kind, r.extend, offset = uint32(le16(d.body[20:])), flags&igvmUnmeasured == 0, le32(d.body[12:])
	case igvmVPContext:
		offset = le32(d.body[12:])
	}
	if offset == 0 {
		return r, nil
	}
	var err error
	r.data, err = cut(g.data, uint64(offset), pageSize, "page")
	return r, err
}

// SNP returns the launch digest of the file under a VMM, QEMU or HyperV. QEMU
// measures the state of the first processor last, whatever the order in the file.
func (g *IGVM) SNP(vmm VMM) (Digest, error) {
	if vmm != QEMU && vmm != HyperV {
		return Digest{}, fmt.Errorf("IGVM files are measured as %s and %s launch them, not %s", QEMU, HyperV, vmm)
	}
	var d Digest
	var state []region
	err := g.each(igvmSNP, func(dir directive, r region) error {
		switch {
		case dir.kind == igvmVPContext && vmm == QEMU:
			state = append(state, r)
		case dir.kind == igvmVPContext:
			d.state(r)
		default:
			return d.directive(dir, r, vmm)
		}
		return nil
	})
	if err != nil {
		return Digest{}, err
	}
	if vmm == QEMU && (len(state) != 1 || state[0].gpa != vmsaGPA) {
		return Digest{}, fmt.Errorf("IGVM: %d processor states; QEMU launches one, at %#x", len(state), uint64(vmsaGPA))
	}
	for _, r := range state {
		d.state(r)
	}
	return d, nil
}

// state extends a launch digest by the state of a processor.
func (d *Digest) state(r region) {
	p := r.page(0)
	d.page(pageVMSA, r.gpa, sha512.Sum384(p[:]))
}

// directive extends a launch digest by page data or inserted parameters.
func (d *Digest) directive(dir directive, r region, vmm VMM) error {
	switch {
	case dir.kind == igvmParameterInsert:
		d.bare(pageUnmeasured, r)
	case r.kind == igvmSecrets:
		d.bare(pageSecrets, r)
	case r.kind == igvmCPUID, r.kind == igvmCPUIDXF:
		d.bare(pageCPUID, r)
	case r.kind != igvmNormal:
		return fmt.Errorf("page data of unknown type %d", r.kind)
	case !r.extend:
		d.bare(pageUnmeasured, r)
	case r.data == nil && vmm == QEMU:
		d.bare(pageZero, r)
	default:
		d.full(r)
	}
	return nil
}

// TDX returns MRTD of the file.
func (g *IGVM) TDX(order Order) (Digest, error) {
	m := newMRTD()
	err := g.each(igvmTDX, func(d directive, r region) error {
		if d.kind != igvmVPContext {
			m.region(r, order)
		}
		return nil
	})
	if err != nil {
		return Digest{}, err
	}
	return m.sum(), nil
}
