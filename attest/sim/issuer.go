package sim

import (
	"context"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Config is what an Issuer asks the platform for.
type Config struct {
	Socket string     // unix socket of the platform
	Shape  attest.TEE // attest.SimSGX or attest.SimTDX
	// Program to vouch for; nil means this process itself.
	Program *Program
	Files   []File
}

// Issuer makes simulated evidence for this process and its program.
type Issuer struct {
	config Config
	client Client
}

// NewIssuer returns the issuer; it does not connect yet.
func NewIssuer(c Config) (*Issuer, error) {
	if c.Socket == "" {
		return nil, fmt.Errorf("sim.Config.Socket is empty")
	}
	if c.Shape != attest.SimSGX && c.Shape != attest.SimTDX {
		return nil, fmt.Errorf("sim.Config.Shape is %q, want %q or %q", c.Shape, attest.SimSGX, attest.SimTDX)
	}
	if len(c.Files) > MaxFiles {
		return nil, fmt.Errorf("sim.Config.Files has %d files, limit %d", len(c.Files), MaxFiles)
	}
	return &Issuer{config: c, client: Client{Socket: c.Socket}}, nil
}

// TEE implements attest.Issuer.
func (i *Issuer) TEE() attest.TEE { return i.config.Shape }

// Issue implements attest.Issuer.
func (i *Issuer) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return i.client.Evidence(ctx, i.config.Shape, b, i.config.Program, i.config.Files)
}
