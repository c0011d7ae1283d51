package inject

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/marble/probe"
)

// probesVariable hands the program's own probes to ashlar-marble.
const probesVariable = "ASHLAR_PROBES"

// probes has the kubelet ask the marble, which asks the program on its loopback:
// on the pod's address Envoy listens, and lets only attested peers in. What was
// handed over before stays, whatever another injector made of it since.
func (in *injection) probes() {
	c, ready := in.program, corev1.ProbeHandler{HTTPGet: in.ask("/ready")}
	if in.profileName == "" {
		return
	}
	if !in.again && in.profile.Runtime == Wrap {
		in.handed = make(map[string]handed)
		in.hand(probe.Readiness, c.ReadinessProbe)
		in.hand(probe.Liveness, c.LivenessProbe)
		in.hand(probe.Startup, c.StartupProbe)
		in.hooks()
	}
	if c.ReadinessProbe == nil {
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 5, TimeoutSeconds: 2, FailureThreshold: 2, SuccessThreshold: 1}
	}
}

// ask is a request to the marble's own port.
func (in *injection) ask(at string) *corev1.HTTPGetAction {
	return &corev1.HTTPGetAction{Path: at, Port: intstr.FromInt32(in.settings.readyPort()), Scheme: corev1.URISchemeHTTP}
}

// handed is one of the program's own probes, as ashlar-marble reads it.
type handed struct {
	URL            string            `json:"url"`
	Headers        map[string]string `json:"headers,omitempty"`
	TimeoutSeconds int32             `json:"timeoutSeconds,omitempty"`
}

// MarshalJSON writes the short form where nothing but the URL is said.
func (h handed) MarshalJSON() ([]byte, error) {
	if len(h.Headers) == 0 && h.TimeoutSeconds == 0 {
		return json.Marshal(h.URL)
	}
	type full handed
	return json.Marshal(full(h))
}

// hand gives a probe of the program to the marble. A command stays, as does a
// question to another host or to the marble itself.
func (in *injection) hand(kind string, p *corev1.Probe) {
	if p == nil {
		return
	}
	var h handed
	var port intstr.IntOrString
	switch {
	case p.GRPC != nil:
		in.refused.add("KUB-059", "the %s probe is gRPC, which would reach Envoy and not the program", kind)
		return
	case p.HTTPGet != nil && p.HTTPGet.Host == "" && p.HTTPGet.Port != intstr.FromInt32(in.settings.readyPort()):
		port = p.HTTPGet.Port
		h = in.request(kind, p.HTTPGet)
	case p.TCPSocket != nil && p.TCPSocket.Host == "":
		port, h.URL = p.TCPSocket.Port, "tcp://127.0.0.1:%d"
	default:
		return
	}
	n, ok := in.port(kind, port)
	if !ok || h.URL == "" {
		return
	}
	h.URL = strings.Replace(h.URL, "%d", strconv.Itoa(int(n)), 1)
	if p.TimeoutSeconds > 1 {
		h.TimeoutSeconds = min(p.TimeoutSeconds, 60)
	}
	in.handed[kind] = h
	p.ProbeHandler = corev1.ProbeHandler{HTTPGet: in.ask("/probe/" + kind)}
}

// request is what an httpGet probe asks, with %d for the port; without a URL it
// was refused.
func (in *injection) request(kind string, get *corev1.HTTPGetAction) handed {
	h := handed{URL: "http://127.0.0.1:%d/" + strings.TrimPrefix(get.Path, "/")}
	if get.Scheme == corev1.URISchemeHTTPS {
		in.refused.add("KUB-059", "the %s probe is HTTPS, and the program is asked on its loopback, without TLS", kind)
		return handed{}
	}
	for _, header := range get.HTTPHeaders {
		name := http.CanonicalHeaderKey(header.Name)
		if _, twice := h.Headers[name]; twice {
			in.refused.add("KUB-059", "the %s probe sends the header %.64q twice", kind, name)
			return handed{}
		}
		if h.Headers == nil {
			h.Headers = make(map[string]string)
		}
		h.Headers[name] = header.Value
	}
	return h
}

// handedOver is the value of ASHLAR_PROBES, in the form that the marble takes.
func (in *injection) handedOver() (string, bool) {
	if len(in.handed) == 0 {
		return "", false
	}
	raw, err := json.Marshal(in.handed)
	if err == nil {
		_, err = probe.Parse(string(raw))
	}
	if err != nil {
		in.refused.add("KUB-059", "its probes: %v", err)
	}
	return string(raw), true
}

// port resolves a port by number or by its name among the container's.
func (in *injection) port(kind string, p intstr.IntOrString) (int32, bool) {
	if p.Type == intstr.String {
		for _, declared := range in.program.Ports {
			if declared.Name == p.StrVal && p.StrVal != "" {
				return declared.ContainerPort, true
			}
		}
	}
	n, err := strconv.ParseUint(p.String(), 10, 16)
	if err != nil || n == 0 {
		in.refused.add("KUB-059", "the %s probe asks port %.64q, which container %s does not declare", kind, p.String(), in.program.Name)
	}
	return int32(n), err == nil && n > 0
}

// hooks refuses lifecycle hooks that would reach Envoy.
func (in *injection) hooks() {
	l := in.program.Lifecycle
	if l == nil {
		return
	}
	for name, h := range map[string]*corev1.LifecycleHandler{"postStart": l.PostStart, "preStop": l.PreStop} {
		if h != nil && (h.HTTPGet != nil && h.HTTPGet.Host == "" || h.TCPSocket != nil && h.TCPSocket.Host == "") {
			in.refused.add("KUB-059", "the hook %s asks a port of the pod, where Envoy lets only attested peers in", name)
		}
	}
	if l.PostStart != nil && l.PostStart.Exec != nil {
		in.warning("the hook postStart runs when ashlar-marble starts: the program starts later, when the evidence was accepted")
	}
}

// ports refuses what would stand in the marble's way.
func (in *injection) ports() {
	ready := in.settings.readyPort()
	if slices.Contains(in.marble.Ports, ready) {
		in.refused.add("KUB-058", "marble %s serves port %d, where the injector has its stage answered: change the value marble.readyPort", in.marble.Name, ready)
	}
	for _, c := range slices.Concat(in.pod.Spec.Containers, in.pod.Spec.InitContainers) {
		for _, p := range c.Ports {
			if p.ContainerPort == ready && p.Protocol != corev1.ProtocolUDP {
				in.refused.add("KUB-058", "container %s has port %d, where the marble's stage is answered", c.Name, ready)
			}
			if c.Name != in.program.Name && p.Protocol != corev1.ProtocolUDP && slices.Contains(in.marble.Ports, p.ContainerPort) {
				in.warning("container %s declares port %d too, where the marble's Envoy listens", c.Name, p.ContainerPort)
			}
		}
	}
}
