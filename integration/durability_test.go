//go:build linux

package integration

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// perActivator is how many instances one activator activates in turn.
const perActivator = 8

// activators activate instances as fast as they are let, and remember what was
// acknowledged: the promise that a crash must not break.
type activators struct {
	d      *deployment
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	acked  map[string]ack
	total  int
	failed []error
}

// ack is the newest acknowledged activation of an instance.
type ack struct {
	serial, decision string
	superseded       bool // another attempt was under way after it: its leaf may be the one that counts
}

func (d *deployment) activate(workers int) *activators { return d.activatePaced(workers, 0) }

// activatePaced pauses between two activations of one worker, by half of pause
// to three halves.
func (d *deployment) activatePaced(workers int, pause time.Duration) *activators {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.t.Context())
	a := &activators{d: d, cancel: cancel, acked: map[string]ack{}}
	d.t.Cleanup(a.halt)
	for w := range workers {
		a.work.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				a.one(ctx, fmt.Sprintf("10000000-0000-4000-8000-%012d", w*perActivator+n%perActivator))
				time.Sleep(pause/2 + rand.N(pause+1))
			}
		})
	}
	return a
}

func (a *activators) one(ctx context.Context, id string) {
	c, err := probe.Dial(ctx, dev.DefaultMesh, probe.Options{})
	if err != nil {
		time.Sleep(time.Millisecond) // nobody is there
		return
	}
	defer c.Close()
	nonce, err := c.Challenge(ctx)
	if err != nil {
		return // nothing was asked for yet
	}
	a.mu.Lock()
	if known, ok := a.acked[id]; ok {
		known.superseded = true
		a.acked[id] = known
	}
	a.mu.Unlock()
	got, err := c.Activate(ctx, probe.Attempt{Issuer: a.d.issuer(probeDigest), Nonce: nonce,
		Instance: &marblepb.Instance{Marble: "probe", Id: id, Address: "10.77.0.1"}})
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil && err != nil {
		return // given up by this test
	}
	if err != nil {
		a.failed = append(a.failed, err)
		return
	}
	a.total++
	a.acked[id] = ack{serial: serial(got), decision: got.Response.GetDecision()}
}

// serial is a leaf's serial number as the API writes it.
func serial(a probe.Activation) string {
	leaf, err := x509.ParseCertificate(a.Response.GetLease().GetCertificates()[0])
	if err != nil {
		return err.Error()
	}
	return leaf.SerialNumber.Text(16)
}

func (a *activators) halt() {
	a.cancel()
	a.work.Wait()
}

// count returns how many activations were acknowledged.
func (a *activators) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total
}

// more waits until n further activations were acknowledged.
func (a *activators) more(n int) {
	a.d.t.Helper()
	a.await(n, 20*time.Second)
}

func (a *activators) await(n int, limit time.Duration) {
	a.d.t.Helper()
	began := a.count()
	eventually(a.d.t, limit, func() string {
		if got := a.count(); got < began+n {
			a.mu.Lock()
			defer a.mu.Unlock()
			return fmt.Sprintf("%d of %d activations were acknowledged; the last errors: %v", got, began+n, errors.Join(a.failed[max(0, len(a.failed)-3):]...))
		}
		return ""
	})
}

// kept checks that the coordinator has all that was acknowledged.
func (a *activators) kept(c *client.Client) {
	t := a.d.t
	t.Helper()
	m, err := c.Marble(t.Context(), "probe")
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]string{}
	for _, i := range m.Instances {
		has[i.ID] = i.Serial
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, known := range a.acked {
		if serial, ok := has[id]; !ok || serial != known.serial && !known.superseded {
			t.Errorf("instance %s has leaf %q, want the acknowledged %s (another under way: %v)", id, serial, known.serial, known.superseded)
		}
		if d, err := c.Decision(t.Context(), known.decision); err != nil || !d.Accepted {
			t.Errorf("the acknowledged decision %s: got %+v, %v", known.decision, d, err)
		}
	}
}

// kills is how often the coordinator is killed while it commits.
func kills(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("ASHLAR_KILLS")); err == nil {
		return n
	}
	return 5
}

