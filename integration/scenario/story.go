package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/daemon"
)

const (
	leaseLife = 24 * time.Hour
	jump      = 13 * time.Hour // more than half a lease: every leaf is due for renewal, and none is degraded
	patience  = 60 * time.Second

	dwellRequests = 300 // between two jumps
)

// edge is a call that the manifest grants.
type edge struct{ from, to string }

// story is the life of one deployment.
type story struct {
	*site
	out      io.Writer
	began    time.Time // real
	services map[string]*service
	checker  *checker
	traffic  *traffic

	edges   map[edge][]string // in force
	revoked string            // marble
	seal    string            // who may open the state
	digest  attest.Hex        // of the manifest in force
	first   client.Remembered // of the first verification
	figures figures
}

// figures are what the story measured, in real time but for simulated.
type figures struct {
	rotations int
	simulated time.Duration
	renewals  []time.Duration
}

func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%s  %s\n", s.clock.now().UTC().Format("2006-01-02 15:04"), fmt.Sprintf(format, args...))
}

// rules are what the manifest and the revocation let pass.
func (s *story) rules() rules {
	r := rules{}
	for _, a := range everything() {
		if slices.Contains(s.edges[edge{a.from, a.to}], a.route) && a.from != s.revoked && a.to != s.revoked {
			r[a] = true
		}
	}
	return r
}

// manifest is the document for the edges.
func (s *story) manifest() ([]byte, error) {
	type object = map[string]any
	packages, marbles := object{}, object{}
	for _, n := range names {
		packages[n] = object{"sim": object{"program": []attest.Hex{measurement(n)}, "agent": []attest.Hex{measurement(n)}}}
		calls := []any{}
		for _, to := range names {
			if routes := s.edges[edge{n, to}]; len(routes) > 0 {
				calls = append(calls, object{"marble": to, "port": "http", "listen": callPort(to), "routes": routes})
			}
		}
		marbles[n] = object{"package": n, "lease": leaseLife.String(), "calls": calls,
			"serves": object{"http": object{"port": servedPort, "protocol": "http"}}}
	}
	for _, reader := range []string{"front", "orders"} {
		marbles[reader].(object)["parameters"] = object{"env": object{"ORDER_KEY": "{{ hex .Secrets.orderKey }}"}}
	}
	users, holders := object{}, object{}
	for name, cert := range s.users {
		users[name] = object{"certificate": certificatePEM(cert), "roles": []string{"operator"}}
		public, err := s.keys[name].Public()
		if err != nil {
			return nil, err
		}
		holders[name] = public
	}
	return json.MarshalIndent(object{
		"version": 1, "trustDomain": "shop.example", "packages": packages, "marbles": marbles, "users": users,
		"roles":     object{"operator": object{"actions": []string{"updateManifest", "raiseFloor:*", "rotateCA", "rotateSecret:*", "revoke:*", "backup"}}},
		"approvals": object{"updateManifest": 2},
		"secrets":   object{"orderKey": object{"type": "symmetric", "readers": []string{"front", "orders"}, "rotation": object{"overlap": "48h"}}},
		"recovery":  object{"keys": holders, "threshold": 2}, "seal": s.seal,
		"ca": object{"overlap": "120h"},
	}, "", " ")
}

// open starts everything: coordinator, first manifest, services, traffic.
func (s *story) open(ctx context.Context) error {
	if err := daemon.Init(ctx, s.config()); err != nil {
		return err
	}
	if err := s.startCoordinator(ctx); err != nil {
		return err
	}
	s.edges = map[edge][]string{
		{"front", "orders"}: {"GET /open"}, {"orders", "stock"}: {"GET /open"}, {"orders", "ledger"}: {"GET /open"}, {"visitor", "front"}: {"GET /open"},
	}
	raw, err := s.manifest()
	if err != nil {
		return err
	}
	err = s.as(ctx, "alice", func(c *client.Client) error {
		s.first = c.Verified().Remembered()
		r, err := c.SetManifest(ctx, raw, nil)
		s.digest = r.Digest
		return err
	})
	if err != nil {
		return fmt.Errorf("setting the first manifest: %w", err)
	}
	for _, n := range names {
		v, err := s.start(ctx, n)
		s.services[n] = v
		if err != nil {
			return fmt.Errorf("starting %s: %w", n, err)
		}
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.checker = newChecker(s.rules())
	s.traffic = drive(s.services, s.checker)
	s.say("%d marbles run, each with its Envoy; %d kinds of requests are made without end", len(names), len(everything()))
	return nil
}

// settle waits until every proxy has taken the manifest in force.
func (s *story) settle(ctx context.Context) error {
	return s.as(ctx, "alice", func(c *client.Client) error {
		return s.await(ctx, "every proxy takes the manifest", func() string {
			page, err := c.Marbles(ctx, "", 100)
			if err != nil {
				return err.Error()
			}
			for _, m := range page.Marbles {
				if m.Name == s.revoked {
					continue
				}
				if len(m.Instances) != 1 {
					return fmt.Sprintf("%s has %d instances", m.Name, len(m.Instances))
				}
				if p := m.Instances[0].Proxy; !p.Connected || p.Revision != s.digest.String() {
					return fmt.Sprintf("the proxy of %s is at %.8s (connected: %t), want %.8s", m.Name, p.Revision, p.Connected, s.digest.String())
				}
			}
			return ""
		})
	})
}

// await polls until missing returns "".
func (s *story) await(ctx context.Context, what string, missing func() string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		m := missing()
		if m == "" {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: after %s %s", what, patience, m)
		}
	}
}

