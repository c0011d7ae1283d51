package issuertest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"syscall"
	"unsafe"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"

	"github.com/ashlar-mesh/ashlar/attest/issuer"
)

// SNP is an SEV-SNP guest with its firmware. The zero value answers at VMPL 0.
type SNP struct {
	mu           sync.Mutex
	Chip         [32]byte // secret of the chip
	Measurement  [48]byte
	Policy       uint64
	CommittedTCB uint64
	Level        uint32 // the most privileged VMPL that the kernel has a key for

	// Fail changes what the firmware answers; nil: nothing.
	Fail func(request uintptr, response []byte, result *Result) error
	// Keys counts derived keys.
	Keys int
}

// Result is what the device reports beside the answer.
type Result struct{ Firmware, VMM uint32 }

// Report returns a report, without a signature (AMD 56860, table 23).
func (g *SNP) Report(data []byte, vmpl uint32) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := make([]byte, 0x4a0)
	le := binary.LittleEndian
	le.PutUint32(r, 3)
	le.PutUint64(r[0x08:], g.Policy)
	le.PutUint32(r[0x30:], vmpl)
	le.PutUint32(r[0x34:], 1)
	copy(r[0x50:0x90], data)
	copy(r[0x90:], g.Measurement[:])
	le.PutUint64(r[0x1e0:], g.CommittedTCB)
	return r
}

// Update installs newer firmware.
func (g *SNP) Update(tcb uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.CommittedTCB = tcb
}

// Open opens /dev/sev-guest (include/uapi/linux/sev-guest.h).
func (g *SNP) Open(int) (issuer.File, error) {
	return device(func(request uintptr, arg unsafe.Pointer) error {
		outer := bytesAt(arg, 32)
		if outer[0] == 0 { // msg_version must be non-zero
			return syscall.EINVAL
		}
		var result Result
		var answer []byte
		var err error
		in, out := pointerAt(outer, 8), pointerAt(outer, 16)
		switch request {
		case 0xc0205300:
			answer = bytesAt(out, 4000)
			err = g.report(bytesAt(in, 96), answer)
		case 0xc0205301:
			answer = bytesAt(out, 64)
			err = g.key(bytesAt(in, 32), answer)
		default:
			return syscall.ENOTTY
		}
		if err == nil && g.Fail != nil {
			err = g.Fail(request, answer, &result)
		}
		binary.LittleEndian.PutUint32(outer[24:], result.Firmware)
		binary.LittleEndian.PutUint32(outer[28:], result.VMM)
		return err
	}), nil
}

const invalidParameters = 0x16

// report answers MSG_REPORT_REQ: status, size, 24 zeros, the report.
func (g *SNP) report(in, out []byte) error {
	if !zero(in[68:96]) {
		return syscall.EINVAL
	}
	le := binary.LittleEndian
	vmpl := le.Uint32(in[64:])
	if vmpl > 3 || vmpl < g.Level {
		le.PutUint32(out, invalidParameters)
		return nil
	}
	report := g.Report(in[:64], vmpl)
	le.PutUint32(out[4:], uint32(len(report)))
	copy(out[32:], report)
	return nil
}

// key answers MSG_KEY_REQ. What the guest selects is mixed in, and a TCB above
// the committed one is refused.
func (g *SNP) key(in, out []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	le := binary.LittleEndian
	root, fields, vmpl, tcb := le.Uint32(in), le.Uint64(in[8:]), le.Uint32(in[16:]), le.Uint64(in[24:])
	if !zero(in[4:8]) || root > 1 || fields >= 1<<6 || vmpl > 3 || vmpl < g.Level || tcb > g.CommittedTCB {
		le.PutUint32(out, invalidParameters)
		return nil
	}
	mac := hmac.New(sha256.New, g.Chip[:])
	mac.Write(in[:24]) // root, fields, VMPL, SVN
	for bit, field := range [][]byte{le.AppendUint64(nil, g.Policy), nil, nil, g.Measurement[:], nil, in[24:32]} {
		if fields&(1<<bit) != 0 {
			mac.Write(field)
		}
	}
	copy(out[32:], mac.Sum(nil))
	g.Keys++
	return nil
}

// TSM is configfs-tsm of this guest: the kernel asks the same firmware.
func (g *SNP) TSM() configfsi.Client {
	return TSM("sev_guest", uint(g.Level), func(inblob []byte, level uint) ([]byte, error) {
		return g.Report(inblob, uint32(level)), nil
	})
}

