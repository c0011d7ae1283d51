package program

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Forwarded are the signals that are passed on to the program.
var Forwarded = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH}

// Spec is how a program is started. Standard input, output and error are those
// of this process.
type Spec struct {
	Argv []string // argv[0] first; empty: the program's path
	Env  []string // KEY=value; nil: empty environment
}

// Process is a started program. It leads its own process group and is killed if
// this process dies.
type Process struct {
	pid  int
	done chan struct{} // closed when the process has ended
	code int           // valid after done
}

// Start runs the program from its open file. Code MRB-016 if the kernel refuses.
func (p *Program) Start(spec Spec) (*Process, error) {
	argv := spec.Argv
	if len(argv) == 0 {
		argv = []string{p.Path}
	}
	cmd := &exec.Cmd{
		Path: p.execPath(), Args: argv, Env: spec.Env,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL},
	}
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	if group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP); err == nil && group == unix.Getpgrp() {
		cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, 0
	}
	proc := &Process{done: make(chan struct{})}
	started := make(chan error, 1)
	go proc.run(cmd, started)
	if err := <-started; err != nil {
		return nil, problem.Because(err, "MRB-016", "starting %s", p.Path)
	}
	return proc, nil
}

// run starts and waits on one thread: the kernel sends the parent-death signal
// when the thread that started the child ends (prctl(2), PR_SET_PDEATHSIG).
func (p *Process) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	started <- nil
	err := cmd.Wait()
	p.code = exitCode(cmd, err)
	close(p.done)
}

func exitCode(cmd *exec.Cmd, err error) int {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// PID returns the process id.
func (p *Process) PID() int { return p.pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode returns the program's exit code, 128 plus the signal's number if one
// ended it. It is valid after Done.
func (p *Process) ExitCode() int { return p.code }

// Signal sends sig to the program. A program that has ended gets none.
func (p *Process) Signal(sig os.Signal) {
	select {
	case <-p.done:
	default:
		if s, ok := sig.(unix.Signal); ok {
			_ = unix.Kill(p.pid, s) // it may end meanwhile
		}
	}
}

// Forward passes signals from the channel on until the program has ended. If
// killAfter is positive and the program outlives a SIGTERM, SIGINT or SIGQUIT
// for that long, it is killed.
func (p *Process) Forward(signals <-chan os.Signal, killAfter time.Duration) {
	var kill <-chan time.Time
	for {
		select {
		case <-p.done:
			return
		case sig := <-signals:
			p.Signal(sig)
			if killAfter > 0 && kill == nil && (sig == unix.SIGTERM || sig == unix.SIGINT || sig == unix.SIGQUIT) {
				kill = time.After(killAfter)
			}
		case <-kill:
			p.Signal(unix.SIGKILL)
			kill = nil
		}
	}
}

// Terminate ends the program: SIGTERM, and SIGKILL after grace.
func (p *Process) Terminate(grace time.Duration) {
	p.Signal(unix.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Signal(unix.SIGKILL)
		<-p.done
	}
}

// KillGroup kills what the program left in its process group.
func (p *Process) KillGroup() {
	_ = unix.Kill(-p.pid, unix.SIGKILL) // ESRCH: nothing was left
}

// Notify returns a channel of the forwarded signals, and a function that stops
// the delivery.
func Notify() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, Forwarded...)
	var once sync.Once
	return c, func() { once.Do(func() { signal.Stop(c) }) }
}
