package daemon

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/transcript"
)

// eventually waits until something holds.
func eventually(t testing.TB, holds func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

// begun leaves in the folder of replica i the key that an interrupted init leaves.
func (c *crew) begun(i int) {
	c.t.Helper()
	o := c.config(i)
	s, err := o.check()
	if err == nil {
		err = s.enter(c.t.Context())
	}
	if err == nil {
		err = os.MkdirAll(o.State, 0o700)
	}
	if err == nil {
		_, err = seal.Create(c.t.Context(), s.sealPath()+unfinished, s.source(""), rand.Reader)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// process runs the replica on machine i in a process of its own until it is ready,
// and returns what kills it.
func (c *crew) process(i int) (a Addresses, kill func()) {
	c.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	o := c.config(i)
	cmd := exec.Command(exe, "run", "--state", o.State, "--store", o.Store, "--replica", o.Replica, "--tee", string(o.TEE), "--sim-socket", o.SimSocket,
		"--sim-root", o.SimRoot, "--client-addr", o.ClientAddr, "--mesh-addr", o.MeshAddr, "--metrics-addr", o.MetricsAddr)
	cmd.Env = append(os.Environ(), "TEST_RUN_MAIN=1")
	pipe, err := cmd.StderrPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ready, ended := make(chan Addresses, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			if f := readyLine.FindStringSubmatch(lines.Text()); f != nil {
				ready <- Addresses{f[1], f[2], f[3]}
			}
		}
		_ = cmd.Wait() // it was killed, and says so
	}()
	kill = func() {
		_ = cmd.Process.Kill()
		<-ended
	}
	c.t.Cleanup(kill)
	select {
	case a = <-ready:
	case <-ended:
		c.t.Fatalf("replica %d ended before it was ready", i)
	}
	return a, kill
}

// TestClusterDeath kills the active replica: the other takes over when its lease
// has ended, with all that was acknowledged.
func TestClusterDeath(t *testing.T) {
	c, alice := newCrew(t, 2), user(t)
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	a, kill := c.process(0)
	first := &mate{t: t, machine: c.machines[0], Addresses: a, config: c.config(0), log: &transcript.Buffer{}}
	first.until("waiting for a manifest", "")
	digest := c.set(first, alice, nil, c.admitting(alice, "1h"))
	second := c.run(1)
	second.until("standby", "r0 is active")
	digest = c.set(second, alice, digest, c.admitting(alice, "2h"))
	kill()
	second.until("serving", "")
	cl := c.serves(second, alice)
	if got, err := cl.Manifest(t.Context()); err != nil || string(got.Digest) != string(digest) {
		t.Errorf("got manifest %s, %v, want %s", got.Digest, err, digest)
	}
	c.set(second, alice, digest, c.admitting(alice, "3h"))
	// The one that died comes back as a standby, by its own seal.
	again := c.run(0)
	again.until("standby", "r1 is active")
}

// TestClusterEtcdAway takes etcd away from both: nobody acts, both say why, and one
// goes on when it is back.
func TestClusterEtcdAway(t *testing.T) {
	c, alice := newCrew(t, 2), user(t)
	first, digest := c.deploy(alice)
	second := c.run(1)
	second.until("standby", "r0 is active")
	c.etcd.KillAll()
	for _, m := range []*mate{first, second} {
		if p := m.until("no etcd", ""); p.Ready {
			t.Errorf("%s: got %+v, want it not to be ready", m.config.Replica, p)
		}
	}
	c.etcd.RestartAll()
	active := c.oneActive(first, second)
	c.set(active, alice, digest, c.admitting(alice, "2h"))
}

// oneActive waits until one of two serves and the other stands by.
func (c *crew) oneActive(a, b *mate) (active *mate) {
	c.t.Helper()
	eventually(c.t, func() bool {
		x, _ := a.probe()
		y, _ := b.probe()
		if y.Stage == "serving" {
			a, x, y = b, y, x
		}
		active = a
		return x.Stage == "serving" && y.Stage == "standby"
	}, "one serves and the other stands by")
	return active
}

// TestClusterEtcdComesLater starts a replica before etcd is there.
func TestClusterEtcdComesLater(t *testing.T) {
	c := newCrew(t, 1)
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	c.etcd.KillAll()
	o := c.config(0)
	o.MetricsAddr = etcdtest.Address(t)
	o.Ready = func(Addresses) {}
	m := &mate{t: t, machine: c.machines[0], Addresses: Addresses{Metrics: o.MetricsAddr}, config: o, log: &transcript.Buffer{}}
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), o) }()
	t.Cleanup(func() { <-ended }) // the test's context has ended then
	eventually(t, func() bool {
		resp, err := http.Get("http://" + o.MetricsAddr + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable
	}, "the probes answer without etcd")
	m.until("no etcd", "STO-031")
	c.etcd.RestartAll()
	m.until("waiting for a manifest", "")
}

// TestClusterStateGoesBack puts etcd back to what it was: no replica that has seen
// more takes the older state for the deployment's, until the right one is back.
func TestClusterStateGoesBack(t *testing.T) {
	c, alice := newCrew(t, 2), user(t)
	first, digest := c.deploy(alice)
	second := c.run(1)
	second.until("standby", "r0 is active")
	c.etcd.KillAll()
	older := c.etcd.Save()
	c.etcd.RestartAll()
	active := c.oneActive(first, second)
	for i := range 3 {
		digest = c.set(active, alice, digest, c.admitting(alice, fmt.Sprint(i+2, "h")))
	}
	newest := first.metric("ashlar_replica_head_sequence")
	eventually(t, func() bool {
		return first.metric("ashlar_replica_head_sequence") == second.metric("ashlar_replica_head_sequence")
	}, "the standby has seen the newest head "+newest)
	c.etcd.KillAll()
	right := c.etcd.Save()
	c.etcd.Load(older)
	c.etcd.RestartAll()
	for _, m := range []*mate{first, second} {
		if p := m.until("state went back", "REP-03"); p.Ready {
			t.Errorf("%s: got %+v, want it not to be ready", m.config.Replica, p)
		}
	}
	if got := first.metric(`ashlar_replica_role{role="active"}`) + second.metric(`ashlar_replica_role{role="active"}`); got != "00" {
		t.Errorf("somebody acts on an older state: %s", got)
	}
	c.etcd.KillAll()
	c.etcd.Load(right)
	c.etcd.RestartAll()
	active = c.oneActive(first, second)
	if got, err := c.serves(active, alice).Manifest(t.Context()); err != nil || string(got.Digest) != string(digest) {
		t.Errorf("got manifest %s, %v, want %s", got.Digest, err, digest)
	}
	for _, m := range []*mate{first, second} {
		if !strings.Contains(m.log.String(), wentBackStage) {
			t.Errorf("%s does not say that the state went back", m.config.Replica)
		}
	}
}
