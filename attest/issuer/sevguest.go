package issuer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The interface of /dev/sev-guest: include/uapi/linux/sev-guest.h.
const (
	sevGuestPath     = "/dev/sev-guest"
	snpGetReport     = 0xc0205300 // _IOWR('S', 0, struct snp_guest_request_ioctl)
	snpGetDerivedKey = 0xc0205301 // _IOWR('S', 1, struct snp_guest_request_ioctl)

	snpMessageVersion = 1
	snpStatusInvalid  = 0x16 // of a response: invalid parameters
	vmmBusy           = 2    // SNP_GUEST_VMM_ERR_BUSY
)

// snpRequest is struct snp_guest_request_ioctl, 32 bytes.
type snpRequest struct {
	version            uint8
	_                  [7]byte
	request, response  unsafe.Pointer
	firmware, vmmError uint32
}

// snpReportRequest is struct snp_report_req, 96 bytes.
type snpReportRequest struct {
	data [64]byte
	vmpl uint32
	_    [28]byte
}

// snpReportResponse is struct snp_report_resp: the firmware's MSG_REPORT_RSP.
type snpReportResponse [4000]byte

// snpKeyRequest is struct snp_derived_key_req, 32 bytes: MSG_KEY_REQ.
type snpKeyRequest struct {
	rootKey uint32 // 0: VCEK
	_       uint32
	fields  uint64
	vmpl    uint32
	svn     uint32
	tcb     uint64
}

// snpKeyResponse is struct snp_derived_key_resp: MSG_KEY_RSP, status at 0, the
// key at 32.
type snpKeyResponse [64]byte

// snpGuest asks SEV-SNP's firmware: for reports through report, for keys through
// the guest device.
type snpGuest struct {
	machine Machine
	report  func(attest.Binding) ([]byte, error)
	level   *uint // VMPL to ask at; nil: 0
	gate    gate
}

// probeSEVGuest finds the guest device without configfs-tsm (Linux 5.19 to 6.6).
func probeSEVGuest(_ context.Context, m Machine) (attest.Issuer, error) {
	device, err := m.Open(sevGuestPath, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := device.Close(); err != nil {
		return nil, err
	}
	s := &snpGuest{machine: m, gate: newGate()}
	s.report = s.deviceReport
	return s, nil
}

// TEE implements attest.Issuer.
func (s *snpGuest) TEE() attest.TEE { return attest.SNP }

// Issue implements attest.Issuer.
func (s *snpGuest) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return alone(ctx, s.gate, func() (attest.Evidence, error) {
		raw, err := s.report(b)
		if err != nil {
			return attest.Evidence{}, err
		}
		return checked(attest.SNP, raw, b)
	})
}

func (s *snpGuest) vmpl() uint32 {
	if s.level == nil {
		return 0
	}
	return uint32(*s.level)
}

// deviceReport asks the guest device for a report. The response holds a status
// (at 0), the report's size (at 4) and the report (at 32).
func (s *snpGuest) deviceReport(b attest.Binding) ([]byte, error) {
	request := &snpReportRequest{data: b, vmpl: s.vmpl()}
	response := new(snpReportResponse)
	if err := s.ask(snpGetReport, unsafe.Pointer(request), unsafe.Pointer(response)); err != nil {
		return nil, err
	}
	const header = 32
	if status := binary.LittleEndian.Uint32(response[:]); status != 0 {
		return nil, problem.New("ATT-096", "SEV-SNP firmware refused a report at VMPL %d with status %#x", request.vmpl, status)
	}
	size := binary.LittleEndian.Uint32(response[4:])
	if size < snpReportSize || int64(size) > int64(len(response)-header) {
		return nil, problem.New("ATT-097", "SEV-SNP firmware gave a report of %d bytes, wanted %d", size, snpReportSize)
	}
	return append([]byte(nil), response[header:header+size]...), nil
}

// ask sends one message to the firmware. The kernel waits by itself while the
// host throttles.
func (s *snpGuest) ask(command uintptr, request, response unsafe.Pointer) error {
	device, err := s.machine.Open(sevGuestPath, os.O_RDWR)
	if err != nil {
		return problem.Because(err, "ATT-096", "opening the SEV-SNP guest device")
	}
	defer device.Close() //nolint:errcheck // nothing is buffered
	arg := &snpRequest{version: snpMessageVersion, request: request, response: response}
	err = device.Ioctl(command, unsafe.Pointer(arg))
	runtime.KeepAlive(arg)
	switch {
	case err == nil && arg.firmware == 0 && arg.vmmError == 0:
		return nil
	case arg.vmmError == vmmBusy:
		err = errors.Join(errors.New("the host throttles requests"), err)
	case arg.firmware != 0 || arg.vmmError != 0:
		err = errors.Join(fmt.Errorf("firmware error %#x, host error %#x", arg.firmware, arg.vmmError), err)
	case errors.Is(err, syscall.ENOTTY):
		err = fmt.Errorf("%s is no SEV-SNP guest device: %w", sevGuestPath, err)
	}
	return problem.Because(err, "ATT-096", "asking the SEV-SNP firmware")
}
