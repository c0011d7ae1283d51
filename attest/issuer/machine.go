package issuer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
	"unsafe"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-tpm/tpm2/transport"
)

// Machine is what this package sees of the computer that it runs on. Host
// returns the real one; tests put fakes of single interfaces in. Every field
// must be set.
type Machine struct {
	// Open opens a file, pseudo-file or device; flag is of package os.
	Open func(path string, flag int) (File, error)
	// TSM returns the kernel's configfs-tsm (Linux 6.7), or why there is none.
	TSM func() (configfsi.Client, error)
	// QuoteService connects to the host's TDX quote generation service.
	// What it returns honours the deadline of ctx, or one of its own.
	QuoteService func(ctx context.Context) (io.ReadWriteCloser, error)
	// TPM opens the TPM through the kernel's resource manager.
	TPM func() (transport.TPMCloser, error)
	// Metadata reaches the metadata service of the cloud.
	Metadata http.RoundTripper
}

// File is an open file or device.
type File interface {
	io.ReadWriteCloser
	// Ioctl sends a request; arg points to the structure that it takes.
	Ioctl(request uintptr, arg unsafe.Pointer) error
}

// metadataTimeout bounds connecting to the metadata service, which is one hop
// away.
const metadataTimeout = 5 * time.Second

// Host is the computer that this process runs on.
func Host() Machine {
	return Machine{
		Open: func(path string, flag int) (File, error) {
			f, err := os.OpenFile(path, flag, 0)
			if err != nil {
				return nil, err
			}
			return hostFile{f}, nil
		},
		TSM:          linuxtsm.MakeClient,
		QuoteService: dialQuoteService,
		TPM:          openTPM,
		Metadata: &http.Transport{ // no proxy: the address is of this machine
			DialContext:         (&net.Dialer{Timeout: metadataTimeout}).DialContext,
			MaxIdleConns:        1,
			TLSHandshakeTimeout: metadataTimeout,
			IdleConnTimeout:     metadataTimeout,
		},
	}
}

type hostFile struct{ *os.File }

var errTooLarge = errors.New("is larger than its limit")

// readFile returns the whole of a pseudo-file, whose size is not known before,
// of at most limit bytes.
func (m Machine) readFile(path string, limit int64) ([]byte, error) {
	f, err := m.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s %w of %d bytes", path, errTooLarge, limit)
	}
	return raw, nil
}
