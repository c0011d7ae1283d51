package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// Renewals of running marbles: the library itself runs on the other side, in this
// process, on the same two cores.
const (
	members     = 2000
	memberLease = time.Minute
	renewFor    = time.Minute
)

// member is a running marble that notes how long after it was due each renewal
// was there.
type member struct {
	m    *marble.Marble
	took []time.Duration
	late int // renewals that came after the marble was degraded
}

// follow notes renewals from now on, until ctx ends.
func (r *member) follow(ctx context.Context, from time.Time) {
	lease, changed := r.m.Lease()
	for {
		select {
		case <-ctx.Done():
			if time.Now().After(lease.DegradeAt) {
				r.late++
			}
			return
		case <-changed:
		}
		now, old := time.Now(), lease
		if lease, changed = r.m.Lease(); lease.Chain[0].Equal(old.Chain[0]) || old.RenewAfter.Before(from) {
			continue
		}
		r.took = append(r.took, now.Sub(old.RenewAfter))
		if now.After(old.DegradeAt) {
			r.late++
		}
	}
}

// join activates members, a few at once.
func (d *daemon) join(ctx context.Context, n int) ([]*member, error) {
	c, err := d.Dial(ctx, false)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	root := c.Verified().Root
	quiet := slog.New(slog.DiscardHandler)
	all := make([]*member, n)
	var g errgroup.Group
	g.SetLimit(16)
	for i := range all {
		g.Go(func() error {
			m, err := marble.Run(ctx, marble.Config{Marble: "member", ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), Address: "10.78.0.1",
				Coordinator: dev.DefaultMesh, Trust: marble.Trust{Root: root}, Issuer: d.issuer("worker"),
				Log: quiet, Tracker: stage.NewTracker(quiet, time.Now)})
			all[i] = &member{m: m}
			return err
		})
	}
	return all, g.Wait()
}

// renewals holds 2,000 sessions whose leases are of a minute, for a minute.
func (b *bench) renewals(ctx context.Context, d *daemon) error {
	if err := d.setManifest(ctx); err != nil {
		return err
	}
	all, err := d.join(ctx, members)
	defer func() {
		var closing sync.WaitGroup
		for _, r := range all {
			if r != nil && r.m != nil {
				closing.Go(r.m.Close)
			}
		}
		closing.Wait()
	}()
	if err != nil {
		return err
	}
	before, err := d.cpu()
	if err != nil {
		return err
	}
	own, begun := cpu(), time.Now()
	window, end := context.WithTimeout(ctx, renewFor)
	defer end()
	var work sync.WaitGroup
	for _, r := range all {
		work.Go(func() { r.follow(window, begun) })
	}
	work.Wait()
	wall := time.Since(begun)
	mine := cpu() - own
	after, err := d.cpu()
	if err != nil || ctx.Err() != nil {
		return err
	}
	var took []time.Duration
	late := 0
	for _, r := range all {
		took, late = append(took, r.took...), late+r.late
	}
	if len(took) == 0 {
		return fmt.Errorf("no lease was renewed within %s", wall)
	}
	slices.Sort(took)
	n := float64(len(took))
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	least := b.limits.activationUS()
	b.add("renewal.2000.rps", n/wall.Seconds(), "1/s", members/(memberLease.Seconds()*0.5), "2,000 leases of a minute, each renewed at half its life")
	b.add("renewal.2000.late", float64(late), "", 0, "none")
	b.add("renewal.2000.p50_ms", ms(took[len(took)/2]), "ms", (least+b.limits.handshakeUS/2+b.limits.fsyncUS)/1000, "the cryptography of both ends and one fsync")
	b.add("renewal.2000.p99_ms", ms(took[len(took)*99/100]), "ms", ms(memberLease/8), "when an instance would be degraded")
	b.add("renewal.cpu_us", float64((after-before).Microseconds())/n, "us CPU", least, cryptography)
	b.add("renewal.marble_us", float64(mine.Microseconds())/n, "us CPU", b.limits.handshakeUS/2+b.limits.verifyUS, "half a handshake, a key and a quote")
	return nil
}
