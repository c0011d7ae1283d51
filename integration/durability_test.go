//go:build linux

package integration

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

func (d *deployment) activate(workers int) *drive.Activators { return d.activatePaced(workers, 0) }

// activatePaced pauses between two activations of one worker, by half of pause
// to three halves.
func (d *deployment) activatePaced(workers int, pause time.Duration) *drive.Activators {
	d.t.Helper()
	return drive.Activate(d.t, drive.Marbles{Mesh: dev.DefaultMesh, Marble: "probe", Issuer: d.issuer(probeDigest), Workers: workers, Pause: pause})
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
		a.More(1 + rand.IntN(40))
		time.Sleep(rand.N(20 * time.Millisecond)) // the kill may come at any point of a commit
		d.crash()
		a.Halt()
		began := time.Now()
		if err := d.StartCoordinator(t.Context()); err != nil {
			t.Fatalf("restart %d needs a hand: %v", i, err)
		}
		slowest = max(slowest, time.Since(began))
		c, err := d.Dial(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		a.Kept(c)
		st, err := c.Status(t.Context())
		if err != nil || st.Checkpoint.Size < records+uint64(a.Count()) {
			t.Errorf("kill %d: the log has %d records, %v, want the %d before and %d activations", i, st.Checkpoint.Size, err, records, a.Count())
		}
		records, total = st.Checkpoint.Size, total+a.Count()
		c.Close()
		if t.Failed() {
			t.FailNow()
		}
	}
	c := d.client()
	if log := drive.Audit(t, c); uint64(len(log)) != records {
		t.Errorf("the log gives %d records, its checkpoint says %d", len(log), records)
	}
	t.Logf("%d kills, %d acknowledged activations, none lost; slowest restart until a client verified it: %s", n, total, slowest.Round(time.Millisecond))
}

// SIGTERM in the middle of activations: each that runs is finished or refused
// with a code, the coordinator ends with 0, and nothing is lost.
func TestTerminatedWhileActivating(t *testing.T) {
	d := set(t, nil)
	a := d.activate(16)
	a.More(200)
	took := d.terminate()
	a.Halt()
	refused := 0
	for _, err := range a.Failed() {
		if strings.Contains(err.Error(), "while dialing") {
			continue // GOAWAY came before it was sent, and this peer does not connect again
		}
		refused++
		e, coded := marblepb.Problem(err)
		if !coded || e.Kind() != problem.Unavailable {
			t.Errorf("an activation that was under way ended with %v, want a code that says to try again", err)
		}
	}
	t.Logf("%d activations were acknowledged, %d refused with a code; the end took %s", a.Count(), refused, took.Round(time.Millisecond))
	d.start()
	a.Kept(d.client())
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
	a.More(50)
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
	drive.Eventually(t, patience, func() string {
		if took, err = attempt(); err == nil {
			return "writes still succeed"
		}
		return ""
	})
	a.Halt()
	if e, ok := marblepb.Problem(err); !ok || e.Code != "STO-007" {
		t.Errorf("got %v, want STO-007", err)
	}
	t.Logf("a write was refused after %s: %v", took.Round(100*time.Microsecond), err)
	for _, err := range a.Failed() {
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
	a.Kept(c)
	free()
	if _, err := attempt(); err != nil {
		t.Errorf("the first write after space was freed: %v", err)
	}
	d.answers(t)
	d.Coordinator().Stop()
	d.start()
	a.Kept(d.client())
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
	drive.Eventually(t, patience, func() string {
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
	case <-time.After(patience):
		t.Errorf("the coordinator has not ended %s after SIGTERM", patience)
	}
}
