package dev

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// stopGrace is how long a process may take to end after SIGTERM.
const stopGrace = 8 * time.Second

// Process is a child that is waited for. Its output goes to a log file.
type Process struct {
	Name string
	cmd  *exec.Cmd
	done chan struct{} // closed after Wait returned
	err  error         // of Wait; read after done
}

// spawner starts children from one locked thread: the kernel sends their death
// signal when the thread that started them ends, not when the process does.
type spawner struct {
	requests chan func()
	stopped  sync.WaitGroup
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func())}
	s.stopped.Add(1)
	go func() {
		defer s.stopped.Done()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range s.requests {
			f()
		}
	}()
	return s
}

func (s *spawner) close() {
	close(s.requests)
	s.stopped.Wait()
}

// spec is a child to be started.
type spec struct {
	name, path string
	args, env  []string
	output     io.Writer // besides the log; may be nil
}

// start runs a child in a process group of its own, so that Ctrl-C reaches it
// only through us, in our order.
func (s *spawner) start(logs string, sp spec) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(logs, sp.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", sp.name, err)
	}
	cmd := exec.Command(sp.path, sp.args...)
	cmd.Env = append(os.Environ(), sp.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if sp.output != nil {
		cmd.Stdout, cmd.Stderr = io.MultiWriter(log, sp.output), io.MultiWriter(log, sp.output)
	}
	cmd.SysProcAttr = childAttributes()
	started := make(chan error)
	s.requests <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		log.Close()
		return nil, problem.Because(err, "CLI-010", "starting %s", sp.name)
	}
	p := &Process{Name: sp.name, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		log.Close()
		close(p.done)
	}()
	return p, nil
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process and returns its exit code, -1 after a signal.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

// Signal sends a signal to the process.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop asks the process to end, waits, and kills its whole group after the
// grace. It returns when the process is gone.
func (p *Process) Stop() {
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopGrace):
		killGroup(p.Pid())
		<-p.done
	}
}
