package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// chapter is a part of the story.
type chapter struct {
	name string
	do   func(context.Context) error
}

// tell is the whole story.
func (s *story) tell(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	leases := func(n int) chapter {
		return chapter{"leases", func(ctx context.Context) error { return s.rotate(ctx, n) }}
	}
	for _, c := range []chapter{
		leases(6),
		{"first update", func(ctx context.Context) error {
			return s.update(ctx, "front may read the stock as well", func(e map[edge][]string) { e[edge{"front", "stock"}] = []string{"GET /open", "GET /closed"} })
		}},
		leases(5), {"CA rotation", s.rotateCA}, leases(6), {"secret rotation", s.rotateSecret},
		{"second update", func(ctx context.Context) error {
			return s.update(ctx, "orders loses the ledger", func(e map[edge][]string) { delete(e, edge{"orders", "ledger"}) })
		}},
		leases(5), {"floor", s.raiseFloor}, leases(5), {"restart", s.restart}, leases(4),
		{"third update", func(ctx context.Context) error {
			s.seal = "none"
			return s.update(ctx, "nothing but the holders' shares opens the state", func(map[edge][]string) {})
		}},
		{"revocation", func(ctx context.Context) error { return s.revoke(ctx, "visitor") }}, leases(4),
		{"recovery", s.recover}, leases(4),
		{"log", s.verify},
	} {
		if err := c.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	s.traffic.halt()
	s.report()
	return nil
}

// report prints what was measured.
func (s *story) report() {
	counts, refused, _ := s.checker.totals()
	total := s.checker.total()
	slices.Sort(s.figures.renewals)
	r := s.figures.renewals
	fmt.Fprintf(s.out, "\n%d days in %s: %d lease rotations of %d marbles, every leaf renewed %s (median) to %s (slowest) after it fell due\n",
		int(s.figures.simulated.Hours()/24), time.Since(s.began).Round(time.Second), s.figures.rotations, len(names), r[len(r)/2].Round(time.Millisecond), r[len(r)-1].Round(time.Millisecond))
	fmt.Fprintf(s.out, "%d requests: %d answered, %d refused, %d while a change took effect\n", total, total-refused, refused, counts[between])
}

func (s *story) close() {
	if s.traffic != nil {
		s.traffic.halt()
	}
	for _, v := range s.services {
		if v != nil {
			v.close()
		}
	}
}
