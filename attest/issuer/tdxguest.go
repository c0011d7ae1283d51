package issuer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The interface of /dev/tdx_guest (Linux 6.2): include/uapi/linux/tdx-guest.h.
// It gives a report that only this machine can check; the quote generation
// service of the host has Intel's quoting enclave turn it into a quote. Kernels
// from 6.7 do both through configfs-tsm.
const (
	tdxGuestPath  = "/dev/tdx_guest"
	tdxGetReport0 = 0xc4405401 // _IOWR('T', 1, struct tdx_report_req)
	tdReportSize  = 1024
)

// tdxReportRequest is struct tdx_report_req, 1088 bytes.
type tdxReportRequest struct {
	data   [64]byte
	report [tdReportSize]byte
}

// tdReportBinding is where the report data stands in a TDREPORT (Intel TDX
// Module ABI, REPORTMACSTRUCT).
const tdReportBinding = 128

// tdxGuest makes quotes by the guest device and the host's service.
type tdxGuest struct {
	machine Machine
	gate    gate
}

func probeTDXGuest(_ context.Context, m Machine) (attest.Issuer, error) {
	device, err := m.Open(tdxGuestPath, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &tdxGuest{machine: m, gate: newGate()}, device.Close()
}

// TEE implements attest.Issuer.
func (t *tdxGuest) TEE() attest.TEE { return attest.TDX }

// Issue implements attest.Issuer.
func (t *tdxGuest) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return alone(ctx, t.gate, func() (attest.Evidence, error) {
		report, err := t.report(b)
		if err != nil {
			return attest.Evidence{}, err
		}
		quote, err := t.quote(ctx, report)
		if err != nil {
			return attest.Evidence{}, problem.Because(err, "ATT-096", "asking the host's TDX quote generation service").
				WithNext("use a guest kernel 6.7 or newer, or start Intel's qgsd with vsock on the host")
		}
		e, err := checked(attest.TDX, quote, b)
		e.EventLog = t.machine.guestEventLog()
		return e, err
	})
}

func (t *tdxGuest) report(b attest.Binding) ([]byte, error) {
	device, err := t.machine.Open(tdxGuestPath, os.O_RDWR)
	if err != nil {
		return nil, problem.Because(err, "ATT-096", "opening the TDX guest device")
	}
	defer device.Close() //nolint:errcheck // nothing is buffered
	arg := &tdxReportRequest{data: b}
	err = device.Ioctl(tdxGetReport0, unsafe.Pointer(arg))
	runtime.KeepAlive(arg)
	if err != nil {
		return nil, problem.Because(err, "ATT-096", "asking %s for a report", tdxGuestPath)
	}
	if [64]byte(arg.report[tdReportBinding:]) != b {
		return nil, problem.New("ATT-097", "TDX report carries other report data than was asked for")
	}
	return arg.report[:], nil
}

func (t *tdxGuest) quote(ctx context.Context, report []byte) ([]byte, error) {
	service, err := t.machine.QuoteService(ctx)
	if err != nil {
		return nil, err
	}
	defer service.Close() //nolint:errcheck // the answer is complete
	if _, err := service.Write(quoteRequest(report)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(service, size[:]); err != nil {
		return nil, fmt.Errorf("reading the answer's length: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > quoteMessageHeader+8+attest.MaxEvidence {
		return nil, fmt.Errorf("answer of %d bytes", n)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(service, answer); err != nil {
		return nil, fmt.Errorf("reading an answer of %d bytes: %w", n, err)
	}
	return parseQuoteResponse(answer)
}

// Messages of the quote generation service (Intel DCAP, qgs_msg_lib.h, version
// 1): behind a big-endian length of four bytes a little-endian header {major,
// minor: 2 bytes; type, size of the whole message, error: 4 bytes}, then of a
// request {report size, id list size, report}, of a response {selected id size,
// quote size, id, quote}.
const (
	quoteMessageHeader = 16
	quoteMajor         = 1
	getQuoteRequest    = 0
	getQuoteResponse   = 1
)

func quoteRequest(report []byte) []byte {
	le := binary.LittleEndian
	size := uint32(quoteMessageHeader + 8 + len(report))
	m := binary.BigEndian.AppendUint32(nil, size)
	m = le.AppendUint16(m, quoteMajor)
	m = le.AppendUint16(m, 0)
	for _, field := range []uint32{getQuoteRequest, size, 0, uint32(len(report)), 0} {
		m = le.AppendUint32(m, field)
	}
	return append(m, report...)
}

// parseQuoteResponse returns the quote in a response without its length prefix.
func parseQuoteResponse(m []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(m) < quoteMessageHeader {
		return nil, fmt.Errorf("answer of %d bytes", len(m))
	}
	if major, kind := le.Uint16(m), le.Uint32(m[4:]); major != quoteMajor || kind != getQuoteResponse {
		return nil, fmt.Errorf("answer of version %d and type %d, wanted %d and %d", major, kind, quoteMajor, getQuoteResponse)
	}
	if code := le.Uint32(m[12:]); code != 0 {
		return nil, fmt.Errorf("the service answered with error %#x", code)
	}
	if size := le.Uint32(m[8:]); int64(size) != int64(len(m)) || len(m) < quoteMessageHeader+8 {
		return nil, fmt.Errorf("answer of %d bytes says that it has %d", len(m), size)
	}
	id, quote := le.Uint32(m[16:]), le.Uint32(m[20:])
	body := m[quoteMessageHeader+8:]
	if uint64(id)+uint64(quote) != uint64(len(body)) || quote == 0 {
		return nil, errors.New("the answer's parts do not make up its size")
	}
	return body[id:], nil
}
