//go:build linux

package cluster

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// probeDigest stands for the program of marbles that this process plays.
var probeDigest = attest.Hex("probe, probe, probe, probe, probe")[:32]

// chain are the marbles of a visit: each calls the next, by way of its Envoy.
var chain = []string{"front", "middle", "back"}

// Addresses of a marble: where its program listens, where its Envoy does, and
// its probes. All programs serve the same port.
func (s *site) loopback(i int) string { return s.address(30 + i) }
func (s *site) peers(i int) string    { return s.address(40 + i) }

const (
	programPort = 8080
	nextPort    = 9080 // where a program reaches the next marble
)

// manifest is that of the deployment, changed by amend; nil changes nothing.
func (s *site) manifest(lease string, amend func(doc map[string]any)) []byte {
	s.t.Helper()
	reference := func(program, agent attest.Hex) map[string]any {
		return map[string]any{"sim": map[string]any{"program": []attest.Hex{program}, "agent": []attest.Hex{agent}}}
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	coordinator := s.digest(s.tools.coordinator)
	marbles := map[string]any{"probe": map[string]any{"package": "probe", "maxInstances": 1000}, "stray": map[string]any{"package": "probe"}}
	for i, name := range chain {
		env := map[string]string{listenEnv: fmt.Sprintf("%s:%d", s.loopback(i), programPort)}
		m := map[string]any{"package": "program", "lease": lease, "parameters": map[string]any{"env": env}}
		if i > 0 {
			m["serves"] = map[string]any{"http": map[string]any{"port": programPort, "protocol": "http"}}
		}
		if i+1 < len(chain) {
			m["calls"] = []any{map[string]any{"marble": chain[i+1], "port": "http", "listen": nextPort}}
			env[nextEnv] = fmt.Sprintf("http://%s:%d", s.loopback(i), nextPort)
		}
		marbles[name] = m
	}
	doc := map[string]any{
		"version": 1, "trustDomain": "cluster.example", "marbles": marbles,
		"packages": map[string]any{"program": reference(s.digest(self), s.digest(s.tools.marble)), "probe": reference(probeDigest, probeDigest),
			"coordinator": reference(coordinator, coordinator)},
		"coordinators": map[string]any{"package": "coordinator", "platform": "default"},
		"users":        map[string]any{"alice": map[string]any{"certificate": s.user("alice"), "roles": []string{"operator"}}},
		"roles":        map[string]any{"operator": map[string]any{"actions": []string{"updateManifest", "backup"}}},
	}
	if amend != nil {
		amend(doc)
	}
	raw, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// policyFile writes, once, what users and marbles demand of the coordinator.
func (s *site) policyFile() string {
	s.t.Helper()
	path := s.file("policy.json")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	root, err := os.ReadFile(s.simRoot())
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{"tee": "sim", "simulationRoot": string(root), "package": s.policy().Package})
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return path
}

// marble starts a marble of the chain.
func (s *site) marble(i int) *process {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	m := s.machines[i%len(s.machines)]
	return spawn(s.t, s.file("logs"), chain[i], []string{s.tools.marble, "run", "--envoy", s.tools.envoy, "--marble", chain[i], "--coordinator", s.mesh(),
		"--coordinator-policy", s.policyFile(), "--id", fmt.Sprintf("20000000-0000-4000-8000-%012d", i), "--ip", s.peers(i), "--loopback", s.loopback(i),
		"--ready-addr", s.peers(i) + ":9901", "--tee", "sim:tdx", "--sim-socket", m.socket, "--", self})
}

// front is where visitors ask.
func (s *site) front() string { return fmt.Sprintf("http://%s:%d/", s.loopback(0), programPort) }

// visited waits until a visit is answered by the whole chain.
func (s *site) visited() {
	s.t.Helper()
	drive.Eventually(s.t, patience, func() string {
		resp, err := http.Get(s.front())
		if err != nil {
			return err.Error()
		}
		_ = resp.Body.Close() // the status is all
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return ""
	})
}

// marbles starts the whole chain and waits until a visit is answered.
func (s *site) marbles() {
	s.t.Helper()
	for i := range chain {
		s.marble(i)
	}
	s.visited()
}

// activate has probes activated all the while.
func (s *site) activate(workers int, pause time.Duration) *drive.Activators {
	return drive.Activate(s.t, drive.Marbles{Mesh: s.mesh(), Marble: "probe", Issuer: s.machines[0].issuer(), Workers: workers, Pause: pause})
}

// set puts the first manifest in force.
func (s *site) set(raw []byte) {
	s.t.Helper()
	c := s.connect()
	if _, err := c.SetManifest(s.t.Context(), raw, nil); err != nil {
		s.t.Fatal(err)
	}
}

// visit has visitors ask all the while.
func (s *site) visit() *drive.Traffic { return drive.Pages(s.t, 4, s.front()) }
