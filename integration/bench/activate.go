package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// workers is how many different instances the activations are of: each asks
// again and again, as restarting marbles do.
const workers = 64

// one is an activation over a new connection, from dialling to the answer.
func (d *daemon) one(ctx context.Context, marble string, n int) (probe.Activation, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := probe.Dial(ctx, dev.DefaultMesh, probe.Options{LocalIP: fmt.Sprintf("127.0.1.%d", 1+n%200)})
	if err != nil {
		return probe.Activation{}, err
	}
	defer c.Close()
	return c.Activate(ctx, probe.Attempt{Issuer: d.issuer(marble), Instance: &marblepb.Instance{Marble: marble,
		Id: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), Address: fmt.Sprintf("10.77.%d.%d", n/250, 1+n%250)}})
}

type load struct {
	rps, p50ms, cpuUS float64
}

// drive makes n activations from c clients at once.
func (d *daemon) drive(ctx context.Context, c, n int) (load, error) {
	before, err := d.cpu()
	if err != nil {
		return load{}, err
	}
	var next atomic.Int64
	took := make([]float64, n)
	g, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for range c {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				t := time.Now()
				if _, err := d.one(ctx, "worker", i%workers); err != nil {
					return err
				}
				took[i] = float64(time.Since(t).Microseconds()) / 1000
			}
		})
	}
	if err := g.Wait(); err != nil {
		return load{}, err
	}
	wall := time.Since(start)
	after, err := d.cpu()
	slices.Sort(took)
	return load{rps: float64(n) / wall.Seconds(), p50ms: took[n/2], cpuUS: float64((after - before).Microseconds()) / float64(n)}, err
}

func (b *bench) activations(ctx context.Context, d *daemon) error {
	if err := d.setManifest(ctx); err != nil {
		return err
	}
	if _, err := d.drive(ctx, 4, 500); err != nil { // warm
		return err
	}
	handshake := 1500.0
	for _, c := range []int{1, 4, 16} {
		l, err := d.drive(ctx, c, 1000+1000*min(c, 4))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("activation.rps.c%d", c)
		b.add(name, l.rps, "1/s", 2e6/handshake, "two cores at one TLS handshake (both ends) each")
		if c == 1 {
			b.add("activation.p50_ms.c1", l.p50ms, "ms", handshake/1000+b.limits.fsyncUS/1000, "one handshake and one fsync")
			b.add("activation.cpu_us", l.cpuUS, "us CPU", handshake/2+2*b.limits.verifyUS, "half a handshake and two P-256 verifications")
		}
		if c == 16 {
			b.add("activation.cpu_us.c16", l.cpuUS, "us CPU", handshake/2+2*b.limits.verifyUS, "half a handshake and two P-256 verifications")
		}
	}
	return b.after(ctx, d)
}

// after measures the same after 10,000 activations, and what they left.
func (b *bench) after(ctx context.Context, d *daemon) error {
	before, err := d.anon()
	if err != nil {
		return err
	}
	if _, err := d.drive(ctx, 16, 10_000); err != nil {
		return err
	}
	l, err := d.drive(ctx, 1, 2000)
	if err != nil {
		return err
	}
	b.add("activation.after10000.cpu_us", l.cpuUS, "us CPU", 750+2*b.limits.verifyUS, "half a handshake and two P-256 verifications")
	grown, err := d.anon()
	if err != nil {
		return err
	}
	b.add("activation.after10000.rss_growth_mb", grown-before, "MB", 0, "nothing kept in memory for an activation")
	info, err := os.Stat(d.Dir + "/state/state.db")
	if err == nil {
		b.add("activation.state_mb", float64(info.Size())/(1<<20), "MB", 0, "the log alone grows")
	}
	return nil
}
