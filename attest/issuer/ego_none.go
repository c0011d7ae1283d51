//go:build !ego || !cgo

package issuer

import (
	"context"
	"errors"

	"github.com/ashlar-mesh/ashlar/attest"
)

// probeEGo answers for a program that was not built for EGo.
func probeEGo(context.Context, Machine) (attest.Issuer, error) {
	return nil, errors.New("this program was not built with the tag ego")
}
