package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/api"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/internal/transcript"
)

// patience is how long a test waits for what is to come.
const patience = time.Minute

// crew are replicas of one deployment, each on a machine of its own.
type crew struct {
	t        *testing.T
	etcd     *etcdtest.Cluster
	machines []*machine
	dir      string
}

func newCrew(t *testing.T, n int) *crew {
	t.Helper()
	return &crew{t: t, etcd: etcdtest.Start(t, 1, "--unsafe-no-fsync"), machines: newMachines(t, n), dir: t.TempDir()}
}

// config is that of a replica on machine i, which is called by that number.
func (c *crew) config(i int) Config {
	o := c.machines[i].config()
	o.State, o.Store, o.Replica = filepath.Join(c.dir, fmt.Sprint("state", i)), c.etcd.Location("shop"), fmt.Sprint("r", i)
	o.Grace = 2 * time.Second
	o.pace = pace{look: 50 * time.Millisecond, inspect: 100 * time.Millisecond, retry: 50 * time.Millisecond, slowest: 200 * time.Millisecond, desk: time.Second}
	return o
}

// mate is a replica that runs in this process.
type mate struct {
	t *testing.T
	*machine
	Addresses
	config Config
	cancel context.CancelFunc
	ended  chan error
	log    *transcript.Buffer
}

// run starts the replica on machine i, and waits until its ports answer.
func (c *crew) run(i int, edit ...func(*Config)) *mate {
	c.t.Helper()
	o := c.config(i)
	for _, e := range edit {
		e(&o)
	}
	m := &mate{t: c.t, machine: c.machines[i], config: o, ended: make(chan error, 1), log: &transcript.Buffer{}}
	ready := make(chan Addresses, 1)
	o.Log = slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.Ready = func(a Addresses) { ready <- a }
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	go func() { m.ended <- Run(ctx, o) }()
	c.t.Cleanup(func() {
		m.cancel()
		<-m.ended
		if c.t.Failed() {
			c.t.Logf("%s:\n%s", o.Replica, m.log)
		}
	})
	select {
	case m.Addresses = <-ready:
	case err := <-m.ended:
		m.ended <- err
		c.t.Fatalf("%s ended with %v\n%s", o.Replica, err, m.log)
	}
	return m
}

// stop ends the replica as SIGTERM does.
func (m *mate) stop() {
	m.t.Helper()
	m.cancel()
	err := <-m.ended
	m.ended <- err
	if err != nil {
		m.t.Errorf("%s: stopping: %v", m.config.Replica, err)
	}
}

func (m *mate) probe() (p api.Probe, status int) {
	m.t.Helper()
	resp, err := http.Get("http://" + m.Metrics + "/readyz")
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		m.t.Fatal(err)
	}
	return p, resp.StatusCode
}

// metric returns the value of a metric with its labels, as it is printed.
func (m *mate) metric(name string) string {
	m.t.Helper()
	resp, err := http.Get("http://" + m.Metrics + "/metrics")
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// until waits until the replica says a stage, and a part of a reason.
func (m *mate) until(stage, reason string) api.Probe {
	m.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		p, _ := m.probe()
		if p.Stage == stage && strings.Contains(p.Reason, reason) {
			return p
		}
		if time.Now().After(end) {
			m.t.Fatalf("%s is %+v, want %q because of %q\n%s", m.config.Replica, p, stage, reason, m.log)
		}
	}
}

// deploy makes the state at machine 0 and sets a manifest that admits coordinators
// like this test.
func (c *crew) deploy(alice *tls.Certificate) (*mate, attest.Hex) {
	c.t.Helper()
	if err := Init(c.t.Context(), c.config(0)); err != nil {
		c.t.Fatal(err)
	}
	first := c.run(0)
	first.until("waiting for a manifest", "")
	return first, c.set(first, alice, nil, c.admitting(alice, "1h"))
}

// set sets a manifest through a replica.
func (c *crew) set(m *mate, alice *tls.Certificate, digest attest.Hex, raw []byte) attest.Hex {
	c.t.Helper()
	cl, err := m.dial(m.Client, "", alice)
	if err != nil {
		c.t.Fatal(err)
	}
	defer cl.Close()
	set, err := cl.SetManifest(c.t.Context(), raw, digest, append(risks, "admit-coordinators")...)
	if err != nil {
		c.t.Fatal(err)
	}
	return set.Digest
}

