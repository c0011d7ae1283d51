//go:build linux

package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// soakTries is how often a figure may miss its bound under ASHLAR_SOAK=1, on a
// machine that does other things too.
const soakTries = 3

// latencies are sorted times of answers.
type latencies []time.Duration

func (l latencies) quantile(q float64) time.Duration { return l[min(len(l)-1, int(q*float64(len(l))))] }

func (l latencies) String() string {
	return fmt.Sprintf("p50 %s p99 %s max %s of %d", l.quantile(.5).Round(time.Microsecond), l.quantile(.99).Round(time.Microsecond),
		l[len(l)-1].Round(time.Microsecond), len(l))
}

// statusTimes asks for the status n times over one connection.
func statusTimes(t *testing.T, c *client.Client, n int) latencies {
	t.Helper()
	var l latencies
	for range n {
		began := time.Now()
		if _, err := c.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		l = append(l, time.Since(began))
		time.Sleep(time.Millisecond)
	}
	slices.Sort(l)
	return l
}

// samples is how many answers a quantile rests on.
func samples() int {
	if soak() {
		return 3000
	}
	return 300
}

// Status is answered while 16 marbles are activated at once: reads do not wait
// for writes. What is held to a bound is a load that leaves processors free, as
// the marbles of this test share them with the coordinator; what 16 without
// pause do is shown.
func TestStatusDuringActivations(t *testing.T) {
	d := set(t, nil)
	c := d.client()
	statusTimes(t, c, 100) // warm
	during := func(pause time.Duration) latencies {
		stop := d.load(t, pause)
		before := checkpoint(t, c)
		drive.Eventually(t, patience, func() string {
			if checkpoint(t, c) < before+20 {
				return "no activations are recorded"
			}
			return ""
		})
		began, before := time.Now(), checkpoint(t, c)
		l := statusTimes(t, c, samples())
		t.Logf("status during %.0f activations a second: %s", float64(checkpoint(t, c)-before)/time.Since(began).Seconds(), l)
		stop()
		return l
	}
	for try := 1; ; try++ {
		idle := statusTimes(t, c, samples())
		t.Logf("status idle: %s", idle)
		busy := during(400 * time.Millisecond)
		if !soak() || busy.quantile(.99) <= 2*idle.quantile(.99) {
			break
		}
		if try == soakTries {
			t.Errorf("p99 during activations is %s, want at most twice the %s of an idle coordinator", busy.quantile(.99), idle.quantile(.99))
			break
		}
	}
	during(0)
}

func checkpoint(t *testing.T, c *client.Client) uint64 {
	t.Helper()
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Checkpoint.Size
}

// Environment of a process that only activates: the folder of the platform, and
// how long each worker pauses.
const (
	loadPlatformEnv = "ASHLAR_LOAD_PLATFORM"
	loadPauseEnv    = "ASHLAR_LOAD_PAUSE"
)

// load activates from a process of its own, of the lowest priority: what is
// measured beside it is the coordinator. The function returned ends it.
func (d *deployment) load(t *testing.T, pause time.Duration) (stop func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nice", "-n", "19", os.Args[0], "-test.run=^TestLoad$", "-test.count=1")
	cmd.Env = append(os.Environ(), loadPlatformEnv+"="+d.PlatformDir(), loadPauseEnv+"="+pause.String())
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		hold.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process that activates: %v\n%s", err, said.Bytes())
		}
	}
}

// TestLoad is the process that load starts. It ends with its standard input.
func TestLoad(t *testing.T) {
	dir := os.Getenv(loadPlatformEnv)
	if dir == "" {
		t.Skip("this is a part of TestStatusDuringActivations")
	}
	pause, err := time.ParseDuration(os.Getenv(loadPauseEnv))
	if err != nil {
		t.Fatal(err)
	}
	tee, err := platform.New(platform.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	a := (&deployment{t: t, tee: tee}).activatePaced(16, pause)
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is closed
	a.Halt()
	for _, err := range a.Failed() {
		t.Error(err)
	}
}

// types adds marble types until there are n.
func types(doc map[string]any, n int) {
	marbles := doc["marbles"].(map[string]any)
	for i := 0; len(marbles) < n; i++ {
		marbles[fmt.Sprintf("type-%05d", i)] = map[string]any{"package": "probe"}
	}
}

// A deployment of as many marble types as a manifest may have is set, read and
// joined as one of three is; the status costs the same.
func TestManyMarbleTypes(t *testing.T) {
	d := set(t, nil)
	c := d.client()
	doc, digest := drive.InForce(t, c)
	statusTimes(t, c, 100) // warm
	few := statusTimes(t, c, samples())
	const most = 10_000
	types(doc, most)
	began := time.Now()
	r := drive.Put(d.t, c, doc, digest)
	took := time.Since(began)
	st, err := c.Status(t.Context())
	if err != nil || st.Marbles != most {
		t.Fatalf("got %d marbles, %v, want %d", st.Marbles, err, most)
	}
	d.answers(t)
	many := statusTimes(t, c, samples())
	t.Logf("status of 5 types: %s", few)
	t.Logf("status of %d: %s; the manifest was set in %s, with %d effects; the coordinator uses %s",
		most, many, took.Round(time.Millisecond), len(r.Effects), memoryOf(t, d.Coordinator().Pid()))
	for try := 1; soak() && many.quantile(.99) > 2*few.quantile(.99); try++ {
		if try == soakTries {
			t.Fatalf("p99 with %d types is %s, want it flat from the %s with five", most, many.quantile(.99), few.quantile(.99))
		}
		many = statusTimes(t, c, samples())
	}
	// One more is refused, with what the limit is.
	types(doc, most+1)
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.SetManifest(t.Context(), raw, r.Digest)
	if e := problem.From(err); e.Code != "MAN-006" || !strings.Contains(e.Detail, "10000") {
		t.Errorf("%d types: got %v, want MAN-006 with the limit", most+1, err)
	}
	d.crash()
	d.start()
	if st, err := d.client().Status(t.Context()); err != nil || st.Marbles != most || st.Manifest.String() != r.Digest.String() {
		t.Errorf("after a crash: got %d marbles of %s, %v, want %d of %s", st.Marbles, st.Manifest, err, most, r.Digest)
	}
}

// Memory and descriptors do not grow with activations: 10,000 under
// ASHLAR_SOAK=1, some hundreds otherwise, of the same 128 instances.
func TestActivationsLeaveNothing(t *testing.T) {
	n := 500
	if soak() {
		n = 10_000
	}
	d := set(t, nil)
	a := d.activate(16)
	a.Await(n/5, 10*time.Minute) // caches and pools are filled
	pid := d.Coordinator().Pid()
	before := memoryOf(t, pid)
	a.Await(n, 10*time.Minute)
	a.Halt()
	after := memoryOf(t, pid)
	t.Logf("the coordinator held %s before %d activations and %s after", before, n, after)
	if soak() && after.own > before.own+16 {
		t.Errorf("memory grew by %.1f MB over %d activations, want it flat", after.own-before.own, n)
	}
	c := d.client()
	m, err := c.Marble(t.Context(), "probe")
	if err != nil || len(m.Instances) != 16*drive.PerWorker {
		t.Errorf("got %d instances, %v, want %d", len(m.Instances), err, 16*drive.PerWorker)
	}
	a.Kept(c)
	drive.Eventually(t, patience, func() string {
		if open := descriptorsOf(t, pid); open > 40 {
			return fmt.Sprintf("%d descriptors are open after all peers have gone", open)
		}
		return ""
	})
}
