package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/integration/probe"
)

const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
)

// subscriber is one simulated proxy: a delta ADS stream under a leaf of its own.
type subscriber struct {
	client *probe.Client
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	got    chan time.Time // of each endpoint update
	done   chan struct{}
}

func (d *daemon) subscribe(ctx context.Context, n int) (*subscriber, error) {
	a, err := d.one(ctx, "client", n)
	if err != nil {
		return nil, err
	}
	cert := a.Certificate()
	c, err := probe.Dial(ctx, dev.DefaultMesh, probe.Options{Certificate: &cert, LocalIP: fmt.Sprintf("127.0.1.%d", 1+n%200)})
	if err != nil {
		return nil, err
	}
	s := &subscriber{client: c, got: make(chan time.Time, 16), done: make(chan struct{})}
	if s.stream, err = discovery.NewAggregatedDiscoveryServiceClient(c.Conn).DeltaAggregatedResources(ctx); err != nil {
		c.Close()
		return nil, err
	}
	if err := s.stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: clusterType, ResourceNamesSubscribe: []string{"*"}}); err != nil {
		c.Close()
		return nil, err
	}
	go s.receive()
	return s, nil
}

// receive acknowledges everything and notes when endpoints came.
func (s *subscriber) receive() {
	defer close(s.done)
	for {
		resp, err := s.stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) && status.Code(err) != codes.Canceled {
				fmt.Println("subscriber:", err)
			}
			return
		}
		ack := []*discovery.DeltaDiscoveryRequest{{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}}
		switch resp.TypeUrl {
		case endpointType:
			select {
			case s.got <- time.Now():
			default:
			}
		case clusterType:
			var names []string
			for _, r := range resp.Resources {
				names = append(names, r.Name)
			}
			ack = append(ack, &discovery.DeltaDiscoveryRequest{TypeUrl: endpointType, ResourceNamesSubscribe: names})
		}
		for _, m := range ack {
			if err := s.stream.Send(m); err != nil {
				return
			}
		}
	}
}

func (s *subscriber) close() {
	s.client.Close()
	<-s.done
}

// pushes measures one changed endpoint to 100 and 1,000 subscribers.
func (b *bench) pushes(ctx context.Context, d *daemon) error {
	if err := d.setManifest(ctx); err != nil {
		return err
	}
	if _, err := d.one(ctx, "server", 0); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var subs []*subscriber
	defer func() {
		cancel()
		for _, s := range subs {
			s.close()
		}
	}()
	before, err := d.anon()
	if err != nil {
		return err
	}
	for _, n := range []int{100, 1000} {
		more, err := d.subscribeMany(ctx, len(subs), n)
		subs = append(subs, more...)
		if err != nil {
			return err
		}
		if err := b.push(ctx, d, subs); err != nil {
			return err
		}
	}
	after, err := d.anon()
	b.add("push.subscriber.rss_kb", (after-before)*1024/float64(len(subs)), "KB", 100, "goal")
	return err
}

func (d *daemon) subscribeMany(ctx context.Context, from, to int) ([]*subscriber, error) {
	var mu sync.Mutex
	var subs []*subscriber
	var g errgroup.Group
	g.SetLimit(16)
	for n := from; n < to; n++ {
		g.Go(func() error {
			s, err := d.subscribe(ctx, n)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			subs = append(subs, s)
			return nil
		})
	}
	err := g.Wait()
	for _, s := range subs {
		select {
		case <-s.got: // the initial endpoints
		case <-time.After(20 * time.Second):
			return subs, errors.New("a subscriber got no endpoints within 20 s")
		}
	}
	return subs, err
}

// push adds one endpoint of the service in each round and waits until everybody
// has the news.
func (b *bench) push(ctx context.Context, d *daemon, subs []*subscriber) error {
	const rounds = 8
	var cpuMS, latencyMS []float64
	for round := range rounds + 1 {
		ms, took, err := d.pushOnce(ctx, subs, len(subs)+1+round)
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if round > 0 {
			cpuMS, latencyMS = append(cpuMS, ms), append(latencyMS, took...)
		}
	}
	slices.Sort(cpuMS)
	slices.Sort(latencyMS)
	prefix := fmt.Sprintf("push.%d.", len(subs))
	perSubscriber := 0.040 * float64(len(subs))
	b.add(prefix+"cpu_ms", cpuMS[len(cpuMS)/2], "ms CPU", perSubscriber, "40 us for each: two records written and two read")
	b.add(prefix+"p99_ms", latencyMS[len(latencyMS)*99/100], "ms", 50+perSubscriber, "debounce and the CPU of all")
	b.add(prefix+"p50_ms", latencyMS[len(latencyMS)/2], "ms", 50, "debounce")
	return nil
}

// pushOnce has an endpoint appear. It returns the CPU time of the coordinator
// in milliseconds, acknowledgements and the activation of the endpoint
// included, and for each subscriber when it had the news, in milliseconds from
// when the activation was answered.
func (d *daemon) pushOnce(ctx context.Context, subs []*subscriber, endpoint int) (float64, []float64, error) {
	time.Sleep(300 * time.Millisecond) // past the debounce of the round before
	before, err := d.cpu()
	if err != nil {
		return 0, nil, err
	}
	if _, err := d.one(ctx, "server", endpoint); err != nil {
		return 0, nil, err
	}
	start := time.Now()
	var took []float64
	for _, s := range subs {
		select {
		case at := <-s.got:
			took = append(took, max(0, float64(at.Sub(start).Microseconds())/1000))
		case <-time.After(10 * time.Second):
			return 0, nil, fmt.Errorf("a subscriber of %d got no news within 10 s", len(subs))
		}
	}
	time.Sleep(200 * time.Millisecond) // the acknowledgements belong to the push
	after, err := d.cpu()
	return float64((after - before).Microseconds()) / 1000, took, err
}