// rotate puts the clock forward until every live marble has another leaf, n times.
func (s *story) rotate(ctx context.Context, n int) error {
	for range n {
		before := map[string]int{}
		for name, v := range s.services {
			before[name], _ = v.seen()
		}
		if err := s.clock.advance(jump); err != nil {
			return err
		}
		began := time.Now()
		err := s.await(ctx, "every leaf is renewed", func() string {
			for name, v := range s.services {
				if leaves, _ := v.seen(); leaves == before[name] && name != s.revoked {
					return name + " holds its old leaf: " + v.marble.Stage().Reason
				}
			}
			return ""
		})
		if err != nil {
			return err
		}
		s.figures.renewals = append(s.figures.renewals, time.Since(began))
		if err := s.dwell(ctx, time.Now()); err != nil {
			return err
		}
		s.figures.rotations++
		s.figures.simulated += jump
	}
	s.say("%d lease rotations so far", s.figures.rotations)
	return nil
}

// dwell waits until traffic has had its time, and every request that was made
// before a moment has its answer: one of them may be under a leaf that ends
// before the next jump.
func (s *story) dwell(ctx context.Context, before time.Time) error {
	start := s.checker.total()
	return s.await(ctx, "traffic goes on", func() string {
		switch {
		case s.checker.total() < start+dwellRequests:
			return "too few requests are answered"
		case !s.traffic.answered(before):
			return "a request has no answer"
		}
		return ""
	})
}

// update changes the manifest: alice proposes, bob agrees.
func (s *story) update(ctx context.Context, what string, change func(map[edge][]string)) error {
	next := maps.Clone(s.edges)
	change(next)
	s.edges = next
	raw, err := s.manifest()
	if err != nil {
		return err
	}
	var p *apiv1.Proposal
	err = s.as(ctx, "alice", func(c *client.Client) error {
		r, err := c.SetManifest(ctx, raw, s.digest)
		if err == nil && r.Proposal == nil {
			return fmt.Errorf("it took effect without a second user")
		}
		p = r.Proposal
		return err
	})
	if err != nil {
		return fmt.Errorf("proposing: %w", err)
	}
	if err := s.approve(ctx, "alice", p.Digest); err != nil {
		return err
	}
	began := time.Now()
	settled := s.checker.change(s.rules())
	if err := s.approve(ctx, "bob", p.Digest); err != nil {
		return err
	}
	s.digest = p.Digest
	if err := s.settle(ctx); err != nil {
		return err
	}
	settled()
	s.say("update, approved by alice and bob: %s; every proxy took it after %s", what, time.Since(began).Round(time.Millisecond))
	return nil
}

// approve signs a proposal as a user.
func (s *story) approve(ctx context.Context, user string, digest attest.Hex) error {
	err := s.as(ctx, user, func(c *client.Client) error {
		p, _, err := c.Proposal(ctx, digest)
		if err != nil {
			return err
		}
		_, err = c.Approve(ctx, p)
		return err
	})
	if err != nil {
		return fmt.Errorf("approving as %s: %w", user, err)
	}
	return nil
}

// rotateCA replaces the mesh CA and the root.
func (s *story) rotateCA(ctx context.Context) error {
	return s.as(ctx, "alice", func(c *client.Client) error {
		before, err := c.CAs(ctx)
		if err != nil {
			return err
		}
		if _, err := c.RotateCA(ctx, "mesh"); err != nil {
			return err
		}
		after, err := c.RotateCA(ctx, "root")
		if err == nil && (after.Root.Serial == before.Root.Serial || after.Mesh.Serial == before.Mesh.Serial || len(after.Older) != 1) {
			err = fmt.Errorf("the CAs are %+v, before they were %+v", after, before)
		}
		s.say("mesh CA and root replaced; both roots are trusted until %s", after.Older[0].Next.Format("2006-01-02"))
		return err
	})
}

// rotateSecret replaces the shared secret while its readers run.
func (s *story) rotateSecret(ctx context.Context) error {
	began := time.Now()
	err := s.as(ctx, "alice", func(c *client.Client) error {
		_, err := c.RotateSecret(ctx, "orderKey", "")
		return err
	})
	if err != nil {
		return err
	}
	err = s.await(ctx, "both readers have the new key", func() string {
		for _, n := range []string{"front", "orders"} {
			if _, keys := s.services[n].seen(); keys != 2 {
				return fmt.Sprintf("%s has seen %d", n, keys)
			}
		}
		return ""
	})
	s.say("shared secret replaced; both readers run with it after %s", time.Since(began).Round(time.Millisecond))
	return err
}

// raiseFloor follows a TCB recovery.
func (s *story) raiseFloor(ctx context.Context) error {
	const number = 20
	s.platform.Misbehave(platform.Misbehaviour{EvaluationNumber: number})
	return s.as(ctx, "bob", func(c *client.Client) error {
		r, err := c.RaiseFloor(ctx, "default", attest.Floor{Sim: &attest.DCAPFloor{MinTCBEvaluation: number}}, nil)
		if err == nil {
			s.say("floor of platform %s raised to TCB evaluation %d", r.Floor.Platform, number)
		}
		return err
	})
}
