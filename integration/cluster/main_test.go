//go:build linux

// Package cluster holds the tests of several coordinators as their users see
// them: real processes of ashlar-coordinator on a real etcd and on two simulated
// machines, one address in front of them, and marbles whose Envoys call each
// other all the while. Coordinators are killed, stopped for a while, cut off from
// etcd and replaced; etcd loses members and goes back in time.
//
// It owns every process and every byte between them. Times are shown, and none is
// held to a bound.
package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
)

// The test binary plays the programs of the marbles as well.
func TestMain(m *testing.M) {
	if listen := os.Getenv(listenEnv); listen != "" {
		fmt.Fprintln(os.Stderr, serve(listen, os.Getenv(nextEnv)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// What the manifest gives a program: where it listens, and whom it asks.
const (
	listenEnv = "CLUSTER_LISTEN"
	nextEnv   = "CLUSTER_NEXT"
)

// serve answers with "ok" and what the next program answers, if there is one.
func serve(listen, next string) error {
	client := &http.Client{Timeout: 9 * time.Second}
	ask := func(ctx context.Context) ([]byte, error) {
		if next == "" {
			return nil, nil
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, next, nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s answers %d %s", next, resp.StatusCode, b)
		}
		return b, err
	}
	server := &http.Server{Addr: listen, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := ask(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = fmt.Fprintf(w, "ok %s", b) // the client has gone
	})}
	return server.ListenAndServe()
}

// tools are the programs that are not made by this test.
type tools struct{ ashlar, coordinator, marble, envoy string }

// installed returns where make build put the programs, and Envoy.
func installed(t *testing.T) tools {
	t.Helper()
	for _, name := range []string{etcdtest.Binary, "ASHLAR_BIN", "ASHLAR_ENVOY"} {
		if os.Getenv(name) != "" {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not set: run make cluster", name)
		}
		t.Skipf("%s is not set: make cluster runs this test", name)
	}
	bin, err := filepath.Abs(os.Getenv("ASHLAR_BIN"))
	if err != nil {
		t.Fatal(err)
	}
	return tools{ashlar: filepath.Join(bin, "ashlar"), coordinator: filepath.Join(bin, "ashlar-coordinator"),
		marble: filepath.Join(bin, "ashlar-marble"), envoy: os.Getenv("ASHLAR_ENVOY")}
}

// soak reports whether what takes minutes is wanted.
func soak() bool { return os.Getenv("ASHLAR_SOAK") == "1" }
