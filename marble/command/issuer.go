package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/program"
)

// host is the machine whose TEE vouches. Tests put another one in its place.
var host = issuer.Host

// vouching returns what vouches for the program: the TEE that this process runs
// in, or, where a simulation was asked for by name, its platform.
func (r *runner) vouching(ctx context.Context, p *program.Program) (attest.Issuer, error) {
	tee := attest.TEE(r.o.tee)
	if tee.Simulated() {
		r.log.Warn("SIMULATION: the TEE is software and protects nothing from this machine's owner", "tee", string(tee))
		r.simulated = &simulated{tee: tee, socket: r.o.simSocket, program: p, files: r.o.measure}
		return r.simulated, nil
	}
	i, err := issuer.Open(ctx, host(), tee)
	if err != nil {
		return nil, err
	}
	r.log.Info("TEE", "tee", string(i.TEE()))
	return i, nil
}

// detect says what each interface to a TEE answers, and returns the error that
// `run --tee auto` would fail with.
func detect(ctx context.Context, out io.Writer) error {
	for _, f := range issuer.Look(ctx, host()) {
		fmt.Fprintln(out, f) //nolint:errcheck // on a closed pipe
	}
	i, err := issuer.Open(ctx, host(), issuer.Auto)
	if err != nil {
		return problem.New("ATT-095", "no TEE was found on this machine that counts by itself")
	}
	fmt.Fprintf(out, "\n--tee auto takes %s\n", i.TEE()) //nolint:errcheck // on a closed pipe
	return nil
}

// simulated has the platform measure the program: the open file before it is
// started, the running process afterwards.
type simulated struct {
	tee     attest.TEE
	socket  string
	program *program.Program
	files   []measuredFile
	pid     atomic.Int64 // of the running program; 0 before
}

// TEE implements attest.Issuer.
func (i *simulated) TEE() attest.TEE { return i.tee }

// Issue implements attest.Issuer. Files are opened anew each time, so that one
// that was replaced meanwhile shows.
func (i *simulated) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
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
