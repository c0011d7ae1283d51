package derive

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

const (
	maxServed = 32
	maxCalls  = 1024
)

// offer is a port that a program serves, as one place of the YAML has it.
type offer struct {
	at       Place
	number   int32
	name     string
	protocol manifest.Protocol
	because  string // of the protocol, where it is a guess
}

// ports says what a marble serves: what its program's container declares, and
// what Services send to it.
func (j *job) ports(m *marble) {
	m.busy[inject.DefaultReadyPort] = true
	for _, w := range m.runs {
		for i := range w.spec.Containers {
			for k, p := range w.spec.Containers[i].Ports {
				at := w.pod.at("spec.containers[%d].ports[%d]", i, k)
				if number := uint16(p.ContainerPort); i != w.program && p.ContainerPort == int32(number) {
					m.busy[number] = true
					j.note(at, importer.NoCounterpart, "", "of container %s beside the program: Envoy lets peers to the program's ports only (annotation %s says which it is)", w.spec.Containers[i].Name, inject.Container)
				} else {
					j.offer(m, j.declared(w, p, at))
				}
			}
		}
		for _, s := range j.services {
			if s.selects(w) {
				j.fromService(w, s)
			}
		}
	}
}

// declared reads a port of the program's container; the number is 0 if it is
// none that can be served.
func (j *job) declared(w *workload, p corev1.ContainerPort, at Place) offer {
	if !j.overTCP(p.Protocol, at) {
		return offer{}
	}
	if p.HostPort != 0 {
		j.note(at.at("hostPort"), importer.NoCounterpart, "", "on the node's address nobody attested can reach it")
	}
	o := offer{at: at, number: p.ContainerPort, name: p.Name}
	o.protocol, o.because = conventional(p.Name)
	if c := w.container(); o.protocol == "" && asksHTTP(c, p) {
		o.protocol, o.because = manifest.HTTP, "a probe asks it by HTTP"
	}
	return o
}

func (j *job) overTCP(p corev1.Protocol, at Place) bool {
	if p == "" || p == corev1.ProtocolTCP {
		return true
	}
	j.note(at, importer.NoCounterpart, "", "%s: the mesh carries TCP and HTTP only", p)
	return false
}

// conventional reads the protocol out of a port's name: http, http-…, grpc.
func conventional(name string) (manifest.Protocol, string) {
	word, _, _ := strings.Cut(name, "-")
	switch word {
	case "http", "http2", "grpc", "h2c":
		return manifest.HTTP, "by its name"
	case "https", "tls", "tcp":
		return manifest.TCP, "by its name"
	}
	return "", ""
}

// said reads the protocol that a Service gives in words.
func said(application *string) manifest.Protocol {
	if application == nil {
		return ""
	}
	switch strings.ToLower(*application) {
	case "http", "http2", "grpc", "kubernetes.io/h2c", "kubernetes.io/ws":
		return manifest.HTTP
	}
	return manifest.TCP
}

func asksHTTP(c *corev1.Container, p corev1.ContainerPort) bool {
	for _, probe := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe, c.StartupProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Scheme == corev1.URISchemeHTTPS {
			continue
		}
		to := probe.HTTPGet.Port
		if to.Type == intstr.Int && to.IntVal == p.ContainerPort || to.Type == intstr.String && to.StrVal == p.Name {
			return true
		}
	}
	return false
}

// selects reports whether a Service sends to a workload's pods.
func (s service) selects(w *workload) bool {
	return s.svc.Namespace == w.namespace && len(s.svc.Spec.Selector) > 0 && s.svc.Spec.Type != corev1.ServiceTypeExternalName &&
		labels.SelectorFromSet(s.svc.Spec.Selector).Matches(labels.Set(w.labels))
}

// fromService takes the ports that a Service sends to, and what it says of their
// protocol.
func (j *job) fromService(w *workload, s service) {
	for i, p := range s.svc.Spec.Ports {
		at := s.at.at("spec.ports[%d]", i)
		if !j.overTCP(p.Protocol, at) {
			continue
		}
		number, container := target(w, p)
		switch {
		case number == 0:
			j.note(at.at("targetPort"), importer.Dropped, "", "%s has no port %q", w.at, p.TargetPort.StrVal)
			continue
		case container >= 0 && container != w.program:
			continue // ports says so
		}
		o := offer{at: at, number: number, name: p.Name, protocol: said(p.AppProtocol)}
		if o.protocol == "" {
			o.protocol, o.because = conventional(p.Name)
		}
		j.offer(w.marble, o)
	}
}

// target resolves a Service's port at a workload: the number, and the container
// that declares it, or -1.
func target(w *workload, p corev1.ServicePort) (int32, int) {
	to := p.TargetPort
	if to.Type == intstr.Int && to.IntVal == 0 {
		to.IntVal = p.Port
	}
	number, found := int32(0), -1
	if to.Type == intstr.Int {
		number = to.IntVal
	}
	for i := range w.spec.Containers {
		for _, c := range w.spec.Containers[i].Ports {
			if c.Protocol != "" && c.Protocol != corev1.ProtocolTCP {
				continue
			}
			if to.Type == intstr.String && c.Name == to.StrVal && found < 0 || to.Type == intstr.Int && c.ContainerPort == number && (found < 0 || i == w.program) {
				number, found = c.ContainerPort, i
			}
		}
	}
	return number, found
}

// offer adds a port to what a marble serves, or what is said of one that it
// serves already.
func (j *job) offer(m *marble, o offer) {
	number := uint16(o.number)
	if o.number <= 0 || o.number != int32(number) {
		return
	}
	name, known := m.served[number]
	if !known {
		if len(m.served) == maxServed {
			j.note(o.at, importer.Dropped, "", "a marble serves at most %d ports", maxServed)
			return
		}
		name = m.portName(o)
		m.served[number], m.busy[number] = name, true
		if m.made.Serves == nil {
			m.made.Serves = map[string]manifest.Port{}
		}
		m.made.Serves[name] = manifest.Port{Port: number}
	}
	path, port := m.path("serves.%s", name), m.made.Serves[name]
	if !known {
		j.note(o.at, importer.Maps, path, "")
	}
	if o.protocol != "" && port.Protocol != "" && o.protocol != port.Protocol {
		j.decide(path+".protocol", "%s says %s, another place %s", o.at, o.protocol, port.Protocol)
	} else if o.protocol != "" && port.Protocol == "" {
		port.Protocol = o.protocol
		m.made.Serves[name] = port
		if o.because != "" {
			j.note(o.at, Guess, path+".protocol", "%s %s", o.protocol, o.because)
		}
	}
}

// portName is the port's own name, or one of its number.
func (m *marble) portName(o offer) string {
	name := wellFormed(o.name)
	if o.name == "" {
		name = fmt.Sprintf("port-%d", o.number)
	}
	if _, taken := m.made.Serves[name]; taken {
		name = fmt.Sprintf("%.50s-%d", name, o.number)
	}
	return name
}

// numbers returns the ports that a marble serves, sorted.
func (m *marble) numbers() []uint16 {
	var all []uint16
	for n := range m.served {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// listen finds a loopback port for a call: the callee's own where it is free.
func (m *marble) listen(number uint16) uint16 {
	next := int(number)
	if m.busy[number] {
		next = int(number)%50_000 + 10_000
	}
	for tries := 0; tries < 1<<16 && m.busy[uint16(next)]; tries++ {
		if next++; next > 65535 {
			next = 10_000
		}
	}
	m.busy[uint16(next)] = true
	return uint16(next)
}
