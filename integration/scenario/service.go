package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/agent"
	"github.com/ashlar-mesh/ashlar/marble/envoy"
)

const (
	servedPort = 8080 // of every service
	firstCall  = 9100 // on which a caller reaches the first service
)

// names of the services, in the order of their addresses.
var names = []string{"front", "orders", "stock", "ledger", "visitor"}

func place(name string) int {
	for i, n := range names {
		if n == name {
			return i + 1
		}
	}
	return 0
}

// address is where a service's Envoy listens for peers, loopback where its
// program does and where it calls others.
func address(name string) string  { return fmt.Sprintf("127.0.71.%d", place(name)) }
func loopback(name string) string { return fmt.Sprintf("127.0.72.%d", place(name)) }

// callPort is where a caller finds a service on its own loopback address.
func callPort(callee string) int { return firstCall + place(callee) }

// measurement stands for a service's program.
func measurement(name string) attest.Hex {
	sum := sha256.Sum256([]byte("the program of " + name))
	return sum[:]
}

// service is one marble with its program and a real Envoy.
type service struct {
	name   string
	marble *marble.Marble
	agent  *agent.Agent
	proxy  *envoy.Proxy
	server *http.Server
	done   chan struct{}
	log    *os.File

	mu     sync.Mutex // guards what follows
	leaves int
	held   *tls.Certificate // the newest leaf, with its key
	keys   [][32]byte       // digests of the shared secret's values, in order
	stop   context.CancelFunc
	watch  sync.WaitGroup
}

// lease lets the agent read the marble's lease.
type lease struct{ m *marble.Marble }

func (l lease) Identity() (agent.Identity, <-chan struct{}) {
	held, changed := l.m.Lease()
	return agent.Identity{SPIFFEID: held.SPIFFEID, TrustDomain: held.TrustDomain(), ChainPEM: held.ChainPEM(), KeyPEM: held.KeyPEM(), BundlePEM: held.BundlePEM()}, changed
}

// start activates a service and brings up its program and its Envoy.
func (s *site) start(ctx context.Context, name string) (*service, error) {
	dir := filepath.Join(s.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	v := &service{name: name, done: make(chan struct{})}
	var err error
	if v.log, err = os.Create(filepath.Join(s.dir, name+".log")); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(v.log, nil))
	issuer := s.platform.NewInsecureIssuer(attest.SimSGX, platform.Measurement{Program: measurement(name), Agent: measurement(name)})
	id := sha256.Sum256([]byte(name))
	if v.marble, err = marble.Run(ctx, marble.Config{
		Marble: name, ID: fmt.Sprintf("%x-0000-4000-8000-%x", id[:4], id[4:10]), Address: address(name), Loopback: loopback(name), Coordinator: meshAddr,
		Trust: marble.Trust{Policy: &s.policy, Verifiers: s.verifiers}, Issuer: issuer, Log: log, Now: s.clock.now, Look: look,
		Backoff: marble.Backoff{Min: 50 * time.Millisecond, Max: 500 * time.Millisecond},
	}); err != nil {
		return v, err
	}
	socket := filepath.Join(dir, "agent.sock")
	if v.agent, err = agent.Start(agent.Config{
		Socket: socket, Source: lease{v.marble}, Log: log, BackoffMax: time.Second,
		Upstream: func(ctx context.Context) (*grpc.ClientConn, func(), error) { return v.marble.Upstream(ctx) },
	}); err != nil {
		return v, err
	}
	if err := v.serve(ctx); err != nil {
		return v, err
	}
	if v.proxy, err = envoy.Start(context.WithoutCancel(ctx), envoy.Config{Binary: s.envoy, Dir: dir, AgentSocket: socket, NodeID: name, Stderr: v.log}); err != nil {
		return v, err
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	v.stop = stop
	v.watch.Go(func() { v.count(watch) })
	ready, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return v, v.proxy.Ready(ready)
}

// serve is the program: it says who it is.
func (v *service) serve(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("%s:%d", loopback(v.name), servedPort))
	if err != nil {
		return err
	}
	v.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", v.name, r.Method, r.URL.Path)
	})}
	go func() {
		defer close(v.done)
		if err := v.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(v.log, "the program ended:", err)
		}
	}()
	return nil
}

// count notes each leaf and each value of the shared secret.
func (v *service) count(ctx context.Context) {
	var serial []byte
	for {
		held, changed := v.marble.Lease()
		v.mu.Lock()
		if leaf := held.Chain[0].Raw; !bytes.Equal(leaf, serial) {
			serial = leaf
			v.held = held.Certificate()
			v.leaves++
		}
		if secret, ok := held.Secrets()["orderKey"]; ok {
			sum := sha256.Sum256(secret.Bytes())
			if len(v.keys) == 0 || v.keys[len(v.keys)-1] != sum {
				v.keys = append(v.keys, sum)
			}
		}
		v.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// seen returns how many leaves and how many values of the secret came so far.
func (v *service) seen() (leaves, keys int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.leaves, len(v.keys)
}

// certificate is the marble's leaf with its key, as a thief inside it has them:
// he keeps them when the marble gives them up.
func (v *service) certificate() *tls.Certificate {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.held
}

func (v *service) close() {
	if v.proxy != nil {
		v.proxy.Stop()
	}
	if v.agent != nil {
		v.agent.Close()
	}
	if v.server != nil {
		_ = v.server.Close()
		<-v.done
	}
	if v.stop != nil {
		v.stop()
		v.watch.Wait()
	}
	if v.marble != nil {
		v.marble.Close()
	}
	_ = v.log.Close()
}
