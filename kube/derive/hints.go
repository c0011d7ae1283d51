package derive

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// How much is searched for names of Services: of one value in bytes, and how many
// are taken of one workload.
const (
	maxText  = 16 << 10
	maxHints = 256
)

// hint is the name of a Service in an environment or a command line.
type hint struct {
	at         Place
	service    string // "db.shop"
	ends       []end
	variable   string // of the environment; "" in a command line
	word       int    // in a command line: which, from the first argument
	value      string // the whole text
	start, end int    // of host and port in it
	portless   bool
	own        bool // the caller speaks TLS to it, or may give a secret with it: it is not rewritten
}

// mention is what may be an address: [scheme://[user@]]host[:port].
var mention = regexp.MustCompile(`(?:([a-zA-Z][a-zA-Z0-9+.-]*)://([^\s/@,"']*@)?)?([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)(?::([0-9]{1,5}))?`)

// addressed are the ends of names of variables that hold an address.
var addressed = regexp.MustCompile(`(?i)(^|_)(HOST|HOSTNAME|ADDR|ADDRESS|URL|URI|ENDPOINT|SERVER|SERVICE|UPSTREAM|TARGET|BROKERS?)$`)

// schemePorts are the ports of addresses that give none.
var schemePorts = map[string]int32{"http": 80, "https": 443, "ws": 80, "wss": 443, "postgres": 5432, "postgresql": 5432, "mysql": 3306, "redis": 6379, "rediss": 6379,
	"amqp": 5672, "amqps": 5671, "mongodb": 27017, "nats": 4222, "kafka": 9092, "grpc": 443}

// hints finds the names of Services in what a marble's programs are given.
func (j *job) hints(m *marble) []hint {
	var all []hint
	for _, w := range m.runs {
		for _, v := range j.environment(w) {
			all = append(all, j.mentions(w, hint{at: v.at, variable: v.name, value: v.value})...)
		}
		c := w.container()
		for i, word := range append(append([]string{}, c.Command...), c.Args...) {
			at := w.containerAt().at("command[%d]", i)
			if i >= len(c.Command) {
				at = w.containerAt().at("args[%d]", i-len(c.Command))
			}
			all = append(all, j.mentions(w, hint{at: at, word: i, value: word})...)
		}
		all = all[:min(len(all), maxHints)]
	}
	return all
}

// variable is one whose value the YAML gives and that is no Secret.
type variable struct {
	at          Place
	name, value string
}

// environment returns the variables of a program whose values are known. Of two
// with one name the later counts.
func (j *job) environment(w *workload) []variable {
	byName := map[string]variable{}
	c := w.container()
	for i, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			for key, value := range j.configs[object{w.namespace, from.ConfigMapRef.Name}] {
				byName[from.Prefix+key] = variable{w.containerAt().at("envFrom[%d]", i), from.Prefix + key, value}
			}
		}
	}
	for i, e := range c.Env {
		v := variable{w.containerAt().at("env[%d]", i), e.Name, e.Value}
		delete(byName, e.Name)
		if e.ValueFrom != nil {
			if e.ValueFrom.ConfigMapKeyRef == nil {
				continue
			}
			v.value = j.configs[object{w.namespace, e.ValueFrom.ConfigMapKeyRef.Name}][e.ValueFrom.ConfigMapKeyRef.Key]
		}
		byName[e.Name] = v
	}
	all := make([]variable, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	return all
}

// mentions finds the Services in one text.
func (j *job) mentions(w *workload, from hint) []hint {
	if len(from.value) > maxText {
		return nil
	}
	var all []hint
	for _, at := range mention.FindAllStringSubmatchIndex(from.value, -1) {
		if len(all) == maxHints {
			break
		}
		part := func(i int) string {
			if at[2*i] < 0 {
				return ""
			}
			return from.value[at[2*i]:at[2*i+1]]
		}
		scheme, user, host, port := strings.ToLower(part(1)), part(2), part(3), part(4)
		before, after := byte(' '), byte(' ')
		if at[0] > 0 {
			before = from.value[at[0]-1]
		}
		if at[1] < len(from.value) {
			after = from.value[at[1]]
		}
		if inWord(before) || inWord(after) && after != '/' {
			continue
		}
		s, ok := j.named(w, host)
		if !ok || scheme == "" && port == "" && !strings.Contains(host, ".svc") && !addressed.MatchString(from.variable) {
			continue
		}
		h := from
		h.start, h.end, h.portless = at[6], at[1], port == ""
		h.own = user != "" || strings.HasSuffix(scheme, "s") && scheme != "nats" && scheme != "redis" && scheme != "postgres" || strings.ContainsAny(from.value, "@?=")
		h.service = s.svc.Name + "." + s.svc.Namespace
		if h.ends = j.behind(h, s, scheme, port); len(h.ends) > 0 {
			all = append(all, h)
		}
	}
	return all
}

func inWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-./\\:@$", c) >= 0
}

