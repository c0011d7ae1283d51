package main

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// address is one that nobody else of this machine uses.
const address = "127.0.78.2"

func freePort(t *testing.T) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// TestServesItsCallerAlone makes a marble of it, with a coordinator for tests, and
// calls it as web, as another marble, and as nobody.
func TestServesItsCallerAlone(t *testing.T) {
	port := freePort(t)
	c := marbletest.Start(t, marbletest.Behaviour{Serves: []uint32{port}})
	log := slog.New(slog.DiscardHandler)
	tracker := stage.NewTracker(log, time.Now)
	m, err := marble.Run(t.Context(), marble.Config{Marble: "cart", ID: "7f2c19ab-0000-4000-8000-000000000001", Address: address, Coordinator: c.Address,
		Trust: marble.Trust{Root: c.CA.Root}, Issuer: &marbletest.Issuer{}, Log: log, Tracker: tracker})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveMesh(ctx, m, tracker, address) }()
	for {
		status, changed := tracker.Current()
		if status.Ready(time.Now()) {
			break
		}
		select {
		case <-changed:
		case err := <-done:
			t.Fatalf("it ended: %v", err)
		}
	}
	get := func(certificates ...tls.Certificate) (string, error) {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates}}} // who serves is tested in package marble
		resp, err := client.Get("https://" + net.JoinHostPort(address, strconv.Itoa(int(port))) + "/items")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if body, err := get(c.CA.Identity(t, "web")); err != nil || !strings.Contains(body, "lamp") {
		t.Errorf("web: got %q, %v, want the items", body, err)
	}
	if body, err := get(c.CA.Identity(t, "other")); err == nil {
		t.Errorf("another marble: got %q, want a refusal", body)
	}
	if body, err := get(); err == nil {
		t.Errorf("nobody: got %q, want a refusal", body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestTrustIsOfHardware(t *testing.T) {
	raw, err := os.ReadFile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	trust, err := trustOf(raw)
	if err != nil || trust.Policy == nil || len(trust.Verifiers) == 0 {
		t.Errorf("got %+v, %v, want a policy with verifiers", trust, err)
	}
	for name, text := range map[string]string{"nothing": "", "simulated": `{"tee": "sim", "package": {"sim": {"program": ["` + strings.Repeat("00", 32) + `"]}}, "simulationRoot": "x"}`} {
		if _, err := trustOf([]byte(text)); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}

func TestWithoutThePolicyNothingStarts(t *testing.T) {
	if err := run(t.Context(), func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "measured") {
		t.Errorf("got %v, want a refusal to start without the measured policy", err)
	}
}