// admitting is a manifest that admits this test's program as a coordinator.
func (c *crew) admitting(alice *tls.Certificate, lease string) []byte {
	return with(c.t, manifestOf(alice, lease), map[string]any{"coordinators": map[string]any{"package": "coordinator"}},
		map[string]any{"coordinator": map[string]any{"sim": map[string]any{"program": []attest.Hex{c.machines[0].self}}}})
}

// with adds sections and packages to a manifest.
func with(t testing.TB, raw []byte, sections, packages map[string]any) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for name, s := range sections {
		doc[name] = s
	}
	for name, p := range packages {
		doc["packages"].(map[string]any)[name] = p
	}
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// serves demands that a replica's client port answers for the deployment, and
// returns the client.
func (c *crew) serves(m *mate, as *tls.Certificate) *client.Client {
	c.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		cl, err := m.dial(m.Client, "", as)
		if err == nil {
			c.t.Cleanup(cl.Close)
			return cl
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s does not answer: %v\n%s", m.config.Replica, err, m.log)
		}
	}
}

func TestClusterTakeover(t *testing.T) {
	c, alice := newCrew(t, 2), user(t)
	first, digest := c.deploy(alice)
	second := c.run(1)
	p := second.until("standby", "r0 is active")
	if !p.Ready {
		t.Errorf("got %+v, want a standby that is ready", p)
	}
	if s, err := os.ReadFile(filepath.Join(second.config.State, "seal.json")); err != nil || !strings.Contains(string(s), "sim:sgx:product") {
		t.Errorf("got %s, %v, want the key sealed for the second machine", s, err)
	}
	digest = c.set(second, alice, digest, c.admitting(alice, "2h")) // through the standby's port
	if got := second.metric(`ashlar_replica_connections_passed_total{port="client"}`); got == "0" || got == "" {
		t.Errorf("%s connections were passed on, want some", got)
	}
	first.stop()
	second.until("serving", "")
	if got := second.metric(`ashlar_replica_role{role="active"}`) + second.metric("ashlar_replica_takeovers_total"); got != "11" {
		t.Errorf("got role and takeovers %s, want 1 and 1", got)
	}
	cl := c.serves(second, alice)
	if got, err := cl.Manifest(t.Context()); err != nil || !bytes.Equal(got.Digest, digest) {
		t.Errorf("after the takeover: got manifest %s, %v, want %s", got.Digest, err, digest)
	}
	if _, err := cl.SetManifest(t.Context(), c.admitting(alice, "3h"), digest, risks...); err != nil {
		t.Errorf("after the takeover: %v", err)
	}
	// What was sealed by joining opens the state: nobody is active who could give the key.
	second.stop()
	c.run(1).until("serving", "")
}

// TestClusterWithoutVendors takes over where no source of endorsements answers: what
// the instances and replicas were judged with is in the state.
func TestClusterWithoutVendors(t *testing.T) {
	c, alice := newCrew(t, 2), user(t)
	first, _ := c.deploy(alice)
	second := c.run(1, func(o *Config) { o.PCCS = []string{"http://" + etcdtest.Address(t)} }) // nobody listens there
	second.until("standby", "r0 is active")
	first.stop()
	second.until("serving", "")
	c.serves(second, alice)
}

func TestClusterInitRace(t *testing.T) {
	c := newCrew(t, 3)
	errs := make([]error, 3)
	var racing sync.WaitGroup
	for i := range errs {
		racing.Go(func() { errs[i] = Init(t.Context(), c.config(i)) })
	}
	racing.Wait()
	made := 0
	for i, err := range errs {
		sealed := filepath.Join(c.config(i).State, "seal.json")
		_, serr := os.Stat(sealed)
		_, nerr := os.Stat(sealed + unfinished)
		switch {
		case err == nil && serr == nil:
			made++
		case problem.CodeOf(err) != "STO-001" || serr == nil:
			t.Errorf("replica %d: got %v, and a sealed key %v; want STO-001 and none", i, err, serr == nil)
		}
		if nerr == nil {
			t.Errorf("replica %d left a key of nothing", i)
		}
	}
	if made != 1 {
		t.Errorf("%d replicas made a state, want 1", made)
	}
}
