package enclave

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"math/big"
	"os"
	"slices"
	"sync"
	"testing"
)

// signer is an RSA-3072 key with exponent 3, as SIGSTRUCT wants it.
type signer struct{ n, d *big.Int }

// newSigner makes a throw-away key, once for all tests.
var newSigner = sync.OnceValue(func() signer {
	one, three := big.NewInt(1), big.NewInt(3)
	for {
		p, err := rand.Prime(rand.Reader, 1536)
		if err != nil {
			panic(err)
		}
		q, err := rand.Prime(rand.Reader, 1536)
		if err != nil {
			panic(err)
		}
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		if d := new(big.Int).ModInverse(three, phi); d != nil {
			return signer{new(big.Int).Mul(p, q), d}
		}
	}
})

// put writes a little-endian number.
func put(b []byte, x *big.Int) {
	x.FillBytes(b)
	slices.Reverse(b)
}

// unsigned is a SIGSTRUCT of a production enclave with KSS, before it is signed.
func unsigned() []byte {
	b := make([]byte, SigStructSize)
	copy(b, sigHeader)
	copy(b[24:], sigHeader2)
	binary.LittleEndian.PutUint32(b[16:], 0x8086)
	binary.LittleEndian.PutUint32(b[20:], 0x20260115)
	put(b[128:512], newSigner().n)
	b[512] = 3
	copy(b[912:928], "family identifie")
	b[928], b[944] = 0x84, 0x86 // 64 bit and KSS; the mask has debug too
	for i := range 32 {
		b[960+i] = byte(i)
	}
	copy(b[1008:1024], "product identifi")
	binary.LittleEndian.PutUint16(b[1024:], 16)
	binary.LittleEndian.PutUint16(b[1026:], 3)
	return b
}

// sign signs a SIGSTRUCT as it is.
func sign(b []byte) []byte {
	k := newSigner()
	sum := sha256.Sum256(append(slices.Clone(b[:128]), b[900:1028]...))
	prefix := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
	em := append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, 384-3-len(prefix)-len(sum))...)
	em = append(append(append(em, 0), prefix...), sum[:]...)
	s := new(big.Int).Exp(new(big.Int).SetBytes(em), k.d, k.n)
	put(b[516:900], s)
	q1, r := new(big.Int).QuoRem(new(big.Int).Mul(s, s), k.n, new(big.Int))
	put(b[1040:1424], q1)
	put(b[1424:1808], new(big.Int).Quo(r.Mul(r, s), k.n))
	return b
}

// section is a section of an ELF file.
type section struct {
	name string
	data []byte
}

// elfFile builds an ELF file of sections, with trailing bytes behind it.
func elfFile(t testing.TB, trailing []byte, sections ...section) []byte {
	t.Helper()
	const head, entry = 64, 64
	names, offsets := []byte{0}, make([]int, 0, len(sections))
	body := make([]byte, head)
	for _, s := range sections {
		offsets = append(offsets, len(body))
		body = append(body, s.data...)
	}
	nameAt := make([]int, 0, len(sections)+1)
	for _, s := range append(sections, section{name: ".shstrtab"}) {
		nameAt = append(nameAt, len(names))
		names = append(append(names, s.name...), 0)
	}
	namesOffset := len(body)
	body = append(body, names...)
	table := len(body)
	var b bytes.Buffer
	write := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	write(elf.Section64{})
	for i, s := range sections {
		write(elf.Section64{Name: uint32(nameAt[i]), Type: uint32(elf.SHT_PROGBITS), Off: uint64(offsets[i]), Size: uint64(len(s.data))})
	}
	write(elf.Section64{Name: uint32(nameAt[len(sections)]), Type: uint32(elf.SHT_STRTAB), Off: uint64(namesOffset), Size: uint64(len(names))})
	body = append(body, b.Bytes()...)
	b.Reset()
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(table), Ehsize: head,
		Phentsize: 56, Shentsize: entry, Shnum: uint16(len(sections) + 2), Shstrndx: uint16(len(sections) + 1)}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	write(h)
	copy(body, b.Bytes())
	return append(body, trailing...)
}

// oeinfo is the section of Open Enclave with a SIGSTRUCT and the place of EGo's
// configuration.
func oeinfo(sig []byte, offset, length int) []byte {
	b := make([]byte, 4096)
	copy(b[144:], sig)
	binary.LittleEndian.PutUint64(b[oePayload:], uint64(offset))
	binary.LittleEndian.PutUint64(b[oePayload+8:], uint64(length))
	return b
}

// fixtures are the files in testdata that others inspect: what is in them is not
// what the signature inside measures.
func fixtures(t testing.TB) map[string][]byte {
	t.Helper()
	sig, err := os.ReadFile("testdata/test_enclave.sig")
	if err != nil {
		t.Fatal(err)
	}
	config := []byte(`{"exe":"web","key":"private.pem","debug":false,"heapSize":512,"productID":65535,"securityVersion":0}`)
	program := section{".go.buildinfo", []byte("program")}
	size := len(elfFile(t, nil, section{".oeinfo", oeinfo(nil, 0, 0)}, program))
	return map[string][]byte{
		"ego.unsigned":    elfFile(t, nil, section{".oeinfo", oeinfo(nil, 0, 0)}, program),
		"ego.signed":      elfFile(t, config, section{".oeinfo", oeinfo(sig, size, len(config))}, program),
		"intel.signed.so": elfFile(t, nil, section{".note.sgxmeta", append(make([]byte, 32), sig...)}),
	}
}
