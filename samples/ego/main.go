// Command cart is a service that becomes a marble by itself: one process, no
// proxy beside it, as enclaves of EGo and Occlum want it.
//
// It owns nothing but its handler. Key and certificate are made by package
// marble inside the enclave; who may call is asked of each connection. What the
// host says (its environment) names a role and addresses, and no trust: the
// policy that the coordinator is judged by is a file of the measured image.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

const (
	policyFile = "/etc/ashlar/policy.json" // measured with the enclave
	caller     = "web"                     // the one marble that may call
	drainTime  = 10 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv); err != nil {
		slog.Error("cart ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, getenv func(string) string) error {
	raw, err := os.ReadFile(policyFile)
	if err != nil {
		return fmt.Errorf("reading the policy of the measured image: %w", err)
	}
	trust, err := trustOf(raw)
	if err != nil {
		return err
	}
	tracker := stage.NewTracker(slog.Default(), time.Now)
	stop, err := serve(&http.Server{Handler: tracker.Handler(), ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}, getenv("ASHLAR_READY_ADDR"))
	if err != nil {
		return err
	}
	defer stop()
	tee, err := issuer.Open(ctx, issuer.Host(), issuer.Auto)
	if err != nil {
		return err
	}
	m, err := marble.Run(ctx, marble.Config{Marble: getenv("ASHLAR_MARBLE"), ID: getenv("ASHLAR_UUID"), Address: getenv("ASHLAR_IP"),
		Coordinator: getenv("ASHLAR_COORDINATOR"), Trust: trust, Issuer: tee, Tracker: tracker})
	if err != nil {
		return err
	}
	defer m.Close()
	return serveMesh(ctx, m, tracker, getenv("ASHLAR_IP"))
}

// trustOf reads what the coordinator's evidence must show. A simulated
// coordinator is none for an enclave.
func trustOf(raw []byte) (marble.Trust, error) {
	file, diagnostics := manifest.ParsePolicyFile(raw)
	if err := diagnostics.Err(); err != nil {
		return marble.Trust{}, err
	}
	if file.Simulated() {
		return marble.Trust{}, errors.New("the policy is for a simulated coordinator")
	}
	policy := file.Policy()
	return marble.Trust{Policy: &policy, Verifiers: hardware.Verifiers()}, nil
}

// serveMesh serves attested callers until the identity was revoked or ctx ends.
func serveMesh(ctx context.Context, m *marble.Marble, tracker *stage.Tracker, ip string) error {
	ports := m.Serves()
	if len(ports) != 1 {
		return fmt.Errorf("the manifest has %d ports for %s, want 1", len(ports), m.Name())
	}
	// The certificate of a connection was checked when it began: whether this
	// marble still is one is asked for each request.
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, live, _ := m.Live(); !live {
			http.Error(w, "no identity", http.StatusServiceUnavailable)
			return
		}
		items().ServeHTTP(w, r)
	})
	server := &http.Server{Handler: handler, TLSConfig: m.ServerTLS(caller), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop, err := serve(server, net.JoinHostPort(ip, strconv.Itoa(int(ports[0]))))
	if err != nil {
		return err
	}
	defer stop()
	tracker.Enter(stage.Status{Stage: stage.Running})
	select {
	case <-ctx.Done():
		return nil
	case <-m.Ended():
		return m.Revoked()
	}
}

// items is the service.
func items() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode([]string{"lamp", "chair"}) // the caller went away
	})
	return mux
}

// serve serves until the function returned is called, which waits for requests
// that are open.
func serve(server *http.Server, address string) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", address, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serving := server.Serve
		if server.TLSConfig != nil {
			serving = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
		}
		if err := serving(l); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("serving", "address", address, "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-done
	}, nil
}
