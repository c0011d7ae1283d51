package command

import (
	"context"
	"os"
	"sync/atomic"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/program"
)

// issuer has the platform measure the program: the open file before it is
// started, the running process afterwards.
type issuer struct {
	tee     attest.TEE
	socket  string
	program *program.Program
	files   []measuredFile
	pid     atomic.Int64 // of the running program; 0 before
}

// TEE implements attest.Issuer.
func (i *issuer) TEE() attest.TEE { return i.tee }

// Issue implements attest.Issuer. Files are opened anew each time, so that one
// that was replaced meanwhile shows.
func (i *issuer) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	config := sim.Config{Socket: i.socket, Shape: i.tee, Program: sim.ByFD(i.program.File().Fd())}
	if pid := i.pid.Load(); pid != 0 {
		config.Program = sim.ByPID(int(pid))
	}
	for _, m := range i.files {
		f, err := os.Open(m.path)
		if err != nil {
			return attest.Evidence{}, problem.Because(err, "MRB-002", "measuring %q", m.name)
		}
		defer f.Close() //nolint:errcheck // read only
		config.Files = append(config.Files, sim.File{Name: m.name, FD: int(f.Fd())})
	}
	s, err := sim.NewIssuer(config)
	if err != nil {
		return attest.Evidence{}, err
	}
	return s.Issue(ctx, b)
}
