package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/cli/dev"
)

// daemon is a real coordinator in a process of its own, on its embedded store.
type daemon struct {
	*dev.Deployment
	dir     string
	tee     *platform.Platform // the same simulated machine, in this process
	started time.Duration      // from start to ready, on a state that exists
	idleRSS float64            // MB
	set     bool               // the manifest is
}

func startDaemon(ctx context.Context, bin string) (*daemon, error) {
	if err := raiseDescriptors(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ashlar-bench-")
	if err != nil {
		return nil, err
	}
	envoy := os.Getenv("ASHLAR_ENVOY")
	if envoy == "" {
		envoy, _ = exec.LookPath("envoy")
	}
	d := &daemon{dir: dir}
	d.Deployment, err = dev.Start(ctx, dev.Config{Dir: dir, Bin: bin, Envoy: envoy, Client: dev.DefaultClient, Mesh: dev.DefaultMesh,
		Metrics: dev.DefaultMetrics, Say: func(string, ...any) {}})
	if err != nil {
		return d, err
	}
	if d.tee, err = platform.New(platform.Config{Dir: d.PlatformDir()}); err != nil {
		return d, err
	}
	if err := d.measureStart(ctx); err != nil {
		return d, err
	}
	time.Sleep(2 * time.Second) // idle is measured when start-up has settled
	d.idleRSS, err = d.rss()
	return d, err
}

func (d *daemon) close() {
	d.Close()
	os.RemoveAll(d.dir)
}

func raiseDescriptors() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

// measureStart restarts the coordinator on the state that exists.
func (d *daemon) measureStart(ctx context.Context) error {
	best := time.Hour
	for range 5 {
		d.Coordinator().Stop()
		start := time.Now()
		if err := d.SpawnCoordinator(); err != nil {
			return err
		}
		for !ready(ctx) {
			if time.Since(start) > 10*time.Second {
				return fmt.Errorf("not ready after %s", time.Since(start))
			}
			time.Sleep(time.Millisecond)
		}
		best = min(best, time.Since(start))
	}
	d.started = best
	return nil
}

// ready reports whether the coordinator answers on its probe, with a manifest or
// without.
func ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dev.DefaultMetrics+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusServiceUnavailable
}

// cpu is the CPU time that the coordinator's threads have used. Go keeps its
// threads, so none is missing.
func (d *daemon) cpu() (time.Duration, error) {
	dir := fmt.Sprintf("/proc/%d/task", d.Coordinator().Pid())
	threads, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, t := range threads {
		raw, err := os.ReadFile(dir + "/" + t.Name() + "/schedstat")
		if err != nil {
			return 0, err
		}
		var ns int64
		if _, err := fmt.Sscan(string(raw), &ns); err != nil {
			return 0, fmt.Errorf("reading the CPU time of thread %s: %w", t.Name(), err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// rss is the coordinator's resident memory in MB, all of it: also what the
// kernel caches of its program and of the database file, which it maps.
func (d *daemon) rss() (float64, error) { return d.memory("VmRSS") }

// anon is the part of rss that the coordinator allocated. What is mapped of
// files is the kernel's to take back.
func (d *daemon) anon() (float64, error) { return d.memory("RssAnon") }

func (d *daemon) memory(kind string) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Coordinator().Pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if kb, ok := strings.CutPrefix(line, kind+":"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 64)
			return n / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in the status of process %d", kind, d.Coordinator().Pid())
}

// digestOf stands for a program's SHA-256: the platform in this process vouches
// for whatever it is told.
func digestOf(name string) attest.Hex {
	d := make(attest.Hex, 32)
	copy(d, name)
	return d
}

// setManifest sets a deployment of one service and many clients of it, once.
func (d *daemon) setManifest(ctx context.Context) error {
	if d.set {
		return nil
	}
	ref := func(name string) map[string]any {
		return map[string]any{"sim": map[string]any{"program": []attest.Hex{digestOf(name)}, "agent": []attest.Hex{digestOf(name)}}}
	}
	alice, err := d.user()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(map[string]any{
		"version": 1, "trustDomain": "bench.example",
		"packages": map[string]any{"client": ref("client"), "server": ref("server"), "worker": ref("worker")},
		"marbles": map[string]any{
			"server": map[string]any{"package": "server", "serves": map[string]any{"http": map[string]any{"port": 8080, "protocol": "http"}}},
			"client": map[string]any{"package": "client", "calls": []any{map[string]any{"marble": "server", "port": "http"}}},
			"member": map[string]any{"package": "worker", "lease": memberLease.String()},
			"worker": map[string]any{"package": "worker", "parameters": map[string]any{"env": map[string]string{"KEY": "{{ hex .Secrets.key }}"}}},
		},
		"users":   map[string]any{"alice": map[string]any{"certificate": alice, "roles": []string{"operator"}}},
		"roles":   map[string]any{"operator": map[string]any{"actions": []string{"updateManifest"}}},
		"secrets": map[string]any{"key": map[string]any{"type": "symmetric", "bits": 256, "scope": "shared", "readers": []string{"worker"}}},
	})
	if err != nil {
		return err
	}
	c, err := d.Dial(ctx, false)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.SetManifest(ctx, raw, c.Verified().Statement.Manifest)
	d.set = err == nil
	return err
}

func (d *daemon) issuer(name string) attest.Issuer {
	return d.tee.NewInsecureIssuer(attest.SimSGX, platform.Measurement{Program: digestOf(name), Agent: digestOf(name)})
}
