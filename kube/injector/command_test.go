package injector

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// policyOf is a policy file that accepts the software TEE of a new platform.
func policyOf(t testing.TB) string {
	t.Helper()
	p, err := platform.New(platform.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{"tee": "sim", "simulationRoot": string(p.RootPEM()),
		"package": map[string]any{"sim": map[string]any{"program": []string{strings.Repeat("ab", 32)}}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// document of settings, changed by edit.
func settingsFile(t testing.TB, edit func(map[string]any)) string {
	t.Helper()
	doc := map[string]any{"coordinator": "ashlar-mesh.mesh.svc:2001", "policy": policyOf(t), "image": "ashlar-marble:1", "defaults": map[string]any{}, "readinessGate": true,
		"client": "127.0.0.1:1", "webhook": "injector", "service": host}
	edit(doc)
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "settings.json")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCommandLine(t *testing.T) {
	good := settingsFile(t, func(map[string]any) {})
	with := func(key string, value any) string {
		return settingsFile(t, func(doc map[string]any) {
			if doc[key] = value; value == nil {
				delete(doc, key)
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		name string
		args []string
		exit int
		says string
	}{
		{"help", []string{"--help"}, 0, "ashlar-injector --config"},
		{"version", []string{"--version"}, 0, "ashlar-injector devel"},
		{"nothing", nil, 2, "--config is missing  KUB-070"},
		{"unknown flag", []string{"--confg", "x"}, 2, "did you mean --config?"},
		{"argument", []string{"--config", good, "run"}, 2, `unexpected argument "run"`},
		{"log format", []string{"--config", good, "--log-format", "xml"}, 2, `wanted text or json, got "xml"`},
		{"address", []string{"--config", good, "--addr", "9443"}, 2, "--addr: wanted HOST:PORT or :PORT"},
		{"no file", []string{"--config", missing}, 6, "no such file"},
		{"unknown setting", []string{"--config", with("webhok", "x")}, 6, `did you mean "webhook"?`},
		{"no client", []string{"--config", with("client", nil)}, 6, "the setting client is missing  KUB-071"},
		{"no webhook", []string{"--config", with("webhook", nil)}, 6, "the setting webhook is missing"},
		{"service", []string{"--config", with("service", "ashlar-injector")}, 6, "wanted NAME.NAMESPACE.svc"},
		{"policy", []string{"--config", with("policy", "{}")}, 6, "KUB-0"},
		{"no cluster", []string{"--config", good, "--kubeconfig", missing}, 4, "KUB-072"},
	} {
		var stdout, stderr bytes.Buffer
		exit := Main(c.args, func(string) string { return "" }, &stdout, &stderr)
		if out := stdout.String() + stderr.String(); exit != c.exit || !strings.Contains(out, c.says) || exit != 0 && !strings.Contains(out, "next: ") {
			t.Errorf("%s: got %d %q, want %d with %q", c.name, exit, out, c.exit, c.says)
		}
	}
	t.Setenv("ASHLAR_CONFIG", missing)
	if exit := Main(nil, os.Getenv, io.Discard, io.Discard); exit != 6 {
		t.Errorf("by environment: got %d, want 6", exit)
	}
}

func TestSettings(t *testing.T) {
	s, err := readSettings(settingsFile(t, func(map[string]any) {}))
	if err != nil {
		t.Fatal(err)
	}
	if name, namespace := s.place(); name != "ashlar-injector" || namespace != "mesh" || s.ReadyPort != 9101 {
		t.Errorf("got %s in %s, port %d", name, namespace, s.ReadyPort)
	}
}

// TestRun lives through an injector: not ready before its CA is known, a review
// over TLS, probes and metrics, and an end that leaves no CA behind.
func TestRun(t *testing.T) {
	t.Parallel()
	s, err := readSettings(settingsFile(t, func(map[string]any) {}))
	if err != nil {
		t.Fatal(err)
	}
	cluster := fake.NewClientset(configuration(nil))
	var webhook, ops string
	listening, ended := make(chan struct{}), make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	config := Config{Settings: s, Addr: "127.0.0.1:0", OpsAddr: "127.0.0.1:0", Name: "a", Cluster: cluster, Log: slog.New(slog.DiscardHandler), Drain: time.Millisecond,
		Listening: func(w, o string) { webhook, ops = w, o; close(listening) }}
	go func() { ended <- Run(ctx, config) }()
	<-listening
	if code, body := fetch(t, "http://"+ops+"/readyz"); code != 503 || !strings.Contains(body, `"ready":false`) {
		t.Errorf("at first: got %d %s, want 503", code, body)
	}
	if code, _ := fetch(t, "http://"+ops+"/livez"); code != 200 {
		t.Errorf("livez: got %d", code)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if code, body := fetch(t, "http://"+ops+"/readyz"); code == 200 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("never ready: %s", body)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundleIn(t, cluster))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: host}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	resp, err := client.Post("https://"+webhook+"/inject", "application/json", bytes.NewReader(review(t, podOf(nil))))
	if err != nil {
		t.Fatal(err)
	}
	var got admissionv1.AdmissionReview
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.ProtoMajor != 2 || got.Response == nil || !got.Response.Allowed {
		t.Errorf("got %v %v by %s", got.Response, err, resp.Proto)
	}
	_ = resp.Body.Close()
	_, figures := fetch(t, "http://"+ops+"/metrics")
	for _, want := range []string{`ashlar_injector_reviews_total{outcome="untouched"} 1`, `ashlar_injector_reviews_total{outcome="refused"} 0`, "ashlar_injector_review_seconds_count 1",
		`ashlar_injector_ca_bundle_checks_total{result="ok"}`, "ashlar_injector_certificate_not_after_seconds 1.", "ashlar_injector_manifest_age_seconds -1", "ashlar_injector_leader"} {
		if !strings.Contains(figures, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	config.Addr, config.Listening = webhook, nil
	if err := Run(t.Context(), config); problem.CodeOf(err) != "KUB-079" {
		t.Errorf("a second one on the same port: got %v, want KUB-079", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("at the end: %v", err)
	}
	if left := bundleIn(t, cluster); len(left) != 0 {
		t.Errorf("a CA of %d bytes is left behind", len(left))
	}
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
