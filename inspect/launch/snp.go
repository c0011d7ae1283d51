package launch

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
)

// Types of pages in PAGE_INFO (AMD 56860, 8.17.2).
const (
	pageNormal     = 1
	pageVMSA       = 2
	pageZero       = 3
	pageUnmeasured = 4
	pageSecrets    = 5
	pageCPUID      = 6
)

// vmsaGPA is where the state of every processor is measured: all ones, as far as
// a page address goes.
const vmsaGPA = 0xFFFFFFFFF000

// page extends a launch digest by one page: SHA-384 of PAGE_INFO. VMPLs 1 to 3
// have no permissions, and no page is of an initial migration image.
func (d *Digest) page(kind byte, gpa uint64, contents [sha512.Size384]byte) {
	const size = 0x70
	var info [size]byte
	copy(info[:], d[:])
	copy(info[48:], contents[:])
	binary.LittleEndian.PutUint16(info[96:], size)
	info[98] = kind
	binary.LittleEndian.PutUint64(info[104:], gpa)
	*d = sha512.Sum384(info[:])
}

// bare extends a launch digest by pages whose contents are not measured.
func (d *Digest) bare(kind byte, r region) {
	for at := uint64(0); at < r.size; at += pageSize {
		d.page(kind, r.gpa+at, Digest{})
	}
}

// full extends a launch digest by pages with their contents.
func (d *Digest) full(r region) {
	for n := uint64(0); n < r.size/pageSize; n++ {
		p := r.page(n)
		d.page(pageNormal, r.gpa+n*pageSize, sha512.Sum384(p[:]))
	}
}

// Kernel is what is booted directly, without a boot loader: the firmware gets
// SHA-256 of each part in a page of its own, which is measured.
type Kernel struct {
	Image       [sha256.Size]byte // of the kernel's file
	Initrd      [sha256.Size]byte // of the initrd's file, or of nothing without one
	CommandLine string            // without its final zero
}

// SNPOptions say how a guest is launched; all of it is measured.
type SNPOptions struct {
	VMM           VMM
	VCPUs         int    // 1 to MaxVCPUs
	CPU           uint32 // signature of the processor type: CPUSignature
	GuestFeatures uint64 // SEV_FEATURES of each processor; 1 is SNP alone
	Kernel        *Kernel
}

// MaxVCPUs bounds the processors of a guest.
const MaxVCPUs = 4096

// SNP returns the launch digest of a guest with this firmware.
func (f *Firmware) SNP(o SNPOptions) (Digest, error) {
	var d Digest
	if o.VCPUs < 1 || o.VCPUs > MaxVCPUs {
		return d, fmt.Errorf("%d processors, want 1 to %d", o.VCPUs, MaxVCPUs)
	}
	sections, err := f.sevSections()
	if err != nil {
		return d, err
	}
	left := budget(maxPages)
	image := region{gpa: f.gpa(), size: uint64(len(f.data)), data: f.data}
	for _, r := range append([]region{image}, sections...) {
		if err := left.take(r.size / pageSize); err != nil {
			return d, err
		}
	}
	d.full(image)
	if err := f.snpSections(&d, sections, o); err != nil {
		return Digest{}, err
	}
	start, ok := f.word(guidResetBlock)
	if o.VCPUs > 1 && (!ok || start == 0) {
		return Digest{}, fmt.Errorf("where further processors start (SEV-ES reset block): %w", ErrAbsent)
	}
	for cpu := range o.VCPUs {
		ip := uint32(bootIP)
		if cpu > 0 {
			ip = start
		}
		state := vmsa(o, ip)
		d.page(pageVMSA, vmsaGPA, sha512.Sum384(state[:]))
	}
	return d, nil
}

// snpSections measures what the metadata lists, in its order.
func (f *Firmware) snpSections(d *Digest, sections []region, o SNPOptions) error {
	hashed := false
	var last []region
	for _, r := range sections {
		switch {
		case r.kind == sevMemory && o.VMM == GCE:
			d.bare(pageUnmeasured, r)
		case r.kind == sevMemory, r.kind == sevCallingArea, r.kind == sevKernelHashes && o.Kernel == nil:
			d.bare(pageZero, r)
		case r.kind == sevSecrets:
			d.bare(pageSecrets, r)
		case r.kind == sevCPUID && o.VMM == EC2:
			last = append(last, r)
		case r.kind == sevCPUID:
			d.bare(pageCPUID, r)
		case r.kind == sevKernelHashes:
			table, err := f.hashes(*o.Kernel, r)
			if err != nil {
				return err
			}
			r.data, hashed = table, true
			d.full(r)
		default:
			return fmt.Errorf("SEV metadata: a section of unknown type %d", r.kind)
		}
	}
	for _, r := range last {
		d.bare(pageCPUID, r)
	}
	if o.Kernel != nil && !hashed {
		return fmt.Errorf("a section for the hashes of a kernel: %w", ErrAbsent)
	}
	return nil
}

// GUIDs of the table of hashes that a VMM leaves for the firmware.
var (
	guidHashes  = parseGUID("9438d606-4f22-4cc9-b479-a793d411fd21")
	guidKernel  = parseGUID("4de79437-abd2-427f-b835-d5b172d2045b")
	guidInitrd  = parseGUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
	guidCmdline = parseGUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
)

// hashes returns the section with the table of hashes where the firmware looks
// for it.
func (f *Firmware) hashes(k Kernel, r region) ([]byte, error) {
	at, ok := f.word(guidHashTable)
	if !ok || at == 0 {
		return nil, fmt.Errorf("where the hashes of a kernel belong: %w", ErrAbsent)
	}
	table := hashTable(k)
	offset := uint64(at) - r.gpa
	if uint64(at) < r.gpa || r.size != pageSize || offset+uint64(len(table)) > r.size {
		return nil, fmt.Errorf("the table of hashes at %#x does not lie in its section at %#x of %#x bytes", at, r.gpa, r.size)
	}
	return append(make([]byte, offset), table...), nil
}

// hashTable is {GUID, length} and three entries {GUID, length, SHA-256}, filled
// up with zeros to a multiple of 16 bytes.
func hashTable(k Kernel) []byte {
	const entry = entryHeader + sha256.Size
	const length = entryHeader + 3*entry
	b := binary.LittleEndian.AppendUint16(append([]byte(nil), guidHashes[:]...), length)
	for _, e := range []struct {
		id   guid
		hash [sha256.Size]byte
	}{{guidCmdline, sha256.Sum256(append([]byte(k.CommandLine), 0))}, {guidInitrd, k.Initrd}, {guidKernel, k.Image}} {
		b = binary.LittleEndian.AppendUint16(append(b, e.id[:]...), entry)
		b = append(b, e.hash[:]...)
	}
	return append(b, make([]byte, (16-length%16)%16)...)
}