// named finds the Service that a host is the name of, as a pod of w's namespace
// would: NAME, NAME.NAMESPACE, NAME.NAMESPACE.svc…, or with a pod of a headless
// Service before it.
func (j *job) named(w *workload, host string) (service, bool) {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if s, ok := j.service(w.namespace, labels); ok || len(labels) == 1 {
		return s, ok
	}
	s, ok := j.service(w.namespace, labels[1:])
	return s, ok && s.svc.Spec.ClusterIP == corev1.ClusterIPNone
}

func (j *job) service(namespace string, labels []string) (service, bool) {
	if len(labels) > 1 {
		namespace = labels[1]
	}
	i, ok := j.serviceAt[object{namespace, labels[0]}]
	if !ok || len(labels) > 2 && labels[2] != "svc" {
		return service{}, false
	}
	return j.services[i], true
}

// behind returns the ports of marbles behind a Service's port.
func (j *job) behind(h hint, s service, scheme, port string) []end {
	if s.svc.Spec.Type == corev1.ServiceTypeExternalName || len(s.svc.Spec.Selector) == 0 {
		j.note(h.at, importer.NoCounterpart, "", "names Service %s, behind which no pod of these stands: it is called past the mesh", h.service)
		return nil
	}
	want := schemePorts[scheme]
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		want = int32(n)
	}
	if want == 0 && len(s.svc.Spec.Ports) == 1 {
		want = s.svc.Spec.Ports[0].Port
	}
	var ends []end
	for _, w := range j.workloads {
		if !s.selects(w) {
			continue
		}
		number := want
		for _, p := range s.svc.Spec.Ports {
			if p.Port == want && (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP) {
				number, _ = target(w, p)
				break
			}
		}
		if e := (end{w.marble, uint16(number)}); number > 0 && number <= 65535 && w.marble.served[e.port] != "" && !slices.Contains(ends, e) {
			ends = append(ends, e)
		}
	}
	if len(ends) == 0 {
		j.note(h.at, importer.NoCounterpart, "", "names Service %s, but no port of it that a marble serves", h.service)
	}
	return ends
}

// rewrite points variables and arguments at the loopback ports of their calls.
func (j *job) rewrite(m *marble, hints []hint) {
	values := map[string]string{} // by variable
	for i := len(hints) - 1; i >= 0; i-- {
		h := hints[i]
		listen, ok := m.listensFor(h)
		if !ok {
			continue
		}
		where := m.path("parameters.env.%s", h.variable)
		if h.variable == "" {
			where = m.path("parameters.argv[%d]", h.word)
		}
		if h.own || strings.Contains(h.value, "{{") || strings.Contains(h.value, "$(") || len(m.runs) > 1 {
			j.decide(where, "%s names %s: the program finds it at 127.0.0.1:%d, without TLS of its own", h.at, h.service, listen)
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", listen)
		if h.variable == "" {
			j.rewriteWord(m, h, address)
			continue
		}
		if !environmentName.MatchString(h.variable) || strings.HasPrefix(h.variable, "ASHLAR_") {
			continue
		}
		if h.portless && bare(h) {
			j.decide(where, "%s names %s without a port: the program finds it at %s", h.at, h.service, address)
			continue
		}
		text, begun := values[h.variable]
		if !begun {
			text = h.value
		}
		values[h.variable] = text[:h.start] + address + text[h.end:]
		j.note(h.at, Guess, where, "%s is at %s", h.service, address)
	}
	if len(values) > 0 {
		m.made.Parameters.Env = values
	}
}

// bare reports whether a text is a host and nothing else: its port is elsewhere.
func bare(h hint) bool { return h.start == 0 && h.end == len(h.value) }

var environmentName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// listensFor returns the loopback port of a hint that leads to one call.
func (m *marble) listensFor(h hint) (uint16, bool) {
	if len(h.ends) != 1 {
		return 0, false
	}
	e := h.ends[0]
	for _, c := range m.made.Calls {
		if c.Marble == e.m.name && c.Port == e.m.served[e.port] {
			if c.Listen != 0 {
				return c.Listen, true
			}
			return e.port, true
		}
	}
	return 0, false
}

// rewriteWord points an argument at a loopback port. Later mentions in a word
// were replaced before.
func (j *job) rewriteWord(m *marble, h hint, address string) {
	word := h.word
	if given := m.runs[0].notes[inject.Command]; len(m.runs[0].container().Command) == 0 && given != "" {
		word += len(m.made.Parameters.Argv) - len(m.runs[0].container().Args)
	}
	if word >= len(m.made.Parameters.Argv) || h.portless && bare(h) || !strings.HasPrefix(m.made.Parameters.Argv[word], h.value[:h.end]) {
		j.decide(m.path("parameters.argv"), "%s names %s: the program finds it at %s", h.at, h.service, address)
		return
	}
	text := m.made.Parameters.Argv[word]
	m.made.Parameters.Argv[word] = text[:h.start] + address + text[h.end:]
	j.note(h.at, Guess, m.path("parameters.argv[%d]", word), "%s is at %s", h.service, address)
}
