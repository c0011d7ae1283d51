//go:build linux

package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// prefix is where the deployment is in etcd.
const prefix = "ashlar/shop"

// replica is one of the coordinators: where it runs, and its process.
type replica struct {
	*process
	site    *site
	name    string
	machine *machine
	program string
	ip      string
	store   string  // what --store says; "" is the embedded store
	ways    []*wire // to the members of etcd
}

// replica places a replica on a machine; it does not start it.
func (s *site) replica(name string, m *machine) *replica {
	s.t.Helper()
	r := &replica{site: s, name: name, machine: m, program: s.tools.coordinator, ip: s.address(10 + len(s.replicas))}
	for _, member := range s.etcd.Endpoints() {
		r.ways = append(r.ways, newWire(s.t, member))
	}
	r.store = r.storeAt(prefix)
	s.replicas = append(s.replicas, r)
	s.service.add(endpoint{client: r.ip + ":4433", mesh: r.ip + ":2001", probe: r.ip + ":9944"})
	return r
}

// storeAt is a prefix in etcd by way of the replica's wires.
func (r *replica) storeAt(prefix string) string {
	var endpoints []string
	for _, w := range r.ways {
		endpoints = append(endpoints, w.address())
	}
	return "etcd://" + strings.Join(endpoints, ",") + "/" + prefix + "?tls=off"
}

// state is the replica's own folder.
func (r *replica) state() string { return r.site.file("state-" + r.name) }

// command is a command line of the replica's program.
func (r *replica) command(verb string, more ...string) []string {
	c := []string{r.program, verb, "--state", r.state(), "--tee", "sim:sgx", "--sim-socket", r.machine.socket, "--sim-root", r.site.simRoot(),
		"--pccs", r.site.pccs(), "--client-addr", r.ip + ":4433", "--mesh-addr", r.ip + ":2001", "--metrics-addr", r.ip + ":9944"}
	if r.store != "" {
		c = append(c, "--store", r.store, "--replica", r.name)
	}
	return append(c, more...)
}

// init makes the state of a new deployment.
func (r *replica) init(more ...string) {
	r.site.t.Helper()
	p := spawn(r.site.t, r.site.file("logs"), r.name+"-init", r.command("init", more...))
	if code := p.ended(patience); code != 0 {
		r.site.t.Fatalf("init of %s ended with %d:\n%s", r.name, code, p.tail())
	}
}

// start starts the replica and waits for nothing.
func (r *replica) start() {
	r.site.t.Helper()
	r.process = spawn(r.site.t, r.site.file("logs"), r.name, r.command("run"))
}

// says is what /readyz says.
type says struct {
	Ready         bool
	Stage, Reason string
}

func (r *replica) probe() (says, error) {
	var p says
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + r.ip + ":9944/readyz")
	if err != nil {
		return p, err
	}
	defer resp.Body.Close()
	return p, json.NewDecoder(resp.Body).Decode(&p)
}

// until waits until what the replica says of itself is so.
func (r *replica) until(what string, holds func(says) bool) {
	r.site.t.Helper()
	drive.Eventually(r.site.t, patience, func() string {
		if !r.running() {
			r.site.t.Fatalf("%s has ended:\n%s", r.name, r.tail())
		}
		p, err := r.probe()
		if err != nil || !holds(p) {
			return fmt.Sprintf("%s is %+v, %v; want %s", r.name, p, err, what)
		}
		return ""
	})
}

// up waits until the replica is ready.
func (r *replica) up() {
	r.site.t.Helper()
	r.until("ready", func(p says) bool { return p.Ready })
}

// cut takes etcd away from the replica, and mend gives it back.
func (r *replica) cut() {
	for _, w := range r.ways {
		w.cut()
	}
}

func (r *replica) mend() {
	for _, w := range r.ways {
		w.mend()
	}
}

// head is the sequence of the newest head of the state that the replica has seen.
func (r *replica) head() uint64 {
	r.site.t.Helper()
	resp, err := http.Get("http://" + r.ip + ":9944/metrics")
	if err != nil {
		r.site.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "ashlar_replica_head_sequence "); ok {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				r.site.t.Fatal(err)
			}
			return uint64(n)
		}
	}
	r.site.t.Fatalf("%s shows no head", r.name)
	return 0
}
