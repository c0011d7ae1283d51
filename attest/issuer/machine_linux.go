package issuer

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
	"unsafe"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"golang.org/x/sys/unix"
)

// Ioctl implements File.
func (f hostFile) Ioctl(request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

func openTPM() (transport.TPMCloser, error) { return linuxtpm.Open("/dev/tpmrm0") }

// The host listens for guests on the well-known context id 2; the port is the
// default of Intel's quote generation service.
const quotePort = 4050

// quoteTimeout bounds an exchange with the service; making a quote takes tens of
// milliseconds.
const quoteTimeout = 20 * time.Second

func dialQuoteService(ctx context.Context) (io.ReadWriteCloser, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// The kernel gives up connecting after 2 s (vsock(7)).
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: quotePort}); err != nil {
		return nil, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for deadlines
		return nil, errors.Join(err, unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "vsock")
	at := time.Now().Add(quoteTimeout)
	if end, ok := ctx.Deadline(); ok && end.Before(at) {
		at = end
	}
	if err := f.SetDeadline(at); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
