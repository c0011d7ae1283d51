package issuertest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/ashlar-mesh/ashlar/attest/issuer"
)

// SGX is an enclave on a CPU.
type SGX struct {
	CPU       [32]byte // secret of the CPU
	MRENCLAVE [32]byte
	MRSIGNER  [32]byte
	ProductID uint16
	ISVSVN    uint16
	CPUSVN    [16]byte
	ZeroKeys  bool // as outside an enclave
}

// body returns a report body (Intel SDM volume 3D, 37.15).
func (s *SGX) body(data []byte) []byte {
	b := make([]byte, 384)
	copy(b, s.CPUSVN[:])
	copy(b[64:], s.MRENCLAVE[:])
	copy(b[128:], s.MRSIGNER[:])
	binary.LittleEndian.PutUint16(b[256:], s.ProductID)
	binary.LittleEndian.PutUint16(b[258:], s.ISVSVN)
	copy(b[320:], data)
	return b
}

// Quote returns a quote of version 3 without a signature.
func (s *SGX) Quote(data []byte) []byte {
	q := append(make([]byte, 48), s.body(data)...)
	binary.LittleEndian.PutUint16(q, 3)
	return append(q, make([]byte, 4000)...)
}

// EGETKEY returns the key of a KEYREQUEST, or an errno where the CPU refuses it.
func (s *SGX) EGETKEY(r []byte) ([]byte, error) {
	le := binary.LittleEndian
	policy := le.Uint16(r[2:])
	newer := false
	for i := range s.CPUSVN {
		newer = newer || r[8+i] > s.CPUSVN[i]
	}
	if le.Uint16(r) != 4 || !zero(r[6:8]) || !zero(r[78:]) || le.Uint16(r[4:]) > s.ISVSVN || newer || policy > 3 {
		return nil, syscall.EINVAL
	}
	if s.ZeroKeys {
		return make([]byte, 16), nil
	}
	mac := hmac.New(sha256.New, s.CPU[:])
	mac.Write(r)
	mac.Write(le.AppendUint16(nil, s.ProductID))
	if policy&1 != 0 {
		mac.Write(s.MRENCLAVE[:])
	}
	if policy&2 != 0 {
		mac.Write(s.MRSIGNER[:])
	}
	return mac.Sum(nil)[:16], nil
}

// Gramine is Gramine's /dev/attestation around an enclave.
type Gramine struct {
	SGX
	Type string // "none", "epid", "dcap"
	// Race exchanges the report data before the next so many quotes, as other
	// code in the process may.
	Race int

	mu   sync.Mutex
	data [64]byte
}

// Files returns the pseudo-files by path.
func (g *Gramine) Files() map[string]Opener {
	files := map[string]Opener{
		"/dev/attestation/attestation_type": Content([]byte(g.Type)),
		"/dev/attestation/user_report_data": g.openData,
		"/dev/attestation/quote":            g.openQuote,
	}
	for name, policy := range map[string]uint16{"_sgx_mrenclave": 1, "_sgx_mrsigner": 2} {
		files["/dev/attestation/keys/"+name] = func(int) (issuer.File, error) {
			r := make([]byte, 512)
			binary.LittleEndian.PutUint16(r, 4)
			binary.LittleEndian.PutUint16(r[2:], policy)
			binary.LittleEndian.PutUint16(r[4:], g.ISVSVN)
			copy(r[8:], g.CPUSVN[:])
			key, err := g.EGETKEY(r)
			return &reading{rest: key}, err
		}
	}
	return files
}

// openQuote makes the quote as the file is opened.
func (g *Gramine) openQuote(int) (issuer.File, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Type == "none" {
		return nil, syscall.ENOENT
	}
	if g.Race > 0 {
		g.Race--
		g.data[0] ^= 1
	}
	return &reading{rest: g.Quote(g.data[:])}, nil
}

func (g *Gramine) openData(flag int) (issuer.File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return &reading{rest: g.data[:]}, nil
	}
	return &reportData{gramine: g}, nil
}

// reportData is user_report_data, open for writing.
type reportData struct {
	reading
	gramine *Gramine
	written []byte
}

// Write keeps what is written until the file is closed.
func (f *reportData) Write(p []byte) (int, error) {
	if len(f.written)+len(p) > 64 {
		return 0, syscall.EACCES
	}
	f.written = append(f.written, p...)
	return len(p), nil
}

// Close has the data count.
func (f *reportData) Close() error {
	f.gramine.mu.Lock()
	defer f.gramine.mu.Unlock()
	f.gramine.data = [64]byte{}
	copy(f.gramine.data[:], f.written)
	return nil
}

// Occlum is Occlum's /dev/sgx inside an enclave.
type Occlum struct {
	SGX
	// Size is what it says of quotes; 0: the truth.
	Size uint32
	// Short has it write less of a quote.
	Short int
}

// Open opens the device.
func (o *Occlum) Open(int) (issuer.File, error) { return device(o.ioctl), nil }

func (o *Occlum) ioctl(request uintptr, arg unsafe.Pointer) error {
	le := binary.LittleEndian
	size := uint32(len(o.Quote(nil)))
	switch request {
	case 0x80047307:
		if o.Size != 0 {
			size = o.Size
		}
		le.PutUint32(bytesAt(arg, 4), size)
		return nil
	case 0xc0187308:
		in := bytesAt(arg, 24)
		data, length := bytesAt(pointerAt(in, 0), 64), bytesAt(pointerAt(in, 8), 4)
		if le.Uint32(length) < size {
			return syscall.EINVAL
		}
		n := copy(bytesAt(pointerAt(in, 16), int(size)), o.Quote(data))
		le.PutUint32(length, uint32(n-o.Short))
		return nil
	case 0xc0187304:
		in := bytesAt(arg, 24)
		if pointerAt(in, 0) != nil || pointerAt(in, 8) != nil {
			return syscall.EINVAL
		}
		copy(bytesAt(pointerAt(in, 16), 432), o.body(nil))
		return nil
	case 0xc010730b:
		in := bytesAt(arg, 16)
		key, err := o.EGETKEY(bytesAt(pointerAt(in, 0), 512))
		if err == nil {
			copy(bytesAt(pointerAt(in, 8), 16), key)
		}
		return err
	}
	return syscall.EINVAL
}
