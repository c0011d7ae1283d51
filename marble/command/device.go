package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	collectTimeout = 25 * time.Second // a GPU takes a few seconds
	maxComplaint   = 500              // bytes of a collector's standard error that are shown
)

// collectors are --device flags: NAME=COMMAND.
type collectors []collector

// collector is a program that asks a device for evidence. It is called with the
// nonce as 64 hexadecimal digits, and writes the evidence of an NVIDIA GPU on
// standard output, at most attest.MaxEvidence bytes. What it writes is checked
// by the coordinator, so it need not be trusted.
type collector struct{ name, path string }

var deviceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9._]{0,61}[a-z0-9])?$`)

// String implements flag.Value.
func (c *collectors) String() string { return "" }

// Set implements flag.Value.
func (c *collectors) Set(s string) error {
	name, path, ok := strings.Cut(s, "=")
	switch {
	case !ok || path == "" || !deviceName.MatchString(name):
		return errors.New("want NAME=COMMAND, NAME as in the package's devices")
	case slices.ContainsFunc(*c, func(d collector) bool { return d.name == name }):
		return fmt.Errorf("the device %q comes twice", name)
	case len(*c) == attest.MaxDevices:
		return fmt.Errorf("more than %d devices", attest.MaxDevices)
	}
	*c = append(*c, collector{name, path})
	return nil
}

// issuers returns the devices of the command line. MRB-029 if a program is not
// there.
func (c collectors) issuers() ([]attest.DeviceIssuer, error) {
	var out []attest.DeviceIssuer
	for _, d := range c {
		path, err := exec.LookPath(d.path)
		if err != nil {
			return nil, problem.Because(err, "MRB-029", "device %s: looking for %q", d.name, d.path)
		}
		out = append(out, collector{d.name, path})
	}
	return out, nil
}

// IssueDevice implements attest.DeviceIssuer.
func (c collector) IssueDevice(ctx context.Context, nonce [32]byte) (attest.Device, error) {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	env, _ := environment(os.Environ(), nil)
	out, complaint := &limited{limit: attest.MaxEvidence}, &limited{limit: maxComplaint, cut: true}
	cmd := exec.CommandContext(ctx, c.path, hex.EncodeToString(nonce[:])) //nolint:gosec // the operator names it
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = env, out, complaint, time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return attest.Device{}, problem.Because(context.Cause(ctx), "MRB-028", "device %s: %s gave no answer", c.name, c.path)
	case err != nil:
		return attest.Device{}, problem.Because(err, "MRB-028", "device %s: %s, which wrote %q", c.name, c.path, complaint.b)
	case len(out.b) == 0:
		return attest.Device{}, problem.New("MRB-028", "device %s: %s wrote nothing", c.name, c.path)
	}
	return attest.Device{Name: c.name, TEE: attest.NVIDIA, Raw: out.b}, nil
}

// limited keeps what is written up to limit bytes. More is an error, or left out
// where cut is set.
type limited struct {
	b     []byte
	limit int
	cut   bool
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	keep := min(len(p), l.limit-len(l.b))
	l.b = append(l.b, p[:keep]...)
	if keep < len(p) && !l.cut {
		return keep, fmt.Errorf("more than %d bytes", l.limit)
	}
	return len(p), nil
}
