//go:build !linux

package issuer

import (
	"context"
	"errors"
	"io"
	"unsafe"

	"github.com/google/go-tpm/tpm2/transport"
)

// Ioctl implements File.
func (hostFile) Ioctl(uintptr, unsafe.Pointer) error { return errors.ErrUnsupported }

func openTPM() (transport.TPMCloser, error) { return nil, errors.ErrUnsupported }

func dialQuoteService(context.Context) (io.ReadWriteCloser, error) { return nil, errors.ErrUnsupported }
