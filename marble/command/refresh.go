package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/program"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// The sources of trouble that this package reports.
const (
	troubleFiles   = "files"
	troubleReload  = "reload"
	troubleProgram = "program"
)

const (
	reloadLimit  = 30 * time.Second // of a reload command
	reloadOutput = 4 << 10          // bytes of it that are logged
)

// refresh keeps the rendered files in step with the lease, and tells the program
// when they were replaced, when its identity ended, and when it is back.
func (r *runner) refresh(ctx context.Context, m *marble.Marble, process *program.Process) {
	_, was, changed := m.Live()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		var live bool
		_, live, changed = m.Live()
		placed := false
		if live {
			placed = r.replace(m)
		}
		if placed || live != was {
			r.tell(ctx, m.Reload(), process)
		}
		was = live
	}
}

// replace renders anew and reports whether a file changed.
func (r *runner) replace(m *marble.Marble) (placed bool) {
	rendered, err := m.RenderFound(r.host.Find)
	if err == nil {
		placed, err = r.place(rendered)
	} else if own, ownErr := m.Render(); ownErr == nil { // whatever the host did to its references
		placed, ownErr = r.place(own)
		err = errors.Join(err, ownErr)
	}
	if err != nil {
		e := problem.From(err)
		r.tracker.Trouble(troubleFiles, stage.Trouble{Code: string(e.Code), Reason: e.Detail})
		return placed
	}
	r.tracker.Clear(troubleFiles)
	if names := r.started.Outdated(rendered); len(names) > 0 {
		r.tracker.Trouble(troubleProgram, stage.Trouble{Code: "MRB-033", Mild: true,
			Reason: "restart the program: it was started with older values of " + strings.Join(names, ", ")})
	} else {
		r.tracker.Clear(troubleProgram)
	}
	return placed
}

// tell sends the program the signals that were asked for, and runs the command.
func (r *runner) tell(ctx context.Context, how manifest.Reload, process *program.Process) {
	signals := map[syscall.Signal]bool{}
	if r.o.reload != 0 {
		signals[syscall.Signal(r.o.reload)] = true
	}
	if s := reloadSignals[how.Signal]; s != 0 {
		signals[s] = true
	}
	for s := range signals {
		process.Signal(s)
	}
	if len(how.Command) == 0 {
		r.tracker.Clear(troubleReload)
		return
	}
	if err := r.runReload(ctx, how.Command); err != nil {
		r.tracker.Trouble(troubleReload, stage.Trouble{Code: "MRB-034", Reason: err.Error()})
		return
	}
	r.tracker.Clear(troubleReload)
}

// runReload runs a command to its end, for at most 30 s, with the environment
// that the program was started with. What it writes is logged, up to 4 KiB.
func (r *runner) runReload(ctx context.Context, argv []string) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	var out head
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = r.env, &out, &out
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	level := r.log.Info
	if err != nil {
		level = r.log.Warn
	}
	level("reload command", "command", argv[0], "output", printable(strings.ToValidUTF8(out.String(), "?")), "ended", fmt.Sprint(err))
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("%s: killed after %s", argv[0], reloadLimit)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return nil
}

// head keeps the first bytes that are written to it.
type head struct{ bytes.Buffer }

// Write implements io.Writer.
func (h *head) Write(p []byte) (int, error) {
	room := max(0, reloadOutput-h.Len())
	h.Buffer.Write(p[:min(len(p), room)])
	return len(p), nil
}
