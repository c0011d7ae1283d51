//go:build linux

package node

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"

	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
)

// proxy gives each Service's address to the bridge and carries connections to
// ready endpoints.
type proxy struct {
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	next     atomic.Uint64
	work     sync.WaitGroup

	mu        sync.Mutex // guards what follows
	addresses map[string]bool
	listeners map[string]*front
	conns     map[net.Conn]bool
	dns       net.PacketConn
}

// front is a listener for one port of a Service.
type front struct {
	l                     net.Listener
	namespace, name, port string
}

func newProxy(s corelisters.ServiceLister, e discoverylisters.EndpointSliceLister) *proxy {
	return &proxy{services: s, slices: e, addresses: map[string]bool{}, listeners: map[string]*front{}, conns: map[net.Conn]bool{}}
}

// sync opens and closes listeners as Services come and go.
func (p *proxy) sync() {
	all, err := p.services.List(labels.Everything())
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dns == nil {
		p.serveDNS()
	}
	want := map[string]bool{}
	for _, s := range all {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == core.ClusterIPNone {
			continue
		}
		p.claim(s.Spec.ClusterIP)
		for _, port := range s.Spec.Ports {
			at := net.JoinHostPort(s.Spec.ClusterIP, strconv.Itoa(int(port.Port)))
			f := &front{namespace: s.Namespace, name: s.Name, port: port.Name}
			key := fmt.Sprint(at, s.UID, port.Name)
			want[key] = true
			if p.listeners[key] != nil || port.Protocol != core.ProtocolTCP {
				continue
			}
			if f.l, err = net.Listen("tcp", at); err != nil {
				continue // the address is a deleted Service's until its listener is closed below; the next round gets it
			}
			p.listeners[key] = f
			p.work.Go(func() { p.accept(f) })
		}
	}
	for key, f := range p.listeners {
		if !want[key] {
			f.l.Close()
			delete(p.listeners, key)
		}
	}
}

// claim gives an address to the bridge.
func (p *proxy) claim(ip string) {
	if !p.addresses[ip] && isolate.IP("addr add "+ip+"/32 dev "+isolate.Bridge) == nil {
		p.addresses[ip] = true
	}
}

func (p *proxy) accept(f *front) {
	for {
		conn, err := f.l.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.carry(f, conn) })
	}
}

// carry connects a client to the next endpoint; without one it resets the
// connection, as a node refuses it.
func (p *proxy) carry(f *front, client net.Conn) {
	defer client.Close()
	var server net.Conn
	for _, at := range p.endpoints(f) {
		var err error
		if server, err = net.Dial("tcp", at); err == nil {
			break
		}
	}
	if server == nil {
		_ = client.(*net.TCPConn).SetLinger(0)
		return
	}
	defer server.Close()
	p.hold(true, client, server)
	defer p.hold(false, client, server)
	var both sync.WaitGroup
	pipe := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if err != nil {
			_ = to.(*net.TCPConn).SetLinger(0)
			to.Close()
			return
		}
		_ = to.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
}

// hold remembers open connections, so that close can end them.
func (p *proxy) hold(open bool, conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if open {
			p.conns[c] = true
		} else {
			delete(p.conns, c)
		}
	}
}

// endpoints lists the ready addresses of a Service's port, each time beginning
// with another.
func (p *proxy) endpoints(f *front) []string {
	var out []string
	for _, s := range p.of(f.namespace, f.name) {
		for _, port := range s.Ports {
			if port.Port == nil || port.Name == nil || *port.Name != f.port {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					out = append(out, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	slices.Sort(out)
	if len(out) > 1 {
		i := int(p.next.Add(1) % uint64(len(out)))
		out = slices.Concat(out[i:], out[:i])
	}
	return out
}

func (p *proxy) of(namespace, name string) []*discovery.EndpointSlice {
	all, err := p.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: name}))
	if err != nil {
		return nil
	}
	return all
}

func (p *proxy) close() {
	p.mu.Lock()
	for _, f := range p.listeners {
		f.l.Close()
	}
	for c := range p.conns {
		c.Close()
	}
	if p.dns != nil {
		p.dns.Close()
	}
	for ip := range p.addresses {
		_ = isolate.IP("addr del " + ip + "/32 dev " + isolate.Bridge)
	}
	p.mu.Unlock()
	p.work.Wait()
}

// resolve answers a name of the cluster: a Service's address, the addresses of a
// headless Service's ready endpoints, or of one of them by its host name.
func (p *proxy) resolve(name string) []string {
	rest, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), ".svc."+domain)
	if !ok {
		return nil
	}
	parts := strings.Split(rest, ".")
	if len(parts) < 2 {
		return nil
	}
	namespace, service := parts[len(parts)-1], parts[len(parts)-2]
	s, err := p.services.Services(namespace).Get(service)
	if err != nil {
		return nil
	}
	if len(parts) == 2 && s.Spec.ClusterIP != core.ClusterIPNone {
		return []string{s.Spec.ClusterIP}
	}
	var out []string
	for _, slice := range p.of(namespace, service) {
		for _, e := range slice.Endpoints {
			named := len(parts) == 2 || len(parts) == 3 && e.Hostname != nil && *e.Hostname == parts[0]
			if named && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				out = append(out, e.Addresses[0])
			}
		}
	}
	return out
}