// TSM is configfs-tsm with a provider that makes evidence of inblob.
func TSM(provider string, floor uint, evidence func(inblob []byte, level uint) ([]byte, error)) configfsi.Client {
	report := faketsm.ReportV7(floor)
	report.Random = rand.Reader
	report.MakeEntry = func() *faketsm.ReportEntry { // the kernel answers who it is before anything was written
		return &faketsm.ReportEntry{WriteGeneration: 1, InAttrs: map[string]*faketsm.ReportAttributeState{
			"privlevel": {Value: []byte("0")}, "inblob": {},
		}}
	}
	report.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
		switch attr {
		case "provider":
			return []byte(provider + "\n"), nil
		case "privlevel_floor":
			return []byte{'0' + byte(floor), '\n'}, nil
		case "auxblob":
			return nil, nil
		case "outblob":
			inblob := e.InAttrs["inblob"].Value
			if len(inblob) != 64 {
				return nil, syscall.EINVAL
			}
			level, err := configfsi.Kstrtouint(e.InAttrs["privlevel"].Value, 10, 2)
			if err != nil {
				return nil, err
			}
			return evidence(inblob, uint(level))
		}
		return nil, syscall.ENOENT
	}
	return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": report}}
}

// TDXQuote returns a quote without a signature: version 4, or 5 with a TD 1.5
// body (Intel TDX DCAP quote format).
func TDXQuote(version uint16, data []byte) []byte {
	le := binary.LittleEndian
	q := le.AppendUint16(nil, version)
	q = append(q, make([]byte, 46)...)
	le.PutUint32(q[4:], 0x81)
	body := make([]byte, 584)
	if version >= 5 {
		q = le.AppendUint16(q, 3)
		q = le.AppendUint32(q, 648)
		body = make([]byte, 648)
	}
	copy(body[520:584], data)
	return append(append(q, body...), make([]byte, 70)...)
}

// TDX is a TDX guest device with the host's quote service.
type TDX struct {
	// Answer changes a message of the service; nil: nothing.
	Answer func(m []byte) []byte
	// Tear has the device answer with another report than was asked for.
	Tear bool
}

// Open opens /dev/tdx_guest (include/uapi/linux/tdx-guest.h).
func (g *TDX) Open(int) (issuer.File, error) {
	return device(func(request uintptr, arg unsafe.Pointer) error {
		if request != 0xc4405401 {
			return syscall.ENOTTY
		}
		io := bytesAt(arg, 1088)
		copy(io[64+128:], io[:64])
		if g.Tear {
			io[64+128] ^= 1
		}
		return nil
	}), nil
}

// Service answers one request of the quote generation service.
func (g *TDX) Service() (io.ReadWriteCloser, error) { return &service{tdx: g}, nil }

type service struct {
	tdx *TDX
	out []byte
}

// Write takes a whole request.
func (s *service) Write(m []byte) (int, error) {
	le := binary.LittleEndian
	if len(m) != 4+16+8+1024 || int(binary.BigEndian.Uint32(m)) != len(m)-4 {
		return 0, errors.New("wrong length")
	}
	h := m[4:]
	if le.Uint16(h) != 1 || le.Uint32(h[4:]) != 0 || int(le.Uint32(h[8:])) != len(h) || le.Uint32(h[12:]) != 0 ||
		le.Uint32(h[16:]) != 1024 || le.Uint32(h[20:]) != 0 {
		return 0, errors.New("wrong header")
	}
	quote := TDXQuote(4, h[24+128:24+192])
	body := le.AppendUint32(nil, 16)
	body = le.AppendUint32(body, uint32(len(quote)))
	body = append(append(body, make([]byte, 16)...), quote...)
	answer := []byte{1, 0, 1, 0, 1, 0, 0, 0}
	answer = le.AppendUint32(answer, uint32(16+len(body)))
	answer = append(le.AppendUint32(answer, 0), body...)
	if s.tdx.Answer != nil {
		answer = s.tdx.Answer(answer)
	}
	s.out = append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...)
	return len(m), nil
}

// Read gives the answer a few bytes at a time.
func (s *service) Read(p []byte) (int, error) {
	r := reading{rest: s.out}
	n, err := r.Read(p)
	s.out = r.rest
	return n, err
}

// Close implements io.Closer.
func (*service) Close() error { return nil }
