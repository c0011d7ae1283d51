package marble_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// device answers as it is told, and stops the marble from trying again.
type device struct {
	answer attest.Device
	err    error
	asked  func()
}

func (d device) IssueDevice(context.Context, [32]byte) (attest.Device, error) {
	d.asked()
	return d.answer, d.err
}

func TestDeviceWithoutEvidence(t *testing.T) {
	for name, c := range map[string]struct {
		device device
		want   string
	}{
		"error":   {device{err: errors.New("no driver")}, "no driver"},
		"empty":   {device{answer: attest.Device{Name: "gpu", TEE: attest.NVIDIA}}, "evidence of 0 bytes"},
		"huge":    {device{answer: attest.Device{Name: "gpu", TEE: attest.NVIDIA, Raw: make([]byte, attest.MaxEvidence+1)}}, "evidence of 65537 bytes"},
		"no name": {device{answer: attest.Device{TEE: attest.NVIDIA, Raw: []byte{1}}}, `device ""`},
	} {
		t.Run(name, func(t *testing.T) {
			coordinator := marbletest.Start(t, marbletest.Behaviour{})
			ctx, cancel := context.WithCancel(t.Context())
			c.device.asked = cancel
			m, err := marble.Run(ctx, marble.Config{Marble: "web", ID: "1", Coordinator: coordinator.Address, Trust: marble.Trust{Root: coordinator.CA.Root},
				Issuer: &marbletest.Issuer{}, Devices: []attest.DeviceIssuer{c.device}})
			if problem.CodeOf(err) != "MRB-024" || m != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want MRB-024 with %q: it waits for the device", err, c.want)
			}
		})
	}
}
