package importer

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/manifest"
)

// What one marble may have.
const (
	maxCalls = 1024
	maxPorts = 32
)

// wiring makes ports and calls.
type wiring struct {
	job   *job
	taken map[string]map[uint16]bool // loopback ports, by marble
}

func newWiring(j *job) *wiring { return &wiring{job: j, taken: map[string]map[uint16]bool{}} }

// take reserves a loopback port of a marble; it is false if it has a use.
func (w *wiring) take(marble string, port uint16) bool {
	if w.taken[marble] == nil {
		w.taken[marble] = map[uint16]bool{}
	}
	if w.taken[marble][port] {
		return false
	}
	w.taken[marble][port] = true
	return true
}

func (w *wiring) port(v value) (uint16, bool) {
	n, err := strconv.ParseUint(v.text(), 10, 16)
	if err != nil || n == 0 {
		v.note(Dropped, "", "not a port from 1 to 65535")
		w.job.decide("marbles", "%s is not a port from 1 to 65535", v.path)
		return 0, false
	}
	return uint16(n), true
}

func portName(port uint16) string { return "tcp" + strconv.Itoa(int(port)) }

// serve makes an incoming entry a port.
func (w *wiring) serve(marble string, e value) {
	port, ok := w.port(e.get("Port"))
	if !ok {
		return
	}
	path := join("marbles", marble) + ".serves." + portName(port)
	e.get("Port").note(Maps, path, "callers prove what they are, not only that they belong to the mesh")
	e.get("Addr").note(Dropped, "", "ignored there")
	for _, name := range []string{"Cert", "DisableClientAuth"} {
		if v := e.get(name); !v.empty() && v.node.Text != "false" {
			v.note(Stricter, "", "every caller shows a certificate; for outsiders put a gateway before it")
			w.job.decide(path, "%s let callers in without a certificate: here nobody is", v.path)
		} else {
			v.maps(path)
		}
	}
	m := w.job.m.Marbles[marble]
	if len(m.Serves) == maxPorts {
		e.note(NoCounterpart, "", "a marble has at most 32 ports")
		w.job.decide(path, "%s: %s has 32 ports already", e.path, marble)
		return
	}
	if w.take(marble, port) {
		if m.Serves == nil {
			m.Serves = map[string]manifest.Port{}
		}
		m.Serves[portName(port)] = manifest.Port{Port: port}
		w.job.m.Marbles[marble] = m
	}
}

// call makes an outgoing entry a call, if its address names a marble that serves
// the port.
func (w *wiring) call(marble string, e value) {
	e.get("Cert").note(Dropped, "", "ignored there")
	e.get("DisableClientAuth").note(Dropped, "", "ignored there")
	port, ok := w.port(e.get("Port"))
	if !ok {
		return
	}
	callee := w.callee(marble, e.get("Addr").text(), port)
	path := join("marbles", marble) + ".calls"
	if callee == "" {
		e.note(NoCounterpart, "", "the address names no marble that serves this port")
		w.job.decide(path, "%s: say whom %s calls there", e.path, marble)
		return
	}
	m := w.job.m.Marbles[marble]
	if slices.ContainsFunc(m.Calls, func(c manifest.Call) bool { return c.Marble == callee && c.Port == portName(port) }) {
		e.get("Addr").maps(path)
		e.get("Port").maps(path)
		return
	}
	if len(m.Calls) == maxCalls {
		e.note(NoCounterpart, "", "a marble has at most 1024 calls")
		w.job.decide(path, "%s: %s has 1024 calls already", e.path, marble)
		return
	}
	c := manifest.Call{Marble: callee, Port: portName(port)}
	listen := port
	for !w.take(marble, listen) {
		listen = max(1024, listen+1)
		c.Listen = listen
	}
	m.Calls = append(m.Calls, c)
	w.job.m.Marbles[marble] = m
	e.get("Addr").maps(path)
	e.get("Port").note(Maps, path, "the program calls 127.0.0.1:"+strconv.Itoa(int(listen)))
	w.job.decide(path, "%s must call 127.0.0.1:%d to reach %s, not the address of %s", marble, listen, callee, e.path)
}

// callee finds the other marble that an address means: the one that has the name
// of its first label and serves the port.
func (w *wiring) callee(caller, addr string, port uint16) string {
	if _, err := netip.ParseAddr(addr); err == nil {
		return ""
	}
	label, _, _ := strings.Cut(strings.ToLower(addr), ".")
	if _, ok := w.job.m.Marbles[label].Serves[portName(port)]; !ok || label == caller {
		return ""
	}
	return label
}
