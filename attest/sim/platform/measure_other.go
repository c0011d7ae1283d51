//go:build !linux

package platform

import (
	"context"
	"errors"
	"net"

	"github.com/ashlar-mesh/ashlar/attest"
)

var errNoMeasuring = errors.New("processes are measured on Linux only")

type asker struct{ pid int }

type digests struct{}

func askerOf(net.Conn) (*asker, error) { return nil, errNoMeasuring }

func (a *asker) close() {}

func (p *Platform) hashExe(context.Context, *asker) (attest.Hex, error) { return nil, errNoMeasuring }

func (p *Platform) hashFD(context.Context, *asker, int) (attest.Hex, error) {
	return nil, errNoMeasuring
}

func (p *Platform) hashDescendant(context.Context, *asker, int) (attest.Hex, error) {
	return nil, errNoMeasuring
}
