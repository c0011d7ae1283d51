package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

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
	w, c, err := dialWire(ctx, fmt.Sprintf("127.0.1.%d", 1+n%200))
	if err != nil {
		return probe.Activation{}, err
	}
	defer w.conn.Close()
	return c.Activate(ctx, probe.Attempt{Issuer: d.issuer(marble), Instance: &marblepb.Instance{Marble: marble,
		Id: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), Address: fmt.Sprintf("10.77.%d.%d", n/250, 1+n%250)}})
}

type load struct {
	rps, p50ms      float64
	cpuUS, clientUS float64 // of the coordinator and of this process, for each
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
	start, own := time.Now(), cpu()
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
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
	return load{rps: float64(n) / wall.Seconds(), p50ms: took[n/2], cpuUS: each(after - before), clientUS: each(cpu() - own)}, err
}

func (b *bench) activations(ctx context.Context, d *daemon) error {
	if err := d.setManifest(ctx); err != nil {
		return err
	}
	if _, err := d.drive(ctx, 4, 500); err != nil { // warm
		return err
	}
	least := b.limits.activationUS()
	for _, c := range []int{1, 4, 16} {
		l, err := d.drive(ctx, c, 1000+1000*min(c, 4))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("activation.rps.c%d", c)
		b.add(name, l.rps, "1/s", 2e6/(least+b.limits.handshakeUS/2), "two cores at the cryptography of both ends")
		switch c {
		case 1:
			b.add("activation.p50_ms.c1", l.p50ms, "ms", (least+b.limits.handshakeUS/2+b.limits.fsyncUS)/1000, "the cryptography of both ends and one fsync")
			b.add("activation.cpu_us", l.cpuUS, "us CPU", least, cryptography)
		case 16:
			b.add("activation.cpu_us.c16", l.cpuUS, "us CPU", least, cryptography)
			b.add("activation.client_us.c16", l.clientUS, "us CPU", b.limits.handshakeUS/2, "the client's half of a handshake")
		}
	}
	return b.after(ctx, d)
}

const cryptography = "half a handshake, two P-256 verifications, one signature"

// after measures the same after 10,000 activations, and what they left.
func (b *bench) after(ctx context.Context, d *daemon) error {
	before, err := d.anon()
	if err != nil {
		return err
	}
	size, err := d.stateBytes()
	if err != nil {
		return err
	}
	const many = 10_000
	if _, err := d.drive(ctx, 16, many); err != nil {
		return err
	}
	grownSize, err := d.stateBytes()
	if err != nil {
		return err
	}
	l, err := d.drive(ctx, 1, 2000)
	if err != nil {
		return err
	}
	b.add("activation.after10000.cpu_us", l.cpuUS, "us CPU", b.limits.activationUS(), cryptography)
	grown, err := d.anon()
	if err != nil {
		return err
	}
	b.add("activation.after10000.rss_growth_mb", grown-before, "MB", 0, "nothing kept in memory for an activation")
	b.add("activation.state_bytes", float64(grownSize-size)/many, "B", 0, "what is on disk of each: its record in the log")
	mapped, err := d.memory("RssFile")
	b.add("activation.after10000.mapped_mb", mapped, "MB", 0, "program and database file, which the kernel may take back")
	return err
}

// stateBytes is what the database file occupies on disk.
func (d *daemon) stateBytes() (int64, error) {
	var st syscall.Stat_t
	err := syscall.Stat(d.Dir+"/state/state.db", &st)
	return st.Blocks * 512, err
}
