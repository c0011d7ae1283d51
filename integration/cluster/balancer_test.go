//go:build linux

package cluster

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Readiness is asked for that often, and two refusals in a row take a replica
// out of the balancers, as Kubernetes does with a Service's endpoints.
const (
	probeEvery  = 250 * time.Millisecond
	probeTime   = time.Second
	probeMisses = 2
)

// endpoint is a replica as a Service sees it.
type endpoint struct {
	client, mesh, probe string
	misses              int // in a row
}

// service is the one address of all replicas, as the chart's Services are: a
// connection of a marble goes to one of those that are ready, one of a client to
// any that accepts it, in turn. Connections stay where they are.
type service struct {
	t      *testing.T
	probes *http.Client
	conns  conns
	work   sync.WaitGroup

	mu        sync.Mutex // guards what follows
	endpoints []*endpoint
	listeners []net.Listener
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, probes: &http.Client{Timeout: probeTime, Transport: &http.Transport{DisableKeepAlives: true}}}
	ctx, cancel := context.WithCancel(context.Background())
	s.work.Go(func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for {
			s.probeAll(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		s.close()
	})
	return s
}

// add makes a replica one of the endpoints once it is ready.
func (s *service) add(e endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.misses = probeMisses
	s.endpoints = append(s.endpoints, &e)
}

// remove takes a replica out at once, as the end of its pod does.
func (s *service) remove(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = slices.DeleteFunc(s.endpoints, func(e *endpoint) bool { return e.client == client })
}

func (s *service) probeAll(ctx context.Context) {
	s.mu.Lock()
	all := slices.Clone(s.endpoints)
	s.mu.Unlock()
	var asked sync.WaitGroup
	for _, e := range all {
		asked.Go(func() {
			ready := s.ready(ctx, e.probe)
			s.mu.Lock()
			defer s.mu.Unlock()
			if e.misses++; ready {
				e.misses = 0
			}
		})
	}
	asked.Wait()
}

func (s *service) ready(ctx context.Context, probe string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+probe+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := s.probes.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // the status is all
	return resp.StatusCode == http.StatusOK
}

// clients and marbles are the addresses that their connections may go to.
func (s *service) clients() []string {
	return s.targets(func(e *endpoint) (string, bool) { return e.client, true })
}

func (s *service) marbles() []string {
	return s.targets(func(e *endpoint) (string, bool) { return e.mesh, e.misses < probeMisses })
}

func (s *service) targets(of func(*endpoint) (string, bool)) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, e := range s.endpoints {
		if address, ok := of(e); ok {
			all = append(all, address)
		}
	}
	return all
}

// listen serves an address with a port of all replicas.
func (s *service) listen(address string, targets func() []string) {
	s.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	var turn atomic.Uint32
	s.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			s.work.Go(func() { s.carry(c, targets(), int(turn.Add(1))) })
		}
	})
}

// carry connects to the replica whose turn it is, or to the next that accepts.
func (s *service) carry(near net.Conn, all []string, turn int) {
	if !s.conns.keep(near) {
		return
	}
	defer s.conns.drop(near)
	for i := range all {
		far, err := net.DialTimeout("tcp", all[(turn+i)%len(all)], dialTime)
		if err != nil {
			continue
		}
		if !s.conns.keep(far) {
			return
		}
		defer s.conns.drop(far)
		join(near, far, func() bool { return true })
		return
	}
}

func (s *service) close() {
	s.mu.Lock()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.mu.Unlock()
	s.conns.close()
	s.work.Wait()
}
