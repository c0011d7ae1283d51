//go:build linux

package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ashlar-mesh/ashlar/internal/pause"
)

// pod manages one pod from its binding to its removal.
type pod struct {
	n               *Nodes
	namespace, name string
	uid             types.UID
	dir             string
	net             *network          // set before the first container starts
	volumes         map[string]string // by name: folder or file; set like net
	removed         chan struct{}     // closed when the API server has it no more
	ending          chan struct{}     // closed when its deletion was asked for
	dirty           chan struct{}     // the status may differ from what was reported

	mu         sync.Mutex // guards what follows
	object     *core.Pod  // as last seen
	started    *meta.Time
	initDone   bool
	containers []*container // init containers first
}

func newPod(n *Nodes, object *core.Pod) *pod {
	p := &pod{n: n, namespace: object.Namespace, name: object.Name, uid: object.UID, object: object,
		dir:     filepath.Join(n.cfg.Dir, "pods", string(object.UID)),
		removed: make(chan struct{}), ending: make(chan struct{}), dirty: make(chan struct{}, 1)}
	for i := range object.Spec.InitContainers {
		p.containers = append(p.containers, newContainer(p, &object.Spec.InitContainers[i], true))
	}
	for i := range object.Spec.Containers {
		p.containers = append(p.containers, newContainer(p, &object.Spec.Containers[i], false))
	}
	p.update(object)
	return p
}

// update tells the manager what the API server says now.
func (p *pod) update(object *core.Pod) {
	p.mu.Lock()
	p.object = object
	p.mu.Unlock()
	if object.DeletionTimestamp != nil {
		select {
		case <-p.ending:
		default:
			close(p.ending)
		}
	}
	p.mark()
}

// gone tells the manager that the API server has the pod no more.
func (p *pod) gone() { close(p.removed) }

func (p *pod) mark() {
	select {
	case p.dirty <- struct{}{}:
	default:
	}
}

func (p *pod) seen() *core.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object
}

// run lives as long as the pod does.
func (p *pod) run(ctx context.Context) {
	life, end := context.WithCancel(ctx) // of the containers
	var work sync.WaitGroup
	defer p.clean()
	defer work.Wait()
	defer end()
	finished := make(chan struct{})
	work.Go(func() { p.live(life); close(finished) })
	ending := p.ending
	for {
		p.report(ctx)
		select {
		case <-ctx.Done():
			return
		case <-p.removed:
			return
		case <-p.dirty:
		case <-ending:
			ending = nil
			end()
			work.Go(func() { <-finished; p.remove(ctx) })
		}
	}
}

// live prepares the pod and runs its containers until the context ends or, where
// the restart policy lets it, all are done.
func (p *pod) live(ctx context.Context) {
	for {
		err := p.prepare(ctx)
		if err == nil {
			break
		}
		p.n.event(ctx, p.seen(), "FailedMount", err.Error())
		if !pause.For(ctx, time.Second) {
			return
		}
	}
	now := meta.Now()
	p.mu.Lock()
	p.started = &now
	p.mu.Unlock()
	p.mark()
	for _, c := range p.containers {
		if c.init && !c.supervise(ctx) {
			return
		}
	}
	p.mu.Lock()
	p.initDone = true
	p.mu.Unlock()
	p.mark()
	var work sync.WaitGroup
	for _, c := range p.containers {
		if !c.init {
			work.Go(func() { c.supervise(ctx) })
		}
	}
	work.Wait()
}

// prepare makes the network and the volumes; it may be called again after an error.
func (p *pod) prepare(ctx context.Context) error {
	object := p.seen()
	if p.net == nil {
		ip, number := p.n.address()
		w, err := newNetwork(ip, number)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.net = w
		p.mu.Unlock()
	}
	if err := p.runtime(ctx, object); err != nil {
		return err
	}
	volumes := map[string]string{}
	for _, v := range object.Spec.Volumes {
		path, err := p.volume(ctx, object, v)
		if err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q: %w", v.Name, err)
		}
		volumes[v.Name] = path
	}
	p.volumes = volumes
	return nil
}

// runtime checks that the machine has the handler of the pod's RuntimeClass.
func (p *pod) runtime(ctx context.Context, object *core.Pod) error {
	if object.Spec.RuntimeClassName == nil {
		return nil
	}
	class, err := p.n.cfg.Cluster.Client.NodeV1().RuntimeClasses().Get(ctx, *object.Spec.RuntimeClassName, meta.GetOptions{})
	if err != nil {
		return err
	}
	for _, h := range p.n.machine(object.Spec.NodeName).Runtimes {
		if h == class.Handler {
			return nil
		}
	}
	return fmt.Errorf("no runtime for %q is configured", class.Handler)
}

// remove deletes the object of a pod whose containers have ended.
func (p *pod) remove(ctx context.Context) {
	zero := int64(0)
	for {
		p.report(ctx)
		err := p.n.cfg.Cluster.Client.CoreV1().Pods(p.namespace).Delete(ctx, p.name, meta.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: meta.NewUIDPreconditions(string(p.uid))})
		if err == nil {
			return
		}
		select {
		case <-p.removed:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func (p *pod) clean() {
	p.unmount()
	if p.net != nil {
		p.net.close()
	}
	_ = os.RemoveAll(p.dir)
}

// grace is how long the containers may take to end.
func (p *pod) grace() time.Duration {
	o := p.seen()
	switch {
	case o.DeletionGracePeriodSeconds != nil:
		return time.Duration(*o.DeletionGracePeriodSeconds) * time.Second
	case o.Spec.TerminationGracePeriodSeconds != nil:
		return time.Duration(*o.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	return 30 * time.Second
}
