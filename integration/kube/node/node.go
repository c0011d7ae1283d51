//go:build linux

// Package node plays the machines of a test cluster. It is a small scheduler,
// kubelet, service proxy and DNS in the test's process: it starts the containers of
// pods as local processes, each in mount, process and (by pod) network namespaces
// of its own, and reports them as a kubelet does.
//
// What it does not do: pull images (a table says which files an image adds to this
// machine's /usr), enforce limits of memory and CPU, NetworkPolicies, seccomp or
// AppArmor, exec and attach, sidecars among the init containers, preStop hooks, raw
// devices, CSI and ephemeral volumes, or update mounted ConfigMaps, Secrets and
// annotations. Services work by proxies in user space, so that a server sees the
// node's address where kube-proxy would keep the client's. Restarts back off for
// one to eight seconds and not for minutes.
package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
)

// Config says which machines there are and what they can run.
type Config struct {
	Cluster  *cluster.Cluster
	Dir      string // roots, volumes and logs of the pods
	Machines []Machine
	Images   map[string]Image
}

// Machine is one Node object.
type Machine struct {
	Name      string
	Labels    map[string]string
	Taints    []core.Taint
	Resources map[string]string // extended resources and their amounts, besides CPU and memory
	Runtimes  []string          // handlers of RuntimeClasses
}

// Image is what a name of an image stands for: files on top of this machine's
// /usr.
type Image struct {
	Files      map[string]string // path in the container: file or folder of this machine
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       int64
}

// Nodes runs the pods of a cluster.
type Nodes struct {
	cfg    Config
	cancel context.CancelFunc
	down   <-chan struct{} // closed when the machines are switched off
	work   sync.WaitGroup
	poke   chan struct{} // the world may have changed
	pods   corelisters.PodLister
	proxy  *proxy
	server *server

	mu      sync.Mutex // guards managed and lastIP
	managed map[types.UID]*pod
	lastIP  int
}

// Start registers the machines and runs pods until Close.
func Start(ctx context.Context, cfg Config) (*Nodes, error) {
	ctx, cancel := context.WithCancel(ctx)
	n := &Nodes{cfg: cfg, cancel: cancel, down: ctx.Done(), poke: make(chan struct{}, 1), managed: map[types.UID]*pod{}, lastIP: 1}
	for _, m := range cfg.Machines {
		if err := n.register(ctx, m); err != nil {
			cancel()
			return nil, fmt.Errorf("registering node %s: %w", m.Name, err)
		}
	}
	factory := informers.NewSharedInformerFactory(cfg.Cluster.Client, 0)
	n.pods = factory.Core().V1().Pods().Lister()
	n.proxy = newProxy(factory.Core().V1().Services().Lister(), factory.Discovery().V1().EndpointSlices().Lister())
	var err error
	if n.server, err = listen(n); err != nil {
		cancel()
		return nil, err
	}
	all := []cache.SharedIndexInformer{factory.Core().V1().Pods().Informer(), factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()}
	for _, i := range all {
		if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { n.wake() }, UpdateFunc: func(any, any) { n.wake() }, DeleteFunc: func(any) { n.wake() }}); err != nil {
			n.Close()
			return nil, err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	n.work.Go(func() { n.loop(ctx); factory.Shutdown() })
	return n, nil
}

// Close kills all containers, waits, and removes pods and machines from the API
// server.
func (n *Nodes) Close() {
	n.cancel()
	n.work.Wait()
	n.server.close()
	n.proxy.close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	core := n.cfg.Cluster.Client.CoreV1()
	zero := int64(0)
	all, err := n.pods.List(labels.Everything())
	if err != nil {
		return
	}
	for _, p := range all {
		if n.machine(p.Spec.NodeName) != nil {
			_ = core.Pods(p.Namespace).Delete(ctx, p.Name, meta.DeleteOptions{GracePeriodSeconds: &zero})
		}
	}
	for _, m := range n.cfg.Machines {
		_ = core.Nodes().Delete(ctx, m.Name, meta.DeleteOptions{})
	}
}

// Logs returns what the containers of a pod have written: the container's name
// and its output, of all its runs.
func (n *Nodes) Logs(namespace, name string) map[string]string {
	out := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(n.logs(namespace, name), "*.log"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			base := filepath.Base(f)
			out[base[:len(base)-len(".log")]] = string(b)
		}
	}
	return out
}

// LogDirs returns the folders with the logs of all pods that ever ran.
func (n *Nodes) LogDirs() []string {
	dirs, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "logs", "*", "*"))
	return dirs
}

