//go:build linux

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/internal/pause"
)

const creating = "ContainerCreating"

// container runs one container of a pod, again and again if the policy says so.
type container struct {
	p    *pod
	spec *core.Container
	init bool

	// Guarded by the pod's mutex.
	state, last core.ContainerState
	ready       bool
	started     bool
	restarts    int32
	process     *process // while it runs
}

// process is one run of a container.
type process struct {
	cmd  *exec.Cmd
	env  []string
	user int
	done chan struct{} // closed when it has ended
}

func newContainer(p *pod, spec *core.Container, init bool) *container {
	return &container{p: p, spec: spec, init: init, state: core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: creating}}}
}

// set changes the container's state under the pod's lock.
func (c *container) set(f func()) {
	c.p.mu.Lock()
	f()
	c.p.mu.Unlock()
	c.p.mark()
}

func (c *container) status(initDone bool) core.ContainerStatus {
	s := core.ContainerStatus{Name: c.spec.Name, Image: c.spec.Image, ImageID: "table://" + c.spec.Image, State: c.state, LastTerminationState: c.last,
		Ready: c.ready, RestartCount: c.restarts, Started: &c.started}
	if !c.init && !initDone {
		s.State = core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: "PodInitializing"}}
	}
	if c.state.Running != nil || c.state.Terminated != nil {
		s.ContainerID = fmt.Sprintf("process://%s/%s", c.p.uid, c.spec.Name)
	}
	return s
}

// supervise runs the container until the context ends or the policy says that it
// is done; it reports whether it ended well.
func (c *container) supervise(ctx context.Context) bool {
	rest := time.Second
	for {
		code := c.once(ctx)
		policy := c.p.seen().Spec.RestartPolicy
		switch {
		case ctx.Err() != nil:
			return false
		case code == 0 && (c.init || policy != core.RestartPolicyAlways):
			return true
		case policy == core.RestartPolicyNever:
			return false
		}
		c.set(func() {
			if c.state.Terminated != nil {
				c.last = c.state
				c.state = core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: "CrashLoopBackOff",
					Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", rest, c.spec.Name, c.p.name, c.p.namespace, c.p.uid)}}
			}
		})
		c.p.n.event(ctx, c.p.seen(), "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.spec.Name, c.p.name))
		if !pause.For(ctx, rest) {
			return false
		}
		rest = min(2*rest, 8*time.Second)
		c.set(func() {
			if c.last.Terminated != nil { // it ran before
				c.restarts++
			}
		})
	}
}

// once starts the container and waits for its end; it returns the exit code.
func (c *container) once(ctx context.Context) int {
	begun := meta.Now()
	run, err := c.start(ctx)
	if err != nil {
		var missing imageMissing
		reason := "CreateContainerConfigError"
		if errors.As(err, &missing) {
			reason = "ErrImagePull"
		}
		c.set(func() {
			c.state = core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: reason, Message: err.Error()}}
		})
		c.p.n.event(ctx, c.p.seen(), "Failed", err.Error())
		return -1
	}
	c.set(func() {
		c.process, c.state = run, core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: begun}}
		c.started = c.spec.StartupProbe == nil
		c.ready = !c.init && c.started && c.spec.ReadinessProbe == nil
	})
	alive, stop := context.WithCancel(ctx)
	var probes sync.WaitGroup
	if !c.init {
		probes.Go(func() { c.probe(alive, run) })
	}
	select {
	case <-run.done:
	case <-ctx.Done():
		c.set(func() { c.ready = false })
		c.end(run)
	}
	stop()
	probes.Wait()
	ended := c.terminated(run, begun)
	c.set(func() {
		c.process, c.started = nil, false
		c.ready = c.init && ended.ExitCode == 0
		c.state = core.ContainerState{Terminated: ended}
	})
	return int(ended.ExitCode)
}

// end asks a process to end, and kills it after the grace, or when the pod or the
// machine is gone.
func (c *container) end(r *process) {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.done:
		return
	case <-c.p.removed:
	case <-c.p.n.down:
	case <-time.After(c.p.grace()):
	}
	_ = r.cmd.Process.Kill() // the first of its process namespace: all of it ends
	<-r.done
}

// start makes the container's root and starts its process.
func (c *container) start(ctx context.Context) (*process, error) {
	object := c.p.seen()
	image, ok := c.p.n.cfg.Images[c.spec.Image]
	if !ok {
		return nil, imageMissing(c.spec.Image)
	}
	j, err := c.job(ctx, object, image)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	logs := c.p.n.logs(object.Namespace, object.Name)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(logs, c.spec.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"container " + object.Name + "/" + c.spec.Name}
	cmd.Env = []string{entry + "=" + string(b)}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	enter(c.p.net, func() { err = cmd.Start() })
	if err != nil {
		return nil, err
	}
	r := &process{cmd: cmd, env: j.Env, user: j.User, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(r.done)
	}()
	return r, nil
}

// terminated describes the end of a run.
func (c *container) terminated(r *process, begun meta.Time) *core.ContainerStateTerminated {
	s := r.cmd.ProcessState
	t := &core.ContainerStateTerminated{StartedAt: begun, FinishedAt: meta.Now(), ExitCode: int32(s.ExitCode()), Reason: "Completed",
		ContainerID: fmt.Sprintf("process://%s/%s", c.p.uid, c.spec.Name)}
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		t.ExitCode = 128 + int32(w.Signal())
	}
	if t.ExitCode != 0 {
		t.Reason = "Error"
	}
	if t.ExitCode == notStarted {
		t.Reason = "StartError"
	}
	message, _ := os.ReadFile(c.file("termination-log"))
	if len(message) == 0 && t.ExitCode != 0 && c.spec.TerminationMessagePolicy == core.TerminationMessageFallbackToLogsOnError {
		log, _ := os.ReadFile(filepath.Join(c.p.n.logs(c.p.namespace, c.p.name), c.spec.Name+".log"))
		message = log[max(0, len(log)-2048):]
	}
	t.Message = strings.ToValidUTF8(string(message[:min(len(message), 4096)]), "")
	return t
}

// file is a path below the container's own folder.
func (c *container) file(name string) string {
	return filepath.Join(c.p.dir, "containers", c.spec.Name, name)
}

// imageMissing is the name of an image that is not in the table.
type imageMissing string

func (i imageMissing) Error() string {
	return fmt.Sprintf("failed to pull image %q: it is not in the table of images", string(i))
}
