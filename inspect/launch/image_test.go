package launch

import (
	"encoding/binary"
	"hash/crc32"
)

// Where the parts of the synthetic firmware lie.
const (
	imageSize  = 12 << 10
	sevOffset  = 0xE00 // bytes before the end
	tdvfOffset = 0xC00
	hashesGPA  = 0x810400
	apStart    = 0x0080b004
)

// words appends 32-bit numbers.
func words(b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// entry is an entry of the table of GUIDs: the data stands before its header.
func entry(id guid, data []byte) []byte {
	b := binary.LittleEndian.AppendUint16(append([]byte(nil), data...), uint16(len(data)+entryHeader))
	return append(b, id[:]...)
}

// sevTable is SEV metadata with every type of section.
func sevTable(sections ...uint32) []byte {
	b := append([]byte("ASEV"), words(nil, uint32(16+4*len(sections)), 1, uint32(len(sections)/3))...)
	return words(b, sections...)
}

// defaultSEV are the sections of the synthetic firmware.
var defaultSEV = []uint32{0x800000, 0x9000, 1, 0x80a000, 0x3000, 1, 0x80d000, 0x1000, 2, 0x80e000, 0x1000, 3, 0x80f000, 0x1000, 4, 0x810000, 0x1000, 0x10, 0x811000, 0xf000, 1}

// tdvfSection is one section of a TDVF descriptor.
type tdvfSection struct {
	offset, raw      uint32
	gpa, size        uint64
	kind, attributes uint32
}

// tdvfGUID stands before a TDVF descriptor.
var tdvfGUID = parseGUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae")

func tdvfTable(sections ...tdvfSection) []byte {
	b := append([]byte("TDVF"), words(nil, uint32(16+32*len(sections)), 1, uint32(len(sections)))...)
	for _, s := range sections {
		b = words(b, s.offset, s.raw)
		b = binary.LittleEndian.AppendUint64(b, s.gpa)
		b = binary.LittleEndian.AppendUint64(b, s.size)
		b = words(b, s.kind, s.attributes)
	}
	return b
}

// defaultTDVF are boot and configuration volumes, temporary memory, and the
// hand-off block.
var defaultTDVF = []tdvfSection{
	{0x1000, imageSize - 0x1000, fourGiB - imageSize + 0x1000, imageSize - 0x1000, 0, 1},
	{0, 0x1000, fourGiB - imageSize, 0x1000, 1, 0},
	{0, 0, 0x810000, 0x10000, 3, 0},
	{0, 0, 0x80b000, 0x2000, 3, 0},
	{0, 0, 0x809000, 0x2000, 2, 0},
}

// firmware builds a firmware image with tables; the rest is a fixed pattern.
func firmware(sev, tdvf []byte, entries ...[]byte) []byte {
	img := make([]byte, imageSize)
	for i := range img {
		img[i] = byte(i*7) ^ byte(i>>8)
	}
	copy(img[imageSize-sevOffset:], sev)
	copy(img[imageSize-tdvfOffset-len(tdvfGUID):], append(tdvfGUID[:], tdvf...))
	var table []byte
	for _, e := range entries {
		table = append(table, e...)
	}
	table = append(table, entry(guidFooter, nil)...)
	at := imageSize - footerEnd - len(table)
	copy(img[at:], table)
	binary.LittleEndian.PutUint16(img[imageSize-footerEnd-entryHeader:], uint16(len(table)))
	return img
}

// synthetic is the firmware that the golden digests are of.
func synthetic() []byte {
	return firmware(sevTable(defaultSEV...), tdvfTable(defaultTDVF...),
		entry(guidTDX, words(nil, tdvfOffset)), entry(guidSEV, words(nil, sevOffset)),
		entry(guidHashTable, words(nil, hashesGPA, 0x400)), entry(guidResetBlock, words(nil, apStart)))
}

// igvmFile assembles an IGVM file: pages of data follow the headers.
type igvmFile struct {
	headers, data []byte
}

// add appends a variable header.
func (f *igvmFile) add(kind uint32, body []byte) {
	f.headers = append(words(f.headers, kind, uint32(len(body))), body...)
	f.headers = append(f.headers, make([]byte, (8-len(body)%8)%8)...)
}

// page stores a page of data and returns its offset from the first one.
func (f *igvmFile) page(fill byte) int {
	p := make([]byte, pageSize)
	for i := range p {
		p[i] = fill ^ byte(i) ^ byte(i>>8)
	}
	f.data = append(f.data, p...)
	return len(f.data) - pageSize
}

const igvmHead = 24

// bytes returns the file. Offsets of pages are those of page plus base.
func (f *igvmFile) bytes(base int) []byte {
	b := words([]byte("IGVM"), 1, igvmHead, uint32(len(f.headers)), uint32(base+len(f.data)), 0)
	b = append(b, f.headers...)
	binary.LittleEndian.PutUint32(b[20:], crc32.ChecksumIEEE(b))
	return append(append(b, make([]byte, base-len(b))...), f.data...)
}

// mend writes the right checksum into what may be an IGVM file.
func mend(b []byte) {
	offset, size := uint64(le32(b[8:])), uint64(le32(b[12:]))
	if headers, err := cut(b, offset, size, ""); err == nil {
		fixed := append([]byte(nil), b[:igvmHead]...)
		clear(fixed[20:])
		binary.LittleEndian.PutUint32(b[20:], crc32.Update(crc32.ChecksumIEEE(fixed), crc32.IEEETable, headers))
	}
}

const igvmBase = 4096

func le64s(values ...uint64) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// syntheticIGVM is the IGVM file that the golden digests are of: SEV-SNP is mask
// 1, TDX mask 2.
func syntheticIGVM() []byte {
	var f igvmFile
	platform := func(mask uint32, kind byte) {
		f.add(igvmPlatform, append(append(words(nil, mask), 0, kind, 1, 0), le64s(1<<46)...))
	}
	platform(1, igvmSNP)
	platform(2, igvmTDX)
	f.add(igvmPolicy, append(le64s(0x30000), words(nil, 1, 0)...))
	f.add(igvmPolicy, append(le64s(0), words(nil, 2, 0)...))
	f.add(igvmParameterArea, append(le64s(2*pageSize), words(nil, 0, 0)...))
	data := func(gpa uint64, mask, flags uint32, kind uint16, offset int) {
		b := append(le64s(gpa), words(nil, mask, uint32(offset), flags)...)
		f.add(igvmPageData, binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, kind), 0))
	}
	data(0x100000, 3, 0, igvmNormal, igvmBase+f.page(1))
	data(0x101000, 3, 0, igvmNormal, igvmBase+f.page(2))
	data(0x102000, 3, 0, igvmNormal, 0)
	data(0x103000, 3, igvmUnmeasured, igvmNormal, igvmBase+f.page(3))
	data(0x104000, 1, 0, igvmSecrets, 0)
	data(0x105000, 1, 0, igvmCPUID, igvmBase+f.page(4))
	data(0x106000, 1, 0, igvmCPUIDXF, 0)
	data(0x107000, 2, 0, igvmNormal, igvmBase+f.page(5))
	data(0x108000, 3, igvmShared, igvmNormal, igvmBase+f.page(6))
	f.add(igvmParameterInsert, append(le64s(0x10a000), words(nil, 3, 0)...))
	context := f.page(0)
	clear(f.data[context:])
	state := vmsa(SNPOptions{VMM: QEMU, GuestFeatures: 1}, 0x80001000)
	copy(f.data[context:], state[:])
	f.add(igvmVPContext, binary.LittleEndian.AppendUint32(append(le64s(vmsaGPA), words(nil, 1, uint32(igvmBase+context))...), 0))
	return f.bytes(igvmBase)
}