func (n *Nodes) logs(namespace, name string) string {
	return filepath.Join(n.cfg.Dir, "logs", namespace, name)
}

// register creates the Node object, ready for pods.
func (n *Nodes) register(ctx context.Context, m Machine) error {
	nodes := n.cfg.Cluster.Client.CoreV1().Nodes()
	l := map[string]string{"kubernetes.io/hostname": m.Name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
	maps.Copy(l, m.Labels)
	object, err := nodes.Create(ctx, &core.Node{ObjectMeta: meta.ObjectMeta{Name: m.Name, Labels: l}}, meta.CreateOptions{})
	if err != nil {
		return err
	}
	object.Spec.Taints = m.Taints // without the not-ready taint of admission
	if object, err = nodes.Update(ctx, object, meta.UpdateOptions{}); err != nil {
		return err
	}
	object.Status = core.NodeStatus{
		Capacity: m.capacity(), Allocatable: m.capacity(),
		Addresses:       []core.NodeAddress{{Type: core.NodeInternalIP, Address: isolate.Gateway}, {Type: core.NodeHostName, Address: m.Name}},
		DaemonEndpoints: core.NodeDaemonEndpoints{KubeletEndpoint: core.DaemonEndpoint{Port: kubeletPort}},
		NodeInfo:        core.NodeSystemInfo{KubeletVersion: "v1.37.2", OperatingSystem: "linux", Architecture: "amd64", ContainerRuntimeVersion: "processes://1"},
		Conditions: []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue, Reason: "KubeletReady",
			LastHeartbeatTime: meta.Now(), LastTransitionTime: meta.Now()}},
	}
	_, err = nodes.UpdateStatus(ctx, object, meta.UpdateOptions{})
	return err
}

func (m Machine) capacity() core.ResourceList {
	r := core.ResourceList{core.ResourceCPU: resource.MustParse("64"), core.ResourceMemory: resource.MustParse("256Gi"), core.ResourcePods: resource.MustParse("110")}
	for name, amount := range m.Resources {
		r[core.ResourceName(name)] = resource.MustParse(amount)
	}
	return r
}

func (n *Nodes) wake() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

// loop brings what runs in line with what the API server says.
func (n *Nodes) loop(ctx context.Context) {
	retry := time.NewTicker(time.Second) // of pods that fit nowhere
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.poke:
		case <-retry.C:
		}
		all, err := n.pods.List(labels.Everything())
		if err != nil {
			continue
		}
		n.proxy.sync()
		n.schedule(ctx, all)
		n.sync(ctx, all)
	}
}

// sync starts managers of pods that are new here and tells the others.
func (n *Nodes) sync(ctx context.Context, all []*core.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := map[types.UID]bool{}
	for _, object := range all {
		if n.machine(object.Spec.NodeName) == nil {
			continue
		}
		seen[object.UID] = true
		if p := n.managed[object.UID]; p != nil {
			p.update(object)
			continue
		}
		p := newPod(n, object)
		n.managed[object.UID] = p
		n.work.Go(func() { p.run(ctx) })
	}
	for uid, p := range n.managed {
		if !seen[uid] {
			p.gone()
			delete(n.managed, uid)
		}
	}
}

func (n *Nodes) machine(name string) *Machine {
	i := slices.IndexFunc(n.cfg.Machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &n.cfg.Machines[i]
}

// find returns the manager of a pod by name.
func (n *Nodes) find(namespace, name string) *pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.managed {
		if p.namespace == namespace && p.name == name {
			return p
		}
	}
	return nil
}

// address returns the next free address of a pod.
func (n *Nodes) address() (string, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastIP++
	return fmt.Sprintf("10.77.%d.%d", n.lastIP/250, n.lastIP%250+1), n.lastIP
}

// event writes an event about a pod, as a component would.
func (n *Nodes) event(ctx context.Context, object *core.Pod, reason, message string) {
	e := &core.Event{
		ObjectMeta:     meta.ObjectMeta{GenerateName: object.Name + ".", Namespace: object.Namespace},
		InvolvedObject: core.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: object.Namespace, Name: object.Name, UID: object.UID},
		Reason:         reason, Message: message, Type: core.EventTypeWarning, Count: 1,
		Source: core.EventSource{Component: "node"}, FirstTimestamp: meta.Now(), LastTimestamp: meta.Now(),
	}
	_, _ = n.cfg.Cluster.Client.CoreV1().Events(object.Namespace).Create(ctx, e, meta.CreateOptions{}) // best effort, as a kubelet's
}
