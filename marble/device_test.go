package marble_test

import (
	"context"
	"errors"
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
	for name, d := range map[string]device{
		"error":   {err: errors.New("no driver")},
		"empty":   {answer: attest.Device{Name: "gpu", TEE: attest.NVIDIA}},
		"huge":    {answer: attest.Device{Name: "gpu", TEE: attest.NVIDIA, Raw: make([]byte, attest.MaxEvidence+1)}},
		"no name": {answer: attest.Device{TEE: attest.NVIDIA, Raw: []byte{1}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := marbletest.Start(t, marbletest.Behaviour{})
			ctx, cancel := context.WithCancel(t.Context())
			d.asked = cancel
			m, err := marble.Run(ctx, marble.Config{Marble: "web", ID: "1", Coordinator: c.Address, Trust: marble.Trust{Root: c.CA.Root},
				Issuer: &marbletest.Issuer{}, Devices: []attest.DeviceIssuer{d}})
			if problem.CodeOf(err) != "MRB-024" || m != nil {
				t.Errorf("got %v, want MRB-024: it waits for the device", err)
			}
		})
	}
}