// The coordinator is killed again and again while it commits activations. It
// always starts by itself, and has every one that it acknowledged.
func TestKilledWhileActivating(t *testing.T) {
	d := set(t, nil)
	total, slowest := 0, time.Duration(0)
	var records uint64
	n := kills(t)
	for i := range n {
		a := d.activate(8)
		a.more(1 + rand.IntN(40))
		time.Sleep(rand.N(20 * time.Millisecond)) // the kill may come at any point of a commit
		d.crash()
		a.halt()
		began := time.Now()
		if err := d.StartCoordinator(t.Context()); err != nil {
			t.Fatalf("restart %d needs a hand: %v", i, err)
		}
		slowest = max(slowest, time.Since(began))
		c, err := d.Dial(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		a.kept(c)
		st, err := c.Status(t.Context())
		if err != nil || st.Checkpoint.Size < records+uint64(a.total) {
			t.Errorf("kill %d: the log has %d records, %v, want the %d before and %d activations", i, st.Checkpoint.Size, err, records, a.total)
		}
		records, total = st.Checkpoint.Size, total+a.total
		c.Close()
		if t.Failed() {
			t.FailNow()
		}
	}
	c := d.client()
	if log := audit(t, c); uint64(len(log)) != records {
		t.Errorf("the log gives %d records, its checkpoint says %d", len(log), records)
	}
	t.Logf("%d kills, %d acknowledged activations, none lost; slowest restart until a client verified it: %s", n, total, slowest.Round(time.Millisecond))
}

// SIGTERM in the middle of activations: each that runs is finished or refused
// with a code, the coordinator ends with 0, and nothing is lost.
func TestTerminatedWhileActivating(t *testing.T) {
	d := set(t, nil)
	a := d.activate(16)
	a.more(200)
	took := d.terminate()
	a.halt()
	refused := 0
	for _, err := range a.failed {
		if strings.Contains(err.Error(), "while dialing") {
			continue // GOAWAY came before it was sent, and this peer does not connect again
		}
		refused++
		e, coded := marblepb.Problem(err)
		if !coded || e.Kind() != problem.Unavailable {
			t.Errorf("an activation that was under way ended with %v, want a code that says to try again", err)
		}
	}
	t.Logf("%d activations were acknowledged, %d refused with a code; the end took %s", a.total, refused, took.Round(time.Millisecond))
	d.start()
	a.kept(d.client())
}

// smallVolume moves the state of a coordinator that is down onto a volume of
// its own, of a few megabytes.
func (d *deployment) smallVolume(size string) {
	t := d.t
	t.Helper()
	kept := d.StateDir() + ".kept"
	if err := os.Rename(d.StateDir(), kept); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.StateDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", d.StateDir(), "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("the volume that is to be filled cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		d.Close()
		if err := syscall.Unmount(d.StateDir(), 0); err != nil {
			t.Error(err)
		}
	})
	files, err := os.ReadDir(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		sparseCopy(t, filepath.Join(kept, f.Name()), filepath.Join(d.StateDir(), f.Name()))
	}
}

// sparseCopy leaves holes where a file is zero, so that it takes no more space
// than it has content: the next write already needs some.
func sparseCopy(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(raw))); err != nil {
		t.Fatal(err)
	}
	zero := make([]byte, 4096)
	for at := 0; at < len(raw); at += len(zero) {
		block := raw[at:min(at+len(zero), len(raw))]
		if bytes.Equal(block, zero[:len(block)]) {
			continue
		}
		if _, err := f.WriteAt(block, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
}

// fill leaves no byte free, and returns what gives the space back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); err != nil {
			break
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// On a full disk writes are refused with a code and reads go on; when there is
// space again the next write succeeds, and nothing is lost.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount the small volume that this test fills")
	}
	d := set(t, nil)
	d.Coordinator().Stop()
	d.smallVolume("32m")
	d.start()
	a := d.activate(16)
	a.more(50)
	free := fill(t, d.StateDir())
	c := d.client()
	attempt := func() (time.Duration, error) {
		p := d.dial(nil)
		defer p.Close()
		nonce, err := p.Challenge(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = p.Activate(t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Nonce: nonce,
			Instance: &marblepb.Instance{Marble: "probe", Id: "00000000-0000-4000-8000-00000000ffff", Address: "10.77.0.2"}})
		return time.Since(began), err
	}
	// What fits into the file as it is may still be written.
	var took time.Duration
	var err error
	eventually(t, 20*time.Second, func() string {
		if took, err = attempt(); err == nil {
			return "writes still succeed"
		}
		return ""
	})
	a.halt()
	if e, ok := marblepb.Problem(err); !ok || e.Code != "STO-007" {
		t.Errorf("got %v, want STO-007", err)
	}
	t.Logf("a write was refused after %s: %v", took.Round(100*time.Microsecond), err)
	for _, err := range a.failed {
		if e, ok := marblepb.Problem(err); !ok || e.Code != "STO-007" {
			t.Errorf("an activation on a full disk ended with %v, want STO-007", err)
		}
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("status on a full disk: %v", err)
	}
	if _, err := c.Audit(t.Context(), 0, 10); err != nil {
		t.Errorf("the log on a full disk: %v", err)
	}
	a.kept(c)
	free()
	if _, err := attempt(); err != nil {
		t.Errorf("the first write after space was freed: %v", err)
	}
	d.answers(t)
	d.Coordinator().Stop()
	d.start()
	a.kept(d.client())
}

// A coordinator that may open only 256 files still serves and commits when more
// connections are opened than that.
func TestFewDescriptors(t *testing.T) {
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		t.Skip("prlimit, which limits the coordinator's descriptors, is not installed")
	}
	d := set(t, nil)
	d.Coordinator().Stop()
	path, args := d.CoordinatorCommand()
	cmd := exec.CommandContext(t.Context(), prlimit, append([]string{"--nofile=256:256", path}, args...)...)
	var said strings.Builder
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(t, 15*time.Second, func() string {
		c, err := d.Dial(t.Context(), false)
		if err != nil {
			return err.Error()
		}
		c.Close()
		return ""
	})
	for _, addr := range []string{dev.DefaultClient, dev.DefaultMesh, dev.DefaultMetrics} {
		taken := flood(t, addr, 600)
		t.Logf("%s: %d of 600 connections were taken", addr, taken)
		d.answers(t)
	}
	open := descriptorsOf(t, cmd.Process.Pid)
	t.Logf("%d of 256 descriptors are in use under 1,800 connections", open)
	if open > 250 {
		t.Errorf("the coordinator has %d of 256 descriptors open, want some in reserve", open)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("got %v, want exit 0:\n%s", err, said.String())
		}
	case <-time.After(15 * time.Second):
		t.Error("the coordinator has not ended 15 s after SIGTERM")
	}
}
