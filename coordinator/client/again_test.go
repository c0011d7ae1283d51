package client

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// network stands between a client and a deployment, and fails.
type network struct {
	addr   string
	refuse atomic.Int32 // attempts to connect that nobody answers
	close  atomic.Int32 // connections that are closed before anything is read
	dials  atomic.Int32
}

func (n *network) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	n.dials.Add(1)
	if n.refuse.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "dial", Net: network, Err: context.Canceled}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, n.addr)
	if err == nil && n.close.Add(-1) >= 0 {
		conn.Close() // the handshake meets an error of reading or writing
	}
	return conn, err
}

// cutter serves a deployment and cuts what asks for a path, some times.
type cutter struct {
	d     http.Handler
	cuts  atomic.Int32
	asked atomic.Int32
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/status" || r.Method != http.MethodGet {
		c.asked.Add(1)
		if c.cuts.Add(-1) >= 0 {
			panic(http.ErrAbortHandler)
		}
	}
	c.d.ServeHTTP(w, r)
}

func behindNetwork(t *testing.T) (*Client, *network, *cutter) {
	t.Helper()
	d := newDeployment(t)
	cut := &cutter{d: d}
	n := &network{addr: d.serve(t, cut)}
	o := options()
	o.DialContext = n.dial
	c, err := Dial(context.Background(), n.addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, n, cut
}

func TestReadsOutlastATakeover(t *testing.T) {
	cases := map[string]func(*network, *cutter){
		"request cut twice":                   func(_ *network, c *cutter) { c.cuts.Store(2) },
		"cut, and then nobody listens":        func(n *network, c *cutter) { c.cuts.Store(1); n.refuse.Store(2) },
		"cut, and then passed on to nobody":   func(n *network, c *cutter) { c.cuts.Store(1); n.close.Store(2) },
		"all of it, one after the other":      func(n *network, c *cutter) { c.cuts.Store(2); n.close.Store(1); n.refuse.Store(1) },
		"nothing fails and nothing is waited": func(*network, *cutter) {},
	}
	for name, fail := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, n, cut := behindNetwork(t)
			fail(n, cut)
			s, err := c.Status(context.Background())
			if err != nil || s.State != "serving" {
				t.Errorf("got %+v, %v, want the status", s, err)
			}
		})
	}
}

// What answers has answered: it is not asked again, and neither is who is late.
func TestAnswersAreNotAskedForAgain(t *testing.T) {
	c, n, _ := behindNetwork(t)
	dials := n.dials.Load()
	for name, want := range map[string]problem.Code{"gone": "CRD-111", "odd": "CRD-107"} {
		if _, err := c.Marble(context.Background(), name); problem.CodeOf(err) != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	if got := n.dials.Load(); got != dials {
		t.Errorf("got %d more connections, want none", got-dials)
	}
}

func TestReadsGiveUp(t *testing.T) {
	c, n, cut := behindNetwork(t)
	cut.cuts.Store(1000)
	ctx, cancel := context.WithTimeout(context.Background(), 1300*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); problem.CodeOf(err) != "CRD-105" {
		t.Errorf("got %v, want CRD-105", err)
	}
	if got := cut.asked.Load(); got < 2 {
		t.Errorf("got %d requests, want it asked again", got)
	}
	n.refuse.Store(1000)
	c.Close()
	if _, err := c.Status(ctx); problem.CodeOf(err) != "CRD-105" && problem.CodeOf(err) != "CRD-106" {
		t.Errorf("got %v, want CRD-105 or CRD-106", err)
	}
}

// A write that was sent may have been carried out by who died: nobody but its
// author can tell whether it may be sent again.
func TestWritesAreSentOnce(t *testing.T) {
	c, _, cut := behindNetwork(t)
	cut.cuts.Store(1)
	_, err := send[struct{}](context.Background(), c, http.MethodPut, "/v1/manifest", nil, "x")
	if problem.CodeOf(err) != "CRD-105" || !strings.Contains(problem.From(err).Next, "may have been done") {
		t.Errorf("got %v with the next step %q, want CRD-105 that says it may have been done", err, problem.From(err).Next)
	}
	if got := cut.asked.Load(); got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
}

// Where no connection came about, nothing was sent.
func TestWritesWaitForAConnection(t *testing.T) {
	c, n, cut := behindNetwork(t)
	c.Close()
	n.refuse.Store(1)
	n.close.Store(1)
	_, err := send[struct{}](context.Background(), c, http.MethodPut, "/v1/manifest", nil, "x")
	if err != nil {
		t.Errorf("got %v, want it sent once there was a connection", err)
	}
	if got := cut.asked.Load(); got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
}

func TestDialOutlastsACut(t *testing.T) {
	d := newDeployment(t)
	n := &network{addr: d.serve(t, d)}
	o := options()
	o.DialContext = n.dial
	n.close.Store(1)
	c, err := Dial(context.Background(), n.addr, o)
	if err != nil {
		t.Fatalf("got %v, want a second try after a connection that was cut", err)
	}
	c.Close()
	n.dials.Store(0)
	n.refuse.Store(1)
	if _, err := Dial(context.Background(), n.addr, o); problem.CodeOf(err) != "CRD-105" || n.dials.Load() != 1 {
		t.Errorf("got %v after %d tries, want CRD-105 at once where nobody listens", err, n.dials.Load())
	}
}
