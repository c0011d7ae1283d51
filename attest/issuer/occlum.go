package issuer

import (
	"context"
	"os"
	"runtime"
	"unsafe"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The interface of Occlum's /dev/sgx, which its LibOS serves inside the enclave.
const (
	occlumPath         = "/dev/sgx"
	occlumCreateReport = 0xc0187304 // _IOWR('s', 4, sgxioc_create_report_arg_t)
	occlumQuoteSize    = 0x80047307 // _IOR('s', 7, uint32_t)
	occlumQuote        = 0xc0187308 // _IOWR('s', 8, sgxioc_gen_dcap_quote_arg_t)
	occlumGetKey       = 0xc010730b // _IOWR('s', 11, sgxioc_get_key_arg_t)

	sgxReportSize = 432 // REPORT: body of 384 bytes, key id, MAC
)

// occlumQuoteArg is sgxioc_gen_dcap_quote_arg_t, 24 bytes.
type occlumQuoteArg struct {
	data *attest.Binding
	size *uint32 // of the buffer; then of the quote
	buf  *byte
}

// occlumReportArg is sgxioc_create_report_arg_t, 24 bytes. Without target and
// data the report is for this enclave and carries zeros.
type occlumReportArg struct {
	target, data unsafe.Pointer
	report       *[sgxReportSize]byte
}

// occlumKeyArg is sgxioc_get_key_arg_t, 16 bytes.
type occlumKeyArg struct {
	request *sgxKeyRequest
	key     *[sgxKeySize]byte
}

type occlum struct {
	machine Machine
	gate    gate
}

// probeOcclum asks for the size of a quote: on a host, /dev/sgx is a folder or a
// driver that knows no such request.
func probeOcclum(_ context.Context, m Machine) (attest.Issuer, error) {
	o := &occlum{machine: m, gate: newGate()}
	var size uint32
	if err := o.ask(occlumQuoteSize, unsafe.Pointer(&size)); err != nil {
		return nil, err
	}
	return o, nil
}

// TEE implements attest.Issuer.
func (o *occlum) TEE() attest.TEE { return attest.SGX }

// ask sends one request.
func (o *occlum) ask(request uintptr, arg unsafe.Pointer) error {
	device, err := o.machine.Open(occlumPath, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer device.Close() //nolint:errcheck // nothing is buffered
	return device.Ioctl(request, arg)
}

// Issue implements attest.Issuer.
func (o *occlum) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return alone(ctx, o.gate, func() (attest.Evidence, error) {
		var size uint32
		if err := o.ask(occlumQuoteSize, unsafe.Pointer(&size)); err != nil {
			return attest.Evidence{}, problem.Because(err, "ATT-096", "asking Occlum for the size of a quote")
		}
		if size == 0 || size > attest.MaxEvidence {
			return attest.Evidence{}, problem.New("ATT-097", "Occlum's quotes have %d bytes, wanted 1 to %d", size, attest.MaxEvidence)
		}
		buf, filled := make([]byte, size), size
		arg := &occlumQuoteArg{data: &b, size: &filled, buf: &buf[0]}
		err := o.ask(occlumQuote, unsafe.Pointer(arg))
		runtime.KeepAlive(arg)
		if err != nil {
			return attest.Evidence{}, problem.Because(err, "ATT-096", "asking Occlum for a quote")
		}
		if filled > size {
			return attest.Evidence{}, problem.New("ATT-097", "Occlum wrote a quote of %d bytes into %d", filled, size)
		}
		return checked(attest.SGX, buf[:filled], b)
	})
}

// SealKey implements Sealer.
func (o *occlum) SealKey(ctx context.Context, policy SealPolicy, info []byte) (key, newInfo []byte, err error) {
	if err := knownSGXPolicy(policy); err != nil {
		return nil, nil, err
	}
	k, err := alone(ctx, o.gate, func() (sealed, error) { return o.sealKey(policy, info) })
	return k.key, k.info, err
}

func (o *occlum) sealKey(policy SealPolicy, info []byte) (sealed, error) {
	var request sgxKeyRequest
	if info == nil {
		report := new([sgxReportSize]byte)
		arg := &occlumReportArg{report: report}
		err := o.ask(occlumCreateReport, unsafe.Pointer(arg))
		runtime.KeepAlive(arg)
		if err != nil {
			return sealed{}, problem.Because(err, "ATT-096", "asking Occlum for a report")
		}
		request = newSGXKeyRequest(policy, report[:])
	} else {
		var err error
		if request, err = parseSGXKeyRequest(policy, info); err != nil {
			return sealed{}, err
		}
	}
	key := new([sgxKeySize]byte)
	arg := &occlumKeyArg{request: &request, key: key}
	err := o.ask(occlumGetKey, unsafe.Pointer(arg))
	runtime.KeepAlive(arg)
	if err != nil {
		return sealed{}, problem.Because(err, "ATT-096", "asking Occlum for a sealing key")
	}
	return sealed{key[:], request[:]}, checkKey("Occlum", key[:], sgxKeySize)
}
