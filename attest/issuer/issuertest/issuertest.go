// Package issuertest plays the hardware interfaces that package issuer asks: a
// SEV-SNP and a TDX guest device, configfs-tsm, the TDX quote service, Gramine's
// pseudo-files, Occlum's device.
//
// It owns fakes that check each request as the kernel or the LibOS would, byte
// by byte at the offsets of the published headers, and that keep the real ones'
// habits: short reads, what counts when a file is closed, errors as errno. Their
// evidence has the right form and no signature. It is for tests alone.
package issuertest

import (
	"context"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"syscall"
	"unsafe"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/ashlar-mesh/ashlar/attest/issuer"
)

// Computer is a computer with nothing in it but what its fields give.
type Computer struct {
	Files    map[string]Opener // by path
	TSM      configfsi.Client
	Service  func() (io.ReadWriteCloser, error) // TDX quote generation service
	TPM      func() (transport.TPMCloser, error)
	Metadata http.RoundTripper

	mu    sync.Mutex
	open  int
	trace []string // paths in the order in which they were opened
}

// Opener opens a fake file.
type Opener func(flag int) (issuer.File, error)

// Machine returns the computer as package issuer sees it.
func (c *Computer) Machine() issuer.Machine {
	return issuer.Machine{
		Open: c.openFile,
		TSM: func() (configfsi.Client, error) {
			if c.TSM == nil {
				return nil, fs.ErrNotExist
			}
			return c.TSM, nil
		},
		QuoteService: func(context.Context) (io.ReadWriteCloser, error) {
			if c.Service == nil {
				return nil, syscall.ENODEV
			}
			return c.Service()
		},
		TPM: func() (transport.TPMCloser, error) {
			if c.TPM == nil {
				return nil, fs.ErrNotExist
			}
			return c.TPM()
		},
		Metadata: c.metadata(),
	}
}

func (c *Computer) metadata() http.RoundTripper {
	if c.Metadata == nil {
		return refuse{}
	}
	return c.Metadata
}

type refuse struct{}

func (refuse) RoundTrip(*http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED }

func (c *Computer) openFile(path string, flag int) (issuer.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trace = append(c.trace, path)
	opener, ok := c.Files[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	f, err := opener(flag)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	c.open++
	return &counted{File: f, computer: c}, nil
}

// Open returns how many files are open.
func (c *Computer) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// Trace returns the paths that were opened, in order.
func (c *Computer) Trace() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.trace...)
}

type counted struct {
	issuer.File
	computer *Computer
	once     sync.Once
}

// Close implements issuer.File.
func (f *counted) Close() error {
	f.once.Do(func() {
		f.computer.mu.Lock()
		f.computer.open--
		f.computer.mu.Unlock()
	})
	return f.File.Close()
}

// Content is a file that reads as content, a few bytes at a time.
func Content(content []byte) Opener {
	return func(int) (issuer.File, error) { return &reading{rest: content}, nil }
}

// Failing is a file that cannot be opened.
func Failing(errno syscall.Errno) Opener {
	return func(int) (issuer.File, error) { return nil, errno }
}

// shortRead is the most that one read of a fake file gives, in bytes.
const shortRead = 1000

type reading struct{ rest []byte }

func (r *reading) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), shortRead)], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (*reading) Write([]byte) (int, error)           { return 0, syscall.EBADF }
func (*reading) Ioctl(uintptr, unsafe.Pointer) error { return syscall.ENOTTY }
func (*reading) Close() error                        { return nil }

// device is a file that only takes requests.
type device func(request uintptr, arg unsafe.Pointer) error

func (device) Read([]byte) (int, error)                          { return 0, syscall.EINVAL }
func (device) Write([]byte) (int, error)                         { return 0, syscall.EINVAL }
func (device) Close() error                                      { return nil }
func (d device) Ioctl(request uintptr, arg unsafe.Pointer) error { return d(request, arg) }

// Device is a device that answers requests with ioctl.
func Device(ioctl func(request uintptr, arg unsafe.Pointer) error) Opener {
	return func(int) (issuer.File, error) { return device(ioctl), nil }
}

// bytesAt is the memory at p, as the kernel sees it. Under the race detector a
// structure that is too small fails here.
func bytesAt(p unsafe.Pointer, size int) []byte { return unsafe.Slice((*byte)(p), size) }

// pointerAt is the pointer in a structure at an offset.
func pointerAt(b []byte, at int) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&b[at])) }

// zero reports whether b holds zeros only.
func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
